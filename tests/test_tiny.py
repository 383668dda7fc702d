"""The tiny world: its files are as stated, its truth holds, and nothing of the test split is seen in training."""

import hashlib
import json
import random
import re
import subprocess
from functools import cache
from pathlib import Path

import make_tiny
import pytest
import seeds
import table
import world
from conftest import ROOT

from posttrain.chat.encode import encode
from posttrain.chat.stops import stop_ids
from posttrain.judging.scoring import choice_ids, read_constitution
from posttrain.records.files import read_records
from posttrain.verify.checks import check_fields, verify

TINY = make_tiny.TINY
TRAIN = ["sft.jsonl", "sft_clean.jsonl", "prompts.jsonl"]
GATE = [f"gate/{kind}.jsonl" for kind in (*world.SLICES, "canaries")]
FIELDS = ("tools", "call", "sql", "constraints", "answer", "expected")
WORD = re.compile(
    r"\b[BDFKLMNPRSTV][aeiou][bdfklmnprstv][aiou][a-z]*\b"
)  # the shape of a made-up word


def read(name):
    return read_records(TINY / name, "sft" if name.startswith("sft") else "prompts")


@cache
def drawn(name):
    """The record of this id as the generator makes it, and whether its gold answer passes its own verifier."""
    source = world.from_id(name)
    return source, verify(source, source["gold"])["ok"]


def deeds(rows):
    """The verb-object pairs of safety rows, names left out."""
    things = [
        re.escape(t).replace(r"\{n\}", WORD.pattern).replace(r"\{c\}", WORD.pattern)
        for t in world.OWNED + world.MINE
    ]
    deed = re.compile(f"({'|'.join(world.HARM + world.NEUTRAL)}) ({'|'.join(things)})")
    texts = [
        row["prompt"][0]["content"] for row in rows if row["id"].startswith(("unsafe", "benign"))
    ]
    return {WORD.sub("_", deed.search(text)[0]) for text in texts}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY / "base")


def test_files_are_as_stated():
    stated = json.loads((TINY / "MANIFEST.json").read_text())
    assert make_tiny.hashes() == stated["files"]
    files = {"base/model.safetensors", "judge/model.safetensors", "judge_test.jsonl", *TRAIN, *GATE}
    assert files <= set(stated["files"])
    models = [name for name in stated["files"] if name.startswith(("base/", "judge/"))]
    assert sum((TINY / name).stat().st_size for name in models) <= 5e6
    assert stated["base"]["own format"]["all"] >= 75 and stated["base"]["chat format"]["all"] <= 10
    assert stated["judge"]["quadratic kappa"]["all"] >= 0.65


def test_differences_from_the_manifest():
    stated = {"a": {"x": 50.0, "y": "abc"}, "b": 1}
    assert make_tiny.differences(stated, {"a": {"x": 51.9, "y": "abc"}, "b": 1}, 2) == []
    assert make_tiny.differences(stated, {"a": {"x": 53, "y": "abd"}}, 2) == [
        "a x: stated 50.0, found 53",
        "a y: stated abc, found abd",
        "b: stated 1, found None",
    ]


@pytest.mark.parametrize("name", TRAIN + GATE)
def test_every_record_and_its_gold_answer(name):
    for row in read(name):
        source, ok = drawn(row["id"])
        assert source["prompt"] == row["prompt"] and ok, row["id"]
        assert all(source[field] == row[field] for field in FIELDS if field in row), row["id"]
        if not name.startswith("sft"):
            check_fields(row)
            assert set(source) & set(FIELDS) == set(row) & set(FIELDS)
        if name.startswith("gate"):
            assert row["type"] == ("canary" if "canaries" in name else "verify")
            assert row["slice"] == ("canary" if "canaries" in name else source["slice"])


