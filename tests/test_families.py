"""Every stage on tiny random models of many architectures (architectures.py): no traceback, and the numbers that must
hold. `python tests/test_families.py` writes the table of families into the README.
"""

import contextlib
import functools
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, tiny, whole
from conftest import (
    ROOT,
    adapter_of,
    label_rows,
    log_lines,
    make_tokenizer,
    pair_rows,
    run_main,
    sft_rows,
    text_of,
    write,
)

import gate
from posttrain.chat.dialect import calls_as_text, changes_for, tools_as_text
from posttrain.chat.encode import prompt_ids
from posttrain.chat.template import render, writer
from posttrain.cli import BadInput
from posttrain.generate.local import sample
from posttrain.generate.reading import CachedText, reading_of
from posttrain.judging import digits
from posttrain.model.adapter import add_adapter, matrices_of, targets_of
from posttrain.model.load import load_merged, load_model, load_tokenizer
from posttrain.packed.reader import reads_lines, teach_lines
from posttrain.packed.trees import tree_logits

# Whose cache is out of reach: sampling reads their rows anew for every token.
WITHOUT_CACHE = {"minimax", "recurrent_gemma", "rwkv"}
# Whose states are wrong behind padding on the left, in transformers, too: the trial finds it out.
WITHOUT_CACHE |= {"mamba", "falcon_mamba"}
# Matrices that a model has and does not read: a shared block of Zamba 2 has those of its other places.
UNREAD = {"zamba2": "_adapter_list."}

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if family.slow else ())
    for name, family in FAMILIES.items()
]
TRAINING = ["--batch-size", 3, "--max-steps", 2, "--lr", 0.01, "--holdout", 0, "--eval-every", 0]


@pytest.fixture
def quick(monkeypatch):
    """What says nothing of a family and takes long: the page, its error rates, the search for circles. A random judge
    gives digits little of its probability.
    """
    monkeypatch.setattr(gate, "write_report", lambda folder, rows, report: None)
    monkeypatch.setattr(gate, "plan_run", lambda *args, **more: {})
    monkeypatch.setattr("posttrain.gating.summary.KNOWN_RATES_RUNS", 5)
    monkeypatch.setattr("posttrain.model.memory.free_memory", lambda: None)
    for function in (digits.judge_answers, digits.judge_pairs):
        monkeypatch.setitem(function.__kwdefaults__, "min_mass", 0.0)


def questions():
    """Prompts of clearly different lengths."""
    return [{"id": f"q{n}", "prompt": text_of(n, 1 + 5 * n), "answer": "five"} for n in range(3)]


