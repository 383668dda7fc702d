"""How far to believe a judge: what its scores and verdicts show of themselves.

`prompts` is everywhere the judged answers in a list for each prompt, as judge.py writes them.
"""

from collections import Counter
from itertools import chain, combinations

KEPT = "kept"  # the outcome of a prompt whose pair is written
NEARLY_SAME = 0.6  # kappa of two judges above which the second adds little


def mean_of(values):
    """The mean, None without values."""
    values = list(values)
    return sum(values) / len(values) if values else None


# ---- agreement -----------------------------------------------------------------------------------


def differences(prompts, first, second):
    """How a second measure differs between two answers to a prompt that differ in the first.

    first(row), second(row): a number or None. For each pair of answers of which both measures are
    known and the first measure differs: the second of the answer with more of the first, minus that
    of the other.
    """
    gaps = []
    for answers in prompts:
        values = [(first(row), second(row)) for row in answers]
        values = sorted(both for both in values if None not in both)
        for low, high in combinations(values, 2):
            if low[0] != high[0]:
                gaps.append(high[1] - low[1])
    return gaps


def verified(row):
    """What a verifier says of an answer: True, False, or None."""
    return (row["verify"] or {}).get("ok")


def agreement(prompts):
    """How often the judge alone orders a right and a wrong answer to a prompt as the verifier does.

    Returns (share, number of such pairs); a tie of the judge counts half. The share of a judge that
    guesses is one half; None without any pair.
    """
    points = []
    for difference in differences(prompts, verified, lambda row: row["judged"]):
        if difference > 0:
            points.append(1.0)
        else:
            points.append(0.5 if difference == 0 else 0.0)
    return mean_of(points), len(points)


def jury_kappa(prompts, i, j):
    """Cohen's kappa of two judges of a jury on which of two answers to a prompt is better.

    Either is half of the time, so chance agrees on a half. i, j: their places in row["votes"].
    None where they have no two answers in common that both tell apart.
    """
    gaps = differences(
        prompts, lambda row: row["votes"][i]["score"], lambda row: row["votes"][j]["score"]
    )
    agreed = [difference > 0 for difference in gaps if difference != 0]
    return 2 * sum(agreed) / len(agreed) - 1 if agreed else None


def jury_kappas(prompts, names):
    """{"one judge and another": kappa} for the judges of a jury."""
    kappas = {}
    for j, name in enumerate(names):
        for i in range(j):
            kappa = jury_kappa(prompts, i, j)
            if kappa is not None:
                kappas[f"{names[i]} and {name}"] = kappa
    return kappas


# ---- place and length ----------------------------------------------------------------------------


def order_effects(orders):
    """What the order of two answers does to the verdict on them.

    orders: [[P(the first is better) in this order, in the other], ...]. Returns the number of
    pairs, the share whose verdict changes with the order, and the share of verdicts for what was
    shown first; None without any pair. A judge that looks at the place alone: 1.0 and 1.0 (or 0.0).
    """
    flips = mean_of((p >= 0.5) != (p_swapped >= 0.5) for p, p_swapped in orders)
    shown_first = None
    if orders:
        count = sum(p >= 0.5 for p, _ in orders) + sum(p_swapped < 0.5 for _, p_swapped in orders)
        shown_first = count / 2 / len(orders)
    return {"pairs_asked": len(orders), "order_flips": flips, "first_shown_picked": shown_first}


def length_correlation(rows):
    """Spearman's correlation of the judge's scores with the answers' tokens.

    None where all are alike in one of them.
    """
    pairs = [(row["judged"], row.get("tokens", 0)) for row in rows if row["judged"] is not None]
    varied = [len(set(values)) > 1 for values in zip(*pairs)]
    if not pairs or not all(varied):
        return None
    from scipy.stats import spearmanr  # an extra: loaded where it is used

    return float(spearmanr(pairs).statistic)


# ---- the report ----------------------------------------------------------------------------------


def report_numbers(prompts, judges, *, picks, pairs, labels):
    """What report.json keeps: what became of the prompts, and how far to believe the judge.

    picks: for each prompt its slice and the reason why it has no pair, or None. judges: their
    names.
    """
    rows = list(chain.from_iterable(prompts))
    by_slice = {}
    for pick in picks:
        by_slice.setdefault(pick.slice, Counter())[pick.reason or KEPT] += 1
    share, compared = agreement(prompts)
    orders = [row["both_orders"] for row in rows if "both_orders" in row]
    return {
        "contaminated": sum(row.get("contaminated", False) for row in rows),
        "answers": len(rows),
        "unscored": sum(row["judged"] is None for row in rows),
        "pairs": len(pairs),
        "labels": len(labels),
        "labels_true": sum(row["label"] for row in labels),
        "by_slice": {name: dict(counts) for name, counts in by_slice.items()},
        "flags": dict(Counter(chain.from_iterable(row["flags"] for row in rows))),
        "agreement_with_verifiers": share,
        "compared": compared,
        **order_effects([both for both in orders if None not in both]),
        "score_length_correlation": length_correlation(rows),
        "mass": mean_of(row["mass"] for row in rows if row["mass"] is not None),
        "jury_kappa": jury_kappas(prompts, judges),
    }


def report_lines(numbers):
    """The numbers of report_numbers as lines for the terminal."""
    lines = []
    if numbers["contaminated"]:
        lines.append(
            f"CONTAMINATED  {numbers['contaminated']} of {numbers['answers']} answers are of a "
            "judge's own family, which it may favour: take a --judge of another family, or audit "
            "by hand"
        )
    for name, outcomes in numbers["by_slice"].items():
        counts = [f"{count} {outcome}" for outcome, count in Counter(outcomes).most_common()]
        lines.append(f"slice    {name}: {', '.join(counts)}")
    flags = [f"{flag} {count}" for flag, count in Counter(numbers["flags"]).most_common()]
    lines.append(f"flags    {', '.join(flags) or 'none'}")
    lines.append(f"judge    {'; '.join(judge_phrases(numbers))}")
    if numbers["pairs_asked"]:
        lines.append(
            f"orders   {numbers['pairs_asked']} pairs asked in both orders: "
            f"{numbers['order_flips']:.0%} change with the order, the first shown is picked in "
            f"{numbers['first_shown_picked']:.0%}"
        )
    for names, kappa in numbers["jury_kappa"].items():
        line = f"jury     {names}: kappa {kappa:.2f}"
        if kappa > NEARLY_SAME:
            line += "  WARNING: nearly the same vote twice; another kind of judge adds more"
        lines.append(line)
    return lines


def judge_phrases(numbers):
    """What can be said of the judge's scores, a phrase each."""
    phrases = []
    if numbers["compared"]:
        phrases.append(
            f"orders {numbers['agreement_with_verifiers']:.0%} of {numbers['compared']} "
            "right/wrong pairs as verifiers do"
        )
    phrases.append(f"{numbers['unscored']} of {numbers['answers']} answers without a score")
    if numbers["mass"] is not None:
        phrases.append(f"mean mass {numbers['mass']:.2f}")
    if numbers["score_length_correlation"] is not None:
        correlation = numbers["score_length_correlation"]
        phrases.append(f"score and length correlate {correlation:+.2f}")
    return phrases
