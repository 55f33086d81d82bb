"""What is refused, and how."""

from __future__ import annotations

import io
import socket
import time
import zipfile

import numpy as np
import pytest

from mixer_plugin.cli import main
from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.service.settings import ServiceSettings, check_address
from tests.search_cases import make
from tests.unit.service.served import KEY, as_json, new_store, served

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("service"), make(50))


@pytest.fixture(scope="module")
def closed(folder):
    """With a key, and bodies of 1 MiB at most."""
    with served(folder, "gate", "--megabytes", 1, key=KEY) as found:
        yield found


@pytest.fixture(scope="module")
def open_(folder):
    with served(folder, "gate") as found:
        yield found


GUARDED = [("GET", "/images"), ("POST", "/images"), ("DELETE", "/images")]
GUARDED += [("POST", "/search"), ("GET", "/picture"), ("GET", "/metrics")]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_the_key_is_needed(closed, method, path):
    wrong = [{}, {"X-API-Key": KEY[:-1]}, {"Authorization": f"Basic {KEY}"}]
    wrong += [{"X-API-Key": ""}, {"Authorization": "Bearer"}, {"X-API-Key": "\xe9" * 29}]
    for headers in wrong:
        answer = closed.ask(method, path, None, headers)
        assert answer.status == 401
        assert "Authorization: Bearer KEY" in answer.message
        assert answer.headers["www-authenticate"] == "Bearer"
    for headers in (BEARER, {"X-API-Key": KEY}):
        assert closed.ask(method, path, None, headers).status != 401


def test_what_needs_no_key(closed):
    for path in ("/", "/api", "/openapi.json", "/health"):
        assert closed.ask("GET", path).status == 200
    assert closed.ask("GET", "/health").json["needs_key"] is True
    assert KEY not in closed.log.read_text()


def test_with_a_key_a_page_of_another_name_may_ask(closed):
    headers = BEARER | {"Host": "search.example", "Origin": "https://elsewhere.example"}
    assert closed.ask("GET", "/images", None, headers).status == 200


