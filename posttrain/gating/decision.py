"""The statistics of a release decision: sequential looks, win-rates, and how often the decision itself is wrong.

Everything rests on d [n], one number per item: what the candidate scores minus what the baseline scores (mean over the
answers of each), or the judge's probability minus one half. Items of a cluster (one passage, one template, twins) count
as one draw. No model, no file and no clock comes in here, so that the rule which decides is the rule which is
simulated: gate.py gives `sequential` real answers, `redraw` gives it drawn ones."""

import math
from collections import Counter
from functools import cache

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest
from scipy.stats import t as student

PROFILES = {
    "hobby": {"looks": (2, 4, 8, 16), "margin": 0.10, "min_n": 30},
    "release": {"looks": (2, 4, 8, 16), "margin": 0.05, "min_n": 100},
}
ALPHA = 0.05  # wrong blocks of an unchanged model, over all slices and looks; wrong clearings of a slice at its margin
BASELINE_DRAWS = 2  # answers of the baseline for each of the candidate: they are cached, and halve its share of noise
DUST = 0.01  # a drop below one point never blocks, however sure it is
THIN, THIN_ALPHA = (
    0.03,
    0.0125,
)  # asked on while the mean of 8 slices may be this far down (of fewer: further)
RATES = (
    0.7,
    1.0,
)  # mean and concentration of the pass rates assumed where nothing was measured: most are near 0 or 1

DISCORDANT = 0.2  # share of items with one outcome (multiple choice) that two equal models answer differently, assumed

# ---- one slice ------------------------------------------------------------------------------------------------


def paired(d, groups, floor=1):
    """(mean of d [n], standard error, clusters G). groups [n]: cluster of each item, as 0 .. G-1.

    Cluster-robust: G/(G-1) x sum over clusters of (summed deviations)^2 / n^2. The error is never below floor/G, what
    one flipped cluster would make: few items that all agree are no proof."""
    n, mean = len(d), float(np.mean(d))
    sums = np.bincount(groups, d - mean)
    G = len(sums)
    error = math.sqrt(G / (G - 1) * float(sums @ sums)) / n if G > 1 else math.inf
    return mean, max(error, floor / G), G


@cache
def quantile(level, df):
    """t quantile; one degree of freedom at least, math.inf for the normal."""
    return float(student.ppf(level, max(df, 1)))


def fell(mean, error, df, level):
    """Is this a drop, with p < level, and more than dust?"""
    return mean <= -DUST and mean < quantile(level, df) * error


def low_bound(mean, error, G, level):
    """One-sided lower bound. A loss may be rare and whole, which no t interval sees: x clusters that lost everything
    may stand for x + z^2/2 + z sqrt(x + z^2/4) of them (score bound of a Poisson count at ALPHA), none for 3 (rule of
    three). The prompts are the same at every look: this needs no correction for looks."""
    z = quantile(1 - ALPHA, math.inf)
    rare = max(3.0, z * z / 2 + z * math.sqrt(max(-mean, 0.0) * G + z * z / 4))
    return mean - max(quantile(1 - level, G - 1) * error, rare / G)


def pool(found):
    """Mean of the slice means, its error, degrees of freedom (Welch-Satterthwaite). found {slice: (mean, error, G)}."""
    several = [one for one in found.values() if one[2] > 1] or [
        *found.values()
    ]  # one cluster has no spread
    means, errors, sizes = zip(*several)
    total, df = sum(e * e for e in errors), 0
    if math.isfinite(total):  # no slice has one cluster
        df = math.floor(total * total / sum(e**4 / (G - 1) for e, G in zip(errors, sizes)))
    return sum(means) / len(means), math.sqrt(total) / len(errors), df


# ---- the rule -------------------------------------------------------------------------------------------------


