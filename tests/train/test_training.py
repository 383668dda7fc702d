"""Order, schedule, accumulation, exact resume, the reference cache, the check before step 1, adapters and chains."""

import json
import math
import shutil
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    ROWS,
    adapter_of,
    label_rows,
    log_lines,
    pair_rows,
    run_main,
    same_tensors,
    save_folder,
    sft_rows,
    write,
)

import kto
from posttrain.cli import BadInput
from posttrain.model.load import load_tokenizer
from posttrain.model.names import resolve_model
from posttrain.records.mixture import Source
from posttrain.train import checks, training_run
from posttrain.train.checks import check_start
from posttrain.train.order import batches
from posttrain.train.packs import all_packs, cut_packs, pack_logps
from posttrain.train.reference import score_reference
from posttrain.train.step import lr_at, make_optimizer, optimiser_step

SMALL = ["--batch-size", 3, "--lora-r", 2, "--lr", 0.01, "--save-every", 2]
STAGES = ["sft", "dpo", "kto"]


# ---- order and schedule --------------------------------------------------------------------------------------


def mixture(*files):
    """Rows of files given as (rows, weight)."""
    return [
        {"source": Source(k, "", weight)}
        for k, (count, weight) in enumerate(files)
        for _ in range(count)
    ]


def test_every_row_once_an_epoch():
    rows = mixture((10, 1.0))
    steps = batches(rows, 4, 3, seed=0)
    assert [len(batch) for batch in steps] == [4, 4, 2] * 3  # ceil(10 / 4) steps an epoch
    orders = [sum(steps[k : k + 3], []) for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2] and orders[0] != list(range(10))
    assert batches(rows, 4, 3, seed=0) == steps != batches(rows, 4, 3, seed=1)
    assert batches(rows, 4, 3, seed=0, max_steps=4) == steps[:4]
    assert batches(rows, 4, 2, seed=0) == steps[:6]  # more epochs do not change the first ones


def test_mixture_weights_are_exact_and_spread():
    """Weight 2 = every row twice; weight 0.5 = half the rows; every batch of ten holds each file's share, +- 1 row."""
    rows = mixture((20, 2.0), (20, 0.5), (50, 1.0))
    steps = batches(rows, 10, 2, seed=5)
    for epoch in (steps[:10], steps[10:]):
        counts = Counter(sum(epoch, []))
        assert [counts[n] for n in range(20)] == [2] * 20
        assert sorted(counts[n] for n in range(20, 40)) == [0] * 10 + [1] * 10
        assert [counts[n] for n in range(40, 90)] == [1] * 50
        for batch in epoch:
            share = Counter(rows[n]["source"][0] for n in batch)
            assert abs(share[0] - 4) <= 1 and abs(share[1] - 1) <= 1 and abs(share[2] - 5) <= 1
    other_half = {n for batch in steps[10:] for n in batch if 20 <= n < 40}
    assert other_half != {n for batch in steps[:10] for n in batch if 20 <= n < 40}
    assert Counter(sum(batches(mixture((4, 1.5)), 3, 1, 0), [])).total() == 6
    lone = [batches(mixture((1, 1.0), (9, 1.0)), 10, 1, seed)[0].index(0) for seed in range(20)]
    assert min(lone) < 3 and max(lone) > 6, "one row of a file may stand anywhere"


