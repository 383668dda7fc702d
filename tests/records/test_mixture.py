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


def test_what_is_wrong_with_the_weight_of_a_slice(tmp_path):
    """The message names the flag, and what slices there are."""
    data = write(tmp_path / "a.jsonl", [row | {"slice": "chat"} for row in sft_rows(2)])
    for slices, says in (
        (["chat"], "--slice-weight: expected SLICE=WEIGHT"),
        (["chat=2", "tools"], "--slice-weight: expected SLICE=WEIGHT"),
        (["chat=0"], "--slice-weight chat=0: the weight must be a number above 0"),
        (["tools=2"], "--slice-weight: no row has the slice tools .the data has chat"),
    ):
        with pytest.raises(BadInput, match=says):
            read_mixture([data], "sft", slices=slices)
    with pytest.raises(BadInput, match="--data .*=0: the weight"):
        read_mixture([f"{data}=0"], "sft")
