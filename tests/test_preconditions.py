"""What a model cannot read is said by every stage in one line, before a model is loaded: tokens that its embedding
lacks, texts longer than its positions, a number format that its weights cannot have."""

import json
import shutil

import pytest
import transformers
from conftest import ROWS, make_model, make_tokenizer, run_main, write
from judge_samples import save_reward_model

import gate
import posttrain.model.load
from posttrain.cli import BadInput

TRAINERS = ["sft", "dpo", "kto"]
STAGES = [*TRAINERS, "gen_candidates", "judge", "gate"]
ANSWER = {"sft": "completion", "dpo": "rejected", "kto": "completion"}
EXTRA = "<answer>"  # a token that is added to the tokenizer alone
CONSTITUTION = "# Constitution: short\n## right\nIs it right?\n0: no\n3: mostly\n5: yes {}\n"


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch):
    for name in ("AutoModelForCausalLM", "AutoModelForSequenceClassification"):
        kind = getattr(posttrain.model.load.transformers, name)

        def refuse(*words, **more):
            raise AssertionError("a model was loaded")

        monkeypatch.setattr(kind, "from_pretrained", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: model folder}: with a token too many, with 300 positions, with 60 learned ones, quantised already."""
    top = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer()
    model = make_model()

    model.save_pretrained(top / "small")
    more = make_tokenizer()
    more.add_tokens([EXTRA])
    more.save_pretrained(top / "small")

    model.config.max_position_embeddings = 60
    model.config.save_pretrained(top / "rope")
    settings = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_id": 2}
    gpt2 = transformers.GPT2Config(n_positions=60, **settings)
    transformers.GPT2LMHeadModel(gpt2).save_pretrained(top / "learned")

    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    model.config.save_pretrained(top / "quantised")
    for name in ("rope", "learned", "quantised"):
        tokenizer.save_pretrained(top / name)
    return {path.name: str(path) for path in top.iterdir()}


def command(stage, model, folder, text="", *more):
    """A small run's plan. `text` stands in what the model reads of the row "bad"."""
    words = ["--plan", "--judge" if stage == "judge" else "--model", model]
    words += ["--out", folder / ("run.jsonl" if stage == "gen_candidates" else "run")]
    rows = [{"id": f"p{n}", "prompt": f"{n} cats"} for n in range(4)]
    rows[2] |= {"id": "bad", "prompt": f"the cat {text}"}
    if stage in TRAINERS:
        rows = ROWS[stage](9)
        rows[4] |= {"id": "bad", ANSWER[stage]: f"the cat {text}"}
    elif stage == "judge":
        constitution = folder / "c.md"
        constitution.write_text(CONSTITUTION.format(text if EXTRA in text else ""))
        words += ["--constitution", constitution]
        answers = [{"completion": "the house"}, {"completion": "the dog ran"}]
        rows = [row | answer for row in rows for answer in answers]
    else:
        words += ["--max-tokens", 8]
    if stage == "gate":
        rows = [row | {"type": "verify", "answer": "4"} for row in rows]
        words += ["--baseline", model]
    words += ["--suite" if stage == "gate" else "--data", write(folder / "data.jsonl", rows)]
    return [*words, *more]


# ---- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_token_that_the_embedding_lacks(folders, tmp_path, stage):
    """The row (of the judge the first: every row has the rubric), the token, its id, the embedding."""
    place = "'p0'" if stage == "judge" else "'bad'"
    with pytest.raises(BadInput, match=f"id {place}: the token '<answer>' has the id 320.* 320 "):
        run_main(stage, *command(stage, folders["small"], tmp_path, EXTRA))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", TRAINERS)
