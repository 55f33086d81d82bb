"""Our re-ranking beside public code, where checkouts are at hand (MIXER_CODEBASES)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.speed import rerank_speed
from mixer_plugin.evaluation.rerank.methods import AIM, KReciprocal, rerank


def public(file):
    """The module of a file of a public checkout; skips where there is none."""
    path = Path(os.environ.get("MIXER_CODEBASES", "/nowhere")) / file
    if not path.is_file():
        pytest.skip(f"set MIXER_CODEBASES to a folder with {file}")
    module = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("graph", ["all", "queries"])
@pytest.mark.parametrize("folder", ["MPANet", "IDKL/IDKL"])
def test_equal_to_the_public_k_reciprocal(folder, graph):
    re_ranking = public(f"{folder}/utils/rerank.py")["re_ranking"]
    features, queries = rerank_speed.make_features(400)
    index = torch.arange(400)
    mine = rerank(
        KReciprocal(graph=graph),
        lambda rows: features[rows] @ features.T,
        index[:queries],
        index[queries:],
    )
    theirs = re_ranking(features[:queries], features[queries:], eval_type=graph == "queries")
    agreement = rerank_speed.compare(mine, theirs)
    assert agreement["largest_difference"] < 5e-3  # half precision
    assert agreement["same_first"] > 0.98


@pytest.mark.parametrize(("k1", "k2"), [(4, 1), (20, 6)])
def test_equal_to_the_public_aim(k1, k2, monkeypatch):
    module = public("SAAI/models/AIM.py")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)  # it asks for 'cuda'
    features, queries = rerank_speed.make_features(400)
    theirs = module["AIM"](features[:queries], features[queries:], k1, k2)
    monkeypatch.undo()
    index = torch.arange(400)
    mine = rerank(
        AIM(k1=k1, k2=k2),
        lambda rows: features[rows] @ features.T,
        index[:queries],
        index[queries:],
    )
    torch.testing.assert_close(mine, -theirs, atol=2e-6, rtol=0)
