"""A stage is copied with common.py and posttrain/, and runs to its end from wherever it is started."""

import os
import shutil

import pytest
from conftest import ROOT, ROWS, write

CONSTITUTION = "# Constitution: short\n\n## good\nIs it good?\n0: no\n3: nearly\n5: yes\n"
TRAINING = ["--data", "data.jsonl", "--out", "run", "--lora-r", "2"]
# Words for each stage, beside --model; what it must have written; its exit code.
STAGES = {
    "sft": (TRAINING, ["run/adapter_model.safetensors", "run/curves.png"], 0),
    "dpo": (TRAINING, ["run/adapter_model.safetensors", "run/curves.png"], 0),
    "kto": (TRAINING, ["run/adapter_model.safetensors", "run/curves.png"], 0),
    "gen_candidates": (
        ["--data", "prompts.jsonl", "--out", "made.jsonl", "--n", "2", "--max-tokens", "3"],
        ["made.jsonl", "made.run.json"],
        0,
    ),
    "judge": (
        ["--data", "candidates.jsonl", "--constitution", "c.md", "--out", "judged"],
        ["judged/pairs.jsonl", "judged/report.json"],
        0,
    ),
    "gate": (
        ["--suite", "prompts.jsonl", "--out", "gate", "--max-tokens", "2"],
        ["gate/report.html", "gate/report.md", "gate/items.jsonl"],
        3,  # two prompts are not enough
    ),
}


def write_inputs(folder, stage):
    """Small inputs of every stage."""
    prompts = [{"id": f"q{n}", "prompt": f"what is {n}?", "answer": n} for n in range(2)]
    candidates = [row | {"completion": str(k)} for row in prompts for k in range(2)]
    write(folder / "prompts.jsonl", prompts)
    write(folder / "candidates.jsonl", candidates)
    write(folder / "data.jsonl", ROWS.get(stage, ROWS["sft"])(9))
    (folder / "c.md").write_text(CONSTITUTION)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_from_a_copy_in_another_folder(base, forker, tmp_path, stage):
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    copy.mkdir()
    elsewhere.mkdir()
    for name in (f"{stage}.py", "common.py"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(
        ROOT / "posttrain", copy / "posttrain", ignore=shutil.ignore_patterns("__pycache__")
    )
    write_inputs(elsewhere, stage)
    words, written, code = STAGES[stage]
    models = ["--judge", "random"] if stage == "judge" else ["--model", base]
    if stage == "gate":
        models += ["--baseline", base]

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    argv = [copy / f"{stage}.py", *models, *words]
    ended = forker.start(argv, tmp_path, folder=elsewhere, environment=environment).wait()
    assert ended.returncode == code, ended.stderr[-2000:]
    for name in written:
        assert (elsewhere / name).is_file(), name


def test_every_stage_is_tried():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert scripts - {"common", "demo"} == {*STAGES}
