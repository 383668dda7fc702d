"""Suites, policies, A/B logs and converted benchmarks: what reads well, and what is refused where."""

import copy
import json
import random

import benchmarks
import pytest
from conftest import ROOT, write
from junk import JUNK, TEXT_DAMAGE, check_message, places

from posttrain.cli import BadInput
from posttrain.gating.grades import GRADERS
from posttrain.gating.suite import BUDGETS, SUITE_TYPES, choice_index, read_policy, read_suite
from posttrain.records import jsonl as jsonl_room
from posttrain.records.files import hub_rows
from posttrain.verify.checks import CHECKS, Check, verify
from posttrain.verify.values import Verdict

USER = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
VALID = [
    {"id": "a", "slice": "s", "prompt": "Hi", "answer": 4},
    {
        "id": "b",
        "slice": "s",
        "type": "code",
        "prompt": "Hi",
        "tests": ["assert f(2) == 4"],
        "cluster": "c",
    },
    {
        "id": "c",
        "slice": "m",
        "type": "mc",
        "prompt": "Hi",
        "choices": ["x", "y", "z"],
        "answer": "B",
    },
    {"id": "d", "slice": "j", "type": "judge", "prompt": "Hi"},
    {"id": "e", "slice": "s", "type": "canary", "prompt": "Hi", "constraints": [{"type": "json"}]},
    {"id": "f", "slice": "s", "type": "budget", "prompt": "Hi"},
    {"id": "g", "slice": "live", "type": "ab", "winner": "tie"},
    {"id": "h", "slice": "s", "type": "tool", "prompt": "Hi", "tools": [TOOL], "call": None},
    {"id": "i", "slice": "s", "type": "refuse", "prompt": USER},
    {"id": "k", "slice": "quiz", "type": "scored", "candidate": 0.25, "baseline": 1},
]


# ---- suites ---------------------------------------------------------------------------------------------------


def test_every_type_reads_to_one_form(tmp_path):
    items = {item["id"]: item for item in read_suite(write(tmp_path / "all.jsonl", VALID))}
    assert [item["type"] for item in items.values()] == [
        "verify",
        "verify",
        "mc",
        "judge",
        "canary",
        "budget",
        "ab",
        "verify",
        "verify",
        "scored",
    ]
    assert (
        items["a"]["prompt"] == USER
        and items["a"]["cluster"] == "a"
        and items["b"]["cluster"] == "c"
    )
    assert items["c"]["answer"] == 1 and items["i"]["expected"] == "refuse"
    assert items["g"] == {"id": "g", "slice": "live", "type": "ab", "winner": "tie", "cluster": "g"}
    assert items["k"] == VALID[-1] | {"cluster": "k"}
    (plain,) = read_suite(
        write(
            tmp_path / "plain.jsonl", [{"prompt": "Hi", "answer": "x", "cluster": 7, "type": None}]
        )
    )
    assert (plain["id"], plain["slice"], plain["cluster"], plain["type"]) == (
        "plain-1",
        "plain",
        "7",
        "verify",
    )