def test_the_mask_of_such_a_token_is_not_shown(folders, tmp_path, stage):
    with pytest.raises(BadInput, match="the token '<answer>'"):
        run_main(stage, *command(stage, folders["small"], tmp_path, EXTRA, "--show-mask"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_token_that_nothing_uses_may_be_missing(folders, tmp_path, capsys, stage):
    """Gemma 3 1B has one. A line says so, once for each model."""
    run_main(stage, *command(stage, folders["small"], tmp_path, ""))
    printed = capsys.readouterr().out
    line = "note     1 tokens of the tokenizer, such as '<answer>', are not among the 320"
    assert printed.count(line) == (2 if stage == "gate" else 1) and "plan  " in printed


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "gen_candidates", "gate"])
def test_an_answer_could_not_end(folders, tmp_path, stage):
    """A stop token beyond the embedding."""
    shutil.copytree(folders["small"], tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.eos_token = EXTRA
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(BadInput, match="the end of an answer: the token '<answer>'"):
        run_main(stage, *command(stage, str(tmp_path / "model"), tmp_path, ""))


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_the_reference_reads_the_same_tokens(base, folders, tmp_path, stage):
    """Its vocabulary is the same, and its embedding has them, too."""
    both = make_tokenizer()
    both.add_tokens([EXTRA])
    large = tmp_path / "large"
    model = make_model()
    model.resize_token_embeddings(321)
    model.save_pretrained(large)
    both.save_pretrained(large)
    words = command(stage, str(large), tmp_path, EXTRA, "--ref")
    with pytest.raises(BadInput, match=f"--ref {base}: not the tokenizer of --model"):
        run_main(stage, *words, base)
    with pytest.raises(BadInput, match="the embedding of .*small has 320"):
        run_main(stage, *words, folders["small"])
    assert run_main(stage, *words, str(large)) == 0


def test_the_prompts_of_a_reward_model(tmp_path):
    """It reads no rubric; tokens of the prompt are read as the template's."""
    folder = save_reward_model(tmp_path / "reward")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([EXTRA])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match="id 'bad': the token '<answer>'"):
        run_main("judge", *command("judge", folder, tmp_path, EXTRA))


# ---- length --------------------------------------------------------------------------------------

LONG = "cat " * 60


@pytest.mark.parametrize("stage", STAGES)
def test_texts_that_are_too_long(folders, tmp_path, capsys, stage):
    """Refused with their row where positions are learned; elsewhere a warning."""
    words = command(stage, folders["learned"], tmp_path, LONG)
    with pytest.raises(BadInput, match=r"id 'bad': \d+ tokens .*learned has 60 positions: "):
        run_main(stage, *words)
    assert not (tmp_path / "run").exists()
    words = command(stage, folders["rope"], tmp_path, LONG)
    run_main(stage, *words)
    printed = capsys.readouterr().out
    assert "WARNING  id 'bad': " in printed and "was made for 60: poor results beyond" in printed
    assert "plan  " in printed


@pytest.mark.parametrize("stage", ["sft", "gen_candidates", "gate"])
def test_texts_that_fit(folders, tmp_path, capsys, stage):
    run_main(stage, *command(stage, folders["learned"], tmp_path, "cat"))
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_the_reference_has_fewer_positions(base, folders, tmp_path, stage):
    words = command(stage, base, tmp_path, LONG, "--ref", folders["learned"])
    with pytest.raises(BadInput, match="id 'bad': .*learned has 60 positions: lower --max-len"):
        run_main(stage, *words)


@pytest.mark.parametrize("stage", ["gen_candidates", "gate"])
def test_an_answer_runs_beyond_the_positions(folders, tmp_path, stage):
    """Prompt and answer together are too long."""
    words = command(stage, folders["learned"], tmp_path, "", "--max-tokens", 50)
    with pytest.raises(BadInput, match=r"tokens of prompt \+ --max-tokens 50 .*--truncate left"):
        run_main(stage, *words)


@pytest.mark.parametrize("stage", ["gen_candidates", "gate"])
def test_prompts_are_cut_at_their_start(folders, tmp_path, capsys, stage):
    """To what leaves room for the answer; a line says how many."""
    words = command(stage, folders["learned"], tmp_path, LONG, "--truncate", "left")
    run_main(stage, *words)
    printed = capsys.readouterr().out
    assert "prompts  1 of 4 cut at their start to 52 tokens" in printed
    assert "WARNING" not in printed


