"""Answers of the gate's models: what they are, in which files they stand, which may be borrowed.

A line of a file is {"id", "of", "sample", "text", "tokens", "finish"}; of a multiple-choice item it
is {"id", "of", "sample", "choice", "logps", "tokens"}. `of` is a hash of the question, so that an
answer is never taken for that of another one; `sample` is a number, "greedy", or "mc" of a choice;
`thought_tokens` stands beside `tokens` where a part of them is a thought.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.records.jsonl import read_jsonl, write_jsonl
from posttrain.run.folder import runs_beside

# Fields that a line must have.
TEXT_FIELDS = {"id", "of", "sample", "text", "tokens", "finish"}
CHOICE_FIELDS = {"id", "of", "sample", "choice", "tokens"}


@dataclass
class Answer:
    """What a model answered to an item once."""

    text: str
    tokens: int  # of what is shown: without a thought, its stop token included
    finish: str = "stop"  # or "length"
    verdict: dict | None = None  # what a verifier says of it; None where none has been asked
    p: list | None = None  # that it is better than the baseline's, as the judge says in both orders

    @property
    def ok(self):
        """Is it right? None where no verifier knows."""
        return self.verdict["ok"] if self.verdict else None


def answer_of(row, item):
    """A line of a file -> the Answer to its item. A choice is an answer, too: the chosen text."""
    if row["sample"] != "mc":
        tokens = row["tokens"] - row.get("thought_tokens", 0)
        return Answer(row["text"], tokens, row["finish"])
    is_right = row["choice"] == item["answer"]
    return Answer(item["choices"][row["choice"]], row["tokens"], verdict={"ok": is_right})


# ---- what an answer answers ----------------------------------------------------------------------


def key_of(item, ids):
    """What a line calls `of`: a hash of the prompt's tokens, and of the choices if any."""
    question = json.dumps([ids, item.get("choices")])
    return hashlib.sha256(question.encode()).hexdigest()[:12]


def keys_of(items, ids):
    """{item: key_of it}. ids {item: the tokens of its prompt}."""
    return {item["id"]: key_of(item, ids[item["id"]]) for item in items}


def is_answer(row, keys):
    """Is this line an answer to what is asked now? keys {item: key_of it}"""
    fields = CHOICE_FIELDS if row.get("sample") == "mc" else TEXT_FIELDS
    return row.keys() >= fields and keys.get(str(row["id"])) == row["of"]


def read_answers(path, keys):
    """Lines of a file of this run. BadInput: one answers something else, so the file is damaged."""
    rows = []
    for number, row in read_jsonl(path):
        if not is_answer(row, keys):
            raise BadInput(
                f"{path}:{number}: not an answer of this run: the file was changed; take another "
                "--out"
            )
        rows.append(row)
    return rows


# ---- answers of other gates ----------------------------------------------------------------------


def lendable(out, sampling_key, keys):
    """The baseline's answers in finished gates beside `out` that this gate would make anew.

    sampling_key: what they must have in common but for the prompts (weights, temperature, seed
    ...); keys {item: key_of it}. Returns lines.
    """
    lines = {}
    for record in runs_beside(out):
        folder = Path(record["path"]).parent
        if record.get("baseline_key") != sampling_key or folder == Path(out):
            continue
        for file in (*folder.glob("*-baseline*.jsonl"), *folder.glob("borrowed.jsonl")):
            for _, row in read_jsonl(file):
                if is_answer(row, keys):
                    lines[row["id"], row["sample"]] = row
    return list(lines.values())


def borrow(out, sampling_key, keys):
    """lendable, copied into borrowed.jsonl when the run begins: what ends later changes nothing."""
    path = Path(out) / "borrowed.jsonl"
    if not path.exists():
        write_jsonl(path, lendable(out, sampling_key, keys))
    return read_answers(path, keys)
