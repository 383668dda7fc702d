"""Records, weights and tokenizers that nobody here wrote: five layouts through the trainers with a real small model."""

import math

import pytest
from conftest import adapter_of, log_lines, run_main

import kto
from common import encode, read_mixture
from models import load_tokenizer
from training import prepare

FILES = [("sft", "sft/dolly1000", "sft", []), ("sft", "sft/glaive_toolcall300", "sft", []),
         ("sft", "sft/glaive_toolcall300", "sft", ["--all-turns"]),
         ("dpo", "pref/oasst_ranked_pairs", "pairs", []),
         ("dpo", "pref/llamafactory_dpo_en", "pairs", ["--loss", "ipo"]),
         ("kto", "kto/llamafactory_kto_en", "labels", [])]


def one_step(real, tmp_path, script, data, *flags):
    assert run_main(script, "--model", real / "models/stories260K", "--data", data, "--out", tmp_path / "run",
                    "--limit", 12, "--max-steps", 1, "--batch-size", 4, "--max-len", 4096, "--max-dropped", 0.2,
                    "--lora-r", 4, *flags) == 0
    line, = log_lines(tmp_path / "run")
    assert math.isfinite(line["loss"]) and line["grad_norm"] > 0
    expected = {"dpo": 0.25 if flags else math.log(2)}.get(script)
    assert expected is None or line["loss"] == pytest.approx(expected, rel=1e-3)
    assert any(tensor.abs().max() > 0 for name, tensor in adapter_of(tmp_path / "run").items() if "lora_B" in name)


@pytest.mark.parametrize(("script", "name", "kind", "flags"), FILES)
def test_one_step(real, tmp_path, script, name, kind, flags):
    """Twelve of the file's shortest rows: long ones cost minutes."""
    lines = sorted((real / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(), key=len)
    (tmp_path / "short.jsonl").write_text("\n".join(lines[5:17]), encoding="utf-8")
    one_step(real, tmp_path, script, tmp_path / "short.jsonl", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "name", "kind", "flags"), FILES)
def test_one_step_on_the_first_rows(real, tmp_path, script, name, kind, flags):
    one_step(real, tmp_path, script, real / "data" / f"{name}.jsonl", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "name", "kind", "flags"), FILES)
def test_all_rows_are_read_and_encoded(real, capsys, script, name, kind, flags):
    """At most one row in five is lost, no answer is empty in silence, and every kept one ends in a stop token."""
    tokenizer = load_tokenizer(str(real / "models/stories260K"))
    rows = read_mixture([str(real / "data" / f"{name}.jsonl")], kind)
    if kind == "labels":
        rows = [answer for row in rows for answer in kto.unary(row, 3.0)]
    fields = ("chosen", "rejected") if kind == "pairs" else ("completion",)
    kept = prepare(rows, lambda row: row | {"seqs": [
        encode(tokenizer, row["prompt"], row[field], row.get("tools"), 4096, bool(flags) and kind == "sft")
        for field in fields]}, tokenizer, 0.2)
    with capsys.disabled():
        print(f"\n{name} {' '.join(flags)}: {len(kept)} of {len(rows)}")
    assert len(kept) >= 0.8 * len(rows)
