"""lm-evaluation-harness's sample logs as a suite: joined document by document, refused where they do not fit."""

import json
import random

import lm_eval
import pytest
from conftest import run_main, write
from junk import check_message
from test_suite import VALID, damaged

import gate
from posttrain.cli import BadInput
from posttrain.gating.suite import read_suite

FIRST, LATER = "2026-01-02T03-04-05.678901", "2026-01-03T03-04-05.678901"


def convert(candidate, baseline):
    """The items that the converter makes of two folders or files."""
    items = []
    models = {"candidate": str(candidate), "baseline": str(baseline)}
    for task, files in lm_eval.shared_tasks(candidate, baseline).items():
        items += lm_eval.join_task(task, files, models)
    return items


def samples(folder, rows, task="sums", time=FIRST):
    """A folder as lm-eval 0.4 leaves it; rows: {doc_id: fields that differ from the usual ones}."""
    (folder / "my__model").mkdir(parents=True, exist_ok=True)
    usual = {
        "doc": {},
        "target": "4",
        "arguments": {},
        "resps": [["4"]],
        "filtered_resps": ["4"],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "prompt_hash": "p",
        "target_hash": "t",
        "acc": 1.0,
        "acc_norm": 0.0,
    }
    write(
        folder / f"my__model/samples_{task}_{time}.jsonl",
        [{"doc_id": n, "doc_hash": f"h{n}"} | usual | row for n, row in rows],
    )
    return folder


def plain(count, **fields):
    return [(n, fields) for n in range(count)]


def test_two_runs_are_joined(tmp_path, capsys):
    one = samples(tmp_path / "one", [(0, {"acc": 0.0}), *plain(40)[1:]])
    two = samples(tmp_path / "two", plain(41)[::-1])  # in another order, one more
    samples(two, plain(3), task="other")
    items = convert(one, two)
    assert len(items) == 40 and items[0] == {
        "id": "sums:0",
        "slice": "sums",
        "cluster": "h0",
        "type": "scored",
        "candidate": 0.0,
        "baseline": 1.0,
        "models": {"candidate": str(one), "baseline": str(two)},
    }
    said = capsys.readouterr().out
    assert "sums: acc, filter none (of 1), 40 documents of 40 and 41" in said
    assert "left out, for one side only has it: other" in said
    file = next(one.rglob("*.jsonl"))
    assert convert(file, file)[0]["candidate"] == 0.0


def test_the_gate_decides_what_was_converted(tmp_path, monkeypatch):
    """Without a model; the report names the folders. A suite that has the task's slice, too, is refused."""
    monkeypatch.setattr(gate, "load_tokenizer", None)
    one = samples(tmp_path / "one", plain(200))
    two = samples(tmp_path / "two", [(n, {"acc": float(n % 2)}) for n in range(200)])
    suite = tmp_path / "suite" / "lm.jsonl"
    run_main("lm_eval", two, one, "--out", suite)
    assert run_main("gate", "--suite", suite, "--out", tmp_path / "out") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["why"].startswith("sums fell by 50.0 points")
    assert (report["candidate"], report["baseline"]) == (str(two), str(one))
    run_main("lm_eval", one, one, "--out", suite)
    assert run_main("gate", "--suite", suite, "--out", tmp_path / "same") == 0
    write(suite.parent / "math.jsonl", [{"slice": "sums", "prompt": "Hi", "answer": 4}])
    with pytest.raises(BadInput, match="math.jsonl:1: field 'slice'.*got 'sums'"):
        read_suite(suite.parent)


def test_a_number_that_is_none_matters_in_the_score_alone(tmp_path):
    """lm-eval writes NaN where a document has no number; Python's NaN is no JSON, and is read all the same."""
    unread = plain(20, acc_norm=float("nan"), doc={"hint": float("nan")})
    assert len(convert(samples(tmp_path / "one", unread), samples(tmp_path / "two", unread))) == 20


def test_strict_filters_and_the_order_of_metrics(tmp_path, capsys):
    rows = [
        (n, {"filter": f, "exact_match": value, "metrics": ["f1", "exact_match"]})
        for n in range(3)
        for f, value in (("flexible-extract", 1.0), ("strict-match", False))
    ]
    for name in ("one", "two"):
        samples(tmp_path / name, rows)
        for file in (tmp_path / name).rglob("*.jsonl"):  # without acc
            write(
                file,
                [
                    {k: v for k, v in json.loads(line).items() if not k.startswith("acc")}
                    | {"f1": 0.5}
                    for line in file.read_text().splitlines()
                ],
            )
    items = convert(tmp_path / "one", tmp_path / "two")
    assert [item["candidate"] for item in items] == [0.0] * 3
    assert "exact_match, filter strict-match (of 2)" in capsys.readouterr().out


