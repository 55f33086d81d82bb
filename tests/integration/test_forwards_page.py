"""Each row of the table of forwards attaches to a network of its form, or is refused as it says."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mixer_plugin import adapters, extract_features, mixer_loss, mixer_param_groups
from mixer_plugin import wrap_with_mixer as wrap
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.errors import MixERError
from mixer_plugin.testing import check_adapter
from tests import forwards
from tests.integration.test_integration_pages import BLOCK, PAGES
from tests.networks import CLASSES, PlainTokens, TwoStreams

ROOT = Path(__file__).resolve().parents[2]
SIZE = (32, 16)
TEXT = (PAGES / "forwards.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\w[\w-]*/[\w-]+) \| (.*?) \| (.*) \|$", re.MULTILINE)
ROWS = {repository: (form, write) for repository, form, write in ROW.findall(TEXT)}


def halves(net: nn.Module, batch: Batch, *more: Any) -> Any:
    """Visible and infrared images, and what is asked for beside."""
    return net(*batch.images.chunk(2), *more)


def with_labels(net: nn.Module, batch: Batch) -> Any:
    return halves(net, batch, 0, *batch.labels.chunk(2))


def prompts_first(net: nn.Module, batch: Batch) -> Any:
    """As CSDN's loop: features of prompts, then of images, then of prompts again."""
    prompts = net(label=batch.labels, get_text=True)
    found = halves(net, batch)
    return found, prompts, net(label=batch.labels, get_fusion_text=True)


def clips(net: nn.Module, batch: Batch) -> Any:
    """Of three frames."""
    frames = torch.stack([batch.images, batch.images.flip(3), batch.images.flip(2)], 1)
    return net(*frames.chunk(2), batch.labels[: len(batch.labels) // 2])


@dataclass(frozen=True)
class Form:
    """A network, and how its loop calls it.

    Attributes:
        build: makes it.
        call: one training forward; None: as the adapter says.
        options: of ``check_adapter``.
    """

    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, Batch], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


FORMS = {
    "mangye16/Cross-Modal-Re-ID-baseline": Form(TwoStreams),
    "workingcoder/MCJA": Form(forwards.SpareLayer),
    "Hua-XC/MSCMNet": Form(forwards.FourStems, lambda net, b: net(*b.images.chunk(4))),
    "zesenwu23/USL-VI-ReID": Form(forwards.SevenOutputs, with_labels, {"num_classes": CLASSES}),
    "yangbincv/SDCL": Form(forwards.TwoPatchEmbeddings, with_labels, {"num_classes": CLASSES}),
    "nengdong96/CSDN": Form(forwards.ThreeModes, prompts_first),
    "yyykkklll/wsl_vireid": Form(forwards.TwoEncoders, halves, {"num_classes": CLASSES}),
    "hulu88/PMT": Form(partial(PlainTokens, depth=forwards.DEPTH)),
    "Xeraphael-XuKun/CVPR26_UAD": Form(
        forwards.Listed, lambda net, b: net(b.images.chunk(2), b.labels)
    ),
    "kw66/AT-ReID": Form(forwards.SixTokens),
    "MP-ReID/mp-reid": Form(
        forwards.TokensFirst, lambda net, b: (net(label=b.labels, get_text=True), net(b.images))
    ),
    "iSEE-Laboratory/VersReID": Form(
        forwards.Scenes, lambda net, b: net(b.images, dataset_label=1)
    ),
    "dyhBUPT/BUPTCampus": Form(forwards.Clips, clips),
}
REFUSED = {
    "yyykkklll/VIReid": forwards.NoModule,
    "MP-ReID/mp-reid": lambda: nn.DataParallel(forwards.TokensFirst()),
}


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a line of the table may say: our adapters and those of the page."""
    page = "\n\n".join(block for _, block in BLOCK.findall(TEXT))
    (tmp_path / "adapters_of_the_table.py").write_text(page, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("adapters_of_the_table")
    return {**{n: getattr(adapters, n) for n in adapters.__all__}, **vars(module)}


def adapter_of(write: str, names: dict[str, Any]) -> Any:
    """What a row's first code makes."""
    line = write.split("`")[1]
    return "auto" if line.startswith("wrap_with_mixer") else eval(line, dict(names))


def test_every_row_is_tried() -> None:
    assert len(ROWS) == 14
    assert set(FORMS) | set(REFUSED) == set(ROWS)
    assert {name for name, (_, write) in ROWS.items() if "refused" in write} == set(REFUSED)


# Forms that other pages' tests attach to as well, or that are another row's up to a name.
ELSEWHERE = (
    "mangye16/Cross-Modal-Re-ID-baseline",
    "workingcoder/MCJA",
    "hulu88/PMT",
    "yyykkklll/wsl_vireid",
)


@pytest.mark.parametrize(
    "repository",
    [pytest.param(n, marks=[pytest.mark.slow] if n in ELSEWHERE else []) for n in FORMS],
)
def test_a_row_attaches_as_it_says(repository: str, names: dict[str, Any]) -> None:
    form, write = FORMS[repository], ROWS[repository][1]
    assert ("num_classes=" in write) == ("num_classes" in form.options)
    adapter = adapter_of(write, names)
    held = check_adapter(form.build, adapter, size=SIZE, call=form.call, **form.options)
    assert {"trains_apart_in_mode_f", "extracts_features"} < set(held)


@pytest.mark.parametrize("repository", REFUSED)
def test_a_row_is_refused_as_it_says(repository: str) -> None:
    (said,) = re.findall(r'refused: "(.*?)"', ROWS[repository][1])
    with pytest.raises(MixERError, match=re.escape(said)):
        wrap(REFUSED[repository](), num_classes=CLASSES)  # type: ignore[arg-type]


def test_what_an_object_holds_attaches_as_the_row_above(names: dict[str, Any]) -> None:
    above = adapter_of(ROWS["yyykkklll/wsl_vireid"][1], names)
    wrap(forwards.NoModule().model, adapter=above, num_classes=CLASSES)


def test_a_network_that_is_averaged_is_wrapped_first(names: dict[str, Any]) -> None:
    adapter = adapter_of(ROWS["iSEE-Laboratory/VersReID"][1], names)
    net = wrap(forwards.Scenes(), adapter=adapter, seed=0)
    ema, labels, modality = forwards.EMA(net), torch.arange(4) // 2, torch.arange(4) % 2
    optimizer = torch.optim.SGD(mixer_param_groups(net, lr=0.1))
    out = ema.train()(torch.randn(4, 3, *SIZE), dataset_label=1)
    (out[1].sum() + mixer_loss(ema.model, labels, modality)).backward()
    optimizer.step()
    ema.ema_update()
    both = zip(ema.ema_model.mixer.parameters(), net.mixer.parameters(), strict=True)  # type: ignore[union-attr,arg-type]
    assert any(not torch.equal(a, b) for a, b in both)


def test_features_of_clips_are_extracted(names: dict[str, Any]) -> None:
    net = wrap(forwards.Clips(), adapter=adapter_of(ROWS["dyhBUPT/BUPTCampus"][1], names), seed=0)
    clip, modality = torch.randn(4, 3, 3, *SIZE), torch.tensor([0, 1, 1, 0])
    found = extract_features(net, [(clip, modality, modality, modality)])
    assert found.related is not None
    still = clip[:, :1].expand(-1, 3, -1, -1, -1)
    one = extract_features(net, [(clip[:, :1], modality, modality, modality)])
    three = extract_features(net, [(still, modality, modality, modality)])
    torch.testing.assert_close(one.related, three.related)
    assert not torch.allclose(found.related, three.related)
