"""--data FILE=WEIGHT: names, weights and sources."""

import pytest
from conftest import sft_rows, write

from posttrain.cli import BadInput
from posttrain.records.mixture import Source, read_mixture, split_weight


def test_split_weight():
    assert split_weight("a.jsonl") == ("a.jsonl", 1.0)
    assert split_weight("a=b.jsonl=0.5") == ("a=b.jsonl", 0.5)
    assert split_weight("a=b.jsonl") == ("a=b.jsonl", 1.0)
    for bad in ("a.jsonl=0", "a.jsonl=-1", "a.jsonl=nan", "a.jsonl=inf"):
        with pytest.raises(BadInput):
            split_weight(bad)


def test_sources_are_sorted_and_compared_like_tuples(tmp_path):
    """The order of the rows in a run is drawn source by source."""
    slices = ["tools", "chat", "tools"]
    data = write(
        tmp_path / "a.jsonl", [row | {"slice": name} for row, name in zip(sft_rows(3), slices)]
    )
    rows = read_mixture([f"{data}=2", data], "sft", slices=["tools=0.5"])
    sources = [row["source"] for row in rows]
    assert sources[:2] == [Source(0, "tools", 1.0), Source(file=0, slice="", weight=2.0)]
    assert sorted(set(sources)) == [
        (0, "", 2.0),
        (0, "tools", 1.0),
        (1, "", 1.0),
        (1, "tools", 0.5),
    ]


def test_a_number_is_a_file_of_that_name():
    assert split_weight("2") == ("2", 1.0) and split_weight("=2") == ("=2", 1.0)
    assert split_weight("a=1=2") == ("a=1", 2.0)