def test_the_newest_file_of_a_task_and_only_one_model(tmp_path, capsys):
    one = samples(samples(tmp_path / "one", plain(5, acc=0.0)), plain(5), time=LATER)
    assert convert(one, one)[0]["candidate"] == 1.0
    assert f"of 2 files the newest, samples_sums_{LATER}.jsonl" in capsys.readouterr().out
    samples(one / "deeper", plain(5))
    with pytest.raises(BadInput, match="name one of them"):
        convert(one, one)


def test_the_same_document_twice_is_joined_by_number(tmp_path):
    rows = [(0, {"doc_hash": "h", "acc": 0.0}), (1, {"doc_hash": "h"}), (2, {})]
    items = convert(samples(tmp_path / "one", rows), samples(tmp_path / "two", rows[::-1]))
    assert [(i["cluster"], i["candidate"], i["baseline"]) for i in items] == [
        ("h", 0, 0),
        ("h", 1, 1),
        ("h2", 1, 1),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (plain(20, prompt_hash="q"), r"\.jsonl:1: field 'prompt_hash'.*chat template"),
        (plain(20, target_hash="u"), r"\.jsonl:1: field 'target_hash'"),
        (plain(18), "18 documents of 18 and 20: run both on the same data"),
        ([(n + 2, {}) for n in range(20)], "only 18 documents of 20 and 20"),
        (plain(20, acc=1.5), r"\.jsonl:1: field 'acc': expected 0 to 1, got '1.5'"),
        (plain(20, acc=None), "field 'acc'"),
        (plain(20, acc="1"), "field 'acc'"),
        (plain(20, acc=[1]), "field 'acc'"),
        (plain(20, acc=float("nan")), r"\.jsonl:1: field 'acc': expected 0 to 1, got 'nan'"),
        (plain(20, acc=float("inf")), r"\.jsonl:1: field 'acc': expected 0 to 1, got 'inf'"),
        (plain(20, acc=-0.1), r"\.jsonl:1: field 'acc': expected 0 to 1, got '-0.1'"),
        (plain(19), None),  # 95 % are enough
        (plain(20, filter="other"), "no shared filter"),
        (plain(20, filter=3), "field 'filter'"),
        (plain(20, doc_hash=None), "field 'doc_hash'"),
        (plain(20, doc_id="1"), "field 'doc_id'"),
        ([*plain(20), (3, {})], r"\.jsonl:4: field 'doc_id': expected a document once"),
        ([], "no shared filter"),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path, rows, says):
    one, two = samples(tmp_path / "one", rows), samples(tmp_path / "two", plain(20))
    if says is None:
        assert len(convert(one, two)) == len(rows)
        return
    with pytest.raises(BadInput, match=says) as refused:
        convert(one, two)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(str(one))


def test_no_task_in_common(tmp_path):
    one, two = (
        samples(tmp_path / "one", plain(3)),
        samples(tmp_path / "two", plain(3), task="other"),
    )
    with pytest.raises(BadInput, match=r"share no task of lm-eval \(other, sums\)"):
        convert(one, two)
    for path in (tmp_path / "absent", write(tmp_path / "x.jsonl", VALID)):
        with pytest.raises(BadInput, match="run lm_eval with --log_samples"):
            convert(one, path)


def test_bad_samples_are_refused_in_one_line(tmp_path):
    rng, refused = random.Random(3), 0
    good = next(samples(tmp_path / "good", plain(2)).rglob("*.jsonl"))
    rows = [json.loads(line) for line in good.read_text().splitlines()]
    bad = tmp_path / good.name
    for _ in range(500):
        write(bad, [damaged(rows[0], rng), rows[1]])
        try:
            assert all(0 <= item["candidate"] <= 1 for item in convert(bad, good))
        except BadInput as error:
            refused += 1
            check_message(error, tmp_path, where=False)
            assert str(error).startswith(str(tmp_path))
    assert 200 < refused < 500
