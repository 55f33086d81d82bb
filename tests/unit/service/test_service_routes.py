"""Every address of a service, in a real process."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mixer_plugin.search import GalleryStore
from tests.search_cases import make
from tests.unit.service.served import as_json, new_store, served

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("service"), make(100))


@pytest.fixture(scope="module")
def service(folder):
    with served(folder, "gate") as found:
        yield found


def hits_of(answer):
    assert answer.status == 200, answer.body
    return answer.json["hits"]


def expected(folder, query, k=10, **options):
    with GalleryStore(folder / "gate") as store:
        hits = store.search(query, k, **options)
        rows = hits.rows(query)
    lists = [[] for _ in range(len(query))]
    for row in rows:
        lists[row["query"]].append({n: v for n, v in row.items() if not n.startswith("query")})
    return lists


def test_health(service):
    about = service.ask("GET", "/health").json
    assert about["status"] == "ok"
    assert about["rule"] == "mixer"
    assert "mix-cam" in about["settings"]
    assert (about["takes_images"], about["shows_pictures"], about["needs_key"]) == (False,) * 3


def test_searches_are_the_stores(service, folder, tmp_path):
    query = make(4, 1)
    query.save(tmp_path / "q.npz")
    options = [
        {},
        {"k": 3, "filter": "camera in (1, 2) and modality == infrared"},
        {"setting": "mix-cam"},
        {"threshold": 0.5, "k": 100},
        {"group_by": "id"},
    ]
    for own in options:
        of_json = service.ask("POST", "/search", as_json(query), **own)
        of_npz = service.ask("POST", "/search", (tmp_path / "q.npz").read_bytes(), **own)
        found = hits_of(of_json)
        assert found == hits_of(of_npz) == expected(folder, query, **own)
        assert all(found)


def test_a_stored_image_asks_and_does_not_find_itself(service, folder):
    keys = ["set0/7.jpg", "set0/3.jpg"]
    found = hits_of(service.ask("POST", "/search", key=keys, k=5))
    images = make(100)[[7, 3]]
    own = expected(folder, images, 5, exclude=[[key] for key in keys])
    for mine, theirs in zip(found, own, strict=True):
        assert [hit["key"] for hit in mine] == [hit["key"] for hit in theirs]
        assert np.allclose([h["score"] for h in mine], [h["score"] for h in theirs], atol=1e-5)


def test_images_are_added_listed_replaced_and_removed(service, folder, tmp_path):
    new = dataclasses.replace(make(6, 5), paths=None)
    beside = {"keys": ["a", 7, "ü", "d", "e", "f"], "times": [1.5, None, 3, 4, 5, 6]}
    payloads = [{"site": "gate"}, None, *[{"site": "yard"}] * 4]
    answer = service.ask("POST", "/images", as_json(new, **beside, payloads=payloads))
    assert answer.status == 201
    assert answer.json == {"keys": beside["keys"], "total": 106}
    with GalleryStore(folder / "gate") as store:
        assert store.get(["a"])[0]["payload"] == {"site": "gate"}
    answer = service.ask("GET", "/images", key=["ü", "7"]).json
    assert [image["key"] for image in answer["images"]] == ["ü", 7]
    assert [image["time"] for image in answer["images"]] == [3.0, None]
    listed = service.ask("GET", "/images", filter='payload.site == "yard"', limit=3).json
    assert [image["key"] for image in listed["images"]] == ["ü", "d", "e"]
    again = service.ask("POST", "/images", as_json(new[:1], keys=["a"]))
    assert again.status == 422
    assert "Key 'a' is in the store already" in again.message
    again = service.ask("POST", "/images", as_json(new[:1], keys=["a"]), upsert=True)
    assert again.json["total"] == 106
    arrays = {name: np.asarray(value) for name, value in as_json(new).items()}
    np.savez(tmp_path / "n.npz", **arrays, time=np.arange(6.0), keys=np.arange(50, 56))
    answer = service.ask("POST", "/images", (tmp_path / "n.npz").read_bytes())
    assert answer.json == {"keys": list(range(50, 56)), "total": 112}
    assert service.ask("GET", "/images", key=53).json["images"][0]["time"] == 3.0
    absent = service.ask("DELETE", "/images", key=["a", "nobody"])
    assert absent.status == 404
    assert "'nobody' is not in the gallery" in absent.message
    assert service.ask("DELETE", "/images", key=["a", "7"]).json == {"removed": 2, "total": 110}
    answer = service.ask("DELETE", "/images", filter="time >= 0")
    assert answer.json == {"removed": 10, "total": 100}
    for words in ({}, {"key": "x", "filter": "id == 1"}):
        assert "either key or filter" in service.ask("DELETE", "/images", **words).message


def test_the_addresses_are_described_and_nothing_comes_from_elsewhere(service):
    api = service.ask("GET", "/openapi.json").json
    methods = {(path, method) for path, own in api["paths"].items() for method in own}
    assert {("/images", "post"), ("/images", "delete"), ("/search", "post")} <= methods
    words = {each["name"] for each in api["paths"]["/search"]["post"]["parameters"]}
    assert {"k", "filter", "setting", "threshold", "group_by", "key", "modality"} <= words
    for path in ("/", "/api"):
        page = service.ask("GET", path)
        assert page.status == 200
        text = page.body.decode()
        assert "Content-Security-Policy" in text
        assert "://" not in text
        assert page.headers["x-content-type-options"] == "nosniff"
    assert "group_by" in text
    assert service.ask("GET", "/docs").status == 404


def test_requests_are_counted_and_logged_without_their_parameters(service):
    service.ask("GET", "/images", filter="id == 123456")
    service.ask("GET", "/nowhere/654321")
    text = service.ask("GET", "/metrics").body.decode()
    assert 'mixer_requests_total{method="GET",route="/images",status="200"}' in text
    assert 'mixer_requests_total{method="none",route="none",status="404"}' in text
    assert "mixer_images 1" in text
    assert "654321" not in text
    log = service.log.read_text()
    assert '"route": "/images", "status": 200' in log
    assert "123456" not in log
    assert "654321" not in log