def test_lr_by_hand():
    """20 steps, warm-up over 2: 0.5 and 1, then half a cosine over 18 steps, from 1 down towards 0."""
    assert [lr_at(k, 20, 1.0) for k in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert lr_at(11, 20, 1.0) == pytest.approx(0.5)  # half of the 18 steps
    assert lr_at(8, 20, 1.0) == pytest.approx(0.75)  # a third: cos 60 degrees = 0.5
    assert lr_at(14, 20, 1.0) == pytest.approx(0.25)
    assert lr_at(19, 20, 1.0) == pytest.approx(0.0075961, rel=1e-4)  # cos 170 degrees = -0.9848078
    assert lr_at(0, 1, 3.0) == 3.0 and lr_at(5, 20, 2.0, warmup=0.0) == pytest.approx(
        2.0 * lr_at(5, 20, 1.0, 0.0)
    )


def test_packs_hold_every_row_once_within_the_limit():
    rows = [
        {"n": n, "seqs": [{"ids": [0] * length + [k], "mask": [0] * length + [1]} for k in (1, 2)]}
        for n, length in enumerate([5, 1, 9, 3, 30, 2, 2])
    ]
    for limit in (1, 12, 40, 1000):
        found = list(cut_packs(rows, limit))
        assert sorted(row["n"] for pack in found for row in pack) == list(range(7))
        for pack in found:
            assert (
                len(pack) == 1 or sum(len(row["seqs"][0]["ids"]) + 1 for row in pack) <= limit
            )  # prompts once
        for pack in cut_packs(rows, limit, padded=True):
            assert (
                len(pack) == 1
                or 2 * len(pack) * max(len(row["seqs"][0]["ids"]) for row in pack) <= limit
            )
    assert (
        len(cut_packs(rows, 1000)) == 1
        and len(cut_packs(rows, 1)) == 7
        and len(cut_packs(rows, 32)) == 3
    )


def test_packs_by_hand():
    """The longest first, each into the first pack with room; up to the limit itself."""
    rows = [
        {"n": n, "seqs": [{"ids": [0] * length + [k], "mask": [0] * length + [1]} for k in (1, 2)]}
        for n, length in enumerate([5, 1, 9, 3, 30, 2, 2])
    ]

    def numbers(packs):
        return [[row["n"] for row in pack] for pack in packs]

    assert numbers(cut_packs(rows, 32)) == [[4], [2, 0, 3, 5, 6], [1]]
    assert numbers(cut_packs(rows, 34)) == [[4], [2, 0, 3, 5, 6, 1]]
    assert numbers(cut_packs(rows[-2:], 12, padded=True)) == [[5, 6]], "4 x 3 tokens"
    assert numbers(cut_packs(rows[-2:], 11, padded=True)) == [[5], [6]]
    on_lines, on_rows = SimpleNamespace(line_reader="a reader"), SimpleNamespace()
    assert numbers(all_packs(rows[-2:], 8, on_lines)) == [[5, 6]]
    assert numbers(all_packs(rows[-2:], 8, on_rows)) == [[5], [6]]


def test_only_the_last_32_packs_are_looked_at():
    def row(length):
        return {"seqs": [{"ids": [1] * length, "mask": [0] * (length - 1) + [1]}]}

    for full, packs in ((31, 32), (32, 34)):  # one pack with room for the last row, and full ones
        rows = [row(6), *(row(5) for _ in range(2 * full)), row(4)]
        assert len(cut_packs(rows, 10)) == packs


# ---- KTO's pairs and labels ----------------------------------------------------------------------------------


def kto_row(n, prompt=None):
    return {"prompt": prompt or f"q{n}", "seqs": [{"ids": [100 + n, n, n], "mask": [0, 1, 1]}]}


def test_mismatched_pairs_never_repeat_the_prompt():
    rows = [kto_row(0, "same"), kto_row(1, "same"), kto_row(2), kto_row(3), kto_row(4, "same")]
    steps = kto.add_mismatched(rows, [[0, 1, 2], [3], [4]], 8)
    found = [[row["other"] for row in step] for step in steps]
    ids = [[seq["ids"] for seq in step] for step in found]
    assert ids == [[[100, 2, 2], [101, 2, 2], [102, 0, 0]], [[103, 4, 4]], [[104, 2, 2]]]
    assert all(seq["mask"] == [0, 1, 1] for step in found for seq in step)
    for longest in (1, 2):  # a token of the answer stays, however long the prompt
        short = kto.add_mismatched(rows, [[0, 2]], longest)[0][0]["other"]
        assert short == {"ids": [100, 2], "mask": [0, 1]}
    with pytest.raises(BadInput, match="two prompts"):
        kto.add_mismatched(rows[:1], [[0]], 8)


def test_mismatched_pairs_of_prompts_that_are_cut(base):
    """The prompt is the row's own, cut as it is, and all fits into --max-len."""
    tokenizer = load_tokenizer(base)
    rows = []
    for prompt, text in (("cat " * 60, "dog"), ("dog " * 60, "the red house " * 4)):
        row = {"prompt": [{"role": "user", "content": prompt}]}
        row["completion"] = [{"role": "assistant", "content": text}]
        rows.append(kto.encode_answer(tokenizer, row, 50, truncate="left"))
    [[first, second]] = kto.add_mismatched(rows, [[0, 1]], 50)
    for row, other in ((first, second), (second, first)):
        seq, mismatched = row["seqs"][0], row["other"]
        assert len(seq["ids"]) == 50 >= len(mismatched["ids"])
        assert mismatched["mask"].index(1) == seq["mask"].index(1)
        size = seq["mask"].index(1)
        assert mismatched["ids"][:size] == seq["ids"][:size]
        answer = other["seqs"][0]["ids"][other["seqs"][0]["mask"].index(1) :]
        assert mismatched["ids"][size:] == answer[: 50 - size]


def test_held_out_prompts_get_answers_of_training_rows():
    held = [kto_row(n) for n in (5, 6, 7)]
    found = kto.add_mismatched_to_held(held, [kto_row(0), kto_row(1)], 8)
    assert [row["other"]["ids"] for row in found] == [[105, 0, 0], [106, 1, 1], [107, 0, 0]]
    assert [row["prompt"] for row in found] == ["q5", "q6", "q7"]


def test_records_without_a_score_are_left_out_and_counted():
    silent = {"scores": {"a": None}}
    records = [silent, {"label": True}, {"chosen": "A", "rejected": "B"}, silent]
    answers, count = kto.read_answers(records, 3.0)
    assert [row["label"] for row in answers] == [True, True, False] and count == 2
    assert kto.labels_line(answers, 1.0, 2.0, count) == (
        "labels   2 good x 1, 1 bad x 2, 2 records without a score left out"
    )
    with pytest.raises(BadInput, match="no record has a label"):
        kto.read_answers([silent], 3.0)


def test_labels_scores_and_partial_preferences():
    assert [r["label"] for r in kto.unary({"label": False}, 3.0)] == [False]
    assert [r["label"] for r in kto.unary({"scores": {"a": 4, "b": 2, "c": None}}, 3.0)] == [
        True
    ]  # 3 reaches 3
    assert [r["label"] for r in kto.unary({"scores": {"a": 4, "b": 2}}, 3.1)] == [False]
    assert kto.unary({"scores": {"a": None}}, 3.0) == []
    pair = {"chosen": "A", "rejected": "B"}
    assert [(r["completion"], r["label"]) for r in kto.unary(pair, 3.0)] == [
        ("A", True),
        ("B", False),
    ]
    assert [r["label"] for r in kto.unary(pair | {"label_chosen": False}, 3.0)] == [False, False]
    assert [r["completion"] for r in kto.unary(pair | {"label_rejected": None}, 3.0)] == ["A"]


def test_class_weights_balance():
    def rows(*labels):
        return [{"label": label, "weight": 1.0, "source": Source(0, "", 1.0)} for label in labels]

    assert kto.class_weights(rows(True, True, True, False)) == (1.0, 3.0)
    assert kto.class_weights(rows(True, False, False, False, False)) == (4.0, 1.0)
    assert kto.class_weights(rows(True, True)) == (1.0, 1.0)
    assert kto.class_weights(rows(True, False, False), 0.0, 2.5) == (0.0, 2.5)
    heavy = [row | {"weight": 2.0, "source": Source(0, "", 1.5)} for row in rows(True)]
    assert kto.class_weights(heavy + rows(False)) == (1.0, 3.0), (
        "a row counts as often as it is drawn"
    )


# ---- whole runs ----------------------------------------------------------------------------------------------


def arguments(stage, base, folder, out="run", rows=None, *more):
    data = write(folder / "data.jsonl", rows or ROWS[stage](11))
    return ["--model", base, "--data", data, "--out", folder / out, *SMALL, *more]


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """{stage: (arguments, run folder)} of one uninterrupted run of each trainer: 4 steps, checkpoints at 2 and 4."""
    made = {}
    for stage in STAGES:
        words = arguments(stage, base, tmp_path_factory.mktemp(stage))
        assert run_main(stage, *words) == 0
        made[stage] = (words, words[5])
    return made


def elsewhere(words, folder, *more):
    """The same command with another --out in a fresh folder, so that no cache is shared."""
    return [folder / "run" if word == words[5] else word for word in words] + list(more)


class Killed(Exception):
    """Stands for os._exit: nothing of the run's code after it runs."""


def kill_at(monkeypatch, stage, name, call):
    """Let the function `name` of the stage's script, or of its run, fail at its n-th call."""
    import importlib

    script, calls = importlib.import_module(stage), []
    if not hasattr(script, name):
        script = training_run
    real = getattr(script, name)

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(script, name, failing)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("append_lines", 1),
        ("append_lines", 3),
        ("save_checkpoint", 1),
        ("save_checkpoint", 2),
        ("append_lines", 4),
        ("save_adapter", 1),
        ("optimiser_step", 3),
    ],
)
def test_a_killed_run_ends_in_the_same_weights(runs, tmp_path, monkeypatch, stage, name, call):
    words, out = runs[stage]
    words = elsewhere(words, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stage, name, call)
        run_main(stage, *words)
    assert run_main(stage, *words) == 0
    assert same_tensors(adapter_of(out), adapter_of(tmp_path / "run"))
    assert log_lines(out) == log_lines(tmp_path / "run") and len(log_lines(out)) == 4
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "run").iterdir()}


