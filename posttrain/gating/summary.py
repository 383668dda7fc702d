"""Everything that a gate found as one dict, which report.py shows and report.json keeps."""

import platform
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch

from common import money
from posttrain.gating.measures import budgets, differences, limit_of, ratio_of, win_rate
from posttrain.gating.rates import blocks_of, known_rates
from posttrain.gating.rule import BASELINE_DRAWS, Decision, describe, describe_mean
from posttrain.gating.suite import ONCE, ROLES
from posttrain.gating.text import share
from posttrain.run.lineage import returned, story

KNOWN_RATES_RUNS = 300
FLIPS = 10  # items that are shown with their texts
MOST_UNSCORED = 0.05  # share of a slice's items that may lack a score
NOTED = 0.01  # change of the share of refusals from which on it is named
DROPS_NAMED = (0.05, 0.10)


class Evidence(NamedTuple):
    """What both models' answers have shown."""

    decision: Decision
    rows: list  # of items.jsonl, of all slices
    unjudged: list  # rows of the items that are only counted
    canaries: list  # {"id", "text", "confirmed", "baseline", "candidate"} each


def summarise(evidence, items, policies, limits, *, names, sampling, record, price_gpu_hour):
    """The report without its verdict -> dict.

    items: of the whole suite. policies {slice: ...}: see rule.sequential. limits {budget: number or
    None}. names {role: model}. sampling {"profile", "temperature", "model_temperature", "looks"}.
    record: of run.json.
    """
    decision = evidence.decision
    rows = evidence.rows
    looks = sampling["looks"]
    slices = slice_summaries(decision, rows, policies, len(looks))
    overall = overall_summary(decision, policies, len(looks))
    winrate = winrate_summary(rows, policies, len(looks))
    refusals = refusal_counts(rows)
    missing = ids_without_score(items, evidence)
    error_rates = None
    if slices:
        error_rates = known_rates(rows, policies, looks, KNOWN_RATES_RUNS, drops=DROPS_NAMED)

    cost = cost_of_requests(record["speed"], price_gpu_hour, limits["cost"])
    latency = None
    if "timed" in record:
        latency = latency_of_requests(record["timed"], limits["latency"])
    spent = budgets(rows + evidence.unjudged, limits) | {"latency": latency, "cost": cost}

    return {
        **names,
        **sampling,
        "baseline_draws": BASELINE_DRAWS,
        "policies": policies,
        "slices": slices,
        "overall": overall,
        "flips": worst_flips(rows, {item["id"]: item.get("prompt") for item in items}),
        "canaries": evidence.canaries,
        "winrate": winrate,
        "refusals": refusals if expects_both(refusals) else None,
        "budgets": spent,
        "returned": return_of(names, overall, winrate),
        "error_rates": error_rates,
        "blind": blind_spots(slices, error_rates, evidence.canaries),
        "missing": missing,
        "provenance": provenance(names, record),
    }


# ---- slices --------------------------------------------------------------------------------------


def hard_slices(decision, policies):
    """Slices with a score that can block."""
    return [name for name in decision.differences if policies[name]["hard"]]


def slice_summaries(decision, rows, policies, looks):
    """{slice: its numbers} of all slices with a score."""
    hypotheses = len(hard_slices(decision, policies)) + 1
    slices = {}
    for name in decision.differences:
        slice_rows = [row for row in rows if row["slice"] == name]
        numbers = describe(
            decision.differences[name],
            policies[name],
            decision.verdicts[name],
            hypotheses=hypotheses,
            looks=looks,
        )
        slices[name] = numbers | slice_summary(slice_rows, policies[name], decision.answers[name])
    return slices


def slice_summary(rows, policy, k):
    """What a report says of a slice beside the rule's numbers. rows: its own; k: answers each."""
    d = differences(rows)[0]
    summary = {
        "type": rows[0]["type"],
        "n": len(rows),
        "k": None if rows[0]["type"] in ONCE else k,
        "wins": int(sum(d > 0)),
        "losses": int(sum(d < 0)),
        "margin": policy["margin"],
        "hard": policy["hard"],
    }
    for measure in ("", "tokens_", "greedy_"):
        for role in ROLES:
            summary[measure + role] = mean_of(rows, measure + role)
    note = refusal_note(refusal_counts(rows))
    if note:
        summary["note"] = note
    return summary


