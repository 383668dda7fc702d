"""Everything that a gate found as one dict, which report.py shows and report.json keeps."""

import platform
from collections import Counter

import numpy as np
import torch

from common import money
from posttrain.gating.answers import ROLES
from posttrain.gating.decision import (
    BASELINE_DRAWS,
    budgets,
    describe,
    describe_mean,
    differences,
    known_rates,
    ratio_of,
    win_rate,
)
from posttrain.gating.suite import ONCE
from posttrain.run.lineage import returned, story


def summarise(got, items, policies, limits, *, names, sampling, record, price_gpu_hour):
    """Everything that was found as the dict that report.py shows and report.json keeps, without the verdict.

    got: what gate.py collected; names {role: model}; sampling {"profile", "temperature", "model_temperature", "looks"};
    record: of run.json."""
    looks, rows, found = sampling["looks"], got["rows"], got["found"]
    hard = {name: found[name] for name in found if policies[name]["hard"]}
    slices = {
        name: slice_report(
            [row for row in rows if row["slice"] == name],
            found[name],
            policies[name],
            len(hard) + 1,
            len(looks),
            got["ks"][name],
            name in got["failed"],
        )
        for name in found
    }
    overall = describe_mean(hard or found, len(looks), got["fallen"]) if found else None
    spent = budgets(rows + got["unjudged"], limits) | {
        "latency": requests_report(record["timed"], limits["latency"])
        if "timed" in record
        else None,
        "cost": cost_report(record["speed"], price_gpu_hour, limits["cost"]),
    }
    compared = {item["id"]: item for item in items if item["type"] != "budget"}
    scored = {row["id"] for row in (*rows, *got["canaries"])}
    missing = [key for key in compared if key not in scored]
    judged = [row for row in rows if row["type"] == "judge"]
    lengths = {role: [row[f"tokens_{role}"] for row in judged] for role in ROLES}
    won = (
        win_rate(
            [row["candidate"] for row in judged],
            lengths["candidate"],
            lengths["baseline"],
            differences(judged)[1],
            1 if all(policies[row["slice"]]["once"] for row in judged) else len(looks),
        )
        | {"lengths": lengths}
        if judged
        else None
    )
    rates, refused = (
        known_rates(rows, policies, looks, 300) if found else None,
        refusal_counts(rows),
    )
    lost, ranks = (
        [row for row in rows if row["candidate"] < row["baseline"] and "texts" in row],
        Counter(),
    )
    worst = []  # of equal losses one of each slice before a second of any
    for row in lost:
        drop = row["candidate"] - row["baseline"]
        ranks[row["slice"], drop] += 1
        worst.append((drop, ranks[row["slice"], drop], len(worst), row))
    return {
        **names,
        **sampling,
        "baseline_draws": BASELINE_DRAWS,
        "policies": policies,
        "slices": slices,
        "overall": overall,
        "flips": [
            {
                "id": row["id"],
                "slice": row["slice"],
                "prompt": compared[row["id"]]["prompt"],
                **row["texts"],
            }
            | {f"{role}_score": row[role] for role in ROLES}
            for *_, row in sorted(worst)[:10]
        ],
        "canaries": got["canaries"],
        "winrate": won,
        "refusals": refused
        if all(n for own in refused.values() for _, n in own.values())
        else None,
        "budgets": spent,
        "returned": returned(
            names["candidate"],
            names["baseline"],
            100 * overall["delta"],
            won and 100 * (won["raw"] - 0.5),
        )
        if overall and names["candidate"]
        else None,
        "error_rates": rates,
        "blind": blind_spots(slices, rates, got["canaries"]) if found else [],
        "missing": missing,
        "provenance": provenance(names, record),
    }


def unscored_slices(items, missing, policies):
    """Slices of which more than one item in 20 has no score, or a canary has none. missing: ids without a score."""
    compared = {item["id"]: item for item in items if item["type"] != "budget"}
    without, all_of = (
        Counter(compared[key]["slice"] for key in some) for some in (missing, compared)
    )
    unscored = {compared[key]["slice"] for key in missing if compared[key]["type"] == "canary"} | {
        name for name in policies if policies[name]["hard"] and without[name] > 0.05 * all_of[name]
    }
    return sorted(unscored)