def suite():
    """An item that a verifier decides, one with choices, one that a judge decides: two of each."""
    items = []
    for n in range(2):
        items.append({"id": f"v{n}", "slice": "v", "type": "verify", "answer": "five"})
        items.append(
            {"id": f"m{n}", "slice": "m", "type": "mc", "choices": ["five", "cat"], "answer": 0}
        )
        items.append({"id": f"j{n}", "slice": "j", "type": "judge"})
    return [item | {"prompt": text_of(n, 4)} for n, item in enumerate(items)]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_stage(name, tmp_path, quick, capsys):
    """SFT; DPO from there and KTO, whose loss has a known value before step 1 (they stop if it has not), checked
    against finite differences and padded rows; sampling as transformers does it; a judge; a gate.
    """
    base = str(tmp_path / "base")
    tiny(name).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    sft, dpo, kto = (tmp_path / stage for stage in ("sft", "dpo", "kto"))

    # Training: all adapters move, and the laws of step 0 hold.
    data = write(tmp_path / "sft.jsonl", sft_rows(6))
    assert (
        run_main("sft", "--model", base, "--data", data, "--out", sft, "--lora-r", 2, *TRAINING)
        == 0
    )
    trained = {key: weight for key, weight in adapter_of(sft).items() if "lora_B" in key}
    unread = [key for key, weight in trained.items() if not weight.any()]
    assert trained and all(UNREAD.get(name, "none") in key for key in unread), unread
    data = write(tmp_path / "dpo.jsonl", pair_rows(6))
    assert (
        run_main("dpo", "--model", sft, "--data", data, "--out", dpo, "--selfcheck", *TRAINING) == 0
    )
    data = write(tmp_path / "kto.jsonl", label_rows(6))
    assert (
        run_main("kto", "--model", base, "--data", data, "--out", kto, "--lora-r", 2, *TRAINING)
        == 0
    )
    assert log_lines(dpo)[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    said = capsys.readouterr().out
    assert "DPO loss before step 1 = 0.693" in said and "KTO loss before step 1 = 0.500" in said

    # Sampling: greedy as transformers' own, from the merged adapter.
    assert_greedy(str(dpo), cached=name not in WITHOUT_CACHE)
    data = write(tmp_path / "prompts.jsonl", questions())
    candidates = tmp_path / "candidates.jsonl"
    words = ["--model", dpo, "--data", data, "--out", candidates, "--n", 2, "--max-tokens", 6]
    assert run_main("gen_candidates", *words) == 0
    assert len(lines(candidates)) == 6

    # Judging, as if no answer had been cut off, and the gate.
    data = write(tmp_path / "ended.jsonl", [row | {"finish": "stop"} for row in lines(candidates)])
    judged = tmp_path / "judged"
    rules = ["--constitution", ROOT / "data/constitution.md"]
    assert run_main("judge", "--judge", base, *rules, "--data", data, "--out", judged) == 0
    scores = [row["score"] for row in lines(judged / "judged.jsonl")]
    assert None not in scores and len(set(scores)) > 1
    folder = tmp_path / "suite"
    folder.mkdir()
    write(folder / "items.jsonl", suite())
    words = ["--model", dpo, "--baseline", base, "--suite", folder, "--out", tmp_path / "gate"]
    code = run_main("gate", *words, "--judge", base, *rules, "--max-tokens", 6)
    assert code == gate.EXIT["NOT ENOUGH DATA"]


def assert_greedy(name, *, cached):
    """Tokens of prompts of several lengths, each twice, in one batch and in several: those of transformers alone."""
    tokenizer = load_tokenizer(name)
    model = load_merged(name)
    prompts = []
    for row in questions():
        prompts.append(prompt_ids(tokenizer, [{"role": "user", "content": row["prompt"]}]))
    expected = [greedy_alone(model, ids, 8) for ids in prompts]
    jobs = [(ids, [(0.0, 0), (0.0, 1)]) for ids in prompts]
    for slots in (None, 2):
        answers = sample(model, tokenizer, jobs, 8, slots=slots)
        for tokens, twice in zip(expected, answers):
            assert [answer["ids"] for answer in twice] == [tokens, tokens]
    assert (reading_of(model) is CachedText) == cached


def greedy_alone(model, ids, max_tokens):
    """The answer of transformers' own generate to one prompt."""
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([ids]),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
    return out[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_in_4_bits(name, tmp_path, quick):
    """On a CPU, where the kernels are bitsandbytes': a new adapter, a continued one, answers, a judge."""
    base = str(tmp_path / "base")
    tiny(name).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    four_bits = ["--quantize", "nf4"]
    data = write(tmp_path / "sft.jsonl", sft_rows(6))
    words = ["--model", base, "--data", data, "--out", sft, "--lora-r", 2, *TRAINING, *four_bits]
    assert run_main("sft", *words) == 0
    data = write(tmp_path / "dpo.jsonl", pair_rows(6))
    assert run_main("dpo", "--model", sft, "--data", data, "--out", dpo, *TRAINING, *four_bits) == 0
    data = write(tmp_path / "prompts.jsonl", questions())
    candidates = tmp_path / "candidates.jsonl"
    words = ["--model", dpo, "--data", data, "--out", candidates, "--n", 2, "--max-tokens", 5]
    if name == "rwkv":  # it divides its weights before it writes, which those in 4 bits do not take
        with pytest.raises(BadInput, match="cannot read a text by itself"):
            run_main("gen_candidates", *words, *four_bits)
        return
    assert run_main("gen_candidates", *words, *four_bits) == 0
    words = ["--judge", base, "--constitution", ROOT / "data/constitution.md", "--data", candidates]
    assert run_main("judge", *words, "--out", tmp_path / "judged", *four_bits) == 0


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_a_judge_of_padded_rows_says_what_it_says_of_each_alone(name, tmp_path, quick):
    """They are read in batches of like length, and the padding changes nothing."""
    base = str(tmp_path / "base")
    tiny(name).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    model = load_model(base)
    teach_lines(model)
    assert not reads_lines(model)
    rows = [[(7 * n + k) % 300 + 3 for k in range(3 + 4 * n)] for n in range(7)]
    together = {}
    sizes = []
    for numbers, logits, tokens in tree_logits(model, rows, limit=60):
        sizes.append(len(numbers))
        assert tokens == [len(rows[number]) for number in numbers]
        together |= dict(zip(numbers, logits))
    assert max(sizes) > 1 and len(sizes) > 1 and sorted(together) == list(range(7))
    for number, row in enumerate(rows):
        with torch.no_grad():
            alone = model(torch.tensor([row])).logits[0, -1]
        assert torch.allclose(together[number], alone, atol=1e-4)


# ---- the README's table --------------------------------------------------------------------------------------------


def read_as(name):
    """How the trainers and judges read rows of this family, and whether answers are slow."""
    model = add_adapter(tiny(name), 2, None, 0)
    with contextlib.redirect_stdout(io.StringIO()):
        teach_lines(model)
    if reads_lines(model):
        return "lines"
    return "padded rows, no cache" if name in WITHOUT_CACHE else "padded rows"


def share_reached(name):
    """Share of the weights in matrices that a new adapter lies on, at the size of a real model."""
    model = whole(name)
    reached = sum(matrix.numbers for matrix in targets_of(model))
    return reached / sum(matrix.numbers for matrix in matrices_of(model))


def tools_and_thoughts(name):
    """(tools, thoughts) of a family's chat template: its own, or what the kit writes in their place."""
    if name is None:
        return "-", "-"
    sys.path.insert(0, str(ROOT / "tests/chat"))
    from test_templates import TOOLS, USER, answer, templates, tokenizer_for

    tokenizer = tokenizer_for(name, templates()[name])
    ways = changes_for(writer(tokenizer, TOOLS, think=True))
    knows_tools = ways["tools"] is not tools_as_text and ways["calls"] is not calls_as_text
    thinking = answer(reasoning_content="Let me see.")
    writes_thoughts = "Let me see." in render(tokenizer, [USER, thinking], think=True)
    return "own" if knows_tools else "as text", "own" if writes_thoughts else "think tags"


@functools.cache
def table():
    """The table's lines: families that agree in all columns but the last share one."""
    groups = {}
    for name, family in FAMILIES.items():
        columns = read_as(name), *tools_and_thoughts(family.template)
        groups.setdefault(columns, []).append((family.models, share_reached(name)))
    rows = [
        "| families | read as | tools | thoughts | LoRA reaches |",
        "|---|---|---|---|---|",
    ]
    best_first = (
        "lines",
        "padded rows",
        "padded rows, no cache",
        "own",
        "as text",
        "think tags",
        "-",
    )
    for columns in sorted(groups, key=lambda columns: [best_first.index(word) for word in columns]):
        members = groups[columns]
        models = ", ".join(models for models, _ in members)
        low, high = (f"{pick(share for _, share in members):.0%}" for pick in (min, max))
        reached = low if low == high else f"{low} to {high}"
        rows.append(f"| {models} | {' | '.join(columns)} | {reached} |")
    return rows


def with_table(page):
    """The README with the table as it should be."""
    before, rest = page.split("| families |", 1)
    _, after = rest.split("\n\n", 1)
    return before + "\n".join(table()) + "\n\n" + after


@pytest.mark.slow
def test_the_table_of_families_is_true():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(page) == page, "python tests/test_families.py writes it"


def test_every_family_stands_in_the_readme():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for family in FAMILIES.values():
        assert family.models in page


if __name__ == "__main__":
    README = ROOT / "README.md"
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