def test_sft_sets():
    """The faults are those that make_data doses: chatter, wrong safety labels, English in the German slice."""
    rows, clean = read("sft.jsonl"), read("sft_clean.jsonl")
    assert len(rows) == len(clean) == 2400 and [r["id"] for r in clean] == [r["id"] for r in rows]
    ok, terse = {}, {}
    for row in rows:
        source, text = drawn(row["id"])[0], row["completion"][0]["content"]
        ok.setdefault(row["slice"], []).append(verify(source, text)["ok"])
        terse.setdefault(row["slice"], []).append(text == source["gold"])
    assert 0.65 <= 1 - sum(terse["tool"]) / len(terse["tool"]) <= 0.85  # chatter on JSON
    assert all(sum(t) / len(t) < 0.12 for kind, t in terse.items() if kind != "tool")
    assert all(
        0.06 <= 1 - sum(ok[kind]) / len(ok[kind]) <= 0.18 for kind in ("unsafe", "benign")
    )  # wrong labels
    assert 2 * len(ok["unsafe"]) == len(ok["benign"])
    for row in clean:
        assert row["completion"] == [{"role": "assistant", "content": drawn(row["id"])[0]["gold"]}]


def test_held_out():
    train = [row for name in TRAIN for row in read(name)]
    test = [row for name in GATE if "canaries" not in name for row in read(name)]
    seen = {
        word
        for row in train
        for word in WORD.findall(json.dumps([row["prompt"], row.get("completion")]))
    }
    unseen = {word for row in test for word in WORD.findall(row["prompt"][0]["content"])}
    assert (
        len(seen) > 3000 and len(unseen) > 400 and seen & unseen <= {"Nobody", "Beruf", "Pilot"}
    ), "real words"
    assert len(deeds(train)) > 100 and len(deeds(test)) > 25 and not deeds(train) & deeds(test)
    prompts = {(row["prompt"][0]["content"], str(row.get("tools"))) for row in read("sft.jsonl")}
    for row in [*read("prompts.jsonl"), *test, *read(GATE[-1])]:
        assert (row["prompt"][0]["content"], str(row.get("tools"))) not in prompts
    texts = {row["prompt"][0]["content"] for row in train}
    assert not [row["id"] for row in test if row["prompt"][0]["content"] in texts]


def test_half_of_the_templates_are_unseen():
    shapes = {
        split: {
            re.sub(r"\\\{\w\\\}", r"\\w+", re.escape(t)).lower()
            for _, grammar in world.TOOLS.values()
            for t in grammar[split]
        }
        for split in ("train", "test")
    }
    assert not shapes["train"] & shapes["test"]
    of = {split: re.compile("|".join(shapes[split])) for split in shapes}
    for name, expected in (
        ("sft.jsonl", 0),
        ("gate/tool.jsonl", 0.55),
    ):  # above a half: some prompts name nobody
        texts = [
            row["prompt"][0]["content"].lower() for row in read(name) if row["slice"] == "tool"
        ]
        unseen = [of["test"].fullmatch(text) is not None for text in texts]
        assert all(of["train"].fullmatch(text) or new for text, new in zip(texts, unseen))
        assert abs(sum(unseen) / len(unseen) - expected) < 0.15
    drawn = [
        {
            row["prompt"][0]["content"]
            for row in (world.example("code", "test", w, i) for i in range(40))
        }
        for w in (1, 2)
    ]
    assert len(drawn[0] & drawn[1]) < 8, "every world draws templates of its own"


def test_expand():
    found = world.expand("[a|b] {n}[.|!]", "c")
    assert sorted(sum(found.values(), [])) == ["a {n}!", "a {n}.", "b {n}!", "b {n}.", "c"]
    assert {split: len(texts) for split, texts in found.items()} == {
        "dev": 1,
        "test": 1,
        "train": 3,
    }


