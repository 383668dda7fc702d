"""Candidates: the recipe, complete and unique numbers, exact resume after a cut at any byte, and refusals."""

import json
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
import torch
import transformers
from conftest import make_tokenizer, run_main, run_script, save_folder, text_of, write

import gen_candidates
import judge
from gen_candidates import read_systems, recipe, with_system
from posttrain.chat.encode import prompt_ids
from posttrain.cli import BadInput
from posttrain.generate.local import sample
from posttrain.hashing import seed_for
from posttrain.model.family import family_of
from posttrain.model.load import load_model, load_tokenizer
from posttrain.records.files import read_records

USER = [{"role": "user", "content": "Hi."}]


def prompt_rows(count):
    return [
        {
            "id": f"q{n}",
            "slice": "ab"[n % 2],
            "answer": n,
            "prompt": text_of(n, 2 + 2 * n),
            "note": {"x": [n]},
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("second") / "other", seed=1)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "prompts.jsonl", prompt_rows(5))


def command(base, prompts, out, *more):
    return [
        "--model",
        base,
        "--data",
        prompts,
        "--out",
        out,
        "--n",
        3,
        "--max-tokens",
        6,
        "--batch-size",
        6,
        *more,
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_recipe_covers_every_combination():
    models, temperatures, systems = ["a", "b"], [0.5, 1.0, 1.5], [None, "brief"]
    made = [recipe(k, models, temperatures, systems) for k in range(24)]
    assert made[:4] == [("a", 0.5, None), ("b", 0.5, None), ("a", 1.0, None), ("b", 1.0, None)]
    assert (
        made[6] == ("a", 0.5, "brief")
        and set(Counter(made).values()) == {2}
        and len(set(made)) == 12
    )
    assert recipe(5, ["a"], [1.0], [None]) == ("a", 1.0, None)


def test_system_prompts(tmp_path):
    assert read_systems(None) == [None]
    good = write(tmp_path / "s.jsonl", [{"system": "Be brief."}, {"system": None}])
    assert read_systems(good) == ["Be brief.", None]
    for rows in ([], [{"text": "x"}], [{"system": 5}]):
        with pytest.raises(BadInput, match="s.jsonl"):
            read_systems(write(tmp_path / "s.jsonl", rows))
    own = [{"role": "system", "content": "own"}, *USER]
    assert with_system(own, None) == own
    assert (
        with_system(own, "new")
        == with_system(USER, "new")
        == [{"role": "system", "content": "new"}, *USER]
    )


def test_rows_are_complete_and_each_answer_is_its_own(base, second, prompts, tmp_path, capsys):
    """Two models, two temperatures, two system texts: every row as if that answer had been asked for alone."""
    systems = write(tmp_path / "systems.jsonl", [{"system": None}, {"system": "be brief"}])
    out = tmp_path / "two.jsonl"
    assert (
        run_main(
            "gen_candidates",
            "--model",
            base,
            second,
            "--data",
            prompts,
            "--out",
            out,
            "--n",
            8,
            "--temperatures",
            0,
            1.1,
            "--system",
            systems,
            "--max-tokens",
            5,
            "--batch-size",
            7,
            "--price-gen",
            2e6,
        )
        == 0
    )
    made, rows = lines(out), {row["id"]: row for row in read_records(prompts, "prompts")}
    assert sorted((row["id"], row["candidate"]) for row in made) == [
        (f"q{n}", k) for n in range(5) for k in range(8)
    ]
    models = {name: (load_model(name), load_tokenizer(name)) for name in (base, second)}
    for row in made:
        source = rows[row["id"]]
        assert {k: row[k] for k in source} == source, (
            "the prompt's own fields, without the system text"
        )
        name, temperature, system = recipe(
            row["candidate"], [base, second], [0.0, 1.1], [None, "be brief"]
        )
        assert (row["generator"], row["temperature"], row["system"]) == (name, temperature, system)
        assert row["seed"] == seed_for(0, row["id"], row["candidate"])
        model, tokenizer = models[name]
        asked = prompt_ids(tokenizer, with_system(source["prompt"], system))
        [[alone]] = sample(model, tokenizer, [(asked, [(temperature, row["seed"])])], 5)
        assert (row["completion"][0]["content"], row["tokens"], row["finish"]) == (
            alone["text"],
            alone["tokens"],
            alone["finish"],
        )
        is_first = row["candidate"] < 2 or row["candidate"] in (4, 5)
        assert row["read"] == (len(asked) if is_first else 0), (
            "a prompt is read once for its answers"
        )
        assert row["family"] == family_of(name)
    assert len({row["completion"][0]["content"] for row in made}) > 30
    record = json.loads((tmp_path / "two.run.json").read_text())
    read = sum(
        len(prompt_ids(models[name][1], with_system(row["prompt"], system)))
        for row in rows.values()
        for name in models
        for system in (None, "be brief")
    )
    assert record["tokens"] == read + sum(row["tokens"] for row in made)
    assert record["forecast"]["tokens"] == read + 5 * 8 * 5 and record["cost"] == pytest.approx(
        2 * record["tokens"]
    )
    printed = capsys.readouterr().out
    assert (
        record["finished"]
        and set(record["inputs"]) == {base, second, prompts}
        and "note" not in printed
    )
    mean = sum(row["tokens"] for row in made) / 40
    cut = sum(row["finish"] == "length" for row in made)
    assert 20 < cut < 40
    assert f"result   40 answers, {mean:.1f} tokens each, {cut} cut off at --max-tokens" in printed


def test_resume_after_a_cut_at_any_byte(base, prompts, tmp_path, monkeypatch):
    whole = tmp_path / "whole.jsonl"
    run_main("gen_candidates", *command(base, prompts, whole))
    data = whole.read_bytes()
    model = load_model(base)
    monkeypatch.setattr(
        gen_candidates, "load_merged", lambda *_: model
    )  # what is tested is the file
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    cuts = {0, 1, len(data) - 1, len(data)}
    for end in (ends[0], ends[len(ends) // 2], ends[-2]):  # whole lines, torn ones, half a line
        cuts |= {end - 1, end, end + 40}
    for cut in sorted(cuts):
        out = tmp_path / "cut.jsonl"
        out.write_bytes(data[:cut])
        record = json.loads((tmp_path / "whole.run.json").read_text())
        record |= {"finished": False, "path": str(tmp_path / "cut.run.json")}
        (tmp_path / "cut.run.json").write_text(json.dumps(record))
        assert run_main("gen_candidates", *command(base, prompts, out)) == 0
        assert out.read_bytes() == data, cut
    again = json.loads((tmp_path / "cut.run.json").read_text())
    assert {k: again[k] for k in ("tokens", "finished")} == {
        "tokens": record["tokens"],
        "finished": True,
    }


def test_a_finished_run_is_left_alone_and_other_arguments_are_refused(
    base, prompts, tmp_path, capsys
):
    out = tmp_path / "c.jsonl"
    run_main("gen_candidates", *command(base, prompts, out))
    before = out.read_bytes()
    assert run_main("gen_candidates", *command(base, prompts, out)) == 0
    assert "nothing to do" in capsys.readouterr().out and out.read_bytes() == before
    for more in (
        ["--seed", 1],
        ["--n", 4],
        ["--temperatures", 0.5],
        ["--max-tokens", 7],
        ["--limit", 2],
    ):
        with pytest.raises(
            BadInput, match=f"other arguments.*{more[0].strip('-').replace('-', '_')}"
        ):
            run_main("gen_candidates", *command(base, prompts, out, *more))
    shutil.copy(prompts, tmp_path / "p.jsonl")
    other = tmp_path / "d.jsonl"
    run_main("gen_candidates", *command(base, tmp_path / "p.jsonl", other))
    write(tmp_path / "p.jsonl", prompt_rows(4))
    with pytest.raises(BadInput, match="other inputs.*p.jsonl"):
        run_main("gen_candidates", *command(base, tmp_path / "p.jsonl", other))
    assert out.read_bytes() == before


def test_a_foreign_file_is_never_overwritten(base, prompts, tmp_path):
    out = tmp_path / "mine.jsonl"
    out.write_text("precious\n")
    with pytest.raises(BadInput, match="not a run of this kit"):
        run_main("gen_candidates", *command(base, prompts, out))
    assert out.read_text() == "precious\n" and list(tmp_path.iterdir()) == [out]


def test_plan_loads_no_model_and_writes_nothing(base, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gen_candidates, "load_merged", None)
    assert (
        run_main(
            "gen_candidates",
            *command(base, prompts, tmp_path / "x" / "c.jsonl"),
            "--plan",
            "--answer-len",
            4,
            "--tokens-per-second",
            10,
            "--price-gen",
            50,
            "--price-gpu-hour",
            3,
        )
        == 0
    )
    tokenizer = load_tokenizer(base)
    tokens = (
        sum(len(prompt_ids(tokenizer, row["prompt"])) for row in read_records(prompts, "prompts"))
        + 5 * 3 * 4
    )
    cost = 50 * tokens / 1e6 + 3 * tokens / 10 / 3600
    assert f"{tokens:,} tokens, {tokens / 10:.0f} s, cost {cost:.4f}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_plan_of_an_endpoint_estimates_what_it_reads(prompts, tmp_path, capsys):
    """Four characters a token, and each answer reads its prompt anew."""
    words = ["--endpoint", "http://127.0.0.1:9/v1", "--plan", "--answer-len", 4]
    assert run_main("gen_candidates", *command("m", prompts, tmp_path / "c.jsonl", *words)) == 0
    characters = sum(len(str(row["prompt"])) for row in read_records(prompts, "prompts"))
    tokens = 3 * characters / 4 + 5 * 3 * 4
    assert (
        f"5 prompts x 3 x 4 tokens: {tokens:,.0f} tokens, time unknown" in capsys.readouterr().out
    )


def test_a_note_where_combinations_come_up_unevenly(base, prompts, tmp_path, capsys):
    """Six answers over 2 temperatures x 2 system texts; eight are even."""
    systems = write(tmp_path / "s.jsonl", [{"system": None}, {"system": "be brief"}])
    words = ["--plan", "--temperatures", 0, 1, "--system", systems]
    for n, notes in ((6, 1), (8, 0)):
        run_main("gen_candidates", *command(base, prompts, tmp_path / "c.jsonl", *words, "--n", n))
        printed = capsys.readouterr().out
        assert printed.count("no multiple of models x temperatures x systems") == notes


def test_a_second_round_has_numbers_and_seeds_of_its_own(base, prompts, tmp_path):
    """Its first answer takes the first model and temperature again."""
    out = tmp_path / "c.jsonl"
    words = ["--limit", 1, "--first", 5, "--temperatures", 0.5, 1.5, 1]
    run_main("gen_candidates", *command(base, prompts, out, *words))
    made = [(row["candidate"], row["temperature"], row["seed"]) for row in lines(out)]
    assert made == [(5 + k, t, seed_for(0, "q0", 5 + k)) for k, t in enumerate((0.5, 1.5, 1.0))]


def test_flags_reach_the_model_and_the_endpoint(base, prompts, tmp_path, monkeypatch):
    asked = []
    model = load_model(base)
    monkeypatch.setattr(gen_candidates, "load_merged", lambda *words: asked.append(words) or model)
    words = ["--quantize", "none", "--limit", 1]
    run_main("gen_candidates", *command(base, prompts, tmp_path / "a.jsonl", *words))
    assert asked == [(base, "none")]

    def ask(url, model, requests, *words, **more):
        asked.append((url, model, words, more))
        return [{"text": "a", "tokens": 1, "read": 1, "finish": "stop"} for _ in requests]

    monkeypatch.setattr(gen_candidates, "ask_endpoint", ask)
    words = ["--endpoint", "http://e/v1", "--concurrency", 3, "--limit", 1]
    run_main("gen_candidates", *command("m", prompts, tmp_path / "b.jsonl", *words))
    kept = tmp_path / "b.kept.jsonl"
    assert asked[1:] == [("http://e/v1", "m", (3,), {"kept": kept})]


@pytest.mark.parametrize(
    ("refill", "groups"), [(1, [(1, None), (1, None)]), (2, [(2, 3)])], ids=["one", "two"]
)
def test_refilled_batches_are_read_in_groups(base, prompts, tmp_path, monkeypatch, refill, groups):
    """Places for one batch, and the prompts of all batches of the group."""
    seen = []

    def note(model, tokenizer, jobs, max_tokens, *, slots):
        seen.append((len(jobs), slots))
        return sample(model, tokenizer, jobs, max_tokens, slots=slots)

    monkeypatch.setattr(gen_candidates, "sample", note)
    words = ["--limit", 2, "--batch-size", 3, "--refill", refill]
    run_main("gen_candidates", *command(base, prompts, tmp_path / "c.jsonl", *words))
    assert seen == groups


def test_limit_seed_and_greedy(base, prompts, tmp_path):
    def texts(name, *more):
        out = tmp_path / f"{name}.jsonl"
        run_main("gen_candidates", *command(base, prompts, out, "--limit", 2, *more))
        return [
            (row["id"], row["candidate"], row["completion"][0]["content"]) for row in lines(out)
        ]

    first = texts("a")
    assert [t[:2] for t in first] == [
        ("q0", 0),
        ("q0", 1),
        ("q0", 2),
        ("q1", 0),
        ("q1", 1),
        ("q1", 2),
    ]
    assert texts("b") == first, "the same command gives the same answers"
    other = texts("c", "--seed", 1)
    assert all(a[2] != b[2] for a, b in zip(first, other))
    assert texts("d", "--batch-size", 1) == first, "the batch size does not matter"
    assert texts("f", "--batch-size", 2, "--refill", 3) == first, "nor that places are filled again"
    assert len({t[2] for t in texts("e", "--temperatures", 0)}) == 2, (
        "three greedy answers to a prompt are the same"
    )


def test_bad_input_is_one_line_and_code_2(base, prompts, tmp_path, capsys):
    twice = write(tmp_path / "twice.jsonl", prompt_rows(2) + prompt_rows(1))
    with pytest.raises(BadInput, match=r"twice.jsonl:3: field 'id': 'q0' occurs twice"):
        run_main("gen_candidates", *command(base, twice, tmp_path / "c.jsonl"))
    with pytest.raises(BadInput, match="the same id occurs in two files"):
        run_main(
            "gen_candidates",
            "--model",
            base,
            "--data",
            prompts,
            prompts,
            "--out",
            tmp_path / "c.jsonl",
        )
    for bad in (
        ["--n", "0"],
        ["--temperatures", "-1"],
        ["--temperatures", "nan"],
        ["--max-tokens", "0"],
    ):
        with pytest.raises(SystemExit) as error:
            run_main("gen_candidates", *command(base, prompts, tmp_path / "c.jsonl"), *bad)
        assert error.value.code == 2
    capsys.readouterr()
    ended = run_script(
        "gen_candidates", *command("no/such/model/here", prompts, tmp_path / "c.jsonl")
    )
    assert (
        ended.returncode == 2 and ended.stderr.count("\n") == 1 and "no such folder" in ended.stderr
    )
    assert not (tmp_path / "c.jsonl").exists()


def test_tools_reach_the_model(base, tmp_path, tokenizer):
    tools = [
        {
            "type": "function",
            "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}},
        }
    ]
    rows = [
        {
            "id": "t",
            "prompt": "add 2 and 3",
            "tools": tools,
            "call": {"name": "add", "arguments": {}},
        }
    ]
    out = tmp_path / "c.jsonl"
    run_main("gen_candidates", *command(base, write(tmp_path / "p.jsonl", rows), out))
    asked = prompt_ids(tokenizer, [{"role": "user", "content": "add 2 and 3"}], tools)
    model = load_model(base)
    for row in lines(out):
        [[alone]] = sample(model, tokenizer, [(asked, [(1.0, row["seed"])])], 6)
        assert row["completion"][0]["content"] == alone["text"]
        assert row["tools"] == tools and row["call"] == rows[0]["call"]


CALL_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": CALL_TOOLS, "call": {"name": "add", "arguments": {"a": "x"}}}, "'call'"),
        ({"tools": CALL_TOOLS, "call": {"name": "sub", "arguments": {}}}, "'call'"),
        ({"call": {"name": "add", "arguments": {}}}, "'tools'"),
        ({"tools": [{"name": "f", "parameters": {"type": "no type"}}]}, r"'tools\[0\]'"),
        ({"constraints": [{"type": "no such rule"}]}, r"'constraints\[0\]'"),
        ({"answer": []}, "'answer'"),
        ({"sql": {"setup": "no sql", "rows": []}}, "'sql'"),
        ({"expected": "refuses"}, "'expected'"),
        ({"evidence": 5}, "'evidence'"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--plan"]], ids=["run", "plan"])
def test_a_check_that_could_not_be_made_is_refused_before_it_is_paid_for(
    base, tmp_path, fields, named, more
):
    data = write(tmp_path / "p.jsonl", [*prompt_rows(2), {"prompt": "Hi."} | fields])
    with pytest.raises(BadInput, match=rf"p.jsonl:3: field {named}: expected "):
        run_main("gen_candidates", *command(base, data, tmp_path / "c.jsonl", *more))
    assert not (tmp_path / "c.jsonl").exists()


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    strict = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}"
    model = save_folder(tmp_path / "strict")
    (Path(model) / "chat_template.jinja").write_text(strict)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [*prompt_rows(1), {"id": "long", "prompt": [*turns, turns[0]]}]
    data = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(BadInput, match=r"strict, id 'long': the chat template refuses"):
        run_main("gen_candidates", *command(model, data, tmp_path / "c.jsonl"))


def test_prompts_are_cut_and_answered(tmp_path):
    """A model with 60 positions in a table: without the cut its answer would run beyond them."""
    settings = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_id": 2}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=60, **settings))
    model.save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    rows = [{"id": "long", "prompt": "cat " * 60}, {"id": "short", "prompt": "cat"}]
    data = write(tmp_path / "p.jsonl", rows)
    words = ["--model", tmp_path / "m", "--data", data, "--out", tmp_path / "c.jsonl", "--n", 1]
    assert run_main("gen_candidates", *words, "--max-tokens", 20, "--truncate", "left") == 0
    read = {row["id"]: row["read"] for row in lines(tmp_path / "c.jsonl")}
    assert read["long"] == 40 > read["short"]


def test_the_system_column_of_a_prompt_and_the_system_text_of_an_answer(base, tmp_path):
    """The first is part of the prompt; the second is not, and comes into no later file's prompt."""
    rows = [{"prompt": "Hi.", "system": "Own."}, {"prompt": "Ho.", "system": None}]
    systems = write(tmp_path / "systems.jsonl", [{"system": None}, {"system": "Be brief."}])
    data = write(tmp_path / "p.jsonl", rows)
    words = ["--n", 2, "--max-tokens", 2, "--system", systems]
    run_main(
        "gen_candidates", "--model", base, "--data", data, "--out", tmp_path / "c.jsonl", *words
    )
    made = lines(tmp_path / "c.jsonl")
    first = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi."}]
    for row in made:
        assert row["prompt"] == (
            first if row["id"] == "p-1" else [{"role": "user", "content": "Ho."}]
        )
    assert sorted(str(row["system"]) for row in made) == ["Be brief."] * 2 + ["None"] * 2

    for kind in ("candidates", "sft"):
        again = read_records(tmp_path / "c.jsonl", kind)
        assert [row["prompt"] for row in again] == [row["prompt"] for row in made]
    labels = judge.make_labels([row | {"score": 5.0} for row in again], good=4, bad=2)
    assert [row["prompt"] for row in labels] == [row["prompt"] for row in made]
    assert not any("system" in row for row in labels)


@pytest.mark.parametrize("column", ["asked", "rating"])
def test_a_column_of_a_table_does_not_end_the_run(base, tmp_path, column):
    datasets = pytest.importorskip("datasets")
    values = {"asked": datetime(2026, 3, 1, 12, 0), "rating": float("nan")}
    rows = [{"prompt": "Hi.", column: values[column]}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    out = tmp_path / "c.jsonl"
    run_main("gen_candidates", *command(base, f"hf:{tmp_path / 'set'}", out))
    expected = {"asked": "2026-03-01T12:00:00", "rating": None}[column]
    assert [row.get(column) for row in lines(out)] == [expected] * 3
