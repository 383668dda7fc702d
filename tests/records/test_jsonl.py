"""JSONL files: lines that no program could read, letters as they are, and what a kill leaves."""

import pytest

from posttrain.cli import BadInput
from posttrain.records.jsonl import (
    append_lines,
    continue_lines,
    read_jsonl,
    stream_jsonl,
    write_jsonl,
)


def test_continue_lines_cuts_torn_lines_and_half_batches(tmp_path):
    path = tmp_path / "out.jsonl"
    assert continue_lines(path, [2, 2]) == 0
    for text, done, kept in (
        ("a\nb\nc", 1, "a\nb\n"),
        ("a\nb\nc\n", 1, "a\nb\n"),
        ("a\nb\nc\nd\n", 2, "a\nb\nc\nd\n"),
        ("a", 0, ""),
        ("", 0, ""),
    ):
        path.write_text(text)
        assert continue_lines(path, [2, 2]) == done and path.read_text() == kept


def test_a_line_of_16_mib_is_the_longest(tmp_path):
    path = tmp_path / "a.jsonl"
    line = b'{"a": "' + b"x" * ((16 << 20) - 10) + b'"}\n'
    path.write_bytes(b"{}\n" + line)
    assert [number for number, _ in read_jsonl(path)] == [1, 2]
    path.write_bytes(b"{}\n" + line.replace(b"x", b"xx", 1))
    with pytest.raises(BadInput, match=r"a.jsonl:2: a line of more than 16 MiB"):
        read_jsonl(path)


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", '"\\ud800"', "[1,", "]" + "[" * 99999]
)
def test_what_other_programs_could_not_read_is_refused(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(f'\n{{"a": {text}}}\n')
    with pytest.raises(BadInput, match=r"a.jsonl:2: not a JSON object on one line \("):
        read_jsonl(path)
    with pytest.raises(BadInput, match=r"a.jsonl:2: not a JSON object on one line \("):
        list(stream_jsonl(path))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("NaN", "NaN or Infinity, which JSON has not: write null"),
        ("1e999", "NaN or Infinity, which JSON has not: write null"),
        ('"\\ud83d"', "half of a surrogate pair"),
    ],
)
def test_values_that_json_has_not_are_named(tmp_path, text, remedy):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": {text}}}\n')
    with pytest.raises(BadInput, match=remedy):
        read_jsonl(path)


def test_letters_are_written_as_they_are(tmp_path):
    """Whole or line by line; a folder that is not there is made."""
    path = tmp_path / "new" / "folder" / "a.jsonl"
    write_jsonl(path, [{"a": "ü"}])
    append_lines(path, [{"a": "五"}, {"b": 1}])
    assert path.read_bytes() == '{"a": "ü"}\n{"a": "五"}\n{"b": 1}\n'.encode()
    write_jsonl(path, [])
    assert path.read_bytes() == b"" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_other_editors(tmp_path, line_end, mark):
    """A byte order mark, also of a file that was put behind another, and Windows' line ends."""
    path = tmp_path / "a.jsonl"
    lines = [mark + b'{"a": "x\\r\\ny"}', b"", mark + b'{"a": "\xc3\xbc"}', b'{"a": 3}']
    path.write_bytes(line_end.join(lines))
    assert read_jsonl(path) == [(1, {"a": "x\r\ny"}), (3, {"a": "ü"}), (4, {"a": 3})]


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_letters_that_other_programs_take_for_line_ends(tmp_path, letter):
    path = tmp_path / "a.jsonl"
    rows = [{"a": f"x{letter}y"}, {"a": letter}]
    write_jsonl(path, rows)
    append_lines(path, rows[:1])
    assert [row for _, row in read_jsonl(path)] == [*rows, rows[0]]
    assert continue_lines(path, [1, 1, 1]) == 3
