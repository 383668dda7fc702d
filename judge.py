"""Step 3: judge candidates with verifiers, AI judges on a written constitution, and filters -> pairs and labels.

Reads   candidates.jsonl (several answers per id), a constitution in Markdown.
Writes  a folder: judged.jsonl (every answer with score, scores, sd, mass, verify, flags), pairs.jsonl (for dpo.py),
        labels.jsonl (for kto.py), report.json, run.json; --more FILE: prompts that deserve more candidates.

    python judge.py --judge data/tiny/judge --constitution data/tiny/constitution.md --data data/candidates.jsonl \\
        --out runs/judged
    python judge.py --judge Qwen/Qwen3-4B Skywork/Skywork-Reward-V2-Qwen3-0.6B --constitution data/constitution.md \\
        --data runs/candidates.jsonl --out runs/judged-jury --keep 0.5 --more runs/more.jsonl
    python judge.py --judge gpt --endpoint http://localhost:8000/v1 --constitution data/constitution.md \\
        --data runs/candidates.jsonl --out runs/judged-api

Where a prompt carries its truth (answer, call, sql, constraints, tests, expected) the verifier decides and the judge
only ranks within right and within wrong. Elsewhere the score is the expected digit 0-5 from the judge's next-token
logits, weighted over the criteria; then it sees the best and the worst answer as a pair, in both orders, and where
these disagree it is a tie. A judge that could not score (mass below 0.5) gives null: never 0, never a tie.
What to look at: agreement with the verifiers (near 50 % = the judge guesses), order flips, mass, ties per slice.
`--judge random` is the control of every experiment: scores at random, verifiers and filters ignored; it must teach
nothing. Left out on purpose: chains of thought (slower, no better for small judges); statistics about the judge.
"""

import json
import time
from collections import Counter
from pathlib import Path

from scipy.stats import norm, spearmanr
from tqdm import tqdm

from common import cost_line, money
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.filters import BROKEN, find_flags, flag_groups, read_words
from posttrain.judging.scoring import judging_tokens, open_judge, read_constitution, rubric_for
from posttrain.model.family import family_of, related
from posttrain.model.memory import free_memory
from posttrain.records.files import read_records
from posttrain.records.jsonl import (
    append_lines,
    continue_lines,
    read_jsonl,
    write_jsonl,
    write_whole,
)
from posttrain.run.folder import read_run, save_run, start_run
from posttrain.run.forecast import forecast
from posttrain.verify.checks import CHECKS, check_fields, verify


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument(
        "--judge",
        required=True,
        nargs="+",
        action="extend",
        help="hub names, models, run folders, reward "
        "models; names at --endpoint; NAME@URL; or random. Several are a jury",
    )
    p.add_argument("--endpoint", help="URL of an OpenAI-compatible server that has every --judge")
    p.add_argument(
        "--constitution", required=True, help="Markdown: criteria with weights and anchors"
    )
    p.add_argument(
        "--data", required=True, nargs="+", help="candidates: JSONL files or hf:name[:split]"
    )
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument(
        "--more", metavar="FILE", help="write the prompts that deserve more candidates, and why"
    )
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    # the method
    p.add_argument(
        "--no-verify",
        nargs="+",
        default=[],
        metavar="SLICE",
        help="slices where the judge alone decides",
    )
    p.add_argument(
        "--no-orders", action="store_true", help="do not ask for the best and the worst as a pair"
    )
    p.add_argument(
        "--short", action="store_true", help="show the judge the questions without their anchors"
    )
    p.add_argument(
        "--run-code", action="store_true", help="run unit tests on model-written code, in a sandbox"
    )
    p.add_argument(
        "--unsafe", action="store_true", help="with --run-code: also where no isolation works"
    )
    p.add_argument("--words", help="file of policy words per slice (data/words.md)")
    p.add_argument(
        "--facts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="texts that answers may contradict (a flag)",
    )
    p.add_argument(
        "--min-margin", type=at_least(0, float, 5), default=1.0, help="smallest gap of a pair"
    )
    p.add_argument(
        "--keep", type=at_least(0, float, 1), default=1.0, help="share of the pairs kept per slice"
    )
    p.add_argument(
        "--good",
        type=at_least(0, float, 5),
        default=4.0,
        help="a score from here on is labelled true",
    )
    p.add_argument(
        "--bad",
        type=at_least(0, float, 5),
        default=2.0,
        help="a score up to here is labelled false",
    )
    p.add_argument(
        "--family",
        nargs="+",
        default=[],
        help="family of each judge, where the name does not tell it",
    )
    p.add_argument(
        "--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU"
    )
    p.add_argument(
        "--concurrency",
        type=at_least(1),
        default=8,
        help="requests at an endpoint at the same time",
    )
    p.add_argument("--seed", type=int, default=0, help="of --judge random")
    # look before you pay
    p.add_argument(
        "--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit"
    )
    p.add_argument(
        "--tokens-per-second",
        type=at_least(1e-9, float),
        help="for the forecast (default: an earlier run)",
    )
    p.add_argument(
        "--price-judge", type=at_least(0, float), default=0.0, help="price per million tokens"
    )
    p.add_argument(
        "--price-gpu-hour",
        type=at_least(0, float),
        default=0.0,
        help="price of the machine per hour",
    )
    return p.parse_args(argv)


