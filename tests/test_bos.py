"""A tokenizer that puts a token before every text by itself, as those of Llama, Gemma and Mistral do.

The text of a chat template is complete: such a token must not be put before it, nor before any part
of it. So every stage ends in the very results of the tokenizer that adds nothing."""

import copy
import json
from pathlib import Path

import pytest
import transformers
from conftest import (
    ROWS,
    adapter_of,
    begin_with_bos,
    log_lines,
    run_main,
    same_tensors,
    text_of,
    write,
)

from posttrain.chat.encode import encode, encode_all_turns, prompt_ids
from posttrain.chat.stops import stop_ids
from posttrain.chat.template import PLAIN_TEMPLATE, render
from posttrain.model.load import load_tokenizer

TURNS = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello there."},
    {"role": "user", "content": "And now?"},
]
ANSWER = [{"role": "assistant", "content": "\nGoodbye."}]


@pytest.fixture(scope="module")
def both(base, bos_base):
    """[the tokenizer that adds nothing, the one that adds a token]."""
    return [load_tokenizer(base), load_tokenizer(bos_base)]


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_the_test_tokenizer_adds_a_token(both):
    plain, begins = both
    assert begins("a cat").input_ids == [begins.bos_token_id, *plain("a cat").input_ids]
    assert begins.chat_template == plain.chat_template


def test_prompts_answers_and_stops(both):
    plain, begins = both
    assert prompt_ids(begins, TURNS) == prompt_ids(plain, TURNS)
    assert stop_ids(begins) == stop_ids(plain)
    assert encode(begins, TURNS, ANSWER) == encode(plain, TURNS, ANSWER)
    whole = TURNS + ANSWER
    assert encode_all_turns(begins, whole) == encode_all_turns(plain, whole)


def test_the_end_of_a_turn_that_only_the_template_names(both):
    """Neither tokenizer nor model knows it as an end: it is the first special token behind the answer."""
    ends = []
    for tokenizer in copy.deepcopy(both):
        tokenizer.eos_token = tokenizer.pad_token
        tokenizer.generation_stops = []
        ends.append(stop_ids(tokenizer))
    assert ends[0] == ends[1] == [both[0].convert_tokens_to_ids("<|im_end|>"), both[0].pad_token_id]