@pytest.mark.parametrize("kind", ["math", "exact", "code", "tool", "sql", "format"])
def test_an_alias_demands_its_field(tmp_path, kind):
    row = {"prompt": "Hi", "expected": "comply", "type": kind}
    with pytest.raises(BadInput, match=rf"a.jsonl:1: field '\w+': .*an item of type {kind}"):
        read_suite(write(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize(
    ("answer", "index"), [(0, 0), (2, 2), ("A", 0), ("C", 2), ("one", 0), (" three ", 2)]
)
def test_the_answer_of_a_choice(answer, index):
    assert choice_index(["one", "two", "three"], answer) == index
    assert choice_index(["A", "B"], "A") == 0  # letter and text agree
    assert choice_index([*"0123456789"], "J") == 9  # ten of them, and no more


MC = {"prompt": "Hi", "type": "mc", "choices": ["x", "y"], "answer": 0}
SCORED = {"type": "scored", "slice": "s", "candidate": 0.5, "baseline": 0}
ANSWER = {"role": "assistant", "content": "Yes"}


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ({"answer": 4}, "prompt", "missing"),
        ({"prompt": "Hi"}, "type", "a field to verify"),
        ({"prompt": "Hi", "evidence": "x"}, "type", "a field to verify"),
        ({"prompt": "Hi", "type": "canary"}, "type", "a field to verify"),
        ({"prompt": "Hi", "type": "essay"}, "type", "'essay'"),
        ({"prompt": "Hi", "type": ["mc"]}, "type", "expected one of"),
        ({"prompt": "Hi", "answer": ""}, "answer", "non-empty"),
        ({"prompt": "Hi", "type": "refuse", "expected": "comply"}, "expected", "as the type"),
        ({"prompt": "Hi", "answer": 1, "slice": "*"}, "slice", "a name, got '*'"),
        ({"prompt": "Hi", "answer": 1, "slice": " "}, "slice", "a name"),
        ({"prompt": "Hi", "answer": 1, "cluster": [1]}, "cluster", "a name"),
        ({"type": "ab", "slice": "s", "winner": "both"}, "winner", "'both'"),
        ({"type": "ab", "slice": "s"}, "winner", "tie"),
        (SCORED | {"candidate": 1.01}, "candidate", "from 0 to 1, got '1.01'"),
        (SCORED | {"baseline": -0.01}, "baseline", "from 0 to 1"),
        (SCORED | {"baseline": True}, "baseline", "from 0 to 1"),
        (SCORED | {"candidate": None}, "candidate", "from 0 to 1"),
        (SCORED | {"models": {"candidate": "a"}}, "models", "NAME"),
        (SCORED | {"models": {"candidate": "a", "baseline": 2}}, "models", "NAME"),
        (SCORED | {"models": {"candidate": "a", "baseline": ""}}, "models", "NAME"),
        (SCORED | {"models": "a"}, "models", "NAME"),
        ({"prompt": [*USER, ANSWER], "answer": 4}, "prompt", "must be a user or tool turn"),
        ({"prompt": [ANSWER], "answer": 4}, "prompt", "must be a user or tool turn"),
        ({"messages": [*USER, ANSWER, ANSWER], "answer": 4}, "prompt", "must be a user or tool"),
        (MC | {"choices": ["x"]}, "choices", "2 to 10"),
        (MC | {"choices": ["x", "x "]}, "choices", "different"),
        (MC | {"choices": ["x", ""]}, "choices", "2 to 10"),
        (MC | {"choices": [*"abcdefghijk"]}, "choices", "2 to 10"),
        (MC | {"choices": "xy"}, "choices", "2 to 10 different texts, got 'xy'"),
        (MC | {"choices": ["x", 3]}, "choices", "2 to 10"),
        (MC | {"answer": 2}, "answer", "index (up to 1)"),
        (MC | {"answer": -1}, "answer", "index (up to 1)"),
        (MC | {"answer": True}, "answer", "index (up to 1)"),
        (MC | {"answer": "C"}, "answer", "index (up to 1)"),
        (MC | {"answer": None}, "answer", "index (up to 1)"),
        (MC | {"answer": 1.0}, "answer", "index (up to 1)"),
        (
            MC | {"choices": ["B", "A"], "answer": "A"},
            "answer",
            "letter of one choice and the text of another",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_place_and_field(tmp_path, row, field, says):
    path = write(tmp_path / "bad.jsonl", [{"prompt": "Hi", "answer": 4, "slice": "good"}, row])
    with pytest.raises(BadInput, match=f"bad.jsonl:2: field '{field}'") as refused:
        read_suite(path)
    assert says in str(refused.value)
    check_message(refused.value, path)


def test_ids_and_types_are_checked_across_files(tmp_path):
    write(tmp_path / "a.jsonl", VALID)
    write(tmp_path / "b.jsonl", [{"id": "d", "prompt": "Hi", "answer": 3}])
    with pytest.raises(BadInput, match=r"b.jsonl:1: field 'id': .* got 'd'"):
        read_suite(tmp_path)
    for other in ("j", "live", "m", "quiz"):
        write(tmp_path / "b.jsonl", [{"id": "z", "prompt": "Hi", "answer": 3, "slice": other}])
        with pytest.raises(
            BadInput, match=rf"b.jsonl:1: field 'slice': .*of type verify, not .*got '{other}'"
        ):
            read_suite(tmp_path)
    write(
        tmp_path / "b.jsonl",
        [{"id": "z", "type": "canary", "prompt": "Hi", "answer": 3, "slice": "j"}],
    )
    assert len(read_suite(tmp_path)) == 11  # a canary counts in no slice


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    """Whatever order the folder lists them in; other files are none of it."""
    for name in "dacb":
        write(tmp_path / f"{name}.jsonl", [{"prompt": "Hi", "answer": 4}] * 2)
    (tmp_path / "e.json").write_text("no suite")
    ids = [item["id"] for item in read_suite(tmp_path)]
    assert ids == ["a-1", "a-2", "b-1", "b-2", "c-1", "c-2", "d-1", "d-2"]


def test_places_that_are_no_suite(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd/x.jsonl").mkdir(parents=True)
    write(tmp_path / "none.jsonl", [])
    for name, says in [
        ("empty", r"no \*.jsonl"),
        ("absent", "no such file"),
        ("odd", "a folder or device"),
        ("none.jsonl", "no records"),
    ]:
        with pytest.raises(BadInput, match=says):
            read_suite(tmp_path / name)


def test_a_huge_file_is_not_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "huge.jsonl"
    path.write_bytes(b'{"prompt": "a", "answer": 1}\n' * 10 + b"[" * 5000)
    assert len(read_suite(path, limit=10)) == 10
    monkeypatch.setattr(jsonl_room, "MAX_LINE", 1000)
    with pytest.raises(BadInput, match=r"huge.jsonl:11: a line of more than"):
        read_suite(path)


def test_types_of_items_are_a_table():
    """An item is read by its type's line; a type without one is refused by name (test above)."""
    assert {"verify", "mc", "judge", "ab", "scored", "canary", "budget", "math"} <= {*SUITE_TYPES}
    scored_as = {entry.scored_as for entry in SUITE_TYPES.values()}
    assert scored_as == {*GRADERS, "canary"}, "each is graded, and canaries pass or fail"


def test_the_shipped_suites_read():
    assert (
        len(read_suite(ROOT / "data/gate")) > 80 and len(read_suite(ROOT / "data/tiny/gate")) > 800
    )


def damaged(row, rng):
    """One to three seeded faults: a part replaced, removed, doubled, or under another name."""
    row = copy.deepcopy(row)
    for _ in range(rng.choice((1, 1, 2, 3))):
        path = rng.choice([*places(row), ("type",)])
        parent, how = row, rng.random()
        for key in path[:-1]:
            parent = parent[key]
        if how < 0.7 or path[-1] not in row:
            parent[path[-1]] = copy.deepcopy(
                rng.choice([*JUNK, "mc", "ab", "judge", "sql", "comply", "B", "tie", 1])
            )
        elif how < 0.9:
            parent.pop(path[-1])
        else:
            row[rng.choice(["choices", "answer", "winner", "cluster", "tests", "call"])] = (
                parent.pop(path[-1])
            )
    return row


def test_two_thousand_bad_suites_read_or_are_refused_in_one_line(tmp_path):
    rng, refused, path = random.Random(5), 0, tmp_path / "data.jsonl"
    for number in range(2000):
        text = json.dumps(damaged(rng.choice(VALID), rng), ensure_ascii=rng.random() < 0.5)
        text = rng.choice(TEXT_DAMAGE)(text, rng) if rng.random() < 0.15 else text
        data = json.dumps(VALID[number % len(VALID)] | {"id": "first"}).encode() + b"\n"
        data += text.encode("utf-8", "surrogatepass") + rng.choice(
            [b"", b"\n", b"\xff", b"\n\xc3\n"]
        )
        path.write_bytes(data)
        try:
            items = read_suite(path)
        except BadInput as error:
            refused += 1
            check_message(error, path)
        else:
            for item in items:
                json.dumps(item, allow_nan=False).encode()
                assert all(isinstance(item[key], str) for key in ("id", "slice", "cluster")), item
                if item["type"] in ("verify", "canary"):
                    verify(item, "x")  # and it can be graded
    assert 1000 < refused < 2000


# ---- policies -------------------------------------------------------------------------------------------------

DEFAULTS = {"margin": 0.1, "min_n": 30}


@pytest.mark.parametrize(
    "row",
    [
        {"slice": "a", "margin": 1, "min_n": 1},
        {"slice": "a", "margin": 1e-9, "min_n": 10**9},
        {"budget": "truncated", "limit": 0},
        {"budget": "truncated", "limit": 1},
        {"budget": "tokens", "limit": 1},
        {"budget": "cost", "limit": 1000},
    ],
)
def test_a_policy_at_its_bounds(tmp_path, row):
    slices, limits = read_policy(write(tmp_path / "p.jsonl", [row]), ["a"], DEFAULTS)
    if "slice" in row:
        assert (slices["a"]["margin"], slices["a"]["min_n"]) == (row["margin"], row["min_n"])
    else:
        assert limits[row["budget"]] == row["limit"]


def test_a_policy(tmp_path):
    path = write(
        tmp_path / "policy.jsonl",
        [
            {"slice": "a", "hard": False},
            {"slice": "*", "margin": 0.05},
            {"slice": "b", "margin": 0.2, "min_n": 10},
            {"budget": "cost", "limit": 1.5},
            {"budget": "tokens", "limit": None},
        ],
    )
    slices, budgets = read_policy(path, ["a", "b", "c"], DEFAULTS)
    assert slices == {
        "a": {"margin": 0.05, "min_n": 30, "hard": False},
        "b": {"margin": 0.2, "min_n": 10, "hard": True},
        "c": {"margin": 0.05, "min_n": 30, "hard": True},
    }
    assert budgets == {
        "tokens": None,
        "slice_tokens": 1.25,
        "truncated": 0.05,
        "latency": None,
        "cost": 1.5,
    }
    assert read_policy(None, ["a"], DEFAULTS) == ({"a": DEFAULTS | {"hard": True}}, BUDGETS)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"slice": "z", "margin": 0.1}, "slice"),
        ({"slice": ["a"], "margin": 0.1}, "slice"),
        ({"margin": 0.1}, "slice"),
        ({"slice": "a"}, "slice"),
        ({"slice": "a", "budget": "tokens"}, "slice"),
        ({"slice": "a", "limit": 1}, "slice"),
        ({"slice": "a", "margin": 0}, "margin"),
        ({"slice": "a", "margin": 10}, "margin"),
        ({"slice": "a", "margin": None}, "margin"),
        ({"slice": "a", "min_n": 0}, "min_n"),
        ({"slice": "a", "min_n": 5.5}, "min_n"),
        ({"slice": "a", "min_n": True}, "min_n"),
        ({"slice": "a", "hard": 1}, "hard"),
        ({"slice": "b", "margin": 0.2}, "slice"),
        ({"budget": "time"}, "budget"),
        ({"budget": "tokens"}, "budget"),
        ({"budget": "tokens", "limit": 0.9}, "limit"),
        ({"budget": "truncated", "limit": 1.1}, "limit"),
        ({"budget": "truncated", "limit": -0.1}, "limit"),
        ({"budget": "cost", "limit": 1001}, "limit"),
        ({"slice": "a", "min_n": 10**9 + 1}, "min_n"),
        ({"slice": "a", "margin": 1.01}, "margin"),
        ({"budget": "cost", "limit": True}, "limit"),
        ({"budget": "cost", "limit": "2"}, "limit"),
        ({"budget": "cost", "limit": 2, "hard": True}, "budget"),
    ],
)
def test_a_bad_policy(tmp_path, row, field):
    path = write(tmp_path / "policy.jsonl", [{"slice": "b", "hard": True}, row])
    with pytest.raises(BadInput, match=f"policy.jsonl:2: field '{field}'") as refused:
        read_policy(path, ["a", "b"], DEFAULTS)
    check_message(refused.value, path)


