"""Training without posttrain/packed: padded rows alone give the run that lines give, to
rounding."""

import importlib

import pytest
import torch
from conftest import ROWS, adapter_of, log_lines, run_main, write


def directions(out):
    """What training has moved, as one vector: the B matrices, which start at zero."""
    tensors = [tensor for name, tensor in sorted(adapter_of(out).items()) if "lora_B" in name]
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_a_run_that_is_never_taught_lines(base, tmp_path, monkeypatch, stage):
    """The loss of the first step to 1e-4, that of the last to 1e-3, and nearly the same direction
    of the adapter."""
    data = write(tmp_path / "data.jsonl", ROWS[stage](11))
    words = ["--model", base, "--data", data, "--quantize", "none", "--batch-size", 4]
    words += ["--lora-r", 2, "--lr", 0.01, "--pack-tokens", 90]
    assert run_main(stage, *words, "--out", tmp_path / "lines/run") == 0

    modules, taught = importlib.import_module(stage), []
    monkeypatch.setattr(modules, "teach_lines", taught.append)
    assert run_main(stage, *words, "--out", tmp_path / "rows/run") == 0

    assert len(taught) == 1 and not hasattr(taught[0].get_base_model(), "line_reader")
    lines, rows = log_lines(tmp_path / "lines/run"), log_lines(tmp_path / "rows/run")
    assert len(lines) == len(rows) == 3
    assert rows[0]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-4)
    assert rows[0]["grad_norm"] == pytest.approx(lines[0]["grad_norm"], rel=1e-3)
    assert rows[-1]["loss"] == pytest.approx(lines[-1]["loss"], rel=1e-3)
    one, other = directions(tmp_path / "lines/run"), directions(tmp_path / "rows/run")
    assert one.norm() > 0 and torch.cosine_similarity(one, other, dim=0) > 0.999
