"""YAML files: what cannot be read, or reads otherwise than it looks, is one line with the file."""

import re

import pytest

from mixer_plugin import MixERConfig
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.yaml_file import read_values, read_yaml_file

_LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
)
_MERGES = "m0: &m0 {x: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("a: 1\n".encode("utf-16"), "not UTF-8 text"),
        ("a: 1\n".encode("utf-16-le"), "not valid YAML"),
        ("a: 1\n".encode("utf-32"), "not UTF-8 text"),
        ("a: é\n".encode("latin-1"), "not UTF-8 text"),
        (b"a: \x07\n", "not valid YAML"),
        ("a: " + "[" * 1500 + "]" * 1500, "nested too deeply"),
        ("{a: " * 1500, "nested too deeply"),
        (_LAUGHS, "more than 10000 values"),
        (_MERGES, "more than 10000 values"),
        ("a: &x [*x]\n", "holds itself"),
        ("a: 1\n---\na: 2\n", "not valid YAML"),
        ("a: 1\nb: {c: 1, c: 2}\n", "the key 'c' stands twice.*line 2, column 4"),
        ("a: 1\na: 1\n", "the key 'a' stands twice"),
        ("- 1\n", "holds a list"),
        ("5\n", "holds a int"),
        ("a: [\n", "not valid YAML"),
        ("\ta: 1\n", "not valid YAML"),
        ("a: 010\n", "010 is a number of base 8"),
        ("a: 10:30\n", "10:30 is a number of base 8 or 60"),
        ("a: 2024-13-45\n", "not valid YAML"),
        ("a: !!int x\n", "not valid YAML"),
        ("a: !!bool x\n", "not valid YAML"),
        ("a: !!timestamp x\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("a: *nobody\n", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
    ],
)
def test_files_that_are_refused(held, said, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(held if isinstance(held, bytes) else held.encode())
    with pytest.raises(MixERValueError, match=said) as caught:
        read_yaml_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfa: &x {b: 0, c: 0x1f}\r\nd: {<<: *x, b: '010'}\r\ne: [*x, *x]\r\n"
    )
    one = {"b": 0, "c": 31}
    assert read_yaml_file(path) == {"a": one, "d": {"b": "010", "c": 31}, "e": [one, one]}
    path.write_text("")
    assert read_yaml_file(path) == {}
    for missing in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(OSError, match=str(missing)):
            read_yaml_file(missing)


def test_words_of_a_command_line_are_typed_values():
    words = ["a=2", "b=1e-3", "c=false", "d=per-modality", "e=", "f=x=y"]
    assert read_values(words) == {
        "a": 2,
        "b": "1e-3",  # as in a file; the option's type makes it a number
        "c": False,
        "d": "per-modality",
        "e": None,
        "f": "x=y",
    }
    assert MixERConfig.from_dict(read_values(["reversal=1e-3"])).reversal == 0.001
    for words, said in (
        (["a"], "'a' is given without a value"),
        (["=1"], "expected NAME=VALUE"),
        (["a=1", "a=2"], "'a' is given a second time"),
        (["a=[1]"], "expected one value"),
    ):
        with pytest.raises(MixERValueError, match=re.escape(said)):
            read_values(words)


def test_a_wrong_value_is_named_with_its_file(tmp_path):
    path = tmp_path / "mixer.yaml"
    path.write_text("reversal: 1e-3\n")
    assert MixERConfig.from_yaml(path).reversal == 0.001
    path.write_text("frozen_base: 'no'\n")
    with pytest.raises(MixERValueError, match=f"^{path}: frozen_base is 'no'; expected true or"):
        MixERConfig.from_yaml(path)