# ---- benchmarks -----------------------------------------------------------------------------------------------


def converted(tmp_path, layout, rows, *flags):
    path = rows if isinstance(rows, str) else write(tmp_path / "raw.jsonl", rows)
    benchmarks.main(
        benchmarks.parse_args([layout, path, "--out", str(tmp_path / "suite.jsonl"), *flags])
    )
    return read_suite(tmp_path / "suite.jsonl")


def test_sums(tmp_path):
    (item,) = converted(
        tmp_path, "gsm8k", [{"question": "2 + 2?", "answer": "It is 4.\n#### 1,004"}]
    )
    assert item["answer"] == "1,004" and item["prompt"][0]["content"].startswith("2 + 2?\n")
    assert verify(item, "so 1004")["ok"] and not verify(item, "so 4")["ok"]
    rows = [
        {"lang": lang, "question": q, "answer": a}
        for lang in ("de", "en")
        for q, a in (("x", "18"), ("y", "3"))
    ]
    items = converted(tmp_path, "mgsm", rows)
    assert [i["id"] for i in converted(tmp_path, "mgsm", rows, "--limit", "1")] == [
        "mgsm-1",
        "mgsm-3",
    ]
    assert [(i["slice"], i["cluster"]) for i in items] == [
        ("mgsm-de", "mgsm-1"),
        ("mgsm-de", "mgsm-2"),
        ("mgsm-en", "mgsm-1"),
        ("mgsm-en", "mgsm-2"),
    ]


