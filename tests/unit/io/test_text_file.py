"""Text is read whatever editor wrote it, or the file is named."""

from __future__ import annotations

import os

import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.text_file import printable, read_lines, read_text


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_do_not_matter(coding, end, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(f"é/1.jpg 0{end}a\x85b\u2028c{end}".encode(coding))
    assert read_text(path) == "é/1.jpg 0\na\x85b\u2028c\n"
    assert read_lines(path) == ["é/1.jpg 0", "a\x85b\u2028c"]


@pytest.mark.parametrize(
    "content", ["é".encode("latin-1"), "副".encode("gbk"), "ab".encode("utf-16-le"), b"\xff\xfeabc"]
)
def test_what_is_no_text_is_named(content, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(MixERValueError, match=r"list\.txt .* Save it as UTF-8"):
        read_text(path)


def test_wide_text_can_be_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("id,camera".encode("utf-16"))
    with pytest.raises(MixERValueError, match=r"labels\.csv cannot be read as text: it is utf-16"):
        read_text(path, wide=False)


def test_bytes_of_file_names_are_kept_if_asked_for(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("副.jpg".encode("gbk"))
    assert os.fsencode(read_text(path, "surrogateescape")) == "副.jpg".encode("gbk")


def test_names_that_are_no_text_are_written_escaped(tmp_path):
    name = os.fsdecode(b"\xb8\xb1.jpg")
    write_text(tmp_path / "out.csv", f"path\n{name}\n")
    assert read_lines(tmp_path / "out.csv") == ["path", "\\udcb8\\udcb1.jpg"]
    assert printable("ü") == "ü"
