"""Several real processes on one batch: what one process has on all of it, to the last digits."""

from __future__ import annotations

import re
import textwrap

import pytest
import torch
import torch.distributed as dist

from mixer_plugin import FeatureSet
from mixer_plugin.distributed import sync_batchnorm
from tests.contract import gathering_worker, pieces_worker
from tests.contract.gathering_worker import APART, CASES, OF_FOUR, ONE_MODALITY, TOGETHER
from tests.contract.processes import ROOT, end, run, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo"
    ),
]


def train_alone(names):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: gathering_worker.train(CASES[name]) for name in names}
    finally:
        torch.set_num_threads(threads)


def difference(first, second):
    """The largest one among weights and buffers."""
    assert list(first) == list(second)
    # A network that retrieval does not use: the running statistics of an instance norm, which
    # DDP takes from rank 0. In training it normalises by the image.
    keys = [k for k in first if k != "loss" and not k.startswith("backbone.IN.running")]
    return max(float((first[k].double() - second[k].double()).abs().max()) for k in keys)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    names = [*TOGETHER, *APART, *ONE_MODALITY]
    saved, alone = run(
        "tests.contract.gathering_worker",
        2,
        folder,
        *names,
        meanwhile=lambda: train_alone([*TOGETHER, *APART]),
    )
    return *saved, alone


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_as_one_on_the_whole_batch(two, name):
    first, second, alone = (run[name] for run in two)
    assert difference(first, second) < (1e-12 if "idkl" not in name else 1e-9)
    # The base is in double precision, MixER's losses in single.
    assert difference(first, alone) < 1e-6
    loss = (first["loss"] + second["loss"]) / 2
    torch.testing.assert_close(loss, alone["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_without_the_gather_or_the_norms_it_is_another_run(two, name):
    first, second, alone = (run[name] for run in two)
    assert difference(first, alone) > 1e-3
    loss = (first["loss"] + second["loss"]) / 2
    assert float((loss - alone["loss"]).abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_MODALITY)
def test_a_process_without_visible_rows_does_not_hold_up_the_others(two, name):
    first, second, _ = two
    for key, value in first[name].items():
        if key.endswith(("weight", "bias")):
            assert torch.isfinite(value).all(), key
            assert torch.equal(value, second[name][key]), key
    statistics = "mixer.heads.visible.norm.running_mean"
    agree = torch.equal(first[name][statistics], second[name][statistics])
    assert agree == CASES[name].synced


@pytest.mark.slow
def test_four_processes_with_one_identity_each_train_as_one(tmp_path):
    saved, alone = run(
        "tests.contract.gathering_worker",
        4,
        tmp_path,
        *OF_FOUR,
        meanwhile=lambda: train_alone(OF_FOUR),
    )
    for one in saved:
        for name in OF_FOUR:
            assert difference(one[name], alone[name]) < 1e-6


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    torch.serialization.add_safe_globals([FeatureSet])  # what is extracted
    return run("tests.contract.pieces_worker", 3, tmp_path_factory.mktemp("pieces"))[0]


def test_gathered_rows_are_all_rows_in_the_order_of_ranks(pieces):
    for one in pieces:
        for key, value in pieces_worker.tensors().items():
            got = one["gathered"]["rows"][key]
            assert got.dtype == value.dtype
            assert torch.equal(got, value), key


@pytest.mark.parametrize(("name", "scale"), [("shared", 3.0), ("own", 1.0 + 2.0 + 3.0)])
def test_the_gradient_is_the_sum_over_processes(pieces, name, scale):
    whole = pieces_worker.tensors()
    for key in ("double", "half"):
        whole[key].requires_grad_()
    pieces_worker.loss_of(whole, scale).backward()
    for rank, one in enumerate(pieces):
        for key in ("double", "half"):
            expected = whole[key].grad[pieces_worker.own_rows(rank)]
            torch.testing.assert_close(one["gathered"][name][key], expected)


@pytest.mark.parametrize("name", pieces_worker.NORMS)
def test_a_synchronised_norm_is_a_norm_of_all_rows(pieces, name):
    expected = pieces_worker.normed(name)
    found = [one["norms"][name] for one in pieces]
    for key in ("out", "grad"):
        axis = 0 if key == "out" else 1
        torch.testing.assert_close(torch.cat([f[key] for f in found], axis), expected[key])
    for key in {"weight", "bias"} & set(expected):
        torch.testing.assert_close(sum(f[key] for f in found), expected[key])
    for key in set(expected) - {"out", "grad", "weight", "bias"}:
        for one in found:
            torch.testing.assert_close(one[key], expected[key])


def test_a_mean_far_from_zero_costs_no_precision(pieces):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    exact = torch.nn.functional.batch_norm((x + 1e4).double(), None, None, training=True)
    found = torch.cat([one["far"] for one in pieces]).double()
    assert float((found - exact).abs().max()) < 2e-3


def same(found, expected):
    for field in ("erased", "related", "ids", "cams", "modality"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    assert found.paths == expected.paths


@pytest.mark.parametrize("loader", ["loader", "list", "one batch", "no paths"])
def test_shared_extraction_is_that_of_one_process(pieces, loader):
    expected = pieces_worker.extracted(share=False)[loader]
    for one in pieces:
        same(one["extracted"][loader], expected)


def test_a_process_loads_its_own_batches_only(pieces):
    assert [one["extracted"]["loaded"][:4] for one in pieces] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert [len(one["extracted"]["loaded"]) for one in pieces] == [8, 8, 5]


def test_a_process_that_extracts_alone_waits_for_nobody(pieces):
    expected = pieces_worker.extracted(share=False)["list"]
    assert pieces[0]["alone"] is None
    for one in pieces[1:]:
        same(one["alone"], expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("widths", "rows of different sizes on the processes"),
        ("one value", "1 values per channel from all processes"),
        ("no batch", "The loader gave no batch"),
        ("half synchronised", "after wrap_with_mixer"),
    ],
)
def test_every_process_says_what_does_not_fit(pieces, name, words):
    for one in pieces:
        assert words in one["errors"][name]


@pytest.mark.parametrize(
    ("name", "own", "told"),
    [
        ("batch", "has no cams", "A batch"),
        ("batches", "All sets must have the same widths", "All sets"),
    ],
)
def test_a_share_that_failed_is_named_by_all(pieces, name, own, told):
    others = f"Process 1 failed in its share: MixERValueError: {told}"
    assert own in pieces[1]["errors"][name]
    assert all(others in pieces[rank]["errors"][name] for rank in (0, 2))


LEFT = """
    import os, sys, torch
    from pathlib import Path
    from torch import nn
    from mixer_plugin.distributed.gather import gather_rows
    from mixer_plugin.distributed.sync_batchnorm import synchronise_norms
    from tests.contract.gathering_worker import meet

    rank, what = int(sys.argv[1]), sys.argv[3]
    meet(rank, 2, Path(sys.argv[2]), seconds=20)
    norm = nn.BatchNorm1d(4)
    synchronise_norms(norm)
    x = torch.randn(3, 4, requires_grad=True)
    run = {"gather": lambda: gather_rows(x)[0], "norm": lambda: norm(x)}[what.split()[0]]
    out = run()
    if rank == 1:
        os._exit(7)
    out.sum().backward() if what.endswith("backward") else run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gather backward", "norm"])
def test_a_process_whose_partner_dies_ends_with_a_reason(tmp_path, what):
    code = textwrap.dedent(LEFT)
    processes = [start("-c", code, str(rank), str(tmp_path), what) for rank in range(2)]
    waiting, _ = end(processes, seconds=90)
    assert [p.returncode for p in processes] == [1, 7]
    assert "MixERRuntimeError: Process 0 of 2 waited in" in waiting
    assert "one has ended or did not come" in waiting


PREAMBLE = """
import torch
from mixer_plugin.baselines import create_baseline
from tests.contract.toys import CLASSES, IMAGE, make_batch

def build():
    torch.manual_seed(0)
    return create_baseline("saai-base", CLASSES, trunk="small", image_size=IMAGE)

def batches(rank, world):
    for step in range(2):
        batch = make_batch(step * world + rank, p=2, k=2)
        yield batch.images, batch.labels, batch.cams

tested = [make_batch(seed, p=4, k=2) for seed in range(3)]
loader = [(batch.images, batch.labels, batch.cams, batch.modality) for batch in tested]
"""


@pytest.mark.slow
def test_the_script_of_the_page_runs(tmp_path):
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "train.py").write_text(PREAMBLE + block, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start(*launcher, str(tmp_path / "train.py"))
    (output,) = end([process])
    assert process.returncode == 0, output
    assert output.count("| setting |") == 1


def test_one_process_has_nothing_to_synchronise():
    assert not dist.is_initialized()
    norm = torch.nn.BatchNorm1d(4)
    sync_batchnorm.synchronise_norms(norm)
    plain = torch.nn.BatchNorm1d(4)
    x = torch.randn(3, 4)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)