def sequential(policies, looks, draw):
    """Look at k = looks[0], looks[1] ... answers per item until every slice is decided -> (found, ks, failed, pooled).

    policies {slice: {"margin", "min_n", "hard", "once"}}; "once": its items have one deterministic outcome, so it is
    looked at once. draw([slices], k) -> {slice: (d [n], groups [n])}, from k answers of every item.
    A hard slice FAILs when it fell at level ALPHA / (hypotheses x looks), where the hypotheses are the hard slices and
    the mean of all of them (a drop thin in each slice): an unchanged model is blocked in at most ALPHA of the runs. It
    is CLEAR, and is asked no more, when its lower bound at level ALPHA / looks lies above -margin (non-inferiority; all
    must clear, so slices need no correction: intersection-union). One failure ends the run. With all clear, sampling
    goes on as long as the mean may have fallen by THIN. A slice of too few clusters to become clear is asked once; one
    that draw leaves out has no score, and no part in it.
    found {slice: (mean, error, G)}; ks {slice: answers per item seen}; failed [slices]; pooled: did the mean fall?"""
    hard = [name for name, policy in policies.items() if policy["hard"]]
    level = ALPHA / (len(hard) + 1)
    found, ks, clear, thin = {}, {}, set(), False
    for look, k in enumerate(looks):
        wanted = [
            name
            for name, policy in policies.items()
            if not look
            or not policy["once"]
            and (thin or name not in clear and not hopeless(found[name][2], policy))
        ]
        if not wanted:
            break
        for name, (d, groups) in draw(wanted, k).items():
            found[name], ks[name] = paired(d, groups), k
            times = 1 if policies[name]["once"] else len(looks)
            (clear.add if clears(found[name], policies[name], ALPHA / times) else clear.discard)(
                name
            )
        policies = {
            name: policy for name, policy in policies.items() if name in found
        }  # the others have no item
        hard = [name for name in hard if name in found]
        if not found:
            break
        failed = [
            name
            for name in hard
            if fell(
                *found[name][:2],
                found[name][2] - 1,
                level / (1 if policies[name]["once"] else len(looks)),
            )
        ]
        mean, error, df = pool({name: found[name] for name in hard or found})
        fallen = bool(hard) and fell(mean, error, df, level / len(looks))
        thin = clear.issuperset(hard) and mean - quantile(1 - THIN_ALPHA, df) * error < -THIN * max(
            1, (8 / max(len(hard), 1)) ** 0.5
        )
        if failed or fallen or clear.issuperset(hard) and not thin:
            return found, ks, failed, fallen
    return found, ks, [], False


def hopeless(G, policy):
    """Are these too few clusters to clear the slice, whatever they answer?"""
    return G < policy["min_n"] or low_bound(0.0, 0.0, G, ALPHA) <= -policy["margin"]


def clears(found, policy, level):
    """Is this slice proven to have lost less than its margin, on enough prompts?"""
    mean, error, G = found
    return low_bound(mean, error, G, level) > -policy["margin"] and G >= policy["min_n"]


def enough(n, margin, level, expected):
    """Clusters, n or more (to 2 %), that clear a margin where expected(n) -> (mean, error) is what they will show."""
    while low_bound(*expected(n), n, level) <= -margin:
        n = math.ceil(n * 1.02)
    return n


def describe(found, policy, hypotheses, looks, failed):
    """What a report says of a slice: delta with its interval, verdict, clusters that would decide it, smallest drop it
    would catch. The interval is a repeated one: it holds at whichever look the run ended (level ALPHA / looks)."""
    mean, error, G = found
    times = 1 if policy["once"] else looks
    width = min(quantile(1 - ALPHA / times / 2, G - 1) * error, 2.0)
    clear = clears(found, policy, ALPHA / times)
    verdict, need = "FAIL" if failed else "CLEAR" if clear else "UNSURE", None
    if verdict == "UNSURE" and mean > -policy["margin"] and math.isfinite(error):
        spread = (
            error * math.sqrt(G) * (error > 1 / G)
        )  # 0: only the floor, which more clusters lower faster
        need = enough(
            max(policy["min_n"], G + 1),
            policy["margin"],
            ALPHA / times,
            lambda n: (mean, max(spread / math.sqrt(n), 1 / n)),
        )
    mde = (-quantile(ALPHA / hypotheses / times, G - 1) + quantile(0.8, G - 1)) * error
    return {
        "delta": mean,
        "low": max(mean - width, -1.0),
        "high": min(mean + width, 1.0),
        "clusters": G,
        "p_drop": float(student.cdf(mean / error, max(G - 1, 1))) if math.isfinite(error) else 0.5,
        "verdict": verdict,
        "need": need,
        "mde": min(mde, 1.0),
    }


