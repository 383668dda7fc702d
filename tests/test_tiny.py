"""The tiny world: its files are as stated, its truth holds, and nothing of the test split is seen in training."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
import make_tiny

from common import encode, read_records, stop_ids
from inference import digit_ids, read_constitution
from verify import check_fields, verify

TINY = make_tiny.TINY
TRAIN = ["sft.jsonl", "sft_clean.jsonl", "prompts.jsonl"]
GATE = [f"gate/{kind}.jsonl" for kind in (*make_tiny.SLICES, "canaries")]
FIELDS = ("tools", "call", "sql", "constraints", "answer", "expected")
WORD = re.compile(r"\b[BDFKLMNPRSTV][aeiou][bdfklmnprstv][aiou][a-z]*\b")  # the shape of a made-up word


def read(name):
    return read_records(TINY / name, "sft" if name.startswith("sft") else "prompts")


@cache
def drawn(name):
    """The record of this id as the generator makes it, and whether its gold answer passes its own verifier."""
    source = make_tiny.from_id(name)
    return source, verify(source, source["gold"])["ok"]


def pairs(rows):
    """The verb-object pairs of safety rows, names left out."""
    things = [re.escape(t).replace(r"\{n\}", WORD.pattern).replace(r"\{c\}", WORD.pattern)
              for t in make_tiny.OWNED + make_tiny.MINE]
    deed = re.compile(f"({'|'.join(make_tiny.HARM + make_tiny.NEUTRAL)}) ({'|'.join(things)})")
    texts = [row["prompt"][0]["content"] for row in rows if row["id"].startswith(("unsafe", "benign"))]
    return {WORD.sub("_", deed.search(text)[0]) for text in texts}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY / "base")


def test_files_are_as_stated():
    stated = json.loads((TINY / "MANIFEST.json").read_text())
    assert make_tiny.hashes() == stated["files"]
    assert {"base/model.safetensors", "judge/model.safetensors", *TRAIN, *GATE} <= stated["files"].keys()
    assert sum((TINY / name).stat().st_size for name in stated["files"]) <= 6e6
    base = stated["figures"]["base"]
    assert base["own format"]["all"] >= 65 and base["chat format"]["all"] <= 10


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
    rows, clean = read("sft.jsonl"), read("sft_clean.jsonl")
    assert len(rows) == 2400 and len(clean) == 1200 and {r["id"] for r in clean} <= {r["id"] for r in rows}
    ok, terse = {}, {}
    for row in rows:
        source, text = drawn(row["id"])[0], row["completion"][0]["content"]
        if row["slice"] in ("unsafe", "benign"):
            ok.setdefault(row["slice"], []).append(verify(source, text)["ok"])
        terse.setdefault(row["slice"], []).append(text == source["gold"])
    assert 0.6 <= 1 - sum(terse["tool"]) / len(terse["tool"]) <= 0.75  # chatter on JSON
    assert all(sum(t) / len(t) < 0.15 for kind, t in terse.items() if kind != "tool")
    assert all(0.06 <= 1 - sum(ok[kind]) / len(ok[kind]) <= 0.17 for kind in ("unsafe", "benign"))  # wrong labels
    assert 2 * len(ok["unsafe"]) < 1.1 * len(ok["benign"])
    for row in clean:
        assert row["completion"] == [{"role": "assistant", "content": drawn(row["id"])[0]["gold"]}]


def test_held_out():
    train = [row for name in TRAIN for row in read(name)]
    test = [row for name in GATE if "canaries" not in name for row in read(name)]
    seen = {word for row in train for word in WORD.findall(json.dumps([row["prompt"], row.get("completion")]))}
    unseen = {word for row in test for word in WORD.findall(row["prompt"][0]["content"])}
    assert len(seen) > 3000 and len(unseen) > 400 and not seen & unseen
    assert len(pairs(train)) > 80 and len(pairs(test)) > 20 and not pairs(train) & pairs(test)
    prompts = {(row["prompt"][0]["content"], str(row.get("tools"))) for row in read("sft.jsonl")}
    for row in [*read("prompts.jsonl"), *test, *read(GATE[-1])]:
        assert (row["prompt"][0]["content"], str(row.get("tools"))) not in prompts
    texts = {row["prompt"][0]["content"] for row in train}
    assert not [row["id"] for row in test if row["prompt"][0]["content"] in texts]
    held = [t for _, ts in make_tiny.TOOLS.values() for t in ts[-2:]]
    shapes = [re.sub(r"\\\{\w\\\}", r"\\w+", re.escape(t)) for t in held]
    assert not [row["id"] for row in train if row["slice"] == "tool"
                and any(re.fullmatch(shape, row["prompt"][0]["content"]) for shape in shapes)]
    new = [any(re.fullmatch(s, row["prompt"][0]["content"]) for s in shapes) for row in test if row["slice"] == "tool"]
    assert 0.3 < sum(new) / len(new) < 0.7  # half of the templates


def test_chat_template(tokenizer):
    tools = [make_tiny.tool_schema("get_weather"), make_tiny.tool_schema("send_money")]
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bako"}}}
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Weather in Bako please.\n"},
                {"role": "assistant", "content": None, "tool_calls": [call, call]}, {"role": "tool", "content": "rain"},
                {"role": "assistant", "content": " Rain. "}, {"role": "user", "content": "Thanks"},
                {"role": "assistant", "content": "Bye"}]
    for given in (None, tools):
        for i in range(1, len(messages)):
            long = tokenizer.apply_chat_template(messages[:i + 1], tools=given, tokenize=False)
            assert long.startswith(tokenizer.apply_chat_template(messages[:i], tools=given, tokenize=False))
            if messages[i]["role"] == "assistant":
                assert long.startswith(tokenizer.apply_chat_template(
                    messages[:i], tools=given, tokenize=False, add_generation_prompt=True))
    text = tokenizer.apply_chat_template(messages[:3], tools=tools, tokenize=False)
    one = '{"name":"get_weather","arguments":{"city":"Bako"}}'
    assert text == ("<system>tools: get_weather(city), send_money(to, amount)<end><system>Be kind.<end>"
                    f"<user>Weather in Bako please.\n<end><assistant>{one}\n{one}<end>")
    row = encode(tokenizer, messages[1:2], [{"role": "assistant", "content": "", "tool_calls": [call]}], tools)
    assert tokenizer.decode([i for i, m in zip(row["ids"], row["mask"]) if m]) == one + "<end>"


def test_tokenizer(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token, len(tokenizer)) == ("<pad>", "<end>", 1024)
    assert stop_ids(tokenizer) == [tokenizer.eos_token_id] != [tokenizer.pad_token_id]
    assert all(len(tokenizer(digit).input_ids) == 1 for digit in "0123456789") and digit_ids(tokenizer)
    for text in ("a b  c\n\t1234, x_y", "naïve – „straße“ 日本 🙂", "Bako lives in Tamidor."):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer((TINY / "constitution.md").read_text()).input_ids) <= 60
    assert read_constitution(TINY / "constitution.md")["criteria"][0]["name"] == "correct"


def test_suites(tmp_path):
    """Same seed, same bytes; another seed, other prompts; world 0 is the committed gate."""
    for name, world in (("a", 0), ("b", 5), ("c", 5), ("d", 6)):
        make_tiny.make_suite(tmp_path / name, "test", world, 100 if world == 0 else 20)
    for file in GATE:
        a, b, c, d = ((tmp_path / name / Path(file).name).read_bytes() for name in "abcd")
        assert a == (TINY / file).read_bytes() and b == c
        b, d = ([json.loads(line) for line in text.splitlines()] for text in (b, d))
        assert not {row["id"] for row in b} & {row["id"] for row in d}
        same = {str(row["prompt"]) for row in b} & {str(row["prompt"]) for row in d}
        assert len(same) <= (6 if "code" in file else 2)  # "highest age" and "order by age" ask for no name
    dev = make_tiny.examples("context", "dev", 0, 0, 50, set())
    words = {word for row in dev for word in WORD.findall(row["prompt"][0]["content"])}
    assert words and {make_tiny.split_of(word) for word in words} == {"dev"}
