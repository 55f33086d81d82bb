"""Files of torch.save: tensors come back, nothing runs, and what is wrong is said."""

import pickle

import numpy as np
import pytest
import torch

from mixer_plugin.baselines import create_baseline
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERValueError
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


NUMBERS = {
    "scalar": np.float64(0.25),
    "array": np.arange(6, dtype=np.int32).reshape(2, 3),
    "fortran": np.asfortranarray(np.linspace(0, 1, 6).reshape(3, 2).astype(">f4")),
    "truth": np.bool_(True),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_and_arrays_of_numpy_come_back(zipped, tmp_path):
    path = tmp_path / "numbers.pt"
    torch.save(NUMBERS, path, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path, "a checkpoint")
    for name, value in NUMBERS.items():
        assert isinstance(found[name], type(value))
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype.newbyteorder("=")


class Reduced:
    """Pickles as a call with arguments, and a state, of a file's own choice."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


core = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
F8 = np.dtype("f8")


@pytest.mark.parametrize(
    "value",
    [
        Reduced(np.dtype, ("f8", False, True), (3, "<", None, -1, -1, 0)),
        Reduced(np.dtype, ("O", False, True)),
        Reduced(np.dtype, ("V4294967296", False, True)),
        Reduced(np.ndarray, ((2**40,),)),
        Reduced(core[0], (F8, b"1234")),
        Reduced(core[0], ("f8", b"12345678")),
        Reduced(core[1], (np.ndarray, (2**40,), b"d"), (1, (2,), F8, False, b"12345678")),
        Reduced(core[1], (np.ndarray, (0,), b"b"), (1, (-1,), F8, False, b"")),
        Reduced(core[1], (np.ndarray, (0,), b"b"), (1, (2**40, 0), F8, False, [object()])),
    ],
)
def test_numbers_that_a_file_makes_up_are_refused(value, tmp_path):
    path = tmp_path / "made-up.pt"
    torch.save({"value": value}, path)
    with pytest.raises(MixERError, match=r"made-up\.pt cannot be read as a checkpoint"):
        read_torch_file(path, "a checkpoint")
