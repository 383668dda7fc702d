"""The cost model by numbers worked out by hand: per million tokens, per hour, and in a run's record."""

import json

import pytest
from conftest import run_main, text_of, write

from common import cost_line, generation_tokens, judge_tokens, money


def test_generation_reads_a_prompt_once_and_writes_n_answers():
    assert generation_tokens(5000, 4, 300, 200) == (1_000_000, 6_000_000)
    assert generation_tokens(3, 1, 7, 11) == (33, 21)


def test_judging_shares_rubric_and_prompt():
    assert judge_tokens(5000, 4, 300, 200, rubric_len=250) == 8_250_000
    assert (
        judge_tokens(1, 1, 10, 20, rubric_len=30) == 60
        and judge_tokens(2, 3, 10, 20, rubric_len=30) == 160
    )


def test_the_worked_example_of_the_readme():
    """5,000 prompts: 7.0 M tokens at 0.20 and 8.25 M at 0.50 per million."""
    read, written = generation_tokens(5000, 4, 300, 200)
    generation, judging = (
        money(read + written, 0.20),
        money(judge_tokens(5000, 4, 300, 200, rubric_len=250), 0.50),
    )
    assert (generation, judging) == pytest.approx((1.40, 4.125))
    half = money(sum(generation_tokens(5000, 2, 300, 200)), 0.20) + money(
        judge_tokens(5000, 2, 300, 200, rubric_len=250), 0.50
    )
    assert 1 - half / (generation + judging) == pytest.approx(0.38, abs=0.005)
    short = generation + money(judge_tokens(5000, 4, 300, 200, rubric_len=125), 0.50)
    assert 1 - short / (generation + judging) == pytest.approx(0.06, abs=0.005)


@pytest.mark.parametrize(
    ("given", "cost"),
    [
        ({"tokens": 1_000_000, "price_per_million": 0.6}, 0.6),
        ({"tokens": 1, "price_per_million": 2.5}, 2.5e-6),
        ({"seconds": 3600, "price_gpu_hour": 0.4}, 0.4),
        ({"seconds": 90, "price_gpu_hour": 2.0}, 0.05),
        ({"tokens": 2_000_000, "price_per_million": 3, "seconds": 1800, "price_gpu_hour": 2}, 7.0),
        ({"tokens": 10**9, "seconds": 10**6}, 0.0),
    ],
)
def test_money_is_per_million_tokens_and_per_hour(given, cost):
    assert money(**given) == pytest.approx(cost, rel=1e-12)


def test_cost_line():
    assert (
        cost_line({"tokens": 12345.6, "seconds": 59.6, "cost": 0.12345})
        == "12,346 tokens, 60 s, cost 0.1235"
    )
    assert cost_line({"tokens": 1, "seconds": None, "cost": None}) == (
        "1 tokens, time unknown (--tokens-per-second), cost unknown"
    )


def test_run_records_carry_forecast_and_measurement(base, tmp_path):
    """Prices that make one token cost 1 and one second cost 1: the record's money is its tokens plus its seconds."""
    prompts = write(
        tmp_path / "p.jsonl",
        [{"id": str(n), "prompt": text_of(n, 4), "answer": n} for n in range(4)],
    )
    run_main(
        "gen_candidates",
        "--model",
        base,
        "--data",
        prompts,
        "--out",
        tmp_path / "c.jsonl",
        "--n",
        2,
        "--max-tokens",
        5,
        "--price-gen",
        1e6,
        "--price-gpu-hour",
        3600,
        "--tokens-per-second",
        10,
    )
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    record, plan = json.loads((tmp_path / "c.run.json").read_text()), 0
    plan = record["forecast"]
    assert plan["seconds"] == plan["tokens"] / 10 and plan["cost"] == pytest.approx(
        plan["tokens"] * 1.1
    )
    assert (
        record["cost"] == pytest.approx(record["tokens"] + record["seconds"])
        and record["seconds"] > 0
    )
    assert (
        record["tokens"] - sum(row["tokens"] for row in rows) == plan["tokens"] - 4 * 2 * 5 > 0
    ), "the prompts, once"
