"""A service in a process of its own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from mixer_plugin.search import GalleryStore
from tests.processes import settings

KEY = "a-key-of-the-tests-0123456789"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def message(self):
        """The sentence of a refusal."""
        text = self.json["error"]["message"]
        assert len(text.split()) > 3
        return text


@dataclass(frozen=True)
class Service:
    """A running one."""

    port: int
    process: subprocess.Popen
    log: Path

    def ask(self, method, path, body=None, headers=(), /, **words):
        """One request on a connection of its own; a dictionary is sent as JSON."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        if words:
            path = f"{path}?{urlencode(words, doseq=True)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def stop(self):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


@contextmanager
def served(folder, *words, key=None):
    """``mixer-plugin serve STORE`` in a working folder, until the block ends."""
    log = Path(folder, "service.log")
    own = settings(**({} if key is None else {"MIXER_API_KEY": key})) | {"cwd": folder}
    command = [sys.executable, "-m", "mixer_plugin.cli", "serve", *map(str, words), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, **own)
    late = threading.Timer(120, process.kill)
    late.start()
    try:
        line = process.stdout.readline()
        late.cancel()
        found = re.search(r"images at http://127\.0\.0\.1:(\d+)$", line.strip())
        assert found, (line, log.read_text())
        yield Service(int(found[1]), process, log)
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def new_store(folder, images):
    """Makes the store ``gate`` in a folder, which is returned."""
    with GalleryStore.create(folder / "gate") as store:
        store.add(images)
    return folder


def wait_until(true, seconds=60):
    """Waits for what another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def as_json(features, **beside):
    """The JSON body of a set."""
    body = {
        "erased": features.erased.tolist(),
        "ids": features.ids.tolist(),
        "cams": features.cams.tolist(),
        "modality": features.modality.tolist(),
    }
    if features.related is not None:
        body["related"] = features.related.tolist()
    if features.paths is not None:
        body["paths"] = list(features.paths)
    return body | beside