# ---- the method -----------------------------------------------------------------------------------------------


def by_prompt(rows):
    """{id: rows of this prompt}, in the order of the first of each."""
    groups = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)
    return groups


def calibrate(columns, raw):
    """Scores of several judges for the same answers -> one score 0-5 per answer, None where a judge has none.

    columns[j]: judge j's numbers; raw[j]: True for a reward model, whose unit means nothing. Each is brought to mean 0
    and spread 1 over this run, averaged, and taken back to the scale of the judges on 0-5; a reward model alone is
    ranked by the normal curve. One judge on 0-5 stays as it is."""
    if raw == [False]:
        return columns[0]
    known = [[x for x in column if x is not None] or [0.0] for column in columns]
    means = [sum(k) / len(k) for k in known]
    spreads = [
        max((sum((x - m) ** 2 for x in k) / len(k)) ** 0.5, 1e-6) for k, m in zip(known, means)
    ]
    scaled = [(m, s) for m, s, r in zip(means, spreads, raw) if not r]
    combined = []
    for scores in zip(*columns):
        if None in scores:
            combined.append(None)
            continue
        z = sum((x - m) / s for x, m, s in zip(scores, means, spreads)) / len(scores)
        m, s = (sum(part) / len(scaled) for part in zip(*scaled)) if scaled else (None, None)
        combined.append(min(max(m + s * z, 0.0), 5.0) if scaled else 5 * float(norm.cdf(z)))
    return combined


def grade(judged, verified, flags=()):
    """One number 0-5 for an answer, or None: the judge's score, moved to 3-5 when the verifier says right, to 0-2 when
    it says wrong; 0 when a filter says broken."""
    if BROKEN & set(flags):
        return 0.0
    if verified is None or verified["ok"] is None:
        return judged
    return (3.0 if verified["ok"] else 0.0) + 2.0 * (0.5 if judged is None else judged / 5)


def pick_pair(answers, min_margin):
    """(chosen, rejected, None) or (None, None, reason): best against worst of the scored, unbroken answers."""
    usable = [a for a in answers if a["score"] is not None and not BROKEN & set(a["flags"])]
    if len(usable) < 2:
        return None, None, "fewer than two usable answers"
    usable.sort(key=lambda a: (a["score"], -a["candidate"]))
    chosen, rejected = usable[-1], usable[0]
    if (
        chosen["completion"] == rejected["completion"]
    ):  # the next worst instead would favour the commonest answer
        return None, None, "tied"
    if chosen["score"] - rejected["score"] < max(min_margin, 1e-9):
        return None, None, "tied"
    return chosen, rejected, None


