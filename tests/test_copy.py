"""A stage is copied with common.py and posttrain/, and runs from wherever it is started."""

import os
import shutil

import pytest
from conftest import ROOT, ROWS, write


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_a_trainer_runs_from_a_copy_in_another_folder(base, forker, tmp_path, stage):
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    copy.mkdir()
    elsewhere.mkdir()
    for name in (f"{stage}.py", "common.py"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(
        ROOT / "posttrain", copy / "posttrain", ignore=shutil.ignore_patterns("__pycache__")
    )
    write(elsewhere / "data.jsonl", ROWS[stage](9))
    words = ["--model", base, "--data", "data.jsonl", "--out", "run", "--lora-r", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    argv = [copy / f"{stage}.py", *words]
    ended = forker.start(argv, tmp_path, folder=elsewhere, environment=environment).wait()
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (elsewhere / "run/adapter_model.safetensors").is_file()
    assert (elsewhere / "run/curves.png").is_file()
