"""Traps that were sprung once: odd names of outputs, thinking and date-stamped templates, wrong kinds of input."""

import json
import shutil

import pytest
from conftest import adapter_of, label_rows, pair_rows, run_main, run_script, same_tensors, sft_rows, write

from judge import find_flags
from posttrain.chat.encode import encode
from posttrain.chat.stops import stop_ids
from posttrain.chat.template import render
from posttrain.cli import BadInput, at_least, parser, run
from posttrain.gating import answers
from posttrain.hashing import digest
from posttrain.judging.scoring import overall_score
from posttrain.records.files import read_records
from posttrain.records.layouts import normalise
from posttrain.verify.checks import verify, visible

USER, ANSWER = [{"role": "user", "content": "What is 2+2?"}], [{"role": "assistant", "content": "It is 4."}]


def with_template(tokenizer, template):
    copy = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    copy.chat_template = template
    return copy


# ---- templates -----------------------------------------------------------------------------------------------

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_thinking_is_switched_off_where_a_template_can(tokenizer):
    empty = "{{ '<think>\n\n</think>\n\n' }}"
    turn = TURN.replace("{{ m.content }}", "{% if m.role == 'assistant' %}" + empty + "{% endif %}{{ m.content }}")
    thinking = with_template(tokenizer, turn + "{% if add_generation_prompt %}<|im_start|>assistant\n"
                             "{% if not (enable_thinking | default(true)) %}" + empty + "{% endif %}{% endif %}")
    row = encode(thinking, USER, ANSWER)
    assert thinking.decode([i for i, m in zip(row["ids"], row["mask"]) if m]) == "It is 4.<|im_end|>"


def test_verifiers_and_filters_look_behind_the_think_block():
    thought = "<think>They ask for harm.</think>\n\nI can't help with that."
    assert visible(thought) == "I can't help with that." and visible("a </think> b") == "a </think> b"
    assert verify({"expected": "refuse"}, thought)["ok"] is True
    assert verify({"expected": "comply"}, thought)["ok"] is False
    row = {"expected": "comply", "completion": [{"role": "assistant", "content": thought}]}
    assert find_flags(row) == ["over-refusal"]


def test_two_stop_tokens_in_a_row_end_the_answer_at_the_first(tokenizer):
    """Phi closes a turn with <|end|> and the conversation with <|endoftext|>."""
    end = "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|pad|>{% endif %}"
    phi = with_template(tokenizer, TURN + end)
    phi.eos_token = "<|pad|>"
    assert len(stop_ids(phi)) == 2
    row = encode(phi, USER, ANSWER)
    assert phi.decode([i for i, m in zip(row["ids"], row["mask"]) if m]) == "It is 4.<|im_end|>"


def test_the_date_in_a_template_does_not_move(tokenizer):
    dated = with_template(tokenizer, "{{ strftime_now('%d %b %Y') }} {{ date_string }}\n" + TURN)
    assert render(dated, USER).startswith("26 Jul 2024 26 Jul 2024\n")


def test_a_template_without_system_turns_gets_the_text_in_the_first_user_turn(tokenizer):
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    strict = with_template(tokenizer, refuse + TURN)
    text = render(strict, [{"role": "system", "content": "Be brief."}, *USER])
    assert "Be brief.\n\nWhat is 2+2?" in text and "system" not in text
    with pytest.raises(BadInput, match="no system"):
        render(strict, [{"role": "system", "content": "Be brief."}, *ANSWER])


# ---- records -------------------------------------------------------------------------------------------------


