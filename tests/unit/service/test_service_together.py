"""Several clients at once, and the end of a service."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mixer_plugin import scores
from mixer_plugin.search import GalleryStore
from tests.search_cases import make
from tests.unit.service.engine_collection import new_collection
from tests.unit.service.served import as_json, new_store, served, wait_until

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)

GALLERY, QUERY = make(200), make(4, 1)
EXACT = scores(QUERY, GALLERY).numpy()
BASE = {f"set0/{i}.jpg": i for i in range(len(GALLERY))} | {i: i for i in range(len(GALLERY))}


@pytest.fixture
def folder(tmp_path):
    return new_store(tmp_path, GALLERY)


def memory(process):
    """Resident bytes of a process."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def client(service, number, end):
    """Adds images of its own, searches and removes them; each answer is the exact one."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    own = dataclasses.replace(make(3, 20 + number), paths=None)
    count, rank = 0, np.argsort(-EXACT[number], kind="stable")

    def ask(method, path, body=None):
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status in (200, 201), content
        return content

    while time.monotonic() < end:
        keys = [1_000_000 * (number + 1) + 3 * count + i for i in range(3)]
        times = [1000 + number] * 3
        assert ask("POST", "/images", as_json(own, keys=keys, times=times))["keys"] == keys
        mine = ask("POST", f"/search?k=9&filter=time+==+{1000 + number}", as_json(own[:1]))
        assert {hit["key"] for hit in mine["hits"][0]} == set(keys)
        assert mine["hits"][0][0]["key"] == keys[0]  # it is the same image
        removed = "&".join(f"key={key}" for key in keys)
        assert ask("DELETE", f"/images?{removed}")["removed"] == 3
        query = as_json(QUERY[number : number + 1])
        base = ask("POST", "/search?k=9&filter=not+time+%3E%3D+0", query)["hits"][0]
        np.testing.assert_allclose(
            [hit["score"] for hit in base], EXACT[number, rank[:9]], atol=5e-6
        )
        found = [EXACT[number, BASE[hit["key"]]] for hit in base]
        np.testing.assert_allclose(found, EXACT[number, rank[:9]], atol=5e-6)
        count += 1
    connection.close()
    return count


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["store", "qdrant", "milvus"])
@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.endurance)])
def test_four_clients_get_exact_answers(folder, seconds, kind):
    word = "gate" if kind == "store" else new_collection(kind, folder, GALLERY)
    with served(folder, word) as service, ThreadPoolExecutor(4) as pool:
        end = time.monotonic() + seconds
        jobs = [pool.submit(client, service, number, end) for number in range(4)]
        if seconds >= 60:
            time.sleep(seconds / 3)
            early = memory(service.process)
        counts = [job.result() for job in jobs]
        assert min(counts) >= 1
        if seconds >= 60:
            assert memory(service.process) < early + 64 * 2**20
        assert service.ask("GET", "/images").json["total"] == 200
        text = service.ask("GET", "/metrics").body.decode()
        name = 'mixer_requests_total{method="POST",route="/search",status="200"}'
        assert f"{name} {2.0 * sum(counts)}" in text
        assert 'status="5' not in text
        assert service.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_is_finished(folder, number):
    body = json.dumps(as_json(dataclasses.replace(make(5, 3), paths=None))).encode()
    with served(folder, "gate") as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            head = f"POST /images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
            connection.sendall(f"{head}\r\n\r\n".encode() + body[:10])
            running = "mixer_running_requests 2.0"  # this one, and the one that asks
            wait_until(lambda: running in service.ask("GET", "/metrics").body.decode())
            service.process.send_signal(number)
            wait_until(lambda: not listens(service.port))
            assert service.process.poll() is None
            connection.sendall(body[10:])
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert b'"total": 205' in answer
        assert service.process.wait(60) == (0 if number == signal.SIGTERM else 130)
    assert "Traceback" not in service.log.read_text()
    with GalleryStore(folder / "gate") as store:
        assert len(store) == 205


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_too_many_requests_at_once_are_told_to_wait(folder):
    with served(folder, "gate") as service:
        waiting = []
        try:
            for _ in range(32):
                connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
                head = "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
                connection.sendall(head.encode())
                waiting.append(connection)
            wait_until(lambda: service.ask("GET", "/health").status == 503)
            answer = service.ask("GET", "/health")
            assert "works on 32 requests already" in answer.message
            assert answer.headers["retry-after"] == "1"
        finally:
            for connection in waiting:
                connection.close()
        wait_until(lambda: service.ask("GET", "/health").status == 200)


@pytest.mark.slow
def test_another_process_adds_meanwhile(folder):
    with served(folder, "gate") as service, GalleryStore(folder / "gate") as store:
        writer = threading.Thread(target=store.add, args=(make(1, 9), ["theirs"]))
        writer.start()
        writer.join()
        (hits,) = service.ask("POST", "/search", as_json(make(1, 9)), k=1).json["hits"]
        assert hits[0]["key"] == "theirs"