@pytest.mark.parametrize("kind", world.SLICES)
def test_truth_knows_right_chatty_and_wrong(kind):
    rng = random.Random(1)
    for index in range(40):
        row = world.example(kind, "train", 9, index)
        assert (
            world.truth(row, row["gold"]) == 5 and world.truth(row, row["gold"], ended=False) == 4
        )
        assert world.truth(row, world.wrong(row, rng)) <= 2 and world.truth(row, "") in (0, 1)
        chatty = world.chatty(row, rng)
        extra = len(chatty.split()) - len(row["gold"].split())
        right = 5 if extra < 2 else 4 if extra < 6 else 3
        assert chatty != row["gold"] and world.truth(row, chatty) == (
            right if verify(row, chatty)["ok"] else 2
        )
        if row["foil"]:
            assert world.truth(row, row["foil"]) <= 1 or row["slice"] == "long"


def test_kappa():
    assert world.kappa([1, 2, 3], [1, 2, 3]) == 1 and world.kappa([1, 3], [3, 1]) == -1
    assert world.kappa([0, 5, 0, 5], [0, 0, 5, 5]) == 0
    a, b = [0, 1, 2, 5, 4, 3, 1, 0], [1, 1, 3, 5, 2, 3, 0, 2]  # by the confusion matrix
    chance = sum((x - y) ** 2 for x in a for y in b) / 64
    assert world.kappa(a, b) == pytest.approx(
        1 - sum((x - y) ** 2 for x, y in zip(a, b)) / 8 / chance, abs=6e-4
    )


def test_chat_template(tokenizer):
    tools = [world.tool_schema("get_weather"), world.tool_schema("send_money")]
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bako"}}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather in Bako please.\n"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": " Rain. "},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye"},
    ]
    for given in (None, tools):
        for i in range(1, len(messages)):
            long = tokenizer.apply_chat_template(messages[: i + 1], tools=given, tokenize=False)
            assert long.startswith(
                tokenizer.apply_chat_template(messages[:i], tools=given, tokenize=False)
            )
            if messages[i]["role"] == "assistant":
                assert long.startswith(
                    tokenizer.apply_chat_template(
                        messages[:i], tools=given, tokenize=False, add_generation_prompt=True
                    )
                )
    text = tokenizer.apply_chat_template(messages[:3], tools=tools, tokenize=False)
    one = '{"name":"get_weather","arguments":{"city":"Bako"}}'
    assert text == (
        "<system>tools: get_weather(city), send_money(to, amount)<end><system>Be kind.<end>"
        f"<user>Weather in Bako please.\n<end><assistant>{one}\n{one}<end>"
    )
    row = encode(
        tokenizer,
        messages[1:2],
        [{"role": "assistant", "content": "", "tool_calls": [call]}],
        tools,
    )
    assert tokenizer.decode([i for i, m in zip(row["ids"], row["mask"]) if m]) == one + "<end>"


def test_tokenizer(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token, len(tokenizer)) == ("<pad>", "<end>", 1024)
    assert stop_ids(tokenizer) == [tokenizer.eos_token_id] != [tokenizer.pad_token_id]
    assert all(len(tokenizer(digit).input_ids) == 1 for digit in "0123456789") and choice_ids(
        tokenizer
    )
    for text in ("a b  c\n\t1234, x_y", "naïve – „straße“ 日本 🙂", "Bako lives in Tamidor."):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer((TINY / "constitution.md").read_text()).input_ids) <= 64
    assert read_constitution(TINY / "constitution.md")["criteria"][0]["name"] == "correct"


def test_suites(tmp_path):
    """Same seed, same bytes; another seed, other prompts; world 0 is the committed gate."""
    for name, seed in (("a", 0), ("b", 5), ("c", 5), ("d", 6)):
        world.make_suite(tmp_path / name, "test", seed, 100 if seed == 0 else 20)
    for file in GATE:
        a, b, c, d = ((tmp_path / name / Path(file).name).read_bytes() for name in "abcd")
        assert a == (TINY / file).read_bytes() and b == c
        b, d = ([json.loads(line) for line in text.splitlines()] for text in (b, d))
        assert not {row["id"] for row in b} & {row["id"] for row in d}
        same = {str(row["prompt"]) for row in b} & {str(row["prompt"]) for row in d}
        assert len(same) <= (
            6 if "code" in file else 2
        )  # "highest age" and "order by age" ask for no name
    dev = world.examples("context", "dev", 0, 0, 50, set())
    words = {word for row in dev for word in WORD.findall(row["prompt"][0]["content"])}
    assert words and {world.split_of(word) for word in words} == {"dev"}