def told_apart(chosen, rejected):
    """Does a verifier say that chosen is right and rejected is wrong?"""
    return [(a["verify"] or {}).get("ok") for a in (chosen, rejected)] == [True, False]


def spread(chosen, rejected):
    """Standard deviation of the difference of two scores."""
    return max((chosen["sd"] ** 2 + rejected["sd"] ** 2) ** 0.5, 1e-3)


def preference(chosen, rejected):
    """Probability that chosen is better: 1 where the verifier tells them apart, the mean of both orders where they were
    asked, else from the judge's means and spreads (0.5 when it gave none)."""
    if told_apart(chosen, rejected):
        return 1.0
    if chosen.get("both_orders"):
        return sum(chosen["both_orders"]) / 2
    if None in (chosen["sd"], rejected["sd"], chosen["judged"], rejected["judged"]):
        return 0.5
    return max(
        0.5, float(norm.cdf((chosen["judged"] - rejected["judged"]) / spread(chosen, rejected)))
    )


def certainty(chosen, rejected):
    """What --keep ranks the pairs of a slice by: what a verifier tells apart, then how many spreads lie between the
    judge's means (the gap alone where it gave no spread): a wide gap between wide spreads says little."""
    gap = chosen["score"] - rejected["score"]
    if told_apart(chosen, rejected) or None in (chosen["sd"], rejected["sd"]):
        return told_apart(chosen, rejected), gap
    return False, gap / spread(chosen, rejected)


OF_ANSWER = {
    "candidate",
    "completion",
    "generator",
    "family",
    "temperature",
    "system",
    "seed",
    "tokens",
    "read",
    "finish",
    "score",
    "judged",
    "judge_tokens",
    "scores",
    "sd",
    "mass",
    "verify",
    "flags",
    "both_orders",
    "votes",
}


def make_pairs(judged, min_margin, keep):
    """judged rows -> (pairs, {id: (slice, outcome)}). `keep` is the share kept within each slice, the surest first."""
    pairs, outcomes, sure = [], {}, {}
    for name, answers in by_prompt(judged).items():
        chosen, rejected, reason = pick_pair(answers, min_margin)
        piece = answers[0].get("slice", "all")
        asked = None if reason else chosen.get("both_orders")
        if asked:
            sides = {None if p is None else p >= 0.5 for p in asked}
            reason = (
                "no verdict on the pair"
                if None in sides
                else "orders disagree"
                if len(sides) > 1
                else None
                if True in sides
                else "the pair says otherwise"
            )
        outcomes[name] = piece, reason or "kept"
        if not reason:
            sure[name] = certainty(chosen, rejected)
            shared = {k: v for k, v in chosen.items() if k not in OF_ANSWER}
            pairs.append(
                shared
                | {
                    "slice": piece,
                    "chosen": chosen["completion"],
                    "rejected": rejected["completion"],
                    "score_chosen": chosen["score"],
                    "score_rejected": rejected["score"],
                    "margin": chosen["score"] - rejected["score"],
                    "p": preference(chosen, rejected),
                    "weight": chosen.get("weight", 1.0),
                }
            )
    for piece in dict.fromkeys(pair["slice"] for pair in pairs):
        own = sorted(
            (pair["id"] for pair in pairs if pair["slice"] == piece), key=sure.get, reverse=True
        )
        for name in own[max(1, round(keep * len(own))) :]:
            outcomes[name] = piece, "below --keep"
    return [pair for pair in pairs if outcomes[pair["id"]][1] == "kept"], outcomes


def make_labels(judged, good, bad):
    """judged rows -> labelled answers: true from `good` on (so a right answer that the judge dislikes has no label),
    false up to `bad` or when broken; the rest says little. Ties of a prompt have their labels, too."""
    labels = []
    for row in judged:
        if row["score"] is not None and (row["score"] <= bad or row["score"] >= good):
            shared = {k: v for k, v in row.items() if k not in OF_ANSWER}
            labels.append(
                {"weight": 1.0, "slice": "all"}
                | shared
                | {
                    "completion": row["completion"],
                    "label": row["score"] >= good,
                    "score": row["score"],
                }
            )
    return labels


