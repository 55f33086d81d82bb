"""An index file whose sums fit but whose content does not is named, too."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile

import pytest

from mixer_plugin.errors import MixERError
from mixer_plugin.search import MixedModalIndex
from mixer_plugin.search.files import is_index_file
from tests.search_cases import build, make

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")


@pytest.mark.parametrize("change", ["no list", "no rule", "no ids", "no paths", "five paths"])
def test_foreign_content_with_sums_that_fit(change, tmp_path):
    build(make(20)).save(tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["header.json"])
    if change == "no rule":
        del header["rule"]
    elif change == "no ids":
        del header["sha256"]["ids.npy"]
    elif change in ("no paths", "five paths"):
        members["paths.json"] = b"5" if change == "no paths" else b'["a", "b", "c", "d", "e"]'
        header["sha256"]["paths.json"] = hashlib.sha256(members["paths.json"]).hexdigest()
    text = json.dumps([] if change == "no list" else header).encode()
    members |= {"header.json": text, "header.sha256": hashlib.sha256(text).hexdigest().encode()}
    with zipfile.ZipFile(tmp_path / "x.index", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(MixERError, match=r"x\.index"):
        MixedModalIndex.load(tmp_path / "x.index", device="cpu")


def test_damage_anywhere_is_named(tmp_path):
    path = tmp_path / "x.index"
    build(make(20)).save(path)
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        bad = bytearray(whole)
        for _ in range(20):
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad[: draw.choice([len(bad), draw.randrange(len(bad))])])
        is_index_file(path)
        with pytest.raises(MixERError, match=r"x\.index"):
            MixedModalIndex.load(path, device="cpu")
