"""``mixer-plugin inspect``, and ``check`` of what it proposes: real processes, on checkouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixer_plugin.conformance.building import read_adapter
from mixer_plugin.testing import check_adapter
from tests.networks import TwoStreams
from tests.unit.adapters.test_building import checkout  # noqa: F401
from tests.unit.adapters.test_inspect import NETWORKS

ROOT = Path(__file__).resolve().parents[3]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command; torch.compile, which takes half a minute, passes on (test_check compiles)."""
    given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mixer_plugin.cli", *words],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder: Path) -> list[tuple[Path, int]]:
    return sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_a_checkout_is_looked_at_and_left_alone(checkout: Path) -> None:  # noqa: F811
    before = files(checkout)
    build = 'nets.agw:build_it(7, pooling="off")'  # the classes are those of the call
    done = run("inspect", str(checkout), "--build", build, "--size", "32x16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adapter agw: wrap_with_mixer(net) is enough" in done.stdout
    assert 'GenericAdapter("base_resnet.base.layer4", "avgpool", neck="bottleneck"' in done.stdout
    assert 'classifier="classifier", inputs="two-stream", base_losses="identity"' in done.stdout
    assert files(checkout) == before


def test_a_package_that_is_needed_after_all_is_named(checkout: Path) -> None:  # noqa: F811
    (checkout / "sorts.py").write_text(
        "import torchsort\nfrom tests.networks import LossInside\n\n\n"
        "class Sorts(LossInside):\n    def forward(self, inputs, labels=None, cam_ids=None):\n"
        "        out = super().forward(inputs, labels, cam_ids=cam_ids)\n"
        "        return (out[0] + torchsort.soft_rank(inputs), out[1]) if self.training else out\n"
    )
    done = run("inspect", str(checkout), "--build", "sorts:Sorts", "--size", "32x16")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "unable: torchsort.soft_rank is not installed here" in done.stdout


def test_files_that_change_meanwhile_are_named_and_the_result_stands(checkout: Path) -> None:  # noqa: F811
    (checkout / "logs.py").write_text(
        "import pathlib, subprocess, sys\nfrom nets.agw import build_it as built\n\n\n"
        "def build_it(classes):\n"
        "    code = 'import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(\"a line\")'\n"
        "    log = pathlib.Path(__file__).parent / 'run.log'\n"
        "    subprocess.run([sys.executable, '-c', code, str(log)], check=True)\n"
        "    return built(classes)\n"
    )
    done = run("inspect", str(checkout), "--build", "logs:build_it", "--size", "32x16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adapter agw" in done.stdout
    assert f"Files in {checkout} have changed meanwhile: run.log." in done.stderr


def test_check_takes_the_proposed_line(checkout: Path) -> None:  # noqa: F811
    build = ("--build", "nets.agw:build_it")
    size = ("--size", "32x16")
    proposed = run("inspect", str(checkout), *build, *size, "--json")
    found = json.loads(proposed.stdout)
    assert f"\nadapter = {found['line']}\n" in proposed.stderr
    assert (found["size"], found["known"], found["loss_in_forward"]) == ([32, 16], ["agw"], False)
    done = run("check", "--adapter", found["line"], "--checkout", str(checkout), *build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 invariants held" in done.stdout
    assert "stage base_resnet.base.layer4 (1 block), embedding before bottleneck" in done.stdout


def test_check_takes_an_adapter_in_a_file(checkout: Path) -> None:  # noqa: F811
    build = ("--build", "nets.agw:build_it", "--size", "32x16")
    done = run("check", "--adapter", "my_adapters.py:Own", "--checkout", str(checkout), *build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 invariants held" in done.stdout


@pytest.mark.parametrize("given", ["my_adapters.py:mine", "agw", "loss inside", "plain tokens"])
def test_what_check_reads_holds_every_invariant(checkout: Path, given: str) -> None:  # noqa: F811
    build, line = NETWORKS.get(given, (TwoStreams, given))[:2]
    adapter = read_adapter(line, build(), checkout)
    assert "survives_copies" in check_adapter(build, adapter, size=(32, 16))


def test_a_network_that_cannot_be_built_or_attached_to_in_a_line(checkout: Path) -> None:  # noqa: F811
    done = run("inspect", str(checkout), "--build", "nets.agw:build_that")
    assert done.returncode == 3
    assert "no function or class 'build_that'. It has: build_it" in done.stdout
    parts = run("inspect", "tests.unit.adapters.test_inspect:Parts()", "--size", "32x16")
    assert parts.returncode == 4, parts.stdout + parts.stderr
    assert "class Mine(GenericAdapter)" in parts.stdout