def ask_more(judged, outcomes, good, bad):
    """Prompts that deserve more candidates, with "why": no answer is good, or the answers or the orders divide."""
    more = []
    for name, answers in by_prompt(judged).items():
        scores = [-1.0 if a["score"] is None else a["score"] for a in answers]
        why = (
            "all fail"
            if max(scores) < good
            else "disagree"
            if min(scores) <= bad
            or outcomes[name][1] in ("orders disagree", "the pair says otherwise")
            else None
        )
        if why:
            own = OF_ANSWER | {"judge", "constitution", "contaminated"}
            more.append({k: v for k, v in answers[0].items() if k not in own} | {"why": why})
    return more


# ---- how far to believe it ------------------------------------------------------------------------------------


def answer_pairs(judged, a, b):
    """Pairs of answers to one prompt that differ in a(row) -> [(a(better) - a(worse), the same in b), ...]; rows where
    either is None are left out."""
    found = []
    for rows in by_prompt(judged).values():
        own = [(a(row), b(row)) for row in rows if a(row) is not None and b(row) is not None]
        for i, one in enumerate(own):
            found += [
                (max(one, two)[0] - min(one, two)[0], max(one, two)[1] - min(one, two)[1])
                for two in own[:i]
                if one[0] != two[0]
            ]
    return found


def agreement(judged):
    """Share of right/wrong answer pairs of a prompt that the judge alone orders as the verifier does, ties half ->
    (share, n)."""
    found = answer_pairs(
        judged, lambda row: (row["verify"] or {}).get("ok"), lambda row: row["judged"]
    )
    return (sum((d > 0) + 0.5 * (d == 0) for _, d in found) / len(found) if found else None), len(
        found
    )


def jury_kappa(judged, i, j):
    """Cohen's kappa of two judges on which of two answers to a prompt is better (either is half of the time, so chance
    agrees on a half); None without any."""
    found = answer_pairs(
        judged, lambda row: row["votes"][i]["score"], lambda row: row["votes"][j]["score"]
    )
    found = [d > 0 for _, d in found if d]
    return 2 * sum(found) / len(found) - 1 if found else None


def report_lines(judged, pairs, labels, outcomes, judges):
    """Terminal lines and the same as a dict: what was kept and dropped by slice, and how far to believe the judge."""
    by_slice = {}
    for piece, reason in outcomes.values():
        by_slice.setdefault(piece, Counter())[reason] += 1
    share, compared = agreement(judged)
    scored = [row for row in judged if row["judged"] is not None]
    masses = [row["mass"] for row in judged if row["mass"] is not None]
    flags = Counter(flag for row in judged for flag in row["flags"])
    by_length = [(row["judged"], row.get("tokens", 0)) for row in scored]
    varied = all(len(set(values)) > 1 for values in zip(*by_length)) and by_length
    longer = float(spearmanr(by_length).statistic) if varied else None
    asked = [
        row["both_orders"]
        for row in judged
        if row.get("both_orders") and None not in row["both_orders"]
    ]
    flips = sum((a >= 0.5) != (b >= 0.5) for a, b in asked) / len(asked) if asked else None
    first = sum((a >= 0.5) + (b < 0.5) for a, b in asked) / 2 / len(asked) if asked else None
    kappas = {
        f"{judges[i]} and {judges[j]}": kappa
        for j in range(len(judges))
        for i in range(j)
        if (kappa := jury_kappa(judged, i, j)) is not None
    }
    facts = {
        "contaminated": sum(row.get("contaminated", False) for row in judged),
        "answers": len(judged),
        "unscored": len(judged) - len(scored),
        "pairs": len(pairs),
        "labels": len(labels),
        "labels_true": sum(row["label"] for row in labels),
        "by_slice": {piece: dict(counts) for piece, counts in by_slice.items()},
        "flags": dict(flags),
        "agreement_with_verifiers": share,
        "compared": compared,
        "pairs_asked": len(asked),
        "order_flips": flips,
        "first_shown_picked": first,
        "score_length_correlation": longer,
        "mass": sum(masses) / len(masses) if masses else None,
        "jury_kappa": kappas,
    }
    lines = [
        f"slice    {piece}: " + ", ".join(f"{n} {reason}" for reason, n in counts.most_common())
        for piece, counts in by_slice.items()
    ]
    lines.append(
        f"flags    {', '.join(f'{name} {n}' for name, n in flags.most_common()) or 'none'}"
    )
    lines.append(
        "judge    "
        + (
            f"orders {share:.0%} of {compared} right/wrong pairs as verifiers do; "
            if compared
            else ""
        )
        + f"{facts['unscored']} of {len(judged)} answers without a score"
        + (f"; mean mass {facts['mass']:.2f}" if masses else "")
        + (f"; score and length correlate {longer:+.2f}" if longer is not None else "")
    )
    if asked:
        lines.append(
            f"orders   {len(asked)} pairs asked in both orders: {flips:.0%} change with the order, the first "
            f"shown is picked in {first:.0%}"
        )
    lines += [
        f"jury     {names}: kappa {kappa:.2f}"
        + (
            "  WARNING: nearly the same vote twice; another kind of judge adds more"
            if kappa > 0.6
            else ""
        )
        for names, kappa in kappas.items()
    ]
    if facts["contaminated"]:
        lines.insert(
            0,
            f"CONTAMINATED  {facts['contaminated']} of {len(judged)} answers are of a judge's own family, "
            "which it may favour: take a --judge of another family, or audit by hand",
        )
    return lines, facts


