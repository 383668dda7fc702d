"""JSONL files that grow: what a kill leaves is cut to whole batches."""

from posttrain.records.jsonl import continue_lines


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