def test_multiple_choice(tmp_path, capsys):
    row = {"question": "Q", "choices": ["3", "2", "1"], "answer": "2", "subject": "s"}
    items = converted(
        tmp_path,
        "mmlu",
        [row, row | {"choices": [*"xxy"]}, row | {"answer": "A"}],
        "--by",
        "subject",
    )
    assert [(i["answer"], i["slice"]) for i in items] == [
        (2, "mmlu-s"),
        (0, "mmlu-s"),
    ]  # "2": an index, not a text
    assert "1 left out: two choices are the same" in capsys.readouterr().out
    (item,) = converted(tmp_path, "mmlu", [row], "--letters")
    assert (
        item["choices"] == ["A", "B", "C"]
        and item["answer"] == 2
        and "\nB. 2\n" in item["prompt"][0]["content"]
    )
    arc = {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    assert converted(tmp_path, "arc", [arc])[0]["answer"] == 1
    assert (
        converted(tmp_path, "hellaswag", [{"ctx": "Q", "endings": ["x", "y"], "label": "1"}])[0][
            "answer"
        ]
        == 1
    )
    (tmp_path / "law_test.csv").write_text('"Q, so?",x,y,z,w,C\n', encoding="utf-8")
    (item,) = converted(tmp_path, "mmlu", str(tmp_path / "law_test.csv"), "--by", "subject")
    assert (
        item["answer"] == 2
        and item["slice"] == "mmlu-law"
        and item["prompt"][0]["content"] == "Q, so?"
    )


def test_instructions(tmp_path, capsys):
    rows = [
        {
            "prompt": "P",
            "instruction_id_list": ["punctuation:no_comma", "keywords:frequency"],
            "kwargs": [
                {"frequency": None},
                {"keyword": "no", "frequency": 2, "relation": "less than"},
            ],
        },
        {
            "prompt": "P",
            "instruction_id_list": ["startend:quotation", "x:title"],
            "kwargs": [{}] * 2,
        },
        {
            "prompt": "P",
            "instruction_id_list": ["keywords:existence"],
            "kwargs": [{"keywords": ["a.c"]}],
        },
    ]
    (item,) = converted(tmp_path, "ifeval", rows)
    assert (
        verify(item, "One no.")["ok"]
        and not verify(item, "no knot")["ok"]
        and not verify(item, "a, b")["ok"]
    )
    said = capsys.readouterr().out
    assert "1 left out: x:title" in said and "1 left out: keywords:existence" in said
    quoted = {"prompt": "P", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    (item,) = converted(tmp_path, "ifeval", [quoted])
    assert (
        verify(item, ' "a" ')["ok"] and not verify(item, '"')["ok"] and not verify(item, '"a')["ok"]
    )


def test_from_the_library_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"question": "2 + 2?", "answer": "#### 4"}] * 3)
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "set")
    assert len(converted(tmp_path, "gsm8k", f"hf:{tmp_path / 'set'}:test", "--limit", "2")) == 2
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            datasets, "load_dataset", lambda *names, split: calls.append((*names, split)) or rows
        )
        for name in ("org/set", "org/set:test", "org/set:main:test"):
            hub_rows(name)
    assert calls == [
        ("org/set", None, "train"),
        ("org/set", None, "test"),
        ("org/set", "main", "test"),
    ]


