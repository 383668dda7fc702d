"""Two models' answers to a suite, for the gate: sampled, compared by a judge, borrowed from earlier gates, graded.

Every file is appended batch by batch and goes on where a killed run ended, to the same bytes. An answer is a row {"id",
"of": hash of prompt and choices, "sample", "text", "tokens", "finish"}; sample is a number, "greedy" or "mc"."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from posttrain.chat.encode import encode
from posttrain.cli import BadInput
from posttrain.generate.local import generation_batches, sample
from posttrain.packed.reader import seq_logps, teach_lines
from posttrain.records.jsonl import append_lines, continue_lines, read_jsonl, write_jsonl
from posttrain.run.folder import runs_beside
from posttrain.verify.checks import verify
from posttrain.verify.refusals import is_refusal

ROLES = ("baseline", "candidate")


def make_answers(path, jobs, load, tokenizer, max_tokens, batch_size, tally):
    """Sample the jobs [(item, prompt ids, [(sample, temperature, seed), ...])] into a file, or go on with it -> rows
    {"id", "of", "sample", "text", "tokens", "finish"}. load() -> the model; tally(answers, seconds): called after
    each batch."""
    if not jobs:
        return []
    counts = [len(wanted) for *_, wanted in jobs]
    batches = generation_batches([len(ids) for _, ids, _ in jobs], counts, batch_size)
    done = continue_lines(path, [sum(counts[n] for n in batch) for batch in batches])
    model = load() if done < len(batches) else None
    for batch in tqdm(batches[done:], initial=done, total=len(batches), desc=path.stem):
        begin, rows = time.perf_counter(), []
        answers = sample(
            model,
            tokenizer,
            [(jobs[n][1], [one[1:] for one in jobs[n][2]]) for n in batch],
            max_tokens,
        )
        for n, own in zip(batch, answers):
            item, ids, wanted = jobs[n]
            rows += [
                {
                    "id": item["id"],
                    "of": key_of(item, ids),
                    "sample": label,
                    "text": answer["text"],
                    "tokens": answer["tokens"],
                    "finish": answer["finish"],
                }
                for (label, *_), answer in zip(wanted, own)
            ]
        append_lines(path, rows)
        tally(len(rows), time.perf_counter() - begin)
    return read_answers(path, {item["id"]: key_of(item, ids) for item, ids, *_ in jobs})


def key_of(item, ids):
    """What a cached answer answers: a hash of its prompt's tokens, and of what there was to choose from."""
    return hashlib.sha256(json.dumps([ids, item.get("choices")]).encode()).hexdigest()[:12]


def keys_of(items, ids):
    """{item: key_of it}; ids {item: prompt ids}."""
    return {item["id"]: key_of(item, ids[item["id"]]) for item in items}


def is_answer(row, keys):
    """Is this row an answer to what is asked now? keys {item: key_of it}"""
    return row.keys() >= {"id", "of", "sample", "tokens"} and keys.get(str(row["id"])) == row["of"]


def read_answers(path, keys):
    """Rows of a file of this run. BadInput: a row answers something else, so the file is damaged."""
    rows = read_jsonl(path)
    for number, row in rows:
        if not is_answer(row, keys):
            raise BadInput(
                f"{path}:{number}: not an answer of this run: the file was changed; take another --out"
            )
    return [row for _, row in rows]


def choose(path, jobs, load, tokenizer):
    """Multiple choice: the log-likelihood per byte of every choice as the assistant's answer, its stop token left out
    -> rows {"id", "of", "sample": "mc", "choice", "logps": [per byte], "tokens": read}, in a file that goes on where it
    ended. Ties go to the first; the prompt is read once for all its choices. jobs [(item, prompt ids)]."""
    if not jobs:
        return []
    done = continue_lines(path, [1] * len(jobs))
    model = load() if done < len(jobs) else None
    if model is not None:
        teach_lines(model)
    for item, ids in tqdm(jobs[done:], initial=done, total=len(jobs), desc=path.stem):
        try:
            rows = [
                encode(
                    tokenizer,
                    item["prompt"],
                    [{"role": "assistant", "content": choice}],
                    item.get("tools"),
                )
                for choice in item["choices"]
            ]
        except ValueError as error:
            raise BadInput(f"id {item['id']!r}: a choice cannot be scored: {error}") from None
        with torch.no_grad():
            logps = seq_logps(
                model, [{"ids": row["ids"][:-1], "mask": row["mask"][:-1]} for row in rows]
            )[0]
        logps = [
            logp / len(choice.encode()) for logp, choice in zip(logps.tolist(), item["choices"])
        ]
        append_lines(
            path,
            [
                {
                    "id": item["id"],
                    "of": key_of(item, ids),
                    "sample": "mc",
                    "choice": max(range(len(logps)), key=logps.__getitem__),
                    "logps": logps,
                    "tokens": len(ids) + sum(len(row["ids"]) - 1 - len(ids) for row in rows),
                }
            ],
        )
    return read_answers(path, {item["id"]: key_of(item, ids) for item, ids in jobs})


