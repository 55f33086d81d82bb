"""docs/service.md runs as it is written, on generated persons."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mixer_plugin.cli import main
from tests.unit.service.served import served

for needed in ("fastapi", "uvicorn", "prometheus_client", "torchvision", "scipy"):
    pytest.importorskip(needed)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "service.md"


def persons(folder):
    """Generated persons in the folder ``crops``."""
    from mixer_plugin.data import read_sysu

    words = ["--train-ids", "1", "--val-ids", "1", "--test-ids", "3"]
    assert main(["synth", str(folder / "persons"), *words]) == 0
    images = read_sysu(folder / "persons", "test")
    rows = zip(images.paths, images.ids, images.cams, images.modality, strict=True)
    for path, person, camera, infrared in rows:
        side = "infrared" if infrared else "visible"
        target = folder / "crops" / side / f"cam{camera}" / f"{person:04d}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    from torchvision.models import resnet18

    monkeypatch.chdir(tmp_path)
    persons(tmp_path)
    torch.save(resnet18().state_dict(), "resnet18.pth")
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(mixer-plugin .*?)```", text, re.DOTALL)
    extract, add, serve, curl = map(shlex.split, block.strip().splitlines())
    for command in (extract, add):
        assert main(command[1:]) == 0
    assert serve[:2] == ["mixer-plugin", "serve"]
    with served(tmp_path, *serve[2:]) as service:
        address = f"http://127.0.0.1:{service.port}"
        # The page's image is one of its reader's: here, the first infrared one.
        image = min(Path("crops/infrared").rglob("*.jpg"))
        given = re.findall(r"@(\S+\.jpg)", block)
        words = [word.replace(given[0], str(image)) for word in curl]
        words = [word.replace("http://127.0.0.1:8000", address) for word in words]
        done = subprocess.run(words, capture_output=True, check=True)
        (hits,) = json.loads(done.stdout)["hits"]
        assert len(hits) == 5
        assert image.samefile(hits[0]["key"])
        assert hits[0]["score"] > 0.999
        assert service.ask("GET", "/picture", key=hits[0]["key"]).status == 200
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        capsys.readouterr()
        exec(compile(code, PAGE.name, "exec"), {"address": address})
        assert capsys.readouterr().out == "['mine']\nmine {'site': 'gate'}\n"
        assert service.stop() == 0


def test_the_page_names_every_address_and_limit():
    from mixer_plugin.search.service.app import make_app
    from mixer_plugin.search.service.settings import KEY_VARIABLE, ServiceSettings
    from mixer_plugin.search.store import GalleryStore

    text = PAGE.read_text(encoding="utf-8")
    own = ServiceSettings()
    assert f"at most {own.most_bytes // 2**20} MiB" in text
    assert f"{own.most_requests} requests run at once" in text
    assert f"within {own.seconds:g} seconds" in text
    assert KEY_VARIABLE in text
    app = make_app(GalleryStore.__new__(GalleryStore), own)
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            assert path == "/" or f"`{method.upper()} {path}`" in text
