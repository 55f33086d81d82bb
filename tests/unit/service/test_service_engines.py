"""A service of a collection answers as one of a store with the same images does."""

from __future__ import annotations

import dataclasses
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from mixer_plugin.cli import main
from mixer_plugin.search import GalleryStore
from tests.search_cases import make
from tests.unit.service.engine_collection import new_collection
from tests.unit.service.served import as_json, served

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)

GALLERY, QUERY = make(100), make(4, 1)
BESIDE = {
    "times": [None if row % 3 == 0 else float(row) for row in range(100)],
    "payloads": [None if row % 4 == 0 else {"track": row // 10} for row in range(100)],
}


@pytest.fixture(scope="module", params=["qdrant", "milvus"])
def service(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with served(folder, new_collection(request.param, folder, GALLERY, **BESIDE)) as found:
        yield found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with GalleryStore.create(tmp_path_factory.mktemp("store") / "gate") as made:
        made.add(GALLERY, range(100), **BESIDE)
        yield made


def same(found, hits, query):
    """Whether an answer has these hits, with all that is known of them."""
    assert found.status == 200, found.body
    rows = hits.rows(query)
    flat = [hit for own in found.json["hits"] for hit in own]
    assert len(flat) == len(rows) > 0
    for mine, row in zip(flat, rows, strict=True):
        assert mine["score"] == pytest.approx(row["score"], abs=5e-6)
        row["score"] = 0
        asked = {name for name in row if name.startswith("query")}
        assert {**mine, "score": 0} == {n: v for n, v in row.items() if n not in asked}
    assert found.json["change"] is None


@pytest.mark.slow
def test_searches_are_the_stores(service, store):
    for own in (
        {},
        {"k": 3, "filter": "camera in (1, 2) and modality == infrared and time > 5"},
        {"setting": "mix-cam"},
        {"threshold": 0.5, "k": 100},
        {"group_by": "id"},
        {"group_by": "payload.track", "setting": "uni", "k": 200},
    ):
        found = service.ask("POST", "/search", as_json(QUERY), **own)
        same(found, store.search(QUERY, **{"k": 10, **own}), QUERY)
    found = service.ask("POST", "/search", key=[7, 3], k=5)
    asked = store.features([7, 3])
    same(found, store.search(asked, 5, exclude=[[7], [3]]), asked)


def test_images_are_listed_added_replaced_and_removed(service, store):
    about = service.ask("GET", "/health").json
    assert (about["status"], about["rule"]) == ("ok", "mixer")
    listed = service.ask("GET", "/images", limit=7).json
    assert listed == {"images": store.get(range(7)), "total": 100}
    listed = service.ask("GET", "/images", filter="payload.track == 3 and id >= 2").json["images"]
    assert listed == store.get(store.keys("payload.track == 3 and id >= 2"))
    new = make(3, 5)
    body = as_json(new, keys=[200, 2**53, 300], times=[1.5, None, 3], payloads=[None, {"a": 1}, {}])
    answer = service.ask("POST", "/images", body)
    assert (answer.status, answer.json) == (201, {"keys": [200, 2**53, 300], "total": 103})
    (hits,) = service.ask("POST", "/search", as_json(new[:1]), k=1).json["hits"]
    assert (hits[0]["key"], hits[0]["time"], hits[0]["payload"]) == (200, 1.5, None)
    assert np.isclose(hits[0]["score"], 1)
    again = service.ask("POST", "/images", as_json(new[:1], keys=[300]))
    assert (again.status, "Key 300 is in the collection" in again.message) == (422, True)
    again = service.ask("POST", "/images", as_json(new[:1], keys=[300]), upsert=True)
    assert again.json["total"] == 103
    assert service.ask("DELETE", "/images", key=["200", str(2**53)]).json["removed"] == 2
    assert service.ask("DELETE", "/images", filter="key == 300").json == {
        "removed": 1,
        "total": 100,
    }
    assert service.ask("DELETE", "/images", filter="key == 300").json["removed"] == 0
    assert "mixer_images 100.0" in service.ask("GET", "/metrics").body.decode()


def test_what_an_engine_cannot_do_is_said(service):
    one = dataclasses.replace(make(1, 5), paths=None)
    for body, words in [
        (as_json(make(1, 5)), "gives out no keys; give each image one, whole numbers"),
        (as_json(one, keys=["text"]), "whole numbers from 0 on, got 'text'"),
        (as_json(one, keys=[-4]), "whole numbers from 0 on, got -4"),
        (as_json(one, keys=[500], payloads=[{"list": [1]}]), "holds a list, null or"),
        (as_json(one, keys=[500], times=["noon"]), "times must be seconds"),
    ]:
        answer = service.ask("POST", "/images", body)
        assert (answer.status, words in answer.message) == (422, True), answer.body
    for key in ("text", "-4", "999"):
        for method, path in (("GET", "/images"), ("DELETE", "/images"), ("POST", "/search")):
            answer = service.ask(method, path, key=key)
            assert answer.status == 404
            assert "is not in the gallery" in answer.message
    answer = service.ask("GET", "/images", filter='payload.site < "gate"')
    assert answer.status == 200 or "no order of texts" in answer.message
    assert service.ask("POST", "/search", as_json(QUERY), group_by="camera").status == 422
    assert service.ask("GET", "/images").json["total"] == 100
    assert '"status": 500' not in service.log.read_text()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("qdrant+http://localhost:6333", "is no address of a collection"),
        ("qdrant+http://localhost:6333/", "is no address of a collection"),
        ("qdrant+http:///gate", "is no address of a collection"),
        ("qdrant+gate", "is no address of a collection"),
        ("qdrant+", "is no address of a collection"),
        ("qdrant+nowhere/gate", "nowhere is no folder"),
        ("milvus+nowhere.db/gate", "nowhere.db is no file that ends in .db"),
        ("milvus+./gate", "is no file that ends in .db"),
        ("milvus+https://me:secret@localhost:19530/gate", "the key does not belong there"),
        ("qdrant+https://localhost:6333/gate?api_key=secret", "the key does not belong there"),
        ("nowhere", "holds no store"),
    ],
)
def test_what_is_no_gallery_is_refused(tmp_path, monkeypatch, capsys, word, said):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", word]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "secret" not in told
    assert not [*tmp_path.iterdir()]


def test_a_collection_that_is_not_there_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    word = new_collection("qdrant", tmp_path, GALLERY[:3])
    assert main(["serve", word.replace("gate", "yard")]) == 2
    assert "Collection 'yard' is not there, or has no manifest" in capsys.readouterr().err


class Refusing(BaseHTTPRequestHandler):
    """A server that lets nobody in."""

    def do_GET(self):
        self.server.keys.append(self.headers["api-key"])
        self.send_error(401)

    def log_message(self, *given):
        pass


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_engines_key_comes_from_the_environment_and_is_not_told(monkeypatch, capsys):
    pytest.importorskip("qdrant_client", reason="needs the extra 'qdrant'")
    monkeypatch.setenv("MIXER_ENGINE_KEY", "the-engines-own-key")
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    server.keys = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        place = f"http://127.0.0.1:{server.server_address[1]}"
        assert main(["serve", f"qdrant+{place}/gate"]) == 2
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    told = capsys.readouterr().err
    assert f"The engine at {place} did not do what was asked" in told
    assert "the-engines-own-key" not in told
    assert {*server.keys} == {"the-engines-own-key"}
    assert main(["serve", f"qdrant+{place}/gate"]) == 2  # nobody is there now
    assert f"The engine at {place} did not do what was asked" in capsys.readouterr().err