# ---- the run --------------------------------------------------------------------------------------------------


def read_groups(paths, limit, constitution):
    """Candidates of all files, checked, in groups by prompt."""
    groups, seen = {}, set()
    for row in [row for path in paths for row in read_records(path, "candidates", limit)]:
        row.setdefault("candidate", len(groups.get(row["id"], [])))
        where = f"{' '.join(paths)}: id {row['id']!r}"
        try:
            check_fields(row)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        groups.setdefault(row["id"], []).append(row)
        if row["prompt"] != groups[row["id"]][0]["prompt"]:
            raise BadInput(
                f"id {row['id']!r} stands for two different prompts in --data; ids must be unique"
            )
        if (row["id"], row["candidate"]) in seen:
            raise BadInput(
                f"{where}: candidate {row['candidate']} occurs in two files; number a second round with "
                "gen_candidates.py --first"
            )
        seen.add((row["id"], row["candidate"]))
        if not rubric_for(constitution, row.get("slice"), row["prompt"])[0]:
            raise BadInput(
                f"{where}: no criterion of the constitution is for the slice {row.get('slice')!r}"
            )
    return list(groups.values())


def read_texts(paths):
    """The paragraphs of text files."""
    try:
        texts = [Path(path).read_text(encoding="utf-8") for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--facts: {' '.join(paths)}: not a text in UTF-8 ({str(error)[:80]})"
        ) from None
    return [part.strip() for text in texts for part in text.split("\n\n") if part.strip()]


def resumable(path, batches, sizes, start, record, begin):
    """Lines of `path`: start()(batch) for every batch, appended; a killed run continues behind its last whole batch."""
    done = continue_lines(path, sizes)
    work = start() if done < len(batches) else None
    for batch in tqdm(batches[done:], initial=done, total=len(batches), desc=path.stem):
        append_lines(path, work(batch))
        (path.parent / "kept.jsonl").unlink(missing_ok=True)  # an endpoint's replies of this batch
        save_run(record, seconds=time.perf_counter() - begin)
    return [row for _, row in read_jsonl(path)] if batches else []


