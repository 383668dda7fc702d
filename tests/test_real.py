"""Records, weights and tokenizers that nobody here wrote: five layouts through the trainers with a real small model."""

import json
import math
from functools import partial

import benchmarks
import pytest
from conftest import adapter_of, log_lines, run_main

import dpo
import kto
import sft
from posttrain.model.load import load_tokenizer
from posttrain.records.mixture import read_mixture
from posttrain.train.rows import prepare

FILES = [
    ("sft", "sft/dolly1000", "sft", []),
    ("sft", "sft/glaive_toolcall300", "sft", []),
    ("sft", "sft/glaive_toolcall300", "sft", ["--all-turns"]),
    ("dpo", "pref/oasst_ranked_pairs", "pairs", []),
    ("dpo", "pref/llamafactory_dpo_en", "pairs", ["--loss", "ipo"]),
    ("kto", "kto/llamafactory_kto_en", "labels", []),
]


def one_step(real, tmp_path, script, data, *flags):
    assert (
        run_main(
            script,
            "--model",
            real / "models/stories260K",
            "--data",
            data,
            "--out",
            tmp_path / "run",
            "--limit",
            12,
            "--max-steps",
            1,
            "--batch-size",
            4,
            "--max-len",
            4096,
            "--max-dropped",
            0.2,
            "--lora-r",
            4,
            *flags,
        )
        == 0
    )
    (line,) = log_lines(tmp_path / "run")
    assert math.isfinite(line["loss"]) and line["grad_norm"] > 0
    expected = {"dpo": 0.25 if flags else math.log(2)}.get(script)
    assert expected is None or line["loss"] == pytest.approx(expected, rel=1e-3)
    assert any(
        tensor.abs().max() > 0
        for name, tensor in adapter_of(tmp_path / "run").items()
        if "lora_B" in name
    )


@pytest.mark.parametrize(("script", "name", "kind", "flags"), FILES)
def test_one_step(real, tmp_path, script, name, kind, flags):
    """Twelve of the file's shortest rows: long ones cost minutes."""
    lines = sorted(
        (real / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(), key=len
    )
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
    if script == "kto":
        rows, _ = kto.read_answers(rows, 3.0)
    encode_row = {
        "sft": partial(sft.encode_conversation, all_turns="--all-turns" in flags, think=False),
        "dpo": dpo.encode_pair,
        "kto": kto.encode_answer,
    }[script]
    kept = prepare(rows, partial(encode_row, tokenizer, max_len=4096), tokenizer, 0.2)
    with capsys.disabled():
        print(f"\n{name} {' '.join(flags)}: {len(kept)} of {len(rows)}")
    assert len(kept) >= 0.8 * len(rows)


def test_public_benchmarks_through_the_gate(real, tmp_path):
    """GSM8K, MMLU, HumanEval, IFEval and MGSM as suites, gated with a model that knows none of them: to the end, near
    chance, and with intervals that say so."""
    files = {
        "gsm8k": "gsm8k_test",
        "mmlu": "mmlu_test2000",
        "humaneval": "humaneval164",
        "ifeval": "ifeval541",
        "mgsm": "mgsm",
    }
    (tmp_path / "suite").mkdir()
    for layout, name in files.items():
        benchmarks.main(
            benchmarks.parse_args(
                [
                    layout,
                    str(real / "data/eval" / f"{name}.jsonl"),
                    "--limit",
                    "8" if layout == "ifeval" else "3",
                    "--out",
                    str(tmp_path / "suite" / f"{layout}.jsonl"),
                ]
            )
        )
    words = [
        "--baseline",
        real / "models/stories260K",
        "--suite",
        tmp_path / "suite",
        "--max-tokens",
        8,
        "--run-code",
    ]
    assert (
        run_main("gate", "--model", real / "models/stories260K", *words, "--out", tmp_path / "out")
        == 3
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {"gsm8k", "mmlu", "humaneval", "ifeval", "mgsm-de"} <= report[
        "slices"
    ].keys() and not report["missing"]
    assert report["slices"]["mmlu"]["type"] == "mc" and report["slices"]["mmlu"]["k"] is None
    for name, s in report["slices"].items():
        assert (
            s["verdict"] == "UNSURE"
            and s["low"] <= s["delta"] <= s["high"]
            and s["high"] - s["low"] > 0.3
        ), name
    assert all(
        report["slices"][name]["candidate"] == 0 for name in ("gsm8k", "humaneval", "mgsm-de")
    )