def test_the_rest_behind_a_seam(both):
    """Where a token would lie across prompt and answer, the rest is tokenised by itself."""
    template = (
        "{% for m in messages %}{{ m['role'] + '\n' + m['content'] }}"
        "{{ '<|im_end|>' if m['role'] == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    answer = [{"role": "assistant", "content": "\n\n\nGoodbye."}]
    rows = []
    for tokenizer in both:
        copy = transformers.AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        copy.chat_template = template
        rows.append(encode(copy, TURNS[:1], answer))
        prompt = prompt_ids(copy, TURNS[:1])
        whole = copy(render(copy, TURNS[:1] + answer), add_special_tokens=False).input_ids
        assert whole[: len(prompt)] != prompt, "a token lies across the seam"
    assert rows[0] == rows[1] and rows[1]["ids"].count(both[1].bos_token_id) == 0


def test_without_a_template_the_text_begins_with_the_token_once(base, bos_base, tmp_path):
    """The kit's own template then writes it, as the model expects it."""
    for name, count in ((base, 0), (bos_base, 1)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        tokenizer.chat_template = None
        folder = tmp_path / Path(name).name
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text((Path(name) / "config.json").read_text())
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        loaded = load_tokenizer(str(folder))
        assert loaded.chat_template.endswith(PLAIN_TEMPLATE)
        assert (
            prompt_ids(loaded, TURNS).count(tokenizer.convert_tokens_to_ids("<|im_start|>"))
            == count
        )


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_training(base, bos_base, tmp_path, stage):
    data = write(tmp_path / "d.jsonl", ROWS[stage](6))
    words = ["--data", data, "--lora-r", 2, "--max-steps", 2, "--batch-size", 3]
    for name, model in (("plain", base), ("begins", bos_base)):
        out = tmp_path / name / "run"
        assert run_main(stage, *words, "--model", model, "--out", out) == 0
    assert log_lines(tmp_path / "plain/run") == log_lines(tmp_path / "begins/run")
    tensors = [adapter_of(tmp_path / name / "run") for name in ("plain", "begins")]
    assert same_tensors(*tensors)


def test_generation(base, bos_base, tmp_path):
    data = write(tmp_path / "p.jsonl", [{"prompt": text_of(n, 4)} for n in range(3)])
    answers = []
    for name, model in (("plain", base), ("begins", bos_base)):
        words = ["--data", data, "--n", 2, "--max-tokens", 6, "--model", model]
        assert run_main("gen_candidates", *words, "--out", tmp_path / name / "c.jsonl") == 0
        answers.append(
            [(row["completion"], row["tokens"]) for row in read(tmp_path / name / "c.jsonl")]
        )
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", ["judge", "reward model"])
def test_judging(tmp_path, kind, capsys):
    """Digits, both orders of doubtful pairs, rewards; and the forecast counts the same tokens."""
    from test_judge import TEXT, candidate_rows, save_judge, save_reward_model

    save = save_judge if kind == "judge" else save_reward_model
    judges = [save(tmp_path / "judge"), begin_with_bos(tmp_path / "judge", tmp_path / "begins")]
    (tmp_path / "c.md").write_text(TEXT)
    words = ["--constitution", tmp_path / "c.md", "--min-margin", 0.1, "--data"]
    words.append(write(tmp_path / "c.jsonl", candidate_rows(8)))
    judged = []
    for number, judge in enumerate(judges):
        out = tmp_path / f"out{number}" / "judged"
        run_main("judge", "--judge", judge, *words, "--out", out)
        run_main("judge", "--judge", judge, *words, "--out", out.with_name("plan"), "--plan")
        plan = capsys.readouterr().out.rpartition("plan ")[2].partition(",")[0]
        rows = [
            {key: row[key] for key in ("score", "scores", "judged", "mass", "sd")}
            for row in read(out / "judged.jsonl")
        ]
        tokens = json.loads((out / "run.json").read_text())["tokens"]
        pairs = [row | {"judge": ""} for row in read(out / "pairs.jsonl")]
        judged.append((rows, pairs, tokens, plan))
    assert judged[0] == judged[1]
    assert judged[0][1] or kind == "reward model"


def test_the_gate(base, bos_base, tmp_path):
    """Answers, choices of mc items, and which answer a judge prefers."""
    from test_judge import TEXT, save_judge

    judges = [save_judge(tmp_path / "judge", "AB", 30.0)]
    judges.append(begin_with_bos(tmp_path / "judge", tmp_path / "begins"))
    (tmp_path / "c.md").write_text(TEXT)
    items = [
        {
            "id": "v",
            "slice": "a",
            "prompt": "the cat",
            "constraints": [{"type": "min_words", "value": 2}],
        },
        {
            "id": "m",
            "slice": "b",
            "prompt": "Which?",
            "type": "mc",
            "choices": ["one", "two cats"],
            "answer": 0,
        },
        {"id": "j", "prompt": "hi", "type": "judge", "slice": "math"},
    ]
    words = ["--suite", write(tmp_path / "suite.jsonl", items), "--max-tokens", 6]
    words += ["--constitution", tmp_path / "c.md"]
    results = []
    for number, (model, judge) in enumerate(zip((base, bos_base), judges)):
        out = tmp_path / f"gate{number}" / "out"
        run_main(
            "gate", "--model", model, "--baseline", model, *words, "--judge", judge, "--out", out
        )
        results.append([path.read_text() for path in sorted(out.glob("*.jsonl"))])
    assert results[0] == results[1] and len(results[0]) > 2
