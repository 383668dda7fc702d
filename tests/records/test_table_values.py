"""Values that a table has and JSON has not: plain when a row is read, or refused there with row and column."""

import datetime
import json
import uuid
from decimal import Decimal

import numpy
import pytest

from posttrain.cli import BadInput
from posttrain.records import files
from posttrain.records.files import read_records
from posttrain.records.table_values import plain_row

MOMENT = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)
NAN = float("nan")


class Picture:
    """Something that a library decodes."""


def kind(value):
    """The name of a case: the same in every process, which the text of a set is not."""
    return type(value).__name__


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (MOMENT, "2026-03-01T12:30:00+00:00"),
        (MOMENT.date(), "2026-03-01"),
        (MOMENT.time(), "12:30:00"),
        (datetime.timedelta(days=400, microseconds=5), "PT34560000.000005S"),
        (datetime.timedelta(minutes=20), "PT1200S"),
        (Decimal("3"), 3),
        (Decimal("1.10"), 1.1),
        (Decimal("12345678901234567890.5"), "12345678901234567890.5"),
        (Decimal("1E+9999999"), "1E+9999999"),
        (Decimal("NaN"), None),
        (b"caf\xc3\xa9", "café"),
        (bytearray(b"a"), "a"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (NAN, None),
        (numpy.datetime64("NaT"), None),
        (numpy.datetime64("2026-03-01T12:30"), "2026-03-01T12:30:00"),
        (numpy.timedelta64(90, "s"), "PT90S"),
        (numpy.float32(0.5), 0.5),
        (numpy.float64("nan"), None),
        (numpy.int64(7), 7),
        (numpy.bool_(True), True),
        (numpy.str_("a"), "a"),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array([1.0, NAN]), [1.0, None]),
        ((1, (2, None)), [1, [2, None]]),
        ({"b", "a"}, ["a", "b"]),
        ({"when": MOMENT.date(), 5: [NAN]}, {"when": "2026-03-01", "5": [None]}),
        (True, True),
        (10**30, 10**30),
        ("\u2028ü", "\u2028ü"),
    ],
    ids=kind,
)
def test_a_value_of_a_table_is_plain_json(value, plain):
    row = plain_row({"x": value}, ())
    assert row == {"x": plain} and type(row["x"]) is type(plain)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_moments_of_pandas():
    pandas = pytest.importorskip("pandas")
    row = {"a": pandas.Timestamp(MOMENT), "b": pandas.NaT, "c": pandas.Timedelta(seconds=1.5)}
    assert plain_row(row, ()) == {"a": MOMENT.isoformat(), "b": None, "c": "PT1.5S"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff\x00", "field 'x.y': bytes that are no text in UTF-8"),
        (float("inf"), "field 'x.y': inf is no number that JSON has"),
        (Decimal("-Infinity"), "field 'x.y': -inf is no number that JSON has"),
        ("a\ud800", "field 'x.y': half a surrogate pair in 'a"),
        (Picture(), "field 'x.y': a Picture cannot stand in a record"),
        (1j, "field 'x.y': a complex cannot stand in a record"),
    ],
    ids=kind,
)
def test_what_no_record_can_hold_is_refused_where_it_stands(monkeypatch, value, why):
    rows = [{"prompt": "a"}, {"prompt": "b", "x": {"y": [value]}}]
    monkeypatch.setattr(files, "hub_rows", lambda name: rows)
    with pytest.raises(BadInput) as refused:
        read_records("hf:org/set", "prompts")
    assert str(refused.value).startswith(f"hf:org/set:2: {why}")
    str(refused.value).encode()


@pytest.mark.parametrize("field", ["weight", "id", "p", "label", "answer", "scores", "prompt"])
def test_nan_is_no_value_of_a_field_that_is_read(monkeypatch, field):
    """As null it would be a weight of 1, or a check less."""
    row = {"prompt": "a", "completion": "b", "rating": NAN}
    value = {"helpful": NAN} if field == "scores" else NAN
    monkeypatch.setattr(files, "hub_rows", lambda name: [row, row | {field: value}])
    with pytest.raises(
        BadInput, match=rf"hf:org/set:2: field '{field}.*': expected a value, got NaN"
    ):
        read_records("hf:org/set", "sft")
    monkeypatch.setattr(files, "hub_rows", lambda name: [row])
    assert "rating" not in read_records("hf:org/set", "sft")[0]


def test_a_row_that_cannot_be_decoded_is_named(monkeypatch):
    def rows_of(name):
        yield {"prompt": "a"}
        raise ImportError("To support decoding audio data, please install 'torchcodec'.")

    monkeypatch.setattr(files, "hub_rows", rows_of)
    with pytest.raises(BadInput, match="hf:org/set:2: cannot be read .*torchcodec.*remove columns"):
        read_records("hf:org/set", "prompts")


def test_a_file_of_a_table(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "a.csv").write_text("prompt,completion,rating\nHi,Yo,\nHo,Ya,4.5\n")
    (tmp_path / "a.json").write_text('[{"prompt": "Hi", "completion": "Yo", "rating": null}]')
    for name, count in (("a.csv", 2), ("a.json", 1)):
        rows = read_records(f"hf:{tmp_path / name}", "sft")
        assert len(rows) == count and "rating" not in rows[0]
        assert rows[0]["completion"] == [{"role": "assistant", "content": "Yo"}]
    with pytest.raises(BadInput, match="a.csv: cannot be loaded"):
        read_records(f"hf:{tmp_path / 'a.csv'}:test", "sft")


@pytest.mark.parametrize("form", ["folder", "numpy", "parquet"])
def test_a_real_data_set(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    row = {
        "prompt": "Hi",
        "when": MOMENT,
        "day": MOMENT.date(),
        "at": MOMENT.time(),
        "took": datetime.timedelta(seconds=90),
        "price": Decimal("1.10"),
        "raw": b"abc",
        "rating": NAN,
        "vector": [0.5, 1.5],
    }
    data = datasets.Dataset.from_list([row, row | {"prompt": "Yo", "rating": 4.0}])
    if form == "parquet":
        data.to_parquet(tmp_path / "set" / "train.parquet")
    else:
        data.with_format(form if form == "numpy" else None).save_to_disk(tmp_path / "set")
    first, second = read_records(f"hf:{tmp_path / 'set'}", "prompts")
    assert first == {
        "id": "set-1",
        "prompt": [{"role": "user", "content": "Hi"}],
        "when": "2026-03-01T12:30:00+00:00",
        "day": "2026-03-01",
        "at": "12:30:00",
        "took": "PT90S",
        "price": 1.1,
        "raw": "abc",
        "vector": [0.5, 1.5],
    }
    assert second["rating"] == 4.0
