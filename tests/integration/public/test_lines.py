"""The lines of the table of forwards on the public networks, where checkouts are at hand.

Set MIXER_CODEBASES to a folder that holds them: Cross-Modal-Re-ID-baseline, MCJA, PMT.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_forwards_page import ROOT, ROWS

FOLDER = Path(os.environ.get("MIXER_CODEBASES", "/nowhere"))

BUILD = {  # the repository → its folder of code, and what makes its network
    "mangye16/Cross-Modal-Re-ID-baseline": (
        "Cross-Modal-Re-ID-baseline",
        """
import model
build = lambda: model.embed_net(6, no_local="on", gm_pool="on", arch="resnet50")
""",
    ),
    "workingcoder/MCJA": (
        "MCJA",
        """
from models.mcja import MCJA
build = lambda: MCJA(6, drop_last_stride=True, loss_cmr=False)  # which needs torchsort
""",
    ),
    "hulu88/PMT": (
        "PMT/Pytorch-PMT-VI-ReID",
        """
from types import SimpleNamespace
from model import make_model, vision_transformer
vision_transformer.ViT.load_param = lambda *given: None
cfg = SimpleNamespace(H=96, W=48, STRIDE_SIZE=[12, 12], DROP_PATH=0.1, DROP_OUT=0.03,
                      ATT_DROP_RATE=0.0, PRETRAIN_PATH="")
build = lambda: make_model.build_vision_transformer(6, cfg)
""",
    ),
}
CHECK = """
import sys
from mixer_plugin.conformance import shims
shims.install(sys.argv[1])
from mixer_plugin.adapters import *
from mixer_plugin.testing import check_adapter
{build}
print(len(check_adapter(build, {adapter}, size=(96, 48))), "hold")
"""


@pytest.mark.slow
@pytest.mark.parametrize("repository", BUILD)
def test_the_line_holds_on_the_public_network(repository: str, tmp_path: Path) -> None:
    folder, build = BUILD[repository]
    if not (FOLDER / folder).is_dir():
        pytest.skip(f"set MIXER_CODEBASES to a folder that holds a checkout of {repository}")
    line = ROWS[repository][1].split("`")[1]
    adapter = '"auto"' if line.startswith("wrap_with_mixer") else line
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(build=build, adapter=adapter), str(FOLDER / folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "12 hold" in done.stdout, done.stdout + done.stderr
