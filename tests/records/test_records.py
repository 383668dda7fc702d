"""Every accepted layout reads to one normal form; broken records give one clear line, never a traceback."""

import copy
import json
import random

import pytest
from conftest import label_rows, pair_rows, run_main, run_script, sft_rows, write
from junk import ASSISTANT, JUNK, TEXT_DAMAGE, USER, check_message, places

from posttrain.cli import BadInput
from posttrain.records.files import read_records
from posttrain.records.jsonl import read_jsonl
from posttrain.records.layouts import normalise
from posttrain.records.mixture import read_mixture

OTHER = {"role": "assistant", "content": "Go away"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


# ---- layouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": USER, "completion": ASSISTANT},
        {"prompt": "Hi", "response": "Hello"},
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER], "completion": "Hello"},
        {"messages": [USER], "response": "Hello"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"prompt": [USER], "completion": [USER, ASSISTANT]},
        {
            "prompt": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
                }
            ],
            "completion": "Hello",
        },
        {"prompt": None, "messages": [USER, ASSISTANT]},
    ],
)
@pytest.mark.parametrize("kind", ["sft", "candidates", "labels"])
def test_prompt_and_completion(row, kind):
    read = normalise(row | {"label": False, "extra": {"kept": 1}}, kind)
    assert read == {
        "prompt": [USER],
        "completion": [ASSISTANT],
        "label": False,
        "extra": {"kept": 1},
    }


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
        {"messages": [USER], "chosen": "Hello", "rejected": "Go away"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Go away"},
        },
    ],
)
def test_pairs(row):
    assert normalise(row, "pairs") == {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}
    assert normalise(row, "labels") == normalise(row, "pairs")  # KTO reads pairs too


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi"},
        {"prompt": [USER]},
        {"messages": [USER]},
        {"prompt": USER},
        {"conversations": [{"from": "human", "value": "Hi"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hm"}]},
    ],
)
def test_prompts(row):
    assert normalise(row, "prompts")["prompt"] == [USER]


def test_conversations_with_tools():
    row = {
        "tools": json.dumps([{"name": "add", "parameters": {"type": "object"}}]),
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Hi"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Hello"},
        ],
    }
    assert normalise(row, "sft") == {
        "prompt": [
            {"role": "system", "content": "S"},
            USER,
            CALL,
            {"role": "tool", "content": "2"},
        ],
        "completion": [ASSISTANT],
        "tools": [TOOL],
    }
    call = normalise(
        {
            "prompt": "Hi",
            "completion": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "add", "arguments": '{"a": 1}'},
                    }
                ],
            },
        },
        "sft",
    )
    assert call["completion"] == [CALL | {"tool_calls": [{"id": "c1"} | CALL["tool_calls"][0]]}]
    single = {"role": "assistant", "tool_calls": '{"name": "add", "arguments": {"a": 1}}'}
    assert normalise({"prompt": "Hi", "completion": single}, "sft")["completion"] == [CALL]
    none = normalise({"prompt": "Hi", "completion": "Hello", "tools": "[]"}, "sft")
    assert none.keys() == {"prompt", "completion"}


def test_ids_weights_sources_and_limits(tmp_path):
    one = write(
        tmp_path / "one.jsonl",
        [
            {"prompt": "a", "completion": "b", "id": 7, "weight": 0.5, "slice": "x"},
            {"prompt": "c", "completion": "d"},
        ],
    )
    two = write(tmp_path / "two.jsonl", sft_rows(3))
    rows = read_mixture([one, f"{two}=2"], "sft")
    assert [row["id"] for row in rows] == ["7", "one-2", "s0", "s1", "s2"]
    assert [row["source"] for row in rows] == [(0, "", 1.0)] * 2 + [(1, "", 2.0)] * 3
    assert [row["weight"] for row in rows] == [0.5, 1, 1, 1, 1] and rows[0]["slice"] == "x" != rows[
        1
    ]["slice"]
    assert len(read_mixture([one, f"{two}=2"], "sft", limit=1)) == 2
    with pytest.raises(BadInput, match=r"two.jsonl:2: .*'s0' occurs twice"):
        read_records(write(tmp_path / "two.jsonl", [{"id": "s0", "prompt": "a"}] * 2), "prompts")
    with pytest.raises(BadInput, match="no records"):
        read_records(write(tmp_path / "none.jsonl", []), "sft")
    with pytest.raises(BadInput, match="no such file"):
        read_records(tmp_path / "absent.jsonl", "sft")


def test_blank_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": "b"}')
    assert [number for number, _ in read_jsonl(tmp_path / "a.jsonl")] == [1, 4]


def test_hub_data_sets_from_a_local_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}])
    train.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"train": train, "test": train}).save_to_disk(tmp_path / "dict")
    for name in (tmp_path / "plain", tmp_path / "dict", f"{tmp_path / 'dict'}:test"):
        assert read_records(f"hf:{name}", "sft")[0]["completion"] == [
            {"role": "assistant", "content": "b"}
        ]
    with pytest.raises(BadInput, match="cannot be loaded"):
        read_records(f"hf:{tmp_path / 'dict'}:absent", "sft")


# ---- broken records ------------------------------------------------------------------------------------------