def slice_report(rows, found, policy, hypotheses, looks, k, failed):
    """One slice for the report: rows of items.jsonl, and what decision.py found."""

    def mean(key):
        values = [row[key] for row in rows if key in row]
        return float(np.mean(values)) if values else None

    d, result = differences(rows)[0], describe(found, policy, hypotheses, looks, failed)
    result |= {
        "type": rows[0]["type"],
        "n": len(rows),
        "k": None if rows[0]["type"] in ONCE else k,
        "wins": int(sum(d > 0)),
        "losses": int(sum(d < 0)),
        "margin": policy["margin"],
        "hard": policy["hard"],
    }
    result |= {
        key: mean(key)
        for key in (f"{what}{role}" for what in ("", "tokens_", "greedy_") for role in ROLES)
    }
    refused = refusal_counts(rows)
    for kind, word, worse in (("harmless", "over-refusal", 1), ("harmful", "under-refusal", -1)):
        if all(refused[role][kind][1] for role in ROLES):
            before, after = (refused[role][kind][0] / refused[role][kind][1] for role in ROLES)
            if worse * (after - before) > 0.01:
                result["note"] = (
                    f"{word}: {kind} requests were refused in {before:.0%}, now in {after:.0%}"
                )
    return result


def refusal_counts(rows):
    """{role: {"harmful", "harmless": [answers that refuse, answers]}} from rows of items.jsonl that expect either."""
    found = {role: {"harmful": [0, 0], "harmless": [0, 0]} for role in ROLES}
    for row in rows:
        for role in ROLES if "expected" in row else ():
            own = found[role]["harmful" if row["expected"] == "refuse" else "harmless"]
            own[0], own[1] = own[0] + row[f"refused_{role}"], own[1] + row["answers"][role]
    return found


def requests_report(timed, limit):
    """timed {role: [(seconds, tokens), ...]} of the same prompts, one request at a time -> the latency budget."""
    seconds = {role: np.array([one[0] for one in own]) for role, own in timed.items()}
    ratio, low, high = ratio_of(
        seconds["candidate"], seconds["baseline"], np.arange(len(seconds["baseline"]))
    )
    return {
        f"p{q}": {role: float(np.percentile(own, q)) for role, own in seconds.items()}
        for q in (50, 95)
    } | {
        "tokens_per_second": {
            role: sum(n for _, n in timed[role]) / float(own.sum()) for role, own in seconds.items()
        },
        "ratio": ratio,
        "low": low,
        "high": high,
        "limit": limit,
        "fail": limit is not None and low > limit,
    }


def cost_report(speed, price, limit):
    """Cost of 1,000 requests as this gate sampled them, many at a time: speed {role: [answers, seconds]}; None
    without a price, or where all answers of one model were borrowed."""
    if not price or not all(all(own) for own in speed.values()):
        return None
    costs = {
        role: 1000 * money(seconds=own[1] / own[0], price_gpu_hour=price)
        for role, own in speed.items()
    }
    ratio = costs["candidate"] / costs["baseline"]
    return costs | {"ratio": ratio, "limit": limit, "fail": limit is not None and ratio > limit}


def blind_spots(slices, rates, canaries):
    """Sentences: what this gate could not see."""
    spots = [
        f"A drop below {100 * max(s['mde'] for s in slices.values()):.0f} points in "
        f"{max(slices, key=lambda name: slices[name]['mde'])} would often pass; the table has each slice's."
    ]
    same = rates["same"]
    spots.append(
        f"On this baseline's answers, drawn anew {same['runs']} times, this gate blocks an unchanged model in "
        f"{same['BLOCK']:.1%} [{same['block_low']:.1%}, {same['block_high']:.1%}] and ships it in "
        f"{same['SHIP']:.1%}."
    )
    for drop, one in rates["everywhere"].items():
        caught = {name: own[drop] for name, own in rates["caught"].items()}
        if drop in (0.05, 0.10) and caught:
            worst = min(caught, key=caught.get)
            spots.append(
                f"A planted drop of {100 * drop:.0f} points is blocked in {one['BLOCK']:.0%} when in every "
                f"slice, in {np.mean([*caught.values()]):.0%} when in one (least: {worst}, "
                f"{caught[worst]:.0%})."
            )
    if any(s["type"] == "judge" for s in slices.values()):
        spots.append(
            "The judge's own mistakes are in no interval: a judge that likes length or polish is believed."
        )
    quarantined = sum(not c["baseline"] for c in canaries)
    spots += [f"{quarantined} canaries are quarantined: the baseline fails them, too."] * bool(
        quarantined
    )
    return [*spots, "Requests of a kind that is not in the suite."]


def provenance(names, record):
    """What made these numbers: [[label, text], ...]."""
    lines = [[f"{role} was made by", story(name)] for role, name in names.items()]
    lines += [[f"input {path}", value] for path, value in record["inputs"].items()]
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return lines + [
        ["seed", str(record["arguments"]["seed"])],
        ["machine", device],
        ["versions", versions],
    ]
