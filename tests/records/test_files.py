"""Records of a whole file or data set: ids that are made, and rows that are not read."""

import re

import pytest
from conftest import pair_rows, write

from posttrain.cli import BadInput
from posttrain.records import files
from posttrain.records.files import read_records


def test_a_null_label_means_the_same_from_a_dataset(tmp_path, base):
    import datasets

    rows = [row | {"label_chosen": None, "label_rejected": False} for row in pair_rows(4)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    assert all(
        row["label_chosen"] is None for row in read_records(f"hf:{tmp_path / 'set'}", "labels")
    )


def test_a_limit_holds_while_a_data_set_is_read(monkeypatch):
    """A data set of many gigabytes is not read to its end."""
    rows_read = []

    def rows_of(name):
        for number in range(1, 10):
            rows_read.append(name)
            yield {"prompt": f"{number}?", "completion": "x", "slice": None}

    monkeypatch.setattr(files, "hub_rows", rows_of)
    records = read_records("hf:org/set:test", "sft", limit=3)
    assert rows_read == ["org/set:test"] * 3
    assert [record["prompt"][0]["content"] for record in records] == ["1?", "2?", "3?"]
    assert records[0]["id"] == "set:test-1" and "slice" not in records[0]


def test_candidates_of_a_prompt_share_an_id(tmp_path):
    """Made from the prompt, so two answers are told apart by `candidate`, or by their lines."""
    rows = [{"prompt": prompt, "completion": "x"} for prompt in ("a?", "b?", "a?")]
    ids = [record["id"] for record in read_records(write(tmp_path / "c.jsonl", rows), "candidates")]
    assert ids[0] == ids[2] != ids[1] and re.fullmatch("c-[0-9a-f]{10}", ids[0])
    numbered = write(tmp_path / "c.jsonl", [row | {"candidate": 0} for row in rows])
    with pytest.raises(BadInput, match=r"c.jsonl:3: field 'id': .* occurs twice"):
        read_records(numbered, "candidates")
    assert len(read_records(numbered, "sft")) == 3


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [
        ("", None, "train"),
        (":test", None, "test"),
        (":de:test", "de", "test"),
        (":de:", "de", "train"),
    ],
)
def test_configuration_and_split_of_a_data_set_of_the_hub(monkeypatch, name, config, split):
    import datasets

    asked = []

    def load(*words, **more):
        asked.append((words, more))
        return [{"prompt": "a", "completion": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    [record] = read_records(f"hf:org/set{name}", "sft")
    assert asked == [(("org/set", config), {"split": split})]
    assert record["prompt"] == [{"role": "user", "content": "a"}]