VALID = {
    "prompts": [
        {"id": "1", "prompt": "Hi", "slice": "a", "expected": "refuse", "tools": [TOOL]},
        {"id": "2", "messages": [USER], "answer": 3},
    ],
    "sft": [
        {"id": "1", "prompt": [USER], "completion": [ASSISTANT], "weight": 2, "slice": "a"},
        {
            "messages": [
                {"role": "system", "content": "S"},
                USER,
                CALL,
                {"role": "tool", "content": "2"},
                ASSISTANT,
            ],
            "tools": [TOOL],
        },
        {
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
            "tools": "[]",
        },
    ],
    "candidates": [
        {"id": "1", "candidate": 0, "prompt": [USER], "completion": [ASSISTANT], "finish": "stop"}
    ],
    "pairs": [
        {
            "id": "1",
            "prompt": [USER],
            "chosen": [ASSISTANT],
            "rejected": [OTHER],
            "weight": 1.0,
            "p": 0.7,
        },
        {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    ],
    "labels": [
        {"id": "1", "prompt": [USER], "completion": [ASSISTANT], "label": True, "weight": 0.5},
        {"prompt": "Hi", "completion": "Hello", "scores": {"helpful": 4, "safe": None}},
        {
            "prompt": "Hi",
            "chosen": "Hello",
            "rejected": "No",
            "label_chosen": True,
            "label_rejected": None,
        },
    ],
}


def mutate(row, rng):
    """One to three seeded faults in a valid row: a part replaced by junk, removed, doubled or renamed."""
    row = copy.deepcopy(row)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = places(row)
        if not paths:
            break
        path = rng.choice(paths)
        parent = row
        for key in path[:-1]:
            parent = parent[key]
        how = rng.random()
        if how < 0.6:
            parent[path[-1]] = copy.deepcopy(rng.choice(JUNK))
        elif how < 0.8:
            del parent[path[-1]]
        elif how < 0.9 and isinstance(parent, dict):
            parent[
                rng.choice(
                    [
                        "prompt",
                        "completion",
                        "weight",
                        "label",
                        "id",
                        "slice",
                        "tools",
                        "tool_calls",
                        "scores",
                        "role",
                        "content",
                        "messages",
                        "label_chosen",
                    ]
                )
            ] = parent.pop(path[-1])
        elif isinstance(parent, list):
            parent.append(parent[path[-1]])
    return row


def broken_files(count):
    """(kind, bytes of a file) x count: valid rows before one that is damaged, as JSON, as text or as bytes."""
    rng = random.Random(7)
    for number in range(count):
        kind = rng.choice(list(VALID))
        rows = [rng.choice(VALID[kind])] * (number % 3 == 0)
        damaged = json.dumps(mutate(rng.choice(VALID[kind]), rng), ensure_ascii=rng.random() < 0.5)
        if rng.random() < 0.25:
            damaged = rng.choice(TEXT_DAMAGE)(damaged, rng)
        data = "".join(json.dumps(row) + "\n" for row in rows).encode() + damaged.encode(
            "utf-8", "surrogatepass"
        )
        if rng.random() < 0.1:
            at = rng.randrange(len(data))
            data = (
                data[:at] + rng.choice([b"\xff", b"\xc3", b"\x80\x80", b"\xed\xa0\x80"]) + data[at:]
            )
        yield kind, data + b"\n" * rng.choice((0, 1, 2))


def test_a_thousand_broken_records_read_or_are_refused_in_one_line(tmp_path):
    refused, path = 0, tmp_path / "data.jsonl"
    for kind, data in broken_files(1000):
        path.write_bytes(data)
        try:
            rows = read_records(path, kind)
        except BadInput as error:
            refused += 1
            check_message(error, path)
        else:
            for row in rows:
                json.dumps(row, allow_nan=False).encode()
                assert row["prompt"] and all(isinstance(m["content"], str) for m in row["prompt"])
    assert 400 < refused < 1000


def test_broken_records_through_the_trainers(base, tmp_path):
    """What the readers let pass must not break a trainer either: read, label, encode and plan, without a model."""
    path, refused, planned = tmp_path / "data.jsonl", 0, 0
    script = {"sft": "sft", "pairs": "dpo", "labels": "kto"}
    for kind, data in broken_files(1000):
        if kind not in script:
            continue
        path.write_bytes(write_valid(kind) + data)
        try:
            run_main(
                script[kind],
                "--model",
                base,
                "--data",
                path,
                "--out",
                tmp_path / "runs/x",
                "--plan",
                "--max-dropped",
                0.9,
            )
            planned += 1
        except BadInput as error:
            refused += 1
            check_message(error, path, where=False)
    assert refused > 150 and planned > 50
    assert not (tmp_path / "runs").exists()


def write_valid(kind):
    """Three sound rows that stand before the broken one."""
    rows = {"sft": sft_rows, "pairs": pair_rows, "labels": label_rows}[kind](3)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("script", "line", "field"),
    [
        ("sft", b'{"prompt": "Hi", "completion": 3}', "'completion'"),
        ("dpo", b'{"prompt": "Hi", "chosen": "Hello"}', "'rejected'"),
        ("kto", b'{"prompt": "Hi", "completion": "Hello"}', "'label'"),
        ("kto", b'{"prompt": "Hi", "completion": "Hello", "scores": {"a": 9}}', "'scores'"),
        ("sft", b'{"prompt": "Hi", "completion": "\xff"}', "not a JSON object"),
        ("dpo", b'{"prompt": "Hi", "chosen": "Hello", "rejec', "not a JSON object"),
    ],
)
def test_as_a_person_sees_it(base, tmp_path, script, line, field):
    """Exit code 2, one line on stderr that names file, line and field; no traceback; nothing written."""
    rows = {"sft": sft_rows, "dpo": pair_rows, "kto": label_rows}[script](2)
    data = tmp_path / "data.jsonl"
    data.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + line + b"\n")
    result = run_script(script, "--model", base, "--data", data, "--out", tmp_path / "runs/x")
    assert result.returncode == 2, result.stderr
    assert (
        result.stderr.count("\n") == 1 and f"{data}:3:" in result.stderr and field in result.stderr
    )
    assert not (tmp_path / "runs").exists()
