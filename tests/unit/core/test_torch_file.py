"""Files of torch.save: tensors come back, nothing runs, and what is wrong is said."""

import pickle

import pytest
import torch

from mixer_plugin.baselines import create_baseline
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.io.torch_file import read_torch_file


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"x": torch.arange(3), "step": 4}, path)
    found = read_torch_file(path, "weights")
    assert found["step"] == 4
    assert found["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "code"])
def test_what_cannot_be_read_is_named_with_advice(damage, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"x": torch.arange(300)}, path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[:200], "text": b"hello there"}.get(damage, whole))
    if damage == "code":
        path.write_bytes(pickle.dumps(print))
    with pytest.raises(MixERRuntimeError, match=r"a\.pt cannot be read as weights \(.+\)\. Do it"):
        read_torch_file(path, "weights", "Do it again.", MixERRuntimeError)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pt", "weights")


def test_damaged_trunk_weights_are_named(tmp_path):
    path = tmp_path / "trunk.pt"
    path.write_bytes(b"no weights")
    with pytest.raises(MixERValueError, match="cannot be read as weights of a trunk"):
        create_baseline("saai-base", 3, trunk="small", weights=path)
