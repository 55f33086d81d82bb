"""Networks are built from words, and adapters read from lines and files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mixer_plugin.conformance import building, run_check, run_inspect
from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError, MixERWarning
from mixer_plugin.forward.build import build_network, numbers_of
from tests.networks import TwoStreams
from tests.unit.adapters.test_inspect import NETWORKS

# Somebody's checkout: a network in a package, with an option of its own, beside other classes.
NET = """
import wandb
from tests.networks import TwoStreams


class Helper:
    pass


def build_it(class_num, pooling="on"):
    return TwoStreams(class_num, gm_pool=pooling)
"""

ADAPTERS = f"""
from mixer_plugin.adapters import GenericAdapter, GeM


def cubic(x):
    return GeM(3.0)(x)


mine = {NETWORKS["two streams"][1].replace("GeM(3.0)", "cubic")}


class Own(GenericAdapter):
    def __init__(self):
        super().__init__(
            "base_resnet.base.layer4",
            "bottleneck:input",
            neck="bottleneck",
            pool=cubic,
            inputs="two-stream",
            trial=(32, 16),
        )
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "agw.py").write_text(NET, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def (", encoding="utf-8")
    (tmp_path / "my_adapters.py").write_text(ADAPTERS, encoding="utf-8")
    return tmp_path


def test_an_adapter_is_read_from_a_line_or_a_file(checkout: Path) -> None:
    net = TwoStreams()
    line = NETWORKS["two streams"][1]
    assert repr(building.read_adapter(line, net, checkout)) == line
    assert building.read_adapter("auto", net, checkout).name == "agw"
    file = f"{checkout}/my_adapters.py"
    assert type(building.read_adapter(f"{file}:Own", net, checkout)).__name__ == "Own"
    assert "cubic" in repr(building.read_adapter("my_adapters.py:mine", net, checkout))
    for text, said in (
        ("my_adapters.py", "2 adapters.*Adapters in it: mine, Own"),
        ("my_adapters.py:mien", "no adapter 'mien'"),
        ("absent.py:mine", "No file 'absent.py'"),
        ("GenericAdapter(pool=lambda x: x)", "'lambda x: x'.*Put the adapter into a file"),
        ("__import__('os').getcwd()", "is no plain value"),
        ("GeM(3.0)", "makes no adapter"),
        ("GenericAdapter(", "is not Python"),
        ("saia", "Did you mean 'saai'"),
    ):
        with pytest.raises(MixERValueError, match=said):
            building.read_adapter(text, net, checkout)


def test_a_network_is_built_by_a_function_or_a_call() -> None:
    for target, pool in (
        ("tests.networks:TwoStreams", "on"),
        ("tests.networks:TwoStreams(3, gm_pool='off')", "off"),
    ):
        net = build_network(target, 3)
        assert net.get_submodule("classifier").out_features == 3
        assert net.gm_pool == pool
    assert build_network("torch.nn:Identity", 3).training
    assert numbers_of('m:f(395, off=False, on=True, drop=0.2, arch="r50", d=512)') == [395, 512]
    assert numbers_of("m:f") == []
    for target, kind, said in (
        ("tests.networks", MixERValueError, "names no function that makes a network"),
        ("tests.networks:NoNet", MixERValueError, "no function or class 'NoNet'.*gem"),
        ("tests.networks:TwoStreams(open('x'))", MixERValueError, "no plain values"),
        ("tests.networks:TwoStreams(3).eval()", MixERValueError, "is no call"),
        ("builtins:int(3)", MixERTypeError, "made a int"),
        ("builtins:dict", MixERTypeError, "made a dict"),  # it has no signature
        ("tests.networks:TwoStreams(3, 'small', 'on', 4)", MixERValueError, "too many.*write a f"),
        ("tests.networks:Tokens", MixERValueError, "missing a required argument: 'width'.*write a"),
    ):
        with pytest.raises(kind, match=said):
            build_network(target, 3)


def test_wrong_arguments_say_what_to_give(checkout: Path) -> None:
    for target, options, said in (
        (str(checkout), {}, "Which network.*--build nets.agw:build_it"),
        (str(checkout / "absent"), {}, "no folder and no module:function"),
        ("nets.agw:build_it", {"build": "x:y"}, "leave out --build"),
        (str(checkout), {"build": "x:y", "classes": 0}, "classes must be at least 1"),
        (str(checkout), {"build": "x:y", "size": (0, 16)}, "size must be at least 1"),
    ):
        with pytest.raises(MixERError, match=f"(?s){said}"):
            run_inspect(target, **options)  # type: ignore[arg-type]
    with pytest.raises(MixERError, match="Did you mean 'agw'"):
        run_check("agv", checkout, build="nets.agw:build_it")


def test_of_a_module_nothing_but_a_checkout_is_compared(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (checkout / "old.log").write_text("a line")
    (checkout / "gone.log").write_text("a line")
    (checkout / "link").symlink_to("absent")  # as a file that is removed while they are listed

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        for name in ("new.log", "old.log", "z.log", "zz.log"):
            (checkout / name).write_text("another line")
        (checkout / "gone.log").unlink(missing_ok=True)
        return subprocess.CompletedProcess([], 4)

    monkeypatch.chdir(checkout)
    monkeypatch.setattr(subprocess, "run", run)
    assert run_inspect("nets.agw:build_it") == 4
    assert not recwarn.list
    (checkout / "gone.log").write_text("a line")
    with pytest.warns(MixERWarning, match=r"meanwhile: gone\.log, new\.log, old\.log and 2 more"):
        assert run_inspect(str(checkout), build="nets.agw:build_it") == 4
