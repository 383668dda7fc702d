"""How often a gate is wrong: before a run on assumed answers, after it on its own."""

import json
from pathlib import Path

import numpy as np

from posttrain.cli import BadInput
from posttrain.gating.decision import (
    DISCORDANT,
    assumed,
    error_rates,
    known_rates,
    prompts_needed,
    rate_lines,
)
from posttrain.records.jsonl import read_jsonl, write_whole


def power(items, policies, looks):
    """What a suite can show if pass rates are as decision.py assumes; nothing is asked."""
    sizes = {
        name: len(
            {
                item["cluster"]
                for item in items
                if item["slice"] == name and item["type"] not in ("canary", "budget")
            }
        )
        for name in policies
    }
    fixed = {
        name: (np.resize([1.0] + [0.0] * round(1 / DISCORDANT - 1), n), np.arange(n))
        for name, n in sizes.items()
        if policies[name]["once"]
    }
    print(
        f"{'slice':16}{'clusters':>9}{'margin':>8}   prompts that clear it, unchanged, in 95 % at k answers each"
    )
    for name, n in sizes.items():
        needs = [
            prompts_needed(policies[name], k, len(looks))
            for k in ([None] if name in fixed else looks)
        ]
        print(
            f"{name[:15]:16}{n:9}{policies[name]['margin']:8.0%}   "
            + (
                ", ".join(f"k {k}: {need}" for k, need in zip(looks, needs))
                if len(needs) > 1
                else f"one look: {needs[0]}"
            )
            + "   TOO FEW" * (n < needs[-1])
        )
    world = assumed({name: n for name, n in sizes.items() if name not in fixed})
    print("\n".join(rate_lines(error_rates(world, fixed, policies, looks, 400))))
    print(
        "assumed: pass rates of 70 % in the mean, most of them near 0 or 1; --selftest knows better after a gate"
    )
    return 0


def selftest(out, runs=1500):
    """Error rates on the answers of a finished gate, printed and written to selftest.json."""
    try:
        report = json.loads((Path(out) / "report.json").read_text(encoding="utf-8"))
        rates = known_rates(
            [row for _, row in read_jsonl(Path(out) / "items.jsonl")],
            report["policies"],
            report["looks"],
            runs,
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{out}: no finished gate (report.json, items.jsonl) in it; run one first, then --selftest "
            "with its --out"
        ) from None
    print(
        f"on the answers of {report['baseline']}, drawn anew with their prompts:\n"
        + "\n".join(rate_lines(rates))
    )
    write_whole(Path(out) / "selftest.json", json.dumps(rates, indent=1) + "\n")
    return 0