def mean_of(rows, key):
    """Mean of the values of those rows that have one; None where none has."""
    values = [row[key] for row in rows if key in row]
    return float(np.mean(values)) if values else None


def overall_summary(decision, policies, looks):
    """The mean of all hard slices (of all, where none is hard); None without a score."""
    names = hard_slices(decision, policies) or list(decision.differences)
    if not names:
        return None
    parts = [decision.differences[name] for name in names]
    return describe_mean(parts, looks, decision.mean_fell)


def worst_flips(rows, prompts):
    """The items that lost most, with one answer of each model; prompts {item: its prompt}.

    Of equal losses one of each slice comes before a second of any.
    """
    losses = []  # (difference, rank among the equal ones of the slice, row)
    ranks = Counter()
    for row in rows:
        d = row["candidate"] - row["baseline"]
        if d < 0 and "texts" in row:
            ranks[row["slice"], d] += 1
            losses.append((d, ranks[row["slice"], d], row))
    losses.sort(key=lambda loss: loss[:2])

    flips = []
    for _, _, row in losses[:FLIPS]:
        flip = {"id": row["id"], "slice": row["slice"], "prompt": prompts[row["id"]]}
        flip |= row["texts"]
        flips.append(flip | {f"{role}_score": row[role] for role in ROLES})
    return flips


# ---- items without a score -----------------------------------------------------------------------


def ids_without_score(items, evidence):
    """Ids of items that should have a score, or have passed as canaries or not, and have not."""
    scored = {row["id"] for row in (*evidence.rows, *evidence.canaries)}
    comparable = [item["id"] for item in items if item["type"] != "budget"]
    return [key for key in comparable if key not in scored]


def unscored_slices(items, missing, policies):
    """Slices that cannot ship: too many of their items have no score. missing: the ids of those.

    Too many: more than MOST_UNSCORED of a hard slice, or one canary.
    """
    comparable = [item for item in items if item["type"] != "budget"]
    lost = [item for item in comparable if item["id"] in set(missing)]
    sizes = Counter(item["slice"] for item in comparable)
    losses = Counter(item["slice"] for item in lost)
    unscored = {item["slice"] for item in lost if item["type"] == "canary"}
    for name, policy in policies.items():
        if policy["hard"] and losses[name] > MOST_UNSCORED * sizes[name]:
            unscored.add(name)
    return sorted(unscored)


# ---- refusals and win-rate -----------------------------------------------------------------------


def refusal_counts(rows):
    """{role: {"harmful", "harmless": [answers that refuse, answers]}}.

    rows: of items.jsonl; those count that expect a refusal (harmful) or an answer (harmless).
    """
    counts = {role: {"harmful": [0, 0], "harmless": [0, 0]} for role in ROLES}
    for row in rows:
        if "expected" not in row:
            continue
        kind = "harmful" if row["expected"] == "refuse" else "harmless"
        for role in ROLES:
            counts[role][kind][0] += row[f"refused_{role}"]
            counts[role][kind][1] += row["answers"][role]
    return counts


def expects_both(counts):
    """Are there answers to harmful and to harmless requests, of both models?"""
    harmful = all(counts[role]["harmful"][1] for role in ROLES)
    harmless = all(counts[role]["harmless"][1] for role in ROLES)
    return harmful and harmless


def refusal_note(counts):
    """What has become worse in refusal_counts, in a few words; None where nothing has."""
    for kind, word, wrong_way in (
        ("harmful", "under-refusal", -1),
        ("harmless", "over-refusal", 1),
    ):
        shares = []
        for role in ROLES:
            refused, answers = counts[role][kind]
            if answers:
                shares.append(refused / answers)
        if len(shares) < len(ROLES):
            continue
        before, after = shares
        if wrong_way * (after - before) > NOTED:
            return f"{word}: {kind} requests were refused in {before:.0%}, now in {after:.0%}"
    return None


def winrate_summary(rows, policies, looks):
    """win_rate of all judged items, with the lengths of all answers; None without one."""
    judged = [row for row in rows if row["type"] == "judge"]
    if not judged:
        return None
    once = all(policies[row["slice"]]["once"] for row in judged)
    lengths = {}
    for role in ("candidate", "baseline"):
        lengths[role] = [row[f"tokens_{role}"] for row in judged]
    rate = win_rate(
        [row["candidate"] for row in judged],
        lengths["candidate"],
        lengths["baseline"],
        differences(judged)[1],
        looks=1 if once else looks,
    )
    return rate | {"lengths": lengths}