def test_without_a_key_other_names_and_pages_are_refused(open_):
    own = f"127.0.0.1:{open_.port}"
    refused = [{"Host": "rebound.example"}, {"Host": f"rebound.example:{open_.port}"}]
    refused += [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Host": "["}]
    refused += [{"Origin": f"http://localhost:{open_.port}"}]
    for headers in refused:
        answer = open_.ask("DELETE", "/images", None, headers, filter="id >= 0")
        assert answer.status == 403
        assert "no API key" in answer.message
    for headers in ({"Origin": f"http://{own}"}, {"Host": f"localhost:{open_.port}"}):
        assert open_.ask("GET", "/images", None, headers).json["total"] == 50


def test_a_large_body_is_refused_before_it_is_read(closed):
    with socket.create_connection(("127.0.0.1", closed.port), timeout=60) as connection:
        head = f"POST /search HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {2**40}"
        connection.sendall(f"{head}\r\n\r\n".encode())
        answer = connection.makefile("rb").read()  # all of it: the service ends the connection
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 1,048,576 bytes; send fewer images at once." in answer


def test_a_large_body_of_unknown_length_is_refused(closed):
    with socket.create_connection(("127.0.0.1", closed.port), timeout=60) as connection:
        head = "POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
        connection.sendall(f"{head}\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        part = b"10000\r\n" + b"{" * 0x10000 + b"\r\n"
        for _ in range(16):
            connection.sendall(part)
        connection.sendall(b"1\r\n{\r\n")  # the byte too many
        answer = connection.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_arrays_that_are_small_only_in_the_file_are_refused(closed):
    stream = io.BytesIO()
    labels = {"ids": np.zeros(9), "cams": np.zeros(9), "modality": np.zeros(9)}
    np.savez_compressed(stream, erased=np.zeros((9, 200_000), np.float32), **labels)
    assert len(stream.getvalue()) < 2**20
    answer = closed.ask("POST", "/search", stream.getvalue(), BEARER)
    assert answer.status == 413
    assert "send fewer images" in answer.message


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


QUERY = make(2, 1)
MALFORMED = {
    "nothing": (b"", 400, "body is empty"),
    "cut off": (b'{"erased": [[1', 400, "no JSON"),
    "deep": (b"[" * 100_000, 400, "no JSON"),
    "a list": (b"[]", 400, "one JSON object"),
    "no features": ({}, 422, "lacks erased and modality"),
    "unknown": (as_json(QUERY) | {"erasd": 1}, 422, "Did you mean 'erased'"),
    "ragged": (as_json(QUERY) | {"erased": [[1.0], [1.0, 2.0]]}, 422, "erased"),
    "texts": (as_json(QUERY) | {"erased": [["a"], ["b"]]}, 422, "erased"),
    "a number": (as_json(QUERY) | {"erased": 3}, 422, "erased must be a list"),
    "not finite": (as_json(QUERY) | {"erased": [[float("nan")] * 12] * 2}, 422, "not finite"),
    "modality": (as_json(QUERY) | {"modality": ["visible", "thrmal"]}, 422, "thermal"),
    "modality 2": (as_json(QUERY) | {"modality": [0, 2]}, 422, "modality must be 0"),
    "widths": (as_json(QUERY) | {"erased": [[1.0], [2.0]]}, 422, "widths"),
    "keys": (as_json(QUERY, keys=[1, 2]), 422, "keys are of images to add"),
    "no zip": (b"PK\x03\x04 nothing", 400, "npz is damaged"),
    "no arrays": (archive(erased=b"x"), 422, "The .npz"),
    "an image": (b"\x89PNG\r\n", 422, "no model that takes images"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies_get_a_sentence(open_, name):
    body, status, words = MALFORMED[name]
    answer = open_.ask("POST", "/search", body)
    assert (answer.status, words in answer.message) == (status, True), answer.body


PARAMETERS = [
    ({"k": 0}, "k: "),
    ({"k": "many"}, "k: "),
    ({"k": 1001}, "k: "),
    ({"threshold": "nan"}, "threshold: "),
    ({"filter": "camera == one"}, "at character 11"),
    ({"setting": "mixx"}, "Did you mean 'mix'"),
    ({"group_by": "camera"}, "group_by must be"),
    ({"modality": "visible"}, "modality would change nothing"),
    ({"key": "set0/1.jpg"}, "either key, or a body"),
]


@pytest.mark.parametrize(("words", "message"), PARAMETERS)
def test_wrong_parameters_get_a_sentence(open_, words, message):
    answer = open_.ask("POST", "/search", as_json(QUERY), **words)
    assert (answer.status, message in answer.message) == (422, True), answer.body


def test_other_refusals(open_):
    assert open_.ask("POST", "/search", key="nobody").status == 404
    assert open_.ask("POST", "/images", as_json(QUERY, keys=[True, False])).status == 422
    assert open_.ask("POST", "/images", as_json(QUERY, times=["noon", "one"])).status == 422
    assert "would change" in open_.ask("POST", "/images", as_json(QUERY), key="x").message
    assert open_.ask("PUT", "/images").status == 405
    assert "shows no images" in open_.ask("GET", "/picture", key="set0/1.jpg").message
    assert open_.ask("GET", "/images").json["total"] == 50


def test_a_body_that_does_not_come_holds_nobody_up(open_):
    with socket.create_connection(("127.0.0.1", open_.port), timeout=60) as connection:
        head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1:{open_.port}\r\nContent-Length: 100"
        connection.sendall(f"{head}\r\n\r\n{{".encode())
        assert open_.ask("POST", "/search", key="set0/1.jpg").status == 200
    time.sleep(0.1)
    assert open_.ask("GET", "/health").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gate.example"])
def test_other_addresses_need_a_key(folder, capsys, monkeypatch, host):
    monkeypatch.delenv("MIXER_API_KEY", raising=False)
    assert main(["serve", str(folder / "gate"), "--host", host]) == 2
    assert "there is no API key; set the environment variable" in capsys.readouterr().err
    check_address(host, KEY)


def test_this_machines_addresses_need_none():
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        check_address(host, None)


@pytest.mark.parametrize("key", ["short", "with a space in the key", "é" * 20])
def test_weak_keys_are_refused(key):
    with pytest.raises(MixERValueError, match="at least 16 printable"):
        ServiceSettings(key=key)


def test_options_that_do_nothing_are_refused(folder, capsys, tmp_path):
    gate = str(folder / "gate")
    for words, said in [
        (("--weights", "x.pth"), "--weights would change nothing"),
        (("--port", "70000"), "--port must be 0 to 65535"),
        (("--megabytes", "0"), "at least 1"),
        (("--pictures", str(tmp_path / "none")), "is no folder"),
        (("--model", "nothing"), "names no function"),
    ]:
        assert main(["serve", gate, *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 2
    assert "holds no store" in capsys.readouterr().err
