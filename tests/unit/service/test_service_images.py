"""A service with a model, which takes images, and shows those of a folder."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mixer_plugin import FeatureSet
from mixer_plugin.search import GalleryStore
from tests.unit.extraction.own_folders import paint
from tests.unit.service.crop_store import MODEL, crops_in_a_store
from tests.unit.service.served import served

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paint(folder / "elsewhere.png", 99)
    return crops_in_a_store(folder)


@pytest.fixture(scope="module")
def service(folder):
    with served(folder, "gate", "--pictures", "crops", *MODEL) as found:
        yield found


def test_an_image_finds_what_its_extracted_features_find(service, folder):
    features = FeatureSet.load(folder / "crops.npz")
    with GalleryStore(folder / "gate") as store:
        hits = store.search(features, 12)
    for row in (0, 7, 11):
        body = (folder / features.paths[row]).read_bytes()
        side = ("visible", "infrared")[int(features.modality[row])]
        answer = service.ask("POST", "/search", body, k=12, modality=side)
        (found,) = answer.json["hits"]
        assert found[0]["key"] == features.paths[row]
        assert np.allclose([hit["score"] for hit in found], hits.scores[row], atol=1e-5)
        labels = {"camera": int(features.cams[row]), "id": int(features.ids[row])}
        words = {"modality": side, "setting": "mix-cam", **labels}
        answer = service.ask("POST", "/search", body, k=12, **words)
        with GalleryStore(folder / "gate") as store:
            of_setting = store.search(features[[row]], 12, setting="mix-cam").rows(features[[row]])
        assert len(answer.json["hits"][0]) == len(of_setting)


def test_an_image_is_added_with_what_is_said_of_it(service, folder):
    body = paint(folder / "crops" / "new.png", 5).read_bytes()
    words = {"modality": "rgb", "camera": 4, "id": 77, "key": "new", "path": "crops/new.png"}
    words |= {"time": "2026-11-28T14:00", "payload": json.dumps({"site": "gate"})}
    answer = service.ask("POST", "/images", body, **words)
    assert answer.status == 201
    (image,) = service.ask("GET", "/images", key="new").json["images"]
    assert image == {
        "key": "new",
        "id": 77,
        "camera": 4,
        "modality": "visible",
        "time": 1795874400.0,
        "path": "crops/new.png",
        "payload": {"site": "gate"},
    }
    (hits,) = service.ask("POST", "/search", body, modality="visible", k=1).json["hits"]
    assert hits[0]["key"] == "new"
    assert service.ask("DELETE", "/images", key="new").json["removed"] == 1


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        ("image", {}, "Say the image's modality"),
        ("image", {"modality": "sonar"}, "'sonar' is no modality"),
        (b"GIF89a nothing", {"modality": "visible"}, "The image cannot be read"),
        ("image", {"modality": "visible", "payload": "{"}, "payload is no JSON"),
        ("image", {"modality": "visible", "payload": "[1]"}, "payloads must be dictionaries"),
        ("image", {"modality": "visible", "time": "noon"}, "'noon' is no time"),
        ("grey", {"modality": "visible"}, "greyscale file, although of a visible camera"),
    ],
)
def test_wrong_images_get_a_sentence(service, folder, body, words, message):
    if body == "image":
        body = (folder / "elsewhere.png").read_bytes()
    if body == "grey":
        stream = io.BytesIO()
        Image.new("L", (16, 32)).save(stream, "PNG")
        body = stream.getvalue()
    answer = service.ask("POST", "/images", body, **words)
    assert (answer.status, message in answer.message) == (422, True), answer.body
    assert "/tmp" not in answer.message


def test_pictures_come_from_the_folder_alone(service, folder):
    key = service.ask("GET", "/images", limit=1).json["images"][0]["key"]
    answer = service.ask("GET", "/picture", key=key)
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert picture.size == (16, 32)
    (folder / "crops" / "link.png").symlink_to(folder / "elsewhere.png")
    (folder / "crops" / "text.png").write_text("no image")
    crops_of = ("absent.png", "link.png", "text.png", "../elsewhere.png", "")
    inside = [f"crops/{name}" for name in crops_of]
    for i, path in enumerate(
        [*inside, "elsewhere.png", str(folder / "elsewhere.png"), "/etc/hosts"]
    ):
        body = (folder / "elsewhere.png").read_bytes()
        words = {"modality": "visible", "key": f"x{i}", "path": path}
        assert service.ask("POST", "/images", body, **words).status == 201
        answer = service.ask("GET", "/picture", key=f"x{i}")
        assert answer.status == 404, path
        assert "of this image" in answer.message or "This image has no file" in answer.message
    assert service.ask("GET", "/picture", key="nobody").status == 404
    shutil.copy(folder / "elsewhere.png", folder / "crops" / "absent.png")
    assert service.ask("GET", "/picture", key="x0").status == 200
    assert service.ask("DELETE", "/images", filter="camera == -1").json["removed"] == 8