@pytest.mark.parametrize(
    ("layout", "row", "field"),
    [
        ("gsm8k", {"question": "Q", "answer": "four"}, "answer"),
        ("gsm8k", {"answer": "4"}, "question"),
        ("mgsm", {"question": "Q", "answer": "4"}, "lang"),
        ("mmlu", {"question": "Q", "choices": "AB"}, "choices"),
        ("mmlu", {"question": "Q", "choices": ["x", "y"], "answer": 2}, "answer"),
        ("mmlu", {"question": "Q", "choices": ["x", "y"], "answer": ""}, "answer"),
        (
            "arc",
            {"question": "Q", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"},
            "answer",
        ),
        ("humaneval", {"prompt": "def f(): ", "test": "x"}, "entry_point"),
        ("humaneval", {"prompt": "def f(): ", "test": "x = 1", "entry_point": "f"}, r"tests\[0\]"),
        ("ifeval", {"prompt": "P", "instruction_id_list": ["a"], "kwargs": []}, "kwargs"),
        (
            "ifeval",
            {
                "prompt": "P",
                "instruction_id_list": ["keywords:frequency"],
                "kwargs": [{"keyword": "a"}],
            },
            "kwargs",
        ),
    ],
)
def test_a_bad_row_of_a_benchmark(tmp_path, layout, row, field):
    with pytest.raises(BadInput, match=rf"raw.jsonl:1: field '{field}'") as refused:
        converted(tmp_path, layout, [row])
    check_message(refused.value, tmp_path / "raw.jsonl")
    assert not (tmp_path / "suite.jsonl").exists()


POLICY = [
    {"slice": "a", "margin": 0.1, "min_n": 3, "hard": True},
    {"budget": "tokens", "limit": 1.1},
]
BENCHMARKS = {
    "gsm8k": {"question": "Q", "answer": "#### 4"},
    "mgsm": {"lang": "de", "question": "Q", "answer": "4"},
    "mmlu": {"question": "Q", "choices": ["a", "b"], "answer": 1},
    "arc": {
        "question": "Q",
        "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "humaneval": {
        "prompt": "def f():",
        "test": "def check(candidate):\n assert candidate()",
        "entry_point": "f",
    },
    "ifeval": {
        "prompt": "P",
        "instruction_id_list": ["x:no_comma", "x:frequency", "x:letter_frequency"],
        "kwargs": [
            {},
            {"keyword": "no", "frequency": 2, "relation": "less than"},
            {"letter": "a", "let_frequency": 2, "let_relation": "at least"},
        ],
    },
}


def test_bad_policies_and_benchmarks_are_refused_in_one_line(tmp_path):
    def written(path, *rows):
        path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
        return path

    rng, refused = random.Random(3), [0, 0]
    for number in range(1000):
        layout = rng.choice([*BENCHMARKS])
        try:
            if number % 2 == 0:
                read_policy(
                    written(tmp_path / "x.jsonl", damaged(rng.choice(POLICY), rng)), ["a"], DEFAULTS
                )
            else:
                converted(
                    tmp_path,
                    layout,
                    str(written(tmp_path / "x.jsonl", damaged(BENCHMARKS[layout], rng))),
                )
        except BadInput as error:
            refused[number % 2] += 1
            check_message(error, tmp_path, where=False)
            assert str(error).startswith(str(tmp_path))
    assert all(200 < count < 500 for count in refused)


@pytest.mark.parametrize(
    ("layout", "name", "count", "flags"),
    [
        ("gsm8k", "gsm8k_test", 1319, []),
        ("mmlu", "mmlu_test2000", 1998, []),
        ("mmlu", "mmlu_dev", 285, ["--letters"]),
        ("humaneval", "humaneval164", 164, []),
        ("ifeval", "ifeval541", 99, []),
        ("mgsm", "mgsm", 2750, []),
    ],
)
def test_the_real_files(real, tmp_path, layout, name, count, flags):
    items = converted(tmp_path, layout, str(real / f"data/eval/{name}.jsonl"), *flags)
    assert len(items) == count
    if layout == "humaneval":
        rows = [
            json.loads(line) for line in open(real / f"data/eval/{name}.jsonl", encoding="utf-8")
        ]
        for n in (0, 32, 38, 50, 163):  # 32, 38, 50: the tests use a helper of the prompt
            answer = (
                f"Here it is:\n\n```python\n{rows[n]['prompt']}{rows[n]['canonical_solution']}```\n"
            )
            assert verify(items[n], answer, run_code=True)["ok"], rows[n]["task_id"]
            assert not verify(
                items[n], "```python\n" + rows[n]["prompt"] + "    pass\n```", run_code=True
            )["ok"]
    if layout == "mgsm":
        assert (
            len({item["cluster"] for item in items}) == 250
            and len({item["slice"] for item in items}) == 11
        )


@pytest.mark.parametrize("kind", ["judge", "code"])
def test_own_checks_are_read_where_nothing_is_graded_too(tmp_path, kind):
    """A malformed value of your own field is refused in items of every type."""

    def shape(row, field):
        if not isinstance(row[field], int):
            raise BadInput(f"field '{field}': expected a number")

    checks = CHECKS | {"vowels": Check(lambda answer, value: Verdict(True), shape)}
    item = {"id": "a", "slice": "s", "type": kind, "prompt": "Hi", "tests": ["assert f(2) == 4"]}
    path = write(tmp_path / "suite.jsonl", [item | {"vowels": 3}])
    assert read_suite(path, checks=checks)[0]["vowels"] == 3
    path = write(tmp_path / "suite.jsonl", [item | {"vowels": "three"}])
    with pytest.raises(BadInput, match="vowels"):
        read_suite(path, checks=checks)


def test_keys_of_messages_that_nothing_reads_are_named(tmp_path, capsys):
    prompt = [{"role": "user", "content": "Hi", "vote": 1}]
    path = write(tmp_path / "suite.jsonl", [{"prompt": prompt, "answer": "a"}] * 2)
    assert [item["prompt"][0].keys() for item in read_suite(path)] == [{"role", "content"}] * 2
    note = f"note     {path}: nothing reads these keys of messages: vote (2 rows)\n"
    assert capsys.readouterr().out == note