def test_killed_before_its_adapter_a_run_needs_no_log(runs, tmp_path, monkeypatch):
    """After the last step everything stands in the checkpoint; run.json is that of a whole run."""
    words, out = runs["dpo"]
    words = elsewhere(words, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "dpo", "save_adapter", 1)
        run_main("dpo", *words)
    (tmp_path / "run/log.jsonl").unlink()
    assert run_main("dpo", *words) == 0
    assert same_tensors(adapter_of(out), adapter_of(tmp_path / "run"))
    whole, again = (
        json.loads((folder / "run.json").read_text()) for folder in (out, tmp_path / "run")
    )
    assert again["loss"] == whole["loss"] and again["tokens"] == whole["tokens"]


def test_a_slice_may_have_a_line_break_of_another_kind_in_its_name(base, tmp_path, monkeypatch):
    rows = [row | {"slice": ("a\u2028b", "c")[n % 2]} for n, row in enumerate(sft_rows(9))]
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--out",
        tmp_path / "run",
    ]
    words += ["--batch-size", 3, "--lora-r", 2, "--save-every", 1]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "sft", "append_lines", 3)
        run_main("sft", *words)
    assert run_main("sft", *words) == 0
    lines = (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert "a\u2028b" in json.loads(lines[0])["slices"]


def test_killed_before_the_first_record_it_starts_again(base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json.tmp").write_text('{"scri')
    assert run_main("sft", *arguments("sft", base, tmp_path), "--max-steps", 1) == 0


def test_resume_starts_at_the_checkpoint_and_not_before(runs, tmp_path, monkeypatch, capsys):
    """Killed at step 4, with a checkpoint after step 2: steps 3 and 4 are done again, 1 and 2 are not."""
    words, out = runs["sft"]
    words = elsewhere(words, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "sft", "append_lines", 4)
        run_main("sft", *words)
    assert len(log_lines(tmp_path / "run")) == 3
    done = []
    monkeypatch.setattr(
        training_run, "append_lines", lambda path, lines: done.append(lines[0]["step"])
    )
    with pytest.raises(BadInput, match="has not finished"):
        resolve_model(str(tmp_path / "run"))
    run_main("sft", *words)
    assert done == [3, 4] and "from step 2" in capsys.readouterr().out
    records = [json.loads((run / "run.json").read_text()) for run in (out, tmp_path / "run")]
    assert records[0]["tokens"] == records[1]["tokens"] > 0, "steps 1 and 2 have been paid for, too"


@pytest.mark.parametrize("stage", STAGES)
def test_the_adapter_that_is_saved_is_the_trained_one(runs, base, stage):
    """B starts at zero: after training it is not; and the run's loss has changed from step to step."""
    tensors = adapter_of(runs[stage][1])
    assert all(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    assert all("lora_" in name for name in tensors), "nothing of the base"
    lines = log_lines(runs[stage][1])
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all(
        line["steps"] == 4 for line in lines
    )
    assert all(line["grad_norm"] > 0 and line["tokens"] > 0 for line in lines)
    assert [line["lr"] for line in lines] == pytest.approx(
        [0.01 * x for x in (1, 1, 0.75, 0.25)], rel=1e-6
    )
    if stage == "sft":
        assert all(
            line["perplexity"] == pytest.approx(math.exp(line["loss"]), rel=1e-6) for line in lines
        )
    else:
        assert lines[0]["loss"] == pytest.approx(
            {"dpo": 0.693147, "kto": lines[0]["loss"]}[stage], abs=1e-5
        )


@pytest.mark.parametrize("stage", STAGES)
def test_the_first_loss_of_a_run_honours_weights_of_rows(base, tmp_path, stage):
    """One batch through main: a row of weight 2 gives the loss and the gradient norm of the row written twice."""
    rows = [row | {"weight": 1.0} for row in ROWS[stage](3)]
    heavy, twice = [*rows[:2], rows[2] | {"weight": 2.0}], [*rows, rows[2] | {"id": "again"}]
    flags = ["--batch-size", 8, "--lora-r", 2] + (
        ["--ref", save_folder(tmp_path / "other", 1)] * (stage != "sft")
    )
    if (
        stage == "kto"
    ):  # the KL of another batch differs; a beta near zero takes it out of the comparison
        flags += ["--desirable-weight", 1.0, "--undesirable-weight", 3.0, "--beta", 1e-4]
    if stage == "dpo":
        flags += ["--beta", 0.02]
    found = []
    for name, data in (("heavy", heavy), ("twice", twice), ("plain", rows)):
        words = [
            "--model",
            base,
            "--data",
            write(tmp_path / f"{name}.jsonl", data),
            "--out",
            tmp_path / name / "run",
        ]
        assert run_main(stage, *words, *flags) == 0
        found.append(log_lines(tmp_path / name / "run")[0])
    heavy, twice, plain = found
    tolerance = 1e-3 if stage == "kto" else 1e-5
    assert heavy["loss"] == pytest.approx(twice["loss"], rel=tolerance)
    assert abs(heavy["loss"] - plain["loss"]) > 5 * tolerance * plain["loss"]
    if stage != "kto":
        assert heavy["grad_norm"] == pytest.approx(twice["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_pack_tokens_do_not_change_a_run(runs, tmp_path, stage):
    """Packs of one row: the loss and gradient norm of every step agree to 1e-4 relative with one pack a batch."""
    words, out = runs[stage]
    assert run_main(stage, *elsewhere(words, tmp_path, "--pack-tokens", 1)) == 0
    for one, two in zip(log_lines(out), log_lines(tmp_path / "run")):
        for name in ("loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-4), (one["step"], name)


# ---- the reference -------------------------------------------------------------------------------------------


def reference_tokens(monkeypatch):
    """A list that collects what score_reference returns: tokens it had to compute."""
    import dpo

    counted, real = [], score_reference
    for script in (dpo, kto):
        monkeypatch.setattr(
            script,
            "score_reference",
            lambda *args, **more: counted.append(real(*args, **more)) or counted[-1],
        )
    return counted


@pytest.fixture
def dpo_run(runs, tmp_path):
    """Arguments of a finished DPO run, copied into a fresh folder: (arguments of a second run, folder of the first)."""
    words, out = runs["dpo"]
    shutil.copytree(out, tmp_path / "first")
    return elsewhere(words, tmp_path), tmp_path / "first"


def test_a_second_run_beside_it_reuses_the_reference(dpo_run, monkeypatch):
    words, first = dpo_run
    counted = reference_tokens(monkeypatch)
    assert run_main("dpo", *words, "--loss", "ipo") == 0
    assert counted == [0] and log_lines(words[5])[0]["loss"] == pytest.approx(0.25, rel=1e-5)
    lent, copied = [(run / "ref_logps.jsonl").read_text().splitlines() for run in (first, words[5])]
    assert sorted(lent) == sorted(copied), "what is borrowed stays when the lender goes"


def test_a_torn_line_of_the_cache_is_redone(dpo_run, monkeypatch):
    words, first = dpo_run
    text = (first / "ref_logps.jsonl").read_bytes()
    (first / "ref_logps.jsonl").write_bytes(text[:-15])
    counted = reference_tokens(monkeypatch)
    assert run_main("dpo", *words) == 0
    assert counted[0] > 0
    assert same_tensors(adapter_of(first), adapter_of(words[5]))


def test_a_torn_line_in_our_own_cache_stays_alone(runs, tmp_path, monkeypatch):
    """Killed inside a line of ref_logps.jsonl, then continued: the file reads, and the run is the uninterrupted one."""
    words, out = runs["dpo"]
    words = elsewhere(words, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "dpo", "load_policy", 1)
        run_main("dpo", *words)
    text = (out / "ref_logps.jsonl").read_bytes()
    (tmp_path / "run/ref_logps.jsonl").write_bytes(text[: len(text) // 2])
    assert run_main("dpo", *words) == 0
    assert same_tensors(adapter_of(out), adapter_of(tmp_path / "run"))
    entries = [line for line in (tmp_path / "run/ref_logps.jsonl").read_text().splitlines() if line]
    good = [line for line in entries if line.endswith("}") and line.startswith("{")]
    assert len(entries) - len(good) <= 2 and all("logp" in json.loads(line) for line in good)


def test_a_changed_model_is_scored_again(dpo_run, base, monkeypatch):
    words, first = dpo_run
    other = save_folder(first.parent / "other", seed=3)
    counted = reference_tokens(monkeypatch)
    assert run_main("dpo", *[other if word == base else word for word in words]) == 0
    assert counted[0] > 0


def test_another_reference_policy(dpo_run, base, monkeypatch):
    """--ref: the first loss is no longer ln 2, and equals the one computed from both models by plain transformers."""
    words, first = dpo_run
    other = save_folder(first.parent / "other", seed=3)
    assert run_main("dpo", *words, "--ref", other, "--beta", 0.01, "--batch-size", 11) == 0
    import transformers

    from posttrain.chat.encode import encode
    from posttrain.records.layouts import normalise

    tokenizer = load_tokenizer(base)
    losses = []
    policies = [
        transformers.AutoModelForCausalLM.from_pretrained(name).eval() for name in (base, other)
    ]
    for row in (normalise(row, "pairs") for row in pair_rows(11)):
        scores = [
            [
                score(model, encode(tokenizer, row["prompt"], row[side]))
                for side in ("chosen", "rejected")
            ]
            for model in policies
        ]
        margin = 0.01 * (scores[0][0] - scores[1][0] - scores[0][1] + scores[1][1])
        losses.append(torch.log1p(torch.exp(torch.tensor(-margin, dtype=torch.float64))).item())
    line = log_lines(words[5])[0]
    assert (
        line["loss"] == pytest.approx(sum(losses) / 11, rel=1e-5)
        and abs(line["loss"] - 0.693147) > 1e-3
    )


def score(model, row):
    """Log-probability of the supervised tokens, the plain long way."""
    with torch.no_grad():
        table = model(torch.tensor([row["ids"]])).logits[0].double().log_softmax(-1)
    return sum(
        table[t - 1, row["ids"][t]].item() for t in range(1, len(row["ids"])) if row["mask"][t]
    )


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_resume_without_the_cache_scores_the_start_again(runs, tmp_path, monkeypatch, stage):
    """The reference is scored before the checkpoint is loaded: it is the model of before step 1."""
    words, out = runs[stage]
    words = elsewhere(words, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stage, "append_lines", 4)
        run_main(stage, *words)
    (tmp_path / "run/ref_logps.jsonl").unlink()
    assert run_main(stage, *words) == 0
    assert same_tensors(adapter_of(out), adapter_of(tmp_path / "run"))
    assert log_lines(out) == log_lines(tmp_path / "run")
    assert (out / "ref_logps.jsonl").read_text() == (tmp_path / "run/ref_logps.jsonl").read_text()


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_a_stale_cache_is_refused_before_step_1(runs, tmp_path, stage):
    words, out = runs[stage]
    (tmp_path / "first").mkdir()
    lines = [json.loads(line) for line in (out / "ref_logps.jsonl").read_text().splitlines()]
    wrong = {"dpo": lambda n: 2.0 * n, "kto": lambda n: 1.0}[
        stage
    ]  # a constant leaves KTO's loss at 0.5
    write(
        tmp_path / "first/ref_logps.jsonl",
        [line | {"logp": line["logp"] - wrong(n)} for n, line in enumerate(lines)],
    )
    with pytest.raises(BadInput, match="cached reference log-probabilities are off"):
        run_main(stage, *elsewhere(words, tmp_path))
    assert not (tmp_path / "run/log.jsonl").exists()


def test_a_constant_error_of_the_reference_does_not_cancel_between_good_and_bad(
    base, tmp_path, monkeypatch
):
    """Two good and two bad answers: with the reference off by 1 nat the plain KTO loss would still be 0.5."""
    rows = [row | {"label": n % 2 == 0} for n, row in enumerate(label_rows(4))]
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--batch-size",
        4,
        "--lora-r",
        2,
    ]
    real = kto.score_reference

    def off(model, rows, **more):
        tokens = real(model, rows, **more)
        for seq in {id(seq): seq for row in rows for seq in row["seqs"]}.values():
            seq["ref"] += 1
        return tokens

    monkeypatch.setattr(kto, "score_reference", off)
    with pytest.raises(BadInput, match="before step 1"):
        run_main("kto", *words, "--out", tmp_path / "second")


def start_packs(model, *shifts):
    """Packs of one pair each, whose reference is that far (nats) from the policy on both sides."""
    packs = []
    for number, shift in enumerate(shifts):
        seqs = []
        for sign in (1, -1):
            seq = {"ids": [1, 5, 6 + number, 9, 2], "mask": [0, 0, 1, 1, 1]}
            logp = pack_logps(model, [{"seqs": [seq]}])[0].item()
            seqs.append(seq | {"ref": logp + sign * shift})
        packs.append([{"seqs": seqs, "weight": 1.0}])
    return packs


def test_check_start(model, capsys):
    """A wrong loss is refused, and its likely cause named: another reference, or another loss."""

    def losses_of(value):
        return lambda packs: [(torch.tensor(value), None) for _ in packs]

    still, moved = start_packs(model, 0.0, 0.0), start_packs(model, 5.0, -5.0)
    check_start("DPO", losses_of(0.6931), still, 0.693147, model=model)
    assert "DPO loss before step 1 = 0.693100, expected 0.693147" in capsys.readouterr().out
    for value in (0.70, 0.68, float("nan"), float("inf")):
        for packs, cause in (
            (still, "policy and reference agree"),
            (moved, "the reference is not the policy"),  # the mean of its ratios is 0
        ):
            with pytest.raises(BadInput, match=cause):
                check_start("DPO", losses_of(value), packs, 0.693147, model=model)


def test_the_distance_of_the_reference_is_that_of_a_token(model):
    """The largest of all answers, in either direction; each here has three tokens."""
    packs = start_packs(model, 0.3, -0.6)
    assert checks.largest_ratio(model, packs) == pytest.approx(0.2, abs=1e-5)


def get(value, *args):
    return value


@pytest.mark.parametrize(
    ("device", "expected", "tolerance"),
    [("cpu", 0.693147, 0.001), ("cpu", 25.0, 0.025), ("cuda", 0.693147, 0.05), ("cuda", 4.0, 0.2)],
)
def test_the_tolerance_of_the_check_before_step_1(monkeypatch, device, expected, tolerance):
    """A thousandth on a CPU, a twentieth on a GPU, where bf16 rounds; of losses above 1 a share."""
    model = SimpleNamespace(device=torch.device(device))
    packs = [[{"weight": 1.0}, {"weight": 3.0}], [{"weight": 0.5}]]

    def check(value):
        def losses_of(packs):
            return [(torch.tensor(value * weight), None) for weight in (4.0, 0.5)]

        check_start("DPO", losses_of, packs, expected, model=model)

    for sign in (1, -1):
        check(expected + sign * 0.95 * tolerance)
        for share, cause in ((0.9, "policy and reference agree"), (1.1, "not the policy")):
            ratio = share * tolerance / max(1.0, expected)
            monkeypatch.setattr(checks, "largest_ratio", partial(get, ratio))
            with pytest.raises(BadInput, match=cause):
                check(expected + sign * 1.05 * tolerance)


def test_the_check_before_step_1_leaves_out_the_nll(base, tmp_path, capsys):
    words = arguments("dpo", base, tmp_path, "run", None, "--max-steps", 1, "--nll-weight", 0.3)
    assert run_main("dpo", *words) == 0
    assert "loss before step 1 = 0.693147, expected 0.693147" in capsys.readouterr().out
    assert log_lines(tmp_path / "run")[0]["loss"] > 0.7


@pytest.mark.parametrize(
    "flags",
    [
        ["--loss", "ipo"],
        ["--loss", "ipo", "--ipo-length", "sum", "--beta", 0.5],
        ["--beta", 0.5, "--label-smoothing", 0.2],
    ],
)
def test_dpo_options_start_where_they_should(base, tmp_path, flags, capsys):
    assert (
        run_main("dpo", *arguments("dpo", base, tmp_path, "run", None, "--max-steps", 1, *flags))
        == 0
    )
    expected = {"--loss": 0.25 if len(flags) == 2 else 1.0, "--beta": 0.693147}[flags[0]]
    assert log_lines(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert f"expected {expected:.6f}" in capsys.readouterr().out


def test_a_gradient_that_is_not_finite_stops_the_run():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.tensor([float("nan"), 0.0])
    with pytest.raises(BadInput, match="gradient norm"):
        optimiser_step(optimizer, 0.1)
    assert parameter.tolist() == [0, 0]
    parameter.grad = torch.tensor([3.0, 4.0])
    assert optimiser_step(optimizer, 0.1) == pytest.approx(5.0)
    assert parameter.grad is None and optimizer.param_groups[0]["lr"] == 0.1


def test_a_step_is_clipped_to_a_norm_of_one():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimiser_step(torch.optim.SGD([parameter]), 0.1)
    assert parameter.tolist() == pytest.approx([-0.06, -0.08])


def test_weights_do_not_decay():
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(
        SimpleNamespace(device=torch.device("cpu"), parameters=model.parameters), 0.5
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser_step(optimizer, 0.5)
    assert torch.equal(model.weight, before)


# ---- adapters and chains -------------------------------------------------------------------------------------


def test_a_trained_run_prefers_chosen_more_by_independent_code(base, tmp_path):
    """sft -> dpo; the saved adapters, loaded by plain peft and scored token by token, prefer chosen more than before,
    by the margin that the run's last lines tell; both adapters are relative to the untouched base."""
    import transformers
    from peft import PeftModel

    from posttrain.chat.encode import encode
    from posttrain.records.layouts import normalise

    data = write(tmp_path / "sft.jsonl", sft_rows(6))
    assert (
        run_main("sft", "--model", base, "--data", data, "--out", tmp_path / "runs/sft", *SMALL)
        == 0
    )
    rows = pair_rows(6)
    words = [
        "--data",
        write(tmp_path / "pairs.jsonl", rows),
        "--out",
        tmp_path / "runs/dpo",
        "--epochs",
        6,
        "--lr",
        0.01,
        "--batch-size",
        6,
    ]
    assert run_main("dpo", "--model", tmp_path / "runs/sft", *words) == 0
    tokenizer, margins = load_tokenizer(str(tmp_path / "runs/dpo")), []
    for name in ("sft", "dpo"):
        folder = tmp_path / "runs" / name
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == base and config["r"] == 2
        model = PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(base), folder
        ).eval()
        margins.append(
            [
                score(model, encode(tokenizer, row["prompt"], row["chosen"]))
                - score(model, encode(tokenizer, row["prompt"], row["rejected"]))
                for row in (normalise(row, "pairs") for row in rows)
            ]
        )
    gains = [after - before for before, after in zip(*margins)]
    assert min(gains) > 0 and sum(gains) / 6 > 1
    lines = log_lines(tmp_path / "runs/dpo")
    assert lines[-1]["rewards/margins"] == pytest.approx(
        0.1 * sum(gains) / 6, rel=0.2
    )  # measured one step earlier
    assert (
        lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
        and lines[-1]["loss"] < lines[0]["loss"]
    )
    with pytest.raises(BadInput, match="continues an adapter of rank 2"):
        run_main(
            "dpo",
            "--model",
            tmp_path / "runs/sft",
            "--data",
            tmp_path / "pairs.jsonl",
            "--out",
            tmp_path / "runs/x",
            "--lora-r",
            4,
        )


def test_metrics_of_the_log_agree_with_each_other(runs):
    """Before step 1 policy and reference are one: rewards 0, kl 0; a margin is the difference of two rewards."""
    for line in log_lines(runs["dpo"][1]):
        assert line["rewards/margins"] == pytest.approx(
            line["rewards/chosen"] - line["rewards/rejected"], abs=1e-6
        )
        assert (
            0 <= line["rewards/accuracies"] <= 1
            and line["logps/chosen"] < 0 > line["logps/rejected"]
        )
    lines = log_lines(runs["kto"][1])
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4) and all(line["kl"] >= 0 for line in lines)
    for name in ("rewards/chosen", "rewards/rejected"):
        for line in (log_lines(runs["dpo"][1])[0], lines[0]):
            assert line.get(name, 0) == pytest.approx(
                0, abs=1e-4
            )  # a batch of one class has no other side


def test_kto_learns_its_labels(base, tmp_path):
    """After eight passes good answers have gained on bad ones; the loss is below its start of 0.5 x mean weight."""
    rows = label_rows(6)
    words = arguments("kto", base, tmp_path, "run", rows, "--epochs", 8)
    assert run_main("kto", *words[:6], "--batch-size", 6, "--lr", 0.01, "--epochs", 8) == 0
    lines = log_lines(tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(
        0.5 * (4 + 2 * 2.0) / 6, rel=1e-5
    )  # 4 good, 2 bad of weight 2
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"] > 0.3


def test_kto_against_another_reference_by_independent_code(base, tmp_path):
    """KL and loss of the first step, with policy and reference scored token by token by plain transformers."""
    import transformers

    from posttrain.chat.encode import encode
    from posttrain.records.layouts import normalise

    names, tokenizer = [base, save_folder(tmp_path / "other", seed=3)], load_tokenizer(base)
    policies = [transformers.AutoModelForCausalLM.from_pretrained(name).eval() for name in names]
    rows = [normalise(row, "labels") for row in label_rows(7)]
    seqs = [encode(tokenizer, row["prompt"], row["completion"]) for row in rows]
    order = batches(mixture((7, 1.0)), 7, 1, seed=0)[0]
    ratios, mixed = [], []
    for n, m in zip(
        order, order[1:] + order[:1]
    ):  # each prompt with the answer of the batch's next row
        start, other = seqs[n]["mask"].index(1), seqs[m]["mask"].index(1)
        ids = seqs[n]["ids"][:start] + seqs[m]["ids"][other:]
        pair = {"ids": ids, "mask": [0] * start + [1] * (len(ids) - start)}
        ratios.append(score(policies[0], seqs[n]) - score(policies[1], seqs[n]))
        mixed.append(score(policies[0], pair) - score(policies[1], pair))
    turn = 1 if sum(mixed) > 0 else -1  # the policy is the one whose raw KL is above zero
    kl, beta = turn * sum(mixed) / 7, 0.02
    words = [
        "--model",
        names[turn < 0],
        "--ref",
        names[turn > 0],
        "--data",
        write(tmp_path / "d.jsonl", label_rows(7)),
        "--out",
        tmp_path / "run/x",
        "--batch-size",
        7,
        "--beta",
        beta,
    ]
    assert run_main("kto", *words, "--desirable-weight", 1.5, "--undesirable-weight", 0.5) == 0
    expected = 0.0
    for n, ratio in zip(order, ratios):
        gain = beta * (turn * ratio - kl) * (1 if rows[n]["label"] else -1)
        expected += (1.5 if rows[n]["label"] else 0.5) / (1 + math.exp(gain))
    line = log_lines(tmp_path / "run/x")[0]
    assert kl > 0.1 and line["kl"] == pytest.approx(kl, rel=1e-5)
    assert line["loss"] == pytest.approx(expected / 7, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "{tmp}/absent", "--data", "{tmp}/d.jsonl"], "no such folder"),
        (["--model", "{tmp}/empty", "--data", "{tmp}/d.jsonl"], "neither a model nor a run folder"),
        (["--model", "{tmp}/half", "--data", "{tmp}/d.jsonl"], "has not finished"),
        (["--model", "{base}", "--data", "{tmp}/absent.jsonl"], "no such file"),
        (["--model", "{base}", "--data", "{tmp}/d.jsonl=0"], "weight must be a number above 0"),
        (["--model", "{base}", "--data", "{tmp}/d.jsonl", "--max-len", 8], "would be dropped"),
    ],
)
def test_wrong_models_and_data_are_refused(base, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half/run.json").write_text('{"script": "sft.py", "finished": false}')
    write(tmp_path / "d.jsonl", sft_rows(2))
    words = [str(word).format(tmp=tmp_path, base=base) for word in words]
    with pytest.raises(BadInput, match=message):
        run_main("sft", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_half_weight_through_main(base, tmp_path):
    """=2 and =0.5 reach the sampler: 4 x 2 + 4 x 0.5 = 10 rows, 5 steps of 2."""
    one, two = write(tmp_path / "a.jsonl", sft_rows(4)), write(tmp_path / "b.jsonl", sft_rows(4))
    assert (
        run_main(
            "sft",
            "--model",
            base,
            "--data",
            f"{one}=2",
            f"{two}=0.5",
            "--out",
            tmp_path / "run",
            "--batch-size",
            2,
            "--lora-r",
            2,
        )
        == 0
    )
    assert len(log_lines(tmp_path / "run")) == 5


def test_the_forecast_uses_the_speed_of_the_run_beside_it(runs, capsys):
    words, out = runs["sft"]
    before = sorted(out.parent.rglob("*"))
    assert (
        run_main("sft", *[out.parent / "next" if word == out else word for word in words], "--plan")
        == 0
    )
    text = capsys.readouterr().out
    record = json.loads((out / "run.json").read_text())
    assert (
        f"{record['tokens']:,} tokens, {record['seconds']:.0f} s" in text and "unknown" not in text
    )
    assert sorted(out.parent.rglob("*")) == before