def test_a_gate_asks_the_prompts_that_were_cut(folders, tmp_path):
    """Both models; and answers to another cut of a prompt are never borrowed."""
    args = gate.parse_args(["--model", folders["learned"], "--baseline", folders["learned"]])
    items = [{"id": "a", "type": "verify", "prompt": [{"role": "user", "content": LONG}]}]
    args.truncate = "left"
    keys = set()
    for args.max_tokens in (8, 9):
        sides = gate.read_sides(args, items)
        for side in sides.values():
            assert len(side.prompts["a"]) == 60 - args.max_tokens
            keys.add(side.keys["a"])
    assert len(keys) == 2


def test_choices_are_read_behind_their_prompt(folders, tmp_path, capsys):
    """Each choice with the prompt; they are never cut."""
    item = {"id": "m", "type": "mc", "prompt": "which?", "answer": 0}
    words = command("gate", folders["learned"], tmp_path, "")
    for choices, fits in ((["cat", LONG], False), (["cat", "dog"], True)):
        write(tmp_path / "data.jsonl", [item | {"choices": choices}])
        if fits:
            assert run_main("gate", *words) == 0
        else:
            with pytest.raises(BadInput, match=r"id 'm': \d+ tokens of prompt and choice, but "):
                run_main("gate", *words)


def test_choices_with_a_token_that_the_embedding_lacks(folders, tmp_path):
    item = {"id": "m", "type": "mc", "prompt": "which?", "answer": 0, "choices": ["cat", EXTRA]}
    words = command("gate", folders["small"], tmp_path, "")
    write(tmp_path / "data.jsonl", [item])
    with pytest.raises(BadInput, match="id 'm': the token '<answer>'"):
        run_main("gate", *words)


def test_the_judge_of_a_gate_has_no_room(folders, base, tmp_path):
    """Not even for the prompt: said before a model answers."""
    (tmp_path / "c.md").write_text(CONSTITUTION.format(""))
    words = command("gate", base, tmp_path, "", "--constitution", tmp_path / "c.md")
    write(tmp_path / "data.jsonl", [{"id": "j", "type": "judge", "prompt": LONG}])
    with pytest.raises(BadInput, match=r"id 'j': \d+ tokens for the judge, but .*learned has 60"):
        run_main("gate", *words, "--judge", folders["learned"])


def test_pairs_are_longer_than_answers(folders, tmp_path, capsys):
    """A judge that is shown no pairs needs room for one answer."""
    shutil.copytree(folders["rope"], tmp_path / "judge")
    config = json.loads((tmp_path / "judge/config.json").read_text())
    (tmp_path / "judge/config.json").write_text(
        json.dumps(config | {"max_position_embeddings": 300})
    )
    rows = []
    for words_ in (30, 31, 1):
        rows.append({"id": "a", "prompt": "cat?", "completion": "dog ran " * words_})
    words = command("judge", str(tmp_path / "judge"), tmp_path, "")
    write(tmp_path / "data.jsonl", rows)
    assert run_main("judge", *words, "--no-orders") == 0
    assert "WARNING" not in capsys.readouterr().out
    assert run_main("judge", *words) == 0
    assert "WARNING  id 'a': " in capsys.readouterr().out


# ---- number format -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_weights_are_not_quantised_twice(folders, tmp_path, stage):
    words = command(stage, folders["quantised"], tmp_path, "", "--quantize")
    with pytest.raises(BadInput, match=r"quantised already \(gptq\): leave --quantize out"):
        run_main(stage, *words, "nf4")
    for quantize in ("auto", "none"):
        assert run_main(stage, *words, quantize) == 0


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_nor_are_those_of_the_reference(base, folders, tmp_path, stage):
    words = command(stage, base, tmp_path, "", "--ref", folders["quantised"])
    with pytest.raises(BadInput, match=r"quantised already \(gptq\)"):
        run_main(stage, *words, "--quantize", "nf4")