def judged_rows(rows, checks, by_judge, names, constitution, words, related_to):
    """Candidates with what verifiers, filters and judges said of them: the lines of judged.jsonl."""
    raw, control = [any(vote["raw"] for vote in votes) for votes in by_judge], names == ["random"]
    combined, judged = calibrate([[vote["score"] for vote in votes] for votes in by_judge], raw), []
    for row, check, score, *votes in zip(rows, checks, combined, *by_judge):
        digits = [vote for vote, scale in zip(votes, raw) if not scale]
        masses = [vote["mass"] for vote in votes if vote["mass"] is not None]
        known = [
            name
            for name in (digits[0]["scores"] if digits else {})
            if all(vote["scores"][name] is not None for vote in digits)
        ]
        judged.append(
            row
            | {
                "judged": score,
                "scores": {name: None for name in (digits[0]["scores"] if digits else {})}
                | {
                    name: sum(vote["scores"][name] for vote in digits) / len(digits)
                    for name in known
                },
                "sd": votes[0]["sd"] if len(votes) == 1 else None,
                "mass": min(masses) if masses else None,
                "verify": check["verify"],
                "judge": " + ".join(names),
                "constitution": constitution,
                "judge_tokens": sum(vote["tokens"] for vote in votes),
            }
        )
        if len(votes) > 1:
            judged[-1]["votes"] = [{"judge": name} | vote for name, vote in zip(names, votes)]
        if related_to(row):
            judged[-1]["contaminated"] = True
    everywhere = [[] for _ in judged] if control else flag_groups(judged)
    for row, flags in zip(judged, everywhere):
        row["flags"] = [] if control else find_flags(row, words) + flags
        row["score"] = grade(row["judged"], row["verify"], row["flags"])
    return judged