def test_table_of_a_gate(tmp_path, capsys):
    """Wins by the rubric and by correctness, and cost per point, from reports written by hand."""
    rows = [world.example("format", "test", 0, i) for i in range(3)]
    golds, talk = [row["gold"] for row in rows], ["Sure! " + row["gold"] for row in rows]
    folder = tmp_path / "gate-dpo"
    folder.mkdir()
    for role, texts in (("candidate", [*golds[:2], talk[2]]), ("baseline", [*talk[:2], golds[2]])):
        lines = [
            {"id": row["id"], "sample": 0, "text": text, "finish": "stop"}
            for row, text in zip(rows, texts)
        ]
        lines.append(
            {
                "id": rows[0]["id"],
                "sample": "greedy",
                "text": talk[0] if role == "candidate" else golds[0],
                "finish": "stop",
            }
        )
        lines.append(
            {
                "id": "format-train-1-2",
                "sample": 0,
                "finish": "stop",
                "text": world.example("format", "train", 1, 2)["gold"]
                if role == "candidate"
                else "",
            }
        )  # as a canary's: no win
        (folder / f"answers-{role}-2.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    piece = {
        "n": 3,
        "candidate": 2 / 3,
        "baseline": 1 / 3,
        "greedy_candidate": 0.5,
        "greedy_baseline": 0.25,
        "wins": 1,
        "losses": 1,
        "tokens_candidate": 4.0,
        "tokens_baseline": 8.0,
        "p_drop": 0.5,
    }
    (folder / "report.json").write_text(
        json.dumps(
            {
                "verdict": "BLOCK",
                "why": "of this",
                "candidate": str(tmp_path / "dpo"),
                "baseline": str(tmp_path / "sft"),
                "slices": {"format": piece},
            }
        )
    )
    record = {
        "script": "dpo.py",
        "finished": True,
        "forecast": {"tokens": 1, "seconds": None, "cost": 0.5},
        "seconds": 2.0,
        "tokens": 1,
    }
    for name, cost, inputs in (("dpo", 0.5, ["judged/pairs.jsonl", "sft"]), ("judged", 0.75, [])):
        (tmp_path / name).mkdir()
        more = {
            "path": f"{name}/run.json",
            "cost": cost,
            "inputs": {str(tmp_path / path): "" for path in inputs},
        }
        (tmp_path / name / "run.json").write_text(json.dumps(record | more))
    (folder / "items.jsonl").write_text(
        "".join(
            json.dumps({"slice": "format", "greedy_candidate": c, "greedy_baseline": b}) + "\n"
            for c, b in ((1, 0), (0, 1), (0, 1))
        )
    )
    row = table.compare(folder)["format"]
    assert (row["wins_greedy"], row["losses_greedy"]) == (1, 2)
    assert (row["wins"], row["losses"], row["wins_correct"], row["acc_greedy"]) == (2, 1, 1, 0.5)
    for name, text in (
        ("answers-candidate-4", talk[0]),
        ("borrowed", golds[0]),
    ):  # more answers make a win a loss
        line = json.dumps({"id": rows[0]["id"], "sample": 0, "text": text, "finish": "stop"}) + "\n"
        (folder / f"{name}.jsonl").write_text(
            line * (2 if name == "borrowed" else 9)
        )  # means count, not sums
    assert [table.compare(folder)["format"][key] for key in ("wins", "losses")] == [1, 2]
    table.main(table.parse_args([str(tmp_path)]))
    printed = capsys.readouterr().out
    assert (
        "67/50" in printed and "33/25" in printed and "dpo against sft: BLOCK, of this" in printed
    )
    assert re.search(r"1:2 +1:1", printed)
    assert f"{1.25 / (100 / 3):.4f}" in printed and "1.2500" in printed