def describe_mean(found, looks, fallen):
    """The same of the mean over all slices."""
    mean, error, df = pool(found)
    p = float(student.cdf(mean / error, max(df, 1))) if math.isfinite(error) else 0.5
    width = min(quantile(1 - ALPHA / looks / 2, df) * error, 2.0)
    return {
        "delta": mean,
        "low": max(mean - width, -1.0),
        "high": min(mean + width, 1.0),
        "p_drop": p,
        "p_gain": 1 - p,
        "fail": fallen,
    }


# ---- win-rate and budgets -------------------------------------------------------------------------------------


def win_rate(p, lengths, rivals, groups, looks=1):
    """Win-rate from the judge's probabilities p [n] that the candidate's answer is better; lengths, rivals [n]: tokens
    of the two answers -> dict with "raw" and its 95 % interval, "length_controlled" and its own. looks: how often the
    rule may have looked before it stopped; the intervals are then repeated ones, as in `describe`.

    Length control is a fractional logit, logit E[p] = theta + phi tanh(gap / sd(gap)), read at gap 0: 1/(1+e^-theta)
    (arXiv 2404.04475 with one model pair; errors: sandwich A^-1 B A^-1 with B summed by cluster, delta method). It is
    an extrapolation where the answers hardly ever are of one length: "outside_support" then, or None without any."""
    p, gap = np.asarray(p, float), np.asarray(lengths, float) - np.asarray(rivals, float)
    mean, error, G = paired(p, groups)
    t = quantile(1 - ALPHA / looks / 2, G - 1)
    width = t * error
    ratio = float(np.median(np.asarray(lengths, float) / np.maximum(rivals, 1)))
    result = {
        "raw": mean,
        "low": max(mean - width, 0.0),
        "high": min(mean + width, 1.0),
        "wins": int(sum(p > 0.5)),
        "losses": int(sum(p < 0.5)),
        "ties": int(sum(p == 0.5)),
        "length_controlled": None,
        "lc_low": None,
        "lc_high": None,
        "length_ratio": ratio,
        "outside_support": not 0.5 <= ratio <= 2
        or not (np.mean(gap <= 0) >= 0.05 and np.mean(gap >= 0) >= 0.05),
    }
    columns = [np.ones(len(p))] + ([np.tanh(gap / gap.std())] if gap.std() > 0 else [])
    X, beta = np.stack(columns, 1), np.zeros(len(columns))
    if G <= len(columns):
        return result  # the sandwich of so few clusters is singular
    for _ in range(50):
        q = expit(X @ beta)
        A = X.T @ (X * (q * (1 - q))[:, None])
        if np.linalg.eigvalsh(A)[0] < 1e-6 * len(p):
            return result  # separable: all answers win, or length alone decides
        step = np.linalg.solve(A, X.T @ (p - q))
        beta += step
        if abs(step).max() < 1e-10:
            break
    scores = np.zeros((G, len(columns)))
    np.add.at(scores, groups, X * (p - q)[:, None])
    inverse = np.linalg.inv(A)
    V = inverse @ (scores.T @ scores * G / max(G - 1, 1)) @ inverse
    error = max(
        math.sqrt(V[0, 0]), (2 + 2 * math.cosh(beta[0])) / G
    )  # 1/G of the win-rate at least, as in `paired`
    low, middle, high = (float(expit(beta[0] + sign * t * error)) for sign in (-1, 0, 1))
    return result | {"length_controlled": middle, "lc_low": low, "lc_high": high}


def ratio_of(candidate, baseline, groups, level=0.05):
    """(ratio, low, high) of two positive quantities per item: exp of the mean log-ratio, t interval at 1 - level."""
    mean, error, G = paired(
        np.log(np.asarray(candidate, float) / np.asarray(baseline, float)), groups, floor=0
    )
    width = quantile(1 - level / 2, G - 1) * error
    return tuple(math.exp(min(max(x, -50), 50)) for x in (mean, mean - width, mean + width))