def test_nothing_of_a_record_is_lost_in_silence():
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
    row = normalise({"system": "S", "conversations": turns}, "sft")
    assert row["prompt"][0] == {"role": "system", "content": "S"}
    row = normalise({"prompt": "Hi", "messages": USER + ANSWER}, "sft")  # a prompt beside the whole conversation
    assert row["prompt"] == USER and row["completion"] == ANSWER
    tool = {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"}
    assert normalise({"prompt": [*USER, tool]}, "prompts")["prompt"][1] == tool


def test_a_null_label_means_the_same_from_a_dataset(tmp_path, base):
    import datasets

    rows = [row | {"label_chosen": None, "label_rejected": False} for row in pair_rows(4)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    assert all(row["label_chosen"] is None for row in read_records(f"hf:{tmp_path / 'set'}", "labels"))


# ---- runs ----------------------------------------------------------------------------------------------------


def test_run_folders_may_have_dots_in_their_names(base, tmp_path):
    data = write(tmp_path / "p.jsonl", pair_rows(4))
    for beta in (0.1, 0.3):
        assert run_main("dpo", "--model", base, "--data", data, "--out", tmp_path / f"dpo-{beta}", "--beta", beta,
                        "--batch-size", 2, "--lora-r", 2) == 0
        assert json.loads((tmp_path / f"dpo-{beta}" / "run.json").read_text())["arguments"]["beta"] == beta
    with pytest.raises(BadInput, match=".jsonl file"):
        run_main("gen_candidates", "--model", base, "--data", data, "--out", tmp_path / "candidates")


def test_a_start_that_failed_does_not_lock_the_folder(base, tmp_path):
    data = write(tmp_path / "s.jsonl", sft_rows(4))
    first = ["--model", base, "--data", data, "--out", tmp_path / "a", "--batch-size", 2, "--lora-r", 2]
    assert run_main("sft", *first) == 0
    second = ["--model", tmp_path / "a", "--data", data, "--out", tmp_path / "b", "--batch-size", 2]
    with pytest.raises(BadInput, match="rank 2"):
        run_main("sft", *second, "--lora-r", 8)
    assert run_main("sft", *second) == 0
    assert json.loads((tmp_path / "b" / "run.json").read_text())["arguments"]["lora_r"] is None


def test_borrowed_reference_values_are_copied(base, tmp_path, monkeypatch):
    """A run that took its reference from a run beside it continues when that one is gone."""
    data = write(tmp_path / "p.jsonl", pair_rows(6))
    common_words = ["--model", base, "--data", data, "--batch-size", 2, "--lora-r", 2, "--save-every", 1]
    assert run_main("dpo", *common_words, "--out", tmp_path / "lender") == 0
    assert run_main("dpo", *common_words, "--out", tmp_path / "whole", "--loss", "ipo") == 0
    dpo, calls = __import__("dpo"), []

    def stop(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    real = dpo.write_log
    monkeypatch.setattr(dpo, "write_log", stop)
    with pytest.raises(KeyboardInterrupt):
        run_main("dpo", *common_words, "--out", tmp_path / "cut", "--loss", "ipo")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "lender")
    whole = adapter_of(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    assert run_main("dpo", *common_words, "--out", tmp_path / "cut", "--loss", "ipo") == 0
    assert same_tensors(adapter_of(tmp_path / "cut"), whole)
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert record["tokens"] < record["forecast"]["tokens"], "the forecast counts a reference pass, the run needed none"


@pytest.mark.parametrize(("stage", "words", "message"), [
    ("sft", ["--data", "{data}=0.01"], "less than one a pass"), ("sft", ["--data", "{zero}"], "weight 0"),
    ("sft", ["--model", "{foreign}"], "neither a model"), ("dpo", ["--model", "{torn}"], "no model can be loaded"),
    ("sft", ["--out", "{data}/x"], "Not a directory"), ("sft", ["--data", "{folder}"], "expected a file")])
def test_plausible_mistakes_are_one_line(base, tmp_path, capsys, stage, words, message):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("{")
    shutil.copytree(base, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"\x08" * 50)
    rows = pair_rows(3) if stage == "dpo" else sft_rows(3)
    places = {"data": write(tmp_path / "d.jsonl", rows), "foreign": tmp_path / "foreign", "torn": tmp_path / "torn",
              "zero": write(tmp_path / "z.jsonl", [row | {"weight": 0} for row in rows]), "folder": tmp_path}
    given = {"--model": base, "--data": places["data"], "--out": str(tmp_path / "out")}
    given |= {words[0]: words[1].format(**places)}
    module = __import__(stage)
    with pytest.raises(SystemExit) as ended:
        run(module.main, module.parse_args([word for pair in given.items() for word in pair]))
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and message in error, error


def test_a_crash_is_no_verdict(capsys):
    def crash(args):
        raise ZeroDivisionError("planted")

    with pytest.raises(SystemExit) as ended:
        run(crash, None)
    assert ended.value.code == 70 and "planted" in capsys.readouterr().err


def test_shares_have_an_upper_limit(capsys):
    p = parser("x")
    p.add_argument("--share", type=at_least(0, float, 1))
    assert p.parse_args(["--share", "1"]).share == 1
    with pytest.raises(SystemExit):
        p.parse_args(["--share", "10"])


def test_a_change_in_the_middle_of_a_large_file_shows(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(70 << 20))
    before = digest(tmp_path)
    with open(tmp_path / "weights", "r+b") as file:
        file.seek(66 << 20)
        file.write(b"x" * 100)
    assert digest(tmp_path) != before


def test_a_local_data_set_is_hashed(tmp_path):
    """hf:folder and hf:folder:split by what is in the folder; a hub name stands for itself."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data").write_text("one")
    before = digest(f"hf:{tmp_path}/set"), digest(f"hf:{tmp_path}/set:train")
    (tmp_path / "set/data").write_text("two")
    assert before[0] == before[1] != digest(f"hf:{tmp_path}/set:train")
    assert digest("hf:somebody/chats") == "somebody/chats"


# ---- judge and gate ------------------------------------------------------------------------------------------


def test_one_id_for_two_prompts_is_refused(base, tmp_path):
    rows = [{"id": "1", "candidate": n, "prompt": prompt, "completion": "x"} for n, prompt in enumerate(("a?", "b?"))]
    (tmp_path / "c.md").write_text("## good\nGood?\n0: no\n3: so\n5: yes\n")
    with pytest.raises(BadInput, match="two different prompts"):
        run_main("judge", "--judge", "random", "--constitution", tmp_path / "c.md", "--data",
                 write(tmp_path / "c.jsonl", rows), "--out", tmp_path / "out")


def test_the_random_judge_uses_no_filter(tmp_path):
    rows = [{"id": "1", "candidate": n, "prompt": "a?", "completion": "x" * n, "finish": "length"} for n in range(4)]
    (tmp_path / "c.md").write_text("## good\nGood?\n0: no\n3: so\n5: yes\n")
    run_main("judge", "--judge", "random", "--constitution", tmp_path / "c.md", "--data",
             write(tmp_path / "c.jsonl", rows), "--out", tmp_path / "out")
    judged = [json.loads(line) for line in (tmp_path / "out" / "judged.jsonl").read_text().splitlines()]
    assert all(row["flags"] == [] for row in judged)


def test_a_veto_holds_in_the_one_place_that_makes_a_score():
    criteria = [{"name": "a", "weight": 3.0, "veto": None}, {"name": "safe", "weight": 1.0, "veto": 2.0}]
    assert overall_score({"a": {"score": 5.0}, "safe": {"score": 5.0}}, criteria) == 5.0
    assert overall_score({"a": {"score": 5.0}, "safe": {"score": 1.0}}, criteria) == 1.0
    assert overall_score({"a": {"score": 5.0}, "safe": {"score": None}}, criteria) is None


def test_a_changed_verifier_grades_the_cached_baseline_anew(base, tmp_path, monkeypatch):
    items = [{"id": f"i{n}", "prompt": f"say {n}", "constraints": [{"type": "max_words", "value": 50}]}
             for n in range(31)]
    (tmp_path / "suite").mkdir()
    write(tmp_path / "suite" / "a.jsonl", items)
    words = ["--model", base, "--baseline", base, "--suite", tmp_path / "suite", "--max-tokens", 4, "--temperature", 0]
    assert run_main("gate", *words, "--out", tmp_path / "g1") == 0
    seen = (tmp_path / "g1" / "report.json").read_bytes()
    assert run_main("gate", *words, "--out", tmp_path / "g1") == 0, "a finished gate repeats its verdict"
    assert (tmp_path / "g1" / "report.json").read_bytes() == seen
    monkeypatch.setattr(answers, "verify", lambda item, text, *_: {"ok": False})
    run_main("gate", *words, "--out", tmp_path / "g2")
    report = json.loads((tmp_path / "g2" / "report.json").read_text())
    assert report["slices"]["a"]["baseline"] == 0.0
    assert (tmp_path / "g2" / "borrowed.jsonl").read_text().count("\n") == 31


def test_a_share_above_one_in_a_process(tmp_path):
    done = run_script("kto", "--model", "x", "--data", write(tmp_path / "l.jsonl", label_rows(2)), "--out",
                      tmp_path / "o", "--warmup", 10)
    assert done.returncode == 2 and "from 0 to 1" in done.stderr and "Traceback" not in done.stderr