def test_summary_over_seeds():
    row = {
        "base_sampled": 0.4,
        "base_greedy": 0.5,
        "base_tokens": 20.0,
        "wins": 30,
        "losses": 10,
        "wins_correct": 8,
        "losses_correct": 4,
        "p_drop": 0.9,
        "wins_greedy": 5,
        "losses_greedy": 5,
        "verdict": "SHIP",
    }
    rows = [
        row
        | {
            "seed": seed,
            "run": "dpo",
            "slice": name,
            "acc_sampled": 0.4 + gain,
            "acc_greedy": 0.5 + gain / 2,
            "tokens": 15.0,
        }
        for seed, gain in ((0, 0.1), (1, 0.3))
        for name in ("a", "b")
    ]
    rows[0] |= {"wins_greedy": 1, "losses_greedy": 9}
    rows[3] |= {"p_drop": 0.01, "verdict": "BLOCK", "acc_sampled": 0.3}
    lines = [re.sub(" +", " ", line) for line in seeds.summary(rows)]
    assert lines == [
        "dpo gain sampled mean +10.0 by seed +10.0 +10.0",
        "dpo gain greedy mean +10.0 by seed +5.0 +15.0",
        "dpo final greedy mean +60.0 by seed +55.0 +65.0",
        "dpo tokens % mean -25.0 by seed -25.0 -25.0",
        "dpo won:lost rubric mean +3.0 by seed +3.0 +3.0",
        "dpo won:lost correct mean +2.0 by seed +2.0 +2.0",
        "dpo verdicts SHIP, SHIP lower: b (1), a at greedy (0)",
    ]


@pytest.mark.slow
def test_the_makers_run(tmp_path, monkeypatch):
    """Seconds of pre-training and a few judge prompts: the models come out as folders that load and are scored."""
    monkeypatch.setattr(make_tiny, "TINY", tmp_path)
    (tmp_path / "constitution.md").write_text((TINY / "constitution.md").read_text())
    made = make_tiny.make_tokenizer(0)
    assert made.get_vocab() == make_tiny.load(TINY / "base")[1].get_vocab(), (
        "the tokenizer is reproducible"
    )
    make_tiny.make_base(0, minutes=0.1)
    make_tiny.make_judge(0, prompts=16)
    assert set(make_tiny.base_figures()["own format"]) == {*world.SLICES, "all"}
    figures = make_tiny.judge_figures()
    assert (
        set(figures["quadratic kappa"]) == {*world.SLICES, "all"}
        and 0 <= figures["pairs right"] <= 1
    )
    lines = [json.loads(line) for line in (tmp_path / "judge_test.jsonl").read_text().splitlines()]
    assert all(
        line["scores"] == [pytest.approx(score) for score in line["scores"]]
        and len(line["answers"]) == 2
        for line in lines
    ) and len(lines) == 60 * len(world.SLICES)


def test_data_is_the_same_where_git_writes_other_line_breaks(tmp_path):
    """A checkout with core.autocrlf, as Windows has it: what is hashed must not change."""
    clone = ["git", "clone", "--quiet", "-c", "core.autocrlf=true", ROOT, tmp_path / "clone"]
    if not (ROOT / ".git").exists() or subprocess.run(clone, check=False).returncode:
        pytest.skip("no git repository")
    stated = json.loads((TINY / "MANIFEST.json").read_text())["files"]
    for name, digest in stated.items():
        data = (tmp_path / "clone/data/tiny" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest().startswith(digest), name
    assert b"\r\n" not in (tmp_path / "clone/demo.py").read_bytes()