def budgets(rows, limits):
    """{"tokens", "slice_tokens", "truncated": {"candidate", "baseline", "ratio", "low", "high", "limit", "fail"}, or
    None where fewer than five items say something}. rows: of items.jsonl; limits {budget: number or None}.

    Tokens are compared between right answers (all of them where no program knows): a wrong or an empty answer is no
    economy. slice_tokens is the slice that grew most surely, "slice", its interval at 0.05 / slices: growth in one is
    diluted in all. "ratio" of truncated is a difference of shares. A budget fails when its lower bound is above the
    limit."""

    def measure(name, kept, level=0.05):
        if len(kept) < 5:
            return None
        own, base, clusters = zip(*kept)
        own, base, groups = np.array(own, float), np.array(base, float), number(clusters)
        if name == "truncated":
            ratio, error, G = paired(own - base, groups)
            low, high = (
                min(max(ratio + sign * quantile(0.975, G - 1) * error, -1.0), 1.0)
                for sign in (-1, 1)
            )
        else:
            ratio, low, high = ratio_of(own, base, groups, level)
        return {
            "candidate": float(own.mean()),
            "baseline": float(base.mean()),
            "ratio": ratio,
            "low": low,
            "high": high,
            "limit": limits[name],
            "fail": limits[name] is not None and low > limits[name],
        }

    cut = [
        (row["cut_candidate"], row["cut_baseline"], row["cluster"])
        for row in rows
        if "cut_candidate" in row
    ]
    slices = {}
    for row in rows:
        pair = [
            row.get(f"{'right_' * (row['type'] == 'verify')}tokens_{role}")
            for role in ("candidate", "baseline")
        ]
        if None not in pair and min(pair) > 0:
            slices.setdefault(row["slice"], []).append((*pair, row["cluster"]))
    own = [
        {"slice": name} | one
        for name, kept in slices.items()
        if (one := measure("slice_tokens", kept, 0.05 / len(slices)))
    ]
    return {
        "tokens": measure("tokens", sum(slices.values(), [])),
        "truncated": measure("truncated", cut),
        "slice_tokens": max(own, key=lambda one: one["low"], default=None),
    }


def differences(rows):
    """Rows of items.jsonl -> (d [n], groups [n])."""
    return np.array([row["candidate"] - row["baseline"] for row in rows]), number(
        [row["cluster"] for row in rows]
    )


def number(clusters):
    """Names of clusters [n] -> groups [n], numbered in order of appearance."""
    known = {}
    return np.array([known.setdefault(name, len(known)) for name in clusters], dtype=int)


# ---- how often it is wrong ------------------------------------------------------------------------------------


def assumed(sizes, rates=RATES):
    """World of sizes {slice: n}: rng -> {slice: pass rates [n]}, drawn from a Beta with this mean and concentration."""
    mean, concentration = rates
    a, b = mean * concentration, (1 - mean) * concentration
    return lambda rng: {name: (rng.beta(a, b, n), np.arange(n)) for name, n in sizes.items()}


def measured(counts):
    """World of counts {slice: (right [n], answers [n], groups [n])} of the baseline: prompts drawn anew with their
    clusters, and each one's pass rate from what its answers leave open: Beta(a + right, b + wrong), where a and b are
    the slice's own (moments of a beta-binomial). Splits of the answers would share prompts and miss their noise."""
    priors = {}
    for name, (right, tried, _) in counts.items():
        share, m = float(np.mean(right / tried)), float(np.mean(tried))
        share = min(max(share, 0.5 / len(right)), 1 - 0.5 / len(right))
        between = float(np.var(right / tried)) - share * (1 - share) / m
        between = (
            max(between * m / max(m - 1, 1), 1e-3 * share * (1 - share))
            if m > 1
            else 0.5 * share * (1 - share)
        )
        concentration = min(max(share * (1 - share) / between - 1, 0.05), 1e3)
        priors[name] = share * concentration, (1 - share) * concentration

    def world(rng):
        drawn = {}
        for name, (right, tried, groups) in counts.items():
            members = np.split(
                np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1]
            )
            chosen = rng.integers(len(members), size=len(members))
            items = np.concatenate([members[g] for g in chosen])
            a, b = priors[name]
            rates = rng.beta(a + right[items], b + (tried - right)[items])
            drawn[name] = (
                rates,
                np.repeat(np.arange(len(chosen)), [len(members[g]) for g in chosen]),
            )
        return drawn

    return world