def main(args):
    if args.bad >= args.good:
        raise BadInput(f"--bad {args.bad} must be below --good {args.good}")
    if args.family and len(args.family) != len(args.judge):
        raise BadInput("--family: expected one for each --judge")
    constitution = read_constitution(args.constitution, args.short)
    words, evidence = read_words(args.words) if args.words else None, read_texts(args.facts)
    groups = read_groups(args.data, args.limit, constitution)
    rows = [row for group in groups for row in group]
    judges = [f"{j}@{args.endpoint}" if args.endpoint and j != "random" else j for j in args.judge]
    local = [j for j in judges if j != "random" and "@" not in j]
    undecided = [
        g for g in groups if g[0].get("slice") in args.no_verify or not set(CHECKS) & g[0].keys()
    ]
    asked = 0 if args.no_orders else len(undecided)
    counted = [judging_tokens(judge, constitution, groups, asked) for judge in judges]
    plan = forecast(
        args.out,
        "judge.py",
        sum(tokens for tokens, _ in counted),
        args.tokens_per_second,
        price_per_million=args.price_judge,
        price_gpu_hour=args.price_gpu_hour,
        model=args.judge,
    )
    name = f"{constitution['name']}@{constitution['hash']}"
    print(
        f"plan     {len(groups)} prompts, {len(rows)} answers, constitution {name}, {counted[0][1]} tokens a prompt: "
        f"{cost_line(plan)}"
    )
    if args.plan:
        return 0
    inputs = (
        args.data + [args.constitution] + local + args.facts + ([args.words] if args.words else [])
    )
    record = start_run(args.out, "judge.py", vars(args), inputs)
    if record["finished"]:
        print(f"{args.out} is finished: nothing to do")
        return 0
    out, begin, opened = Path(args.out), time.perf_counter() - record["seconds"], []

    def judge_at(j):
        """Judge number j, alone in memory -> its functions (score, pair)."""
        if opened[:1] != [j]:
            opened.clear()
            free_memory()
            opened.extend(
                (
                    j,
                    *open_judge(
                        judges[j],
                        constitution,
                        args.quantize,
                        args.concurrency,
                        args.seed,
                        out / "kept.jsonl",
                        record.setdefault("logprobs", {}),
                    ),
                )
            )
        return opened[1:]

    def check(batch):
        known = {"evidence": evidence} if evidence else {}
        return [
            {
                "verify": verify(known | row, row["completion"], args.run_code, args.unsafe)
                if judges != ["random"] and row.get("slice") not in args.no_verify
                else None
            }
            for row in batch
        ]

    parts = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    checks = resumable(
        out / "checks.jsonl", parts, [*map(len, parts)], lambda: check, record, begin
    )
    batches = [groups[i : i + 16] for i in range(0, len(groups), 16)]
    sizes = [sum(map(len, batch)) for batch in batches]
    by_judge = [
        resumable(
            out / f"votes-{j + 1}.jsonl", batches, sizes, lambda j=j: judge_at(j)[0], record, begin
        )
        for j in range(len(judges))
    ]
    families = [
        given or family_of(judge)
        for judge, given in zip(judges, args.family or [None] * len(judges))
    ]
    generators = {g: family_of(g) for g in {row.get("generator", "") for row in rows}}
    judged = judged_rows(
        rows,
        checks,
        by_judge,
        judges,
        name,
        words,
        lambda row: any(
            related(family, row.get("family") or generators[row.get("generator", "")])
            for family in families
        ),
    )
    asked = []
    for answers in by_prompt(judged).values():
        chosen, rejected, reason = pick_pair(answers, args.min_margin)
        if not reason and not told_apart(chosen, rejected) and not args.no_orders:
            asked.append((chosen, rejected))
    parts = [asked[i : i + 16] for i in range(0, len(asked), 16)]
    orders = [
        resumable(
            out / f"orders-{j + 1}.jsonl",
            parts,
            [*map(len, parts)],
            lambda j=j: judge_at(j)[1],
            record,
            begin,
        )
        for j in reversed(range(len(judges)))
        if judges[j] != "random"
    ]
    for (chosen, _), *said in zip(asked, *orders):
        sides = [*zip(*(one["p"] for one in said))]  # [both orders][judges]
        chosen["both_orders"] = [None if None in side else sum(side) / len(side) for side in sides]
        chosen["judge_tokens"] += sum(one["tokens"] for one in said)

    pairs, outcomes = make_pairs(judged, args.min_margin, args.keep)
    labels = make_labels(judged, args.good, args.bad)
    lines, facts = report_lines(judged, pairs, labels, outcomes, judges)
    tokens = sum(row["judge_tokens"] for row in judged)
    measured = {
        "tokens": tokens,
        "seconds": record["seconds"],
        "cost": money(tokens, args.price_judge, record["seconds"], args.price_gpu_hour),
    }
    made = sum(read_run(Path(path).with_suffix(".run.json")).get("cost", 0.0) for path in args.data)
    facts |= {
        "judges": dict(zip(judges, families)),
        "cost_per_kept_pair": (made + measured["cost"]) / len(pairs) if pairs else None,
    }
    if args.more:
        more = ask_more(judged, outcomes, args.good, args.bad)
        write_jsonl(args.more, more)
        lines.append(
            f"more     {len(more)} prompts -> {args.more} ("
            + ", ".join(f"{n} {why}" for why, n in Counter(row["why"] for row in more).items())
            + ")"
        )
    for part, some in (("judged", judged), ("pairs", pairs), ("labels", labels)):
        write_jsonl(out / f"{part}.jsonl", some)
    write_whole(out / "report.json", json.dumps(facts, indent=1) + "\n")
    save_run(record, finished=True, forecast=plan, **measured)
    for path in [
        *out.glob("checks.jsonl"),
        *out.glob("votes-*.jsonl"),
        *out.glob("orders-*.jsonl"),
    ]:
        path.unlink()  # all of it stands in judged.jsonl
    print("\n".join(lines))
    per_pair = (
        f" ({facts['cost_per_kept_pair']:.6f} a kept pair with its candidates)" if pairs else ""
    )
    print(
        f"result   {len(pairs)} pairs from {len(groups)} prompts, {len(labels)} labels ({facts['labels_true']} "
        f"good); {cost_line(measured)}, forecast {plan['tokens']:,.0f} tokens{per_pair} -> {args.out}"
    )
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