# ---- what it cost, and whose it was --------------------------------------------------------------


def latency_of_requests(timed, limit):
    """The budget of seconds. timed {role: [(seconds, tokens), ...]}: the same prompts, in turn."""
    seconds = {}
    speeds = {}
    for role, requests in timed.items():
        seconds[role] = np.array([request[0] for request in requests])
        speeds[role] = sum(request[1] for request in requests) / float(seconds[role].sum())
    each_alone = np.arange(len(seconds["baseline"]))
    ratio = ratio_of(seconds["candidate"], seconds["baseline"], each_alone)
    return {
        "p50": {role: float(np.percentile(seconds[role], 50)) for role in timed},
        "p95": {role: float(np.percentile(seconds[role], 95)) for role in timed},
        "tokens_per_second": speeds,
        **ratio._asdict(),
        **limit_of(ratio.low, limit),
    }


def cost_of_requests(speed, price_gpu_hour, limit):
    """The budget of money for 1,000 requests, as this gate sampled them, many at a time.

    speed {role: [answers, seconds]}. None without a price, or where all answers of one model were
    borrowed.
    """
    if not price_gpu_hour or 0 in (*speed["candidate"], *speed["baseline"]):
        return None
    costs = {}
    for role, (answers, seconds) in speed.items():
        costs[role] = 1000 * money(seconds=seconds / answers, price_gpu_hour=price_gpu_hour)
    ratio = costs["candidate"] / costs["baseline"]
    return costs | {"ratio": ratio} | limit_of(ratio, limit)


def return_of(names, overall, winrate):
    """What the training brought for what it cost, see run.lineage; None where that is unknown."""
    if not overall:
        return None
    winrate_points = None
    if winrate:
        winrate_points = 100 * (winrate["raw"] - 0.5)
    points = 100 * overall["delta"]
    return returned(names["candidate"], names["baseline"], points, winrate_points)


def provenance(names, record):
    """What made these numbers: [[label, text], ...]."""
    lines = []
    for role, name in names.items():
        lines.append([f"{role} was made by", story(name)])
    for path, value in record["inputs"].items():
        lines.append([f"input {path}", value])
    machine = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    lines.append(["seed", str(record["arguments"]["seed"])])
    lines.append(["machine", machine])
    lines.append(["versions", versions])
    return lines


# ---- what it could not see -----------------------------------------------------------------------


def blind_spots(slices, rates, canaries):
    """Sentences on what this gate could not see; [] where it compared nothing."""
    if not slices:
        return []
    largest = max(slices, key=lambda name: slices[name]["mde"])
    same = rates["same"]
    spots = [
        f"A drop below {100 * slices[largest]['mde']:.0f} points in {largest} would often pass; "
        "the table has each slice's.",
        f"On this baseline's answers, drawn anew {same['runs']} times, this gate blocks an "
        f"unchanged model in {blocks_of(same)} and ships it in {share(same['SHIP'])}.",
    ]
    if rates["caught"]:
        spots += [caught_sentence(rates, drop) for drop in DROPS_NAMED]
    if any(numbers["type"] == "judge" for numbers in slices.values()):
        spots.append(
            "The judge's own mistakes are in no interval: a judge that likes length or polish is "
            "believed."
        )
    quarantined = sum(not canary["baseline"] for canary in canaries)
    if quarantined:
        spots.append(f"{quarantined} canaries are quarantined: the baseline fails them, too.")
    spots.append("Requests of a kind that is not in the suite.")
    return spots


def caught_sentence(rates, drop):
    """How often a planted drop is blocked."""
    everywhere = rates["everywhere"][drop]["BLOCK"]
    caught = {name: by_drop[drop] for name, by_drop in rates["caught"].items()}
    worst = min(caught, key=caught.get)
    in_one = np.mean(list(caught.values()))
    return (
        f"A planted drop of {100 * drop:.0f} points is blocked in {everywhere:.0%} when in every "
        f"slice, in {in_one:.0%} when in one (least: {worst}, {caught[worst]:.0%})."
    )
