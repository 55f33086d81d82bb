"""A file is whole or what it was before."""

from __future__ import annotations

import os

import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.atomic_write import atomic_write


def test_the_file_is_replaced_once_it_is_whole(tmp_path):
    path = tmp_path / "table.md"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["table.md"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_it_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_write(tmp_path / "aside"):
        pass
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt])
def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path, trouble):
    path = tmp_path / "table.md"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"half")
            raise trouble

    with pytest.raises(trouble):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["table.md"]


def test_there_must_be_a_folder(tmp_path):
    with (
        pytest.raises(MixERValueError, match="is not a folder"),
        atomic_write(tmp_path / "a" / "b"),
    ):
        pass
