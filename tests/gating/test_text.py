"""Texts and numbers as people read them."""

import pytest

from posttrain.gating.text import (
    between,
    broken,
    cut,
    fit,
    flat,
    listed,
    outcome,
    points,
    share,
    table_lines,
    tables_that_fit,
    times,
    visible,
    width,
    wrapped,
)


def test_what_hides_becomes_a_code():
    assert visible("a\u202eb\x00\x1b[31m\u200b\u2028\ud800") == (
        "a⟨U+202E⟩b⟨U+0000⟩⟨U+001B⟩[31m⟨U+200B⟩⟨U+2028⟩⟨U+D800⟩"
    )
    assert visible("a\r\nb\tc\n👩\u200d👧") == "a\nb\tc\n👩\u200d👧" and visible("\r") == "⟨U+000D⟩"
    assert flat("a\n\n b\t c") == "a b c" and visible(7) == "7"


def test_a_long_text_shows_both_ends():
    text = cut("begin " + "x" * 5000 + " end", 100)
    assert text.startswith("begin x") and text.endswith("x end")
    assert "[… 4,910 characters cut …]" in text


def test_a_text_is_cut_above_its_limit():
    assert cut("x" * 100, 100) == "x" * 100
    assert cut("x" * 101, 100) == "x" * 50 + " [… 1 characters cut …] " + "x" * 50
    assert cut("x" * 201, 100).startswith("x" * 50 + " [… 101 characters")
    hidden = "x" * 100 + "\u202e" * 100 + "x" * 100
    assert "[… 200 characters cut …]" in cut(hidden, 100), "the middle is not even looked at"


def test_names_beyond_the_limit_are_counted():
    assert listed(["a", 2], 2) == "a, 2" and listed([], 2) == ""
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"


def test_numbers():
    assert (share(0.5), points(-0.0001), points(0.123), times(1.3333)) == (
        "50.0%",
        "+0.0",
        "+12.3",
        "1.33x",
    )
    assert between(-0.1, 0.05) == "[-10.0, +5.0]" and between(0.5, 1, share) == "[50.0%, 100.0%]"
    assert outcome({"verdict": "FAIL", "hard": True}) == "FAIL"
    assert outcome({"verdict": "FAIL", "hard": False}) == "FAIL (soft)"


def test_width():
    assert [width(text) for text in ("abc", "字a", "e\u0301", "👩\u200d👧", "")] == [3, 3, 1, 4, 0]


@pytest.mark.parametrize("text", ["x" * 50, "字" * 25, "a字" * 20, "e\u0301" * 50])
def test_fit_and_broken(text):
    assert fit(text, width(text)) == text
    shorter = fit(text, width(text) - 1)
    assert shorter.endswith("…") and width(text) - 3 <= width(shorter) <= width(text) - 1
    assert text.startswith(shorter[:-1])
    lines = broken(text, 7)
    assert "".join(lines) == text and all(6 <= width(line) <= 7 for line in lines[:-1])
    assert broken("", 7) == [""] and broken("ab", 2) == ["ab"] and broken("abc", 2) == ["ab", "c"]


def test_wrapped():
    assert wrapped("one two three", "  ", 7) == ["one two", "  three"]
    assert wrapped("one two three", "  ", 6) == ["one", "  two", "  thre", "  e"], "long words too"
    assert wrapped("abcdefghij kl", "  ", 6) == ["abcd", "  efgh", "  ij", "  kl"]
    assert wrapped("", "  ", 6) == [""]
    text = "a word and 字字 " * 40
    lines = wrapped(text.strip(), "    ", 30)
    assert max(map(width, lines)) <= 30 and " ".join(" ".join(lines).split()) == text.strip()
    assert all(line.startswith("    ") for line in lines[1:])


def test_table_lines():
    assert table_lines([["a", "字", "c"], ["long", "b", ""]]) == [
        "| a    | 字 | c |",
        "|------|----|---|",
        "| long | b  |   |",
    ]


def test_columns_that_do_not_fit_stand_in_another_table():
    rows = [["name", "first", "second", "third"], ["n", "1", "2", "3"]]
    whole = table_lines(rows)
    assert tables_that_fit(rows, len(whole[0])) == [whole], "just fits"
    tables = tables_that_fit(rows, len(whole[0]) - 1)
    assert [table[0] for table in tables] == ["| name | first | second |", "| name | third |"]
    assert [table[2] for table in tables] == ["| n    | 1     | 2      |", "| n    | 3     |"]


def test_cells_that_are_too_long_are_cut():
    rows = [["name", "a", "b"], ["n" * 50, "x" * 200, "y" * 200]]
    tables = tables_that_fit(rows, 40)
    assert len(tables) == 2 and all(len(line) <= 40 for table in tables for line in table)
    assert all(table[2].startswith("| nnnnnnnnn… |") for table in tables)
