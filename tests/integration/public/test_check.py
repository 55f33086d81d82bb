"""``mixer-plugin check``: real processes, on folders that stand for a user's checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixer_plugin.conformance import worker
from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.codebases import CODEBASES
from mixer_plugin.conformance.wrappers import WRAPPERS, plain
from tests.contract.toys import IMAGE, TOYS
from tests.integration.public import official
from tests.networks import CLASSES

ROOT = Path(__file__).resolve().parents[3]

# A checkout with the public module and constructor names around a network of that structure, and
# the imports of old versions and missing packages that public code has.
DDAG = """
import wandb
from turtle import position
from torchvision.models.utils import load_state_dict_from_url
import numpy
import torch
from mixer_plugin.baselines import create_baseline

numpy.in1d([1], [1])
assert "conv1.weight" in load_state_dict_from_url("https://example.org/resnet50.pth")
torch.zeros(1).cuda()


def embed_net(low_dim, class_num, drop=0.2, part=3, arch="resnet50", wpa=False):
    assert wpa
    return create_baseline("ddag", class_num, trunk="small", low_dim=16, part=part)
"""

# In eval mode it draws from the global random state and counts its calls: bit-equality is lost, and
# state that the plug-in cannot see differs between two runs.
FORGETFUL = """
import torch
from mixer_plugin.baselines.ddag import DDAG
from mixer_plugin.baselines import create_baseline


class Noisy(DDAG):
    def forward(self, x1, x2, adj=0, modal=0, cpa=False):
        out = super().forward(x1, x2, adj, modal, cpa)
        return out if self.training else tuple(o + torch.rand(()) for o in out)


def embed_net(*args, **kwargs):
    net = create_baseline("ddag", args[1], trunk="small", low_dim=16)
    net.__class__ = Noisy
    return net
"""

HARMFUL = {
    "network": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "write": "open(__file__ + '.log', 'w')",
}


def check(
    checkout: Path, *options: str, name: str = "ddag", compiles: bool = False
) -> subprocess.CompletedProcess[str]:
    """``compiles``: whether torch.compile compiles, which takes half a minute, or passes on."""
    command = [sys.executable, "-m", "mixer_plugin.cli", "check", "--adapter", name]
    given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    given |= {} if compiles else {"TORCHDYNAMO_DISABLE": "1"}
    return subprocess.run(
        [*command, "--checkout", str(checkout), *options],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )


def make(folder: Path, module: str, text: str) -> Path:
    path = folder / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return folder


def files(folder: Path) -> list[tuple[Path, int]]:
    return sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], bool]:
    """A check of a sound codebase, and whether it left that alone."""
    checkout = make(tmp_path_factory.mktemp("DDAG"), "inner/model_main.py", DDAG)
    before = files(checkout)
    done = check(checkout, compiles=True)
    return done, files(checkout) == before


def test_a_sound_codebase_passes_and_is_left_alone(sound) -> None:
    done, left_alone = sound
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  held  ") == 8
    assert "8 of 8 invariants held" in done.stdout
    assert "step in mode e2e: base" in done.stdout
    assert "infrared images: own [3, 128]; with MixER erased [3, 128], related" in done.stdout
    assert "learning rate 0.01" in done.stdout, "what becomes of the heads in its optimizer"
    assert left_alone


def test_options_reach_the_wrap_of_a_network_that_build_names(tmp_path: Path, sound) -> None:
    checkout = make(
        tmp_path, "nets/mine.py", DDAG + "\n\ndef build(n):\n    return embed_net(1, n, wpa=True)\n"
    )
    missing = check(checkout)
    assert missing.returncode == 3
    assert "no model_main.py" in missing.stdout
    assert "--build" in missing.stdout
    missing = check(checkout, "--json")
    assert missing.returncode == 3
    assert "no model_main.py" in json.loads(missing.stdout)["unable"]
    options = ("--mixer", "related_stages=2", "related_heads=shared")
    deeper = check(checkout, "--build", "nets.mine:build", *options, "--json")
    assert "8 of 8 invariants held" in deeper.stderr, deeper.stdout + deeper.stderr
    document = json.loads(deeper.stdout)
    assert document["network"] == "DDAG"
    assert [each["held"] for each in document["invariants"]] == [True] * 8
    texts = (sound[0].stdout, deeper.stderr)
    losses = [re.findall("base ([^ ]+) . MixER (.*)", text) for text in texts]
    assert [base for base, _ in losses[0]] == [base for base, _ in losses[1]]
    assert losses[0] != losses[1]
    assert "'related_stages'" in check(checkout, "--mixer", "related_stage=2").stderr


def test_a_step_in_each_wrapper_is_compared(capsys, monkeypatch) -> None:
    """All wrappers are tried on more networks elsewhere."""
    toy = TOYS["ddag"]
    case = Case(toy.build(), toy.resolved, toy.loop, {}, IMAGE, CLASSES)
    some = ("stage checkpointed", "DataParallel", "AveragedModel")
    monkeypatch.setattr(worker, "WRAPPERS", {n: w for n, w in WRAPPERS.items() if n in some})
    assert all(found["equal"] for found in worker.try_wrappers(case))
    monkeypatch.setattr(worker, "WRAPPERS", {"mine": lambda case, model: plain(case, model) + 1})
    (found,) = worker.try_wrappers(case)
    assert not found["equal"]
    *equal, differs = capsys.readouterr().out.splitlines()
    assert len(equal) == len(some)
    assert all(re.match(r"\w[\w ]+ equal", line) for line in equal)
    assert differs.startswith("mine ")
    assert "DIFFERS" in differs


def test_a_broken_invariant_is_named_and_is_the_exit_code(tmp_path: Path) -> None:
    done = check(make(tmp_path, "model_main.py", FORGETFUL))
    assert done.returncode == 12, done.stdout + done.stderr
    assert "2  BROKEN  eval outputs" in done.stdout
    assert "Eval embeddings of visible images differ" in done.stdout
    assert "1  held" in done.stdout


@pytest.mark.parametrize("harm", HARMFUL)
def test_network_and_writing_are_refused(tmp_path: Path, harm: str) -> None:
    checkout = make(tmp_path, "model_main.py", HARMFUL[harm])
    before = files(checkout)
    done = check(checkout)
    assert done.returncode == 3
    assert "PermissionError" in done.stdout + done.stderr
    assert files(checkout) == before


def test_wrong_arguments(tmp_path: Path) -> None:
    for name, options, hint in (
        ("dagg", (), "Did you mean 'ddag'"),
        ("ddag", ("--dataset", "llcm"), "no variant for 'llcm'"),
    ):
        done = check(tmp_path, *options, name=name)
        assert done.returncode == 2
        assert hint in done.stderr
    done = check(tmp_path / "absent")
    assert done.returncode == 2
    assert "is no folder" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset"), [(n, d) for n, c in CODEBASES.items() for d in c.datasets if d != "llcm"]
)
def test_the_public_codebases_hold_every_invariant(name: str, dataset: str) -> None:
    checkout = official.checkout(name)
    if not (checkout / CODEBASES[name].marker).is_file():
        pytest.skip(f"set MIXER_CODEBASES to a folder with a checkout of {CODEBASES[name].source}")
    done = check(checkout, "--dataset", dataset, name=name, compiles=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 invariants held" in done.stdout