def compare(path, jobs, load, saved):
    """The judge's P(the candidate's answer is better) in both orders: jobs [(item, candidate's row, baseline's row)],
    where equal texts are a tie unasked; a file that goes on where it ended. Sets "p" of the candidate's rows; returns
    the tokens read and calls saved() after each batch."""
    asked = []
    for item, own, base in jobs:
        own["p"] = [0.5, 0.5]
        if own["text"] != base["text"]:
            pair = [
                {
                    "id": item["id"],
                    "candidate": n,
                    "prompt": item["prompt"],
                    "slice": item["slice"],
                    "completion": [{"role": "assistant", "content": row["text"]}],
                    **({"tools": item["tools"]} if "tools" in item else {}),
                }
                for n, row in enumerate((own, base))
            ]
            asked.append((own, tuple(pair)))
    if not asked:
        return 0
    batches = [asked[i : i + 16] for i in range(0, len(asked), 16)]
    done = continue_lines(path, [*map(len, batches)])
    pair = load()[1] if done < len(batches) else None
    for batch in tqdm(batches[done:], initial=done, total=len(batches), desc=path.stem):
        said = pair([both for _, both in batch])
        append_lines(
            path,
            [
                {"id": own["id"], "sample": own["sample"], "p": one["p"], "tokens": one["tokens"]}
                for (own, _), one in zip(batch, said)
            ],
        )
        (path.parent / "kept.jsonl").unlink(missing_ok=True)  # an endpoint's replies of this batch
        saved()
    rows = [row for _, row in read_jsonl(path)]
    for (own, _), row in zip(asked, rows):
        own["p"] = row["p"]
    return sum(row["tokens"] for row in rows)


def time_requests(model, tokenizer, jobs, max_tokens):
    """Greedy answers one by one -> [(seconds, tokens)]; the first is asked once more before, to warm up."""
    found = []
    for ids in [jobs[0], *jobs]:
        begin = time.perf_counter()
        [[answer]] = sample(model, tokenizer, [(ids, [(0.0, 0)])], max_tokens)
        found.append((time.perf_counter() - begin, answer["tokens"]))
    return found[1:]


def lendable(out, key, keys):
    """The baseline's answers that finished gates beside `out` have, where weights and sampling are the same (key) and
    the prompt is (keys {item: key_of it}) -> rows."""
    found = {}
    for record in runs_beside(out):
        folder = Path(record["path"]).parent
        if record.get("baseline_key") == key and folder != Path(out):
            for file in (*folder.glob("*-baseline*.jsonl"), *folder.glob("borrowed.jsonl")):
                for _, row in read_jsonl(file):
                    if is_answer(row, keys):
                        found[row["id"], row["sample"]] = row
    return [*found.values()]


def borrow(out, key, keys):
    """lendable, copied into borrowed.jsonl when the run begins: what others finish later changes nothing."""
    path = Path(out) / "borrowed.jsonl"
    if not path.exists():
        write_jsonl(path, lendable(out, key, keys))
    return read_answers(path, keys)


# ---- scores ---------------------------------------------------------------------------------------------------


def grade(item, made, draws, run_code=False, unsafe=False):
    """Both models' scores of one item, 0..1 -> a row of items.jsonl, or None where a score is missing.

    made {role: {sample: row of its answers}}; draws {role: answers that count}. A score is the share of right answers;
    of a judge's item the candidate's is its mean probability to be the better one, the baseline's one half. "texts":
    the candidate's worst answer and the baseline's best, for the report."""
    row = {key: item[key] for key in ("id", "slice", "cluster", "type")}
    if item["type"] == "ab":
        return row | {
            "candidate": {"candidate": 1.0, "tie": 0.5, "baseline": 0.0}[item["winner"]],
            "baseline": 0.5,
        }
    if item["type"] == "lm-eval":
        return row | {role: item[role] for role in ROLES}
    if item["type"] == "mc":
        chosen = {role: made[role]["mc"]["choice"] for role in ROLES}
        return (
            row
            | {role: float(chosen[role] == item["answer"]) for role in ROLES}
            | {"texts": {role: item["choices"][chosen[role]] for role in ROLES}}
        )
    rows = {role: [made[role][n] for n in range(draws[role])] for role in ROLES}
    for role, own in rows.items():
        row[f"tokens_{role}"] = float(np.mean([one["tokens"] for one in own]))
        row[f"cut_{role}"] = float(np.mean([one["finish"] == "length" for one in own]))
        if item["type"] == "verify":
            for one in own + [row for sample, row in made[role].items() if sample == "greedy"]:
                if "ok" not in one:
                    one["ok"] = verify(item, one["text"], run_code, unsafe)["ok"]
            if None in [one["ok"] for one in own]:
                return None
            row[role] = float(np.mean([one["ok"] for one in own]))
            if "expected" in item:
                row |= {
                    "expected": item["expected"],
                    f"refused_{role}": sum(is_refusal(one["text"]) for one in own),
                }
            right = [one["tokens"] for one in own if one["ok"] and one["text"].strip()]
            row |= {f"right_tokens_{role}": float(np.mean(right))} if right else {}
            row |= (
                {f"greedy_{role}": float(made[role]["greedy"]["ok"])}
                if "greedy" in made[role]
                else {}
            )
    worst, best = (
        pick(rows[role], key=lambda one: one.get("ok", 0))
        for pick, role in ((min, "candidate"), (max, "baseline"))
    )
    if item["type"] == "judge":
        sides = [
            (sum(one["p"]) / 2, n)
            for n, one in enumerate(rows["candidate"])
            if None not in one["p"]
        ]
        if not sides:
            return None
        row |= {"candidate": float(np.mean([p for p, _ in sides])), "baseline": 0.5}
        worst, best = (
            rows["candidate"][min(sides)[1]],
            made["baseline"][min(sides)[1] % draws["baseline"]],
        )
    return row | {"answers": draws, "texts": {"candidate": worst["text"], "baseline": best["text"]}}