def lowered(rates, points, rng):
    """Pass rates whose mean has fallen by `points`, all of it on a random half of the prompts (a drop is never even);
    as far as it can fall."""
    hit = rng.permutation(len(rates))[: (len(rates) + 1) // 2]
    lower, left = rates.copy(), rates[hit].sum()
    lower[hit] *= max(0.0, 1 - points * len(rates) / left) if left > 0 else 0.0
    return lower


def redraw(world, fixed, policies, looks, drops, rng, placebo=False):
    """One run of the rule on drawn answers -> (verdict, answers of the candidate, "slice" or "mean" where it failed).

    world(rng) -> {slice: (pass rates [n], groups [n])}; fixed {slice: (d [n], groups [n])}, the slices without pass
    rates: d of one answer, whose sign is drawn anew for each answer (an unchanged model's is as often up as down; for
    the whole cluster at once); drops {slice: points} are planted; placebo: items change slices."""
    rates = world(rng)
    if placebo and rates:
        everything = np.concatenate([p for p, _ in rates.values()])
        ends = np.cumsum([len(p) for p, _ in rates.values()])[:-1]
        rates = {
            name: (p, np.arange(len(p)))
            for name, p in zip(rates, np.split(rng.permutation(everything), ends))
        }
    lower = {
        name: lowered(p, drops[name], rng) if drops.get(name) else p
        for name, (p, _) in rates.items()
    }
    right, spent = {name: [0, 0, 0] for name in (*rates, *fixed)}, 0
    hit = {
        name: rng.permutation(len(d)) < len(d) / 2
        for name, (d, _) in fixed.items()
        if drops.get(name)
    }

    def draw(names, k):
        nonlocal spent
        drawn = {}
        for name in names:
            own = right[name]
            if name in fixed:
                d, groups = fixed[name]
                m = 1 if policies[name]["once"] else k
                own[0] += rng.binomial(m - own[2], 0.5, groups.max() + 1)
                own[2] = m
                d = d * (2 * own[0] / m - 1)[groups] - 2 * drops.get(name, 0.0) * hit.get(name, 0)
                drawn[name] = np.clip(d, -1.0, 1.0), groups
                continue
            p, groups = rates[name]
            own[0] += rng.binomial(k - own[2], lower[name])
            own[1] += rng.binomial((k - own[2]) * BASELINE_DRAWS, p)
            spent += (k - own[2]) * len(p)
            own[2] = k
            drawn[name] = own[0] / k - own[1] / (k * BASELINE_DRAWS), groups
        return drawn

    found, ks, failed, fallen = sequential(policies, looks, draw)
    if failed or fallen:
        return "BLOCK", spent, "slice" if failed else "mean"
    clear = [
        clears(found[name], policy, ALPHA / (1 if policy["once"] else len(looks)))
        for name, policy in policies.items()
        if policy["hard"]
    ]
    return "SHIP" if clear and all(clear) else "NOT ENOUGH DATA", spent, None


def repeat(runs, seed, *given, **options):
    """`redraw` many times -> {"runs", "SHIP", "BLOCK", "NOT ENOUGH DATA": shares, "mean": share that the test of the
    mean blocked, "block_low", "block_high": 95 % Wilson interval, "answers": of the candidate, on average}."""
    rng = np.random.default_rng(seed)
    outcomes = [redraw(*given, rng=rng, **options) for _ in range(runs)]
    verdicts = Counter(verdict for verdict, *_ in outcomes)
    low, high = map(float, binomtest(verdicts["BLOCK"], runs).proportion_ci(0.95, "wilson"))
    return {
        "runs": runs,
        "mean": sum(where == "mean" for *_, where in outcomes) / runs,
        "block_low": low,
        "block_high": high,
        "answers": sum(spent for _, spent, _ in outcomes) / runs,
    } | {verdict: verdicts[verdict] / runs for verdict in ("SHIP", "BLOCK", "NOT ENOUGH DATA")}


def error_rates(world, fixed, policies, looks, runs, seed=0, points=(0.03, 0.05, 0.10, 0.20)):
    """How often the rule is wrong in this world: {"same", "placebo": as repeat, "everywhere": {points: as repeat},
    "caught": {slice: {points: share of planted drops that were blocked}}}."""
    given = world, fixed, policies, looks
    hard = [name for name, policy in policies.items() if policy["hard"]]
    few = max(runs // 5, 20)
    return {
        "same": repeat(runs, seed, *given, {}),
        "placebo": repeat(runs, seed + 1, *given, {}, placebo=True),
        "everywhere": {
            drop: repeat(few, seed + 2, *given, dict.fromkeys(hard, drop)) for drop in points
        },
        "caught": {
            name: {drop: repeat(few, seed + 3, *given, {name: drop})["BLOCK"] for drop in points}
            for name in hard
        },
    }


def prompts_needed(policy, k, looks, rates=RATES, power=0.95):
    """Prompts that a slice needs, at k answers each, to be cleared in `power` of the runs when nothing changed: the
    variance of a difference is E[p(1-p)] (1/k + 1/(k BASELINE_DRAWS)) per prompt. k None: one outcome per item, of
    which DISCORDANT differ between two equal models."""
    mean, concentration = rates
    noise = (
        DISCORDANT
        if k is None
        else mean * (1 - mean) * concentration / (concentration + 1) * (1 + 1 / BASELINE_DRAWS) / k
    )
    unlucky = quantile(1 - power, math.inf) * math.sqrt(noise)
    return enough(
        policy["min_n"],
        policy["margin"],
        ALPHA / (1 if k is None else looks),
        lambda n: (unlucky / math.sqrt(n), max(math.sqrt(noise / n), 1 / n)),
    )


def known_rates(rows, policies, looks, runs):
    """error_rates on a gate's own answers: rows of its items.jsonl."""
    counts, fixed, pieces = {}, {}, {}
    for row in rows:
        pieces.setdefault(row["slice"], []).append(row)
    for name, own in pieces.items():
        d, groups = differences(own)
        if own[0]["type"] == "verify" and not policies[name]["once"]:
            tried = np.array([row["answers"]["baseline"] for row in own])
            counts[name] = (
                np.round(np.array([row["baseline"] for row in own]) * tried),
                tried,
                groups,
            )
        else:
            fixed[name] = (
                d * (1 if policies[name]["once"] else math.sqrt(own[0]["answers"]["candidate"])),
                groups,
            )
    return error_rates(
        measured(counts), fixed, {name: policies[name] for name in pieces}, looks, runs
    )


def promises(runs=2000):
    """Both profiles in made worlds of 8 slices against what the gate promises -> (lines, all kept?)."""
    lines, kept = [], True
    for profile, n, drop, least, most in (
        ("hobby", 100, 0.10, 0.97, 2100),
        ("release", 200, 0.05, 0.95, 6500),
    ):
        own, names = PROFILES[profile], [f"slice {s + 1}" for s in range(8)]
        policies = {
            name: {"margin": own["margin"], "min_n": own["min_n"], "hard": True, "once": False}
            for name in names
        }
        for what, drops, wanted, share in (
            ("unchanged", {}, "SHIP", 0.95),
            (f"{100 * drop:.0f} points off one slice", {names[0]: drop}, "BLOCK", least),
            ("3 points off every slice", dict.fromkeys(names, 0.03), "BLOCK", 0.95),
        ):
            got = repeat(
                runs, 1, assumed(dict.fromkeys(names, n)), {}, policies, own["looks"], drops
            )
            good = (
                got[wanted] >= share
                and (len(drops) != 1 or got["answers"] <= most)
                and (drops or got["BLOCK"] <= 0.05)
            )
            kept = kept and bool(good)
            lines.append(
                f"{profile:9}{what:26}{wanted} {got[wanted]:6.1%} (promised {share:.0%}), BLOCK "
                f"{got['BLOCK']:6.1%}, {got['answers']:,.0f} answers of the candidate"
                + ("" if good else "  NOT KEPT")
            )
    return lines, kept


def rate_lines(rates):
    """error_rates as lines for people."""
    same, placebo, drops = rates["same"], rates["placebo"], [*rates["everywhere"]]
    lines = [
        f"A/A         SHIP {same['SHIP']:.1%}, BLOCK {same['BLOCK']:.1%} [{same['block_low']:.1%}, "
        f"{same['block_high']:.1%}], NOT ENOUGH DATA {same['NOT ENOUGH DATA']:.1%} of {same['runs']} runs; "
        f"{same['answers']:,.0f} answers of the candidate",
        f"placebo     BLOCK {placebo['BLOCK']:.1%} [{placebo['block_low']:.1%}, {placebo['block_high']:.1%}] when "
        "prompts change their slices at random",
        "blocked after a drop of".ljust(26)
        + "".join(f"{100 * float(drop):5.0f} points" for drop in drops),
        "  in every slice".ljust(26)
        + "".join(f"{rates['everywhere'][drop]['BLOCK']:12.0%}" for drop in drops),
    ]
    return lines + [
        f"  in {name}"[:25].ljust(26) + "".join(f"{share:12.0%}" for share in caught.values())
        for name, caught in rates["caught"].items()
    ]
