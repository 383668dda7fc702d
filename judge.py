"""Step 3: judge candidates with verifiers, an AI judge on a written constitution, and filters -> pairs and labels.

Reads   candidates.jsonl (several answers per id), a constitution in Markdown.
Writes  a folder: judged.jsonl (every answer with score, scores, sd, mass, verify, flags), pairs.jsonl (for dpo.py),
        labels.jsonl (for kto.py), report.json, run.json.

    python judge.py --judge data/tiny/judge --constitution data/tiny/constitution.md --data data/candidates.jsonl \\
        --out runs/judged
    python judge.py --judge Qwen/Qwen3-4B --constitution data/constitution.md --data runs/candidates.jsonl \\
        --out runs/judged-4b --no-verify support
    python judge.py --judge gpt --endpoint http://localhost:8000/v1 --constitution data/constitution.md \\
        --data runs/candidates.jsonl --out runs/judged-api

Where a prompt carries its truth (answer, call, sql, constraints, tests, expected) the verifier decides and the judge
only ranks within right and within wrong. Elsewhere the score is the expected digit 0-5 from the judge's next-token
logits, weighted over the criteria. A judge that could not score (mass below 0.5) gives null: never 0, never a tie.
What to look at: agreement with the verifiers (near 50 % = the judge guesses), the mass, the share of ties per slice.
`--both-orders` also shows a local judge the best and the worst answer as a pair, in both orders, and drops the pair
when one of them does not confirm it (pairs that a verifier tells apart are not asked).
`--judge random` is the control of every experiment: scores at random, verifiers and filters ignored; it must teach
nothing.
Left out on purpose: chains of thought (slower, no better for small judges), several judges.
"""

import json
import random
import re
import time
from collections import Counter
from pathlib import Path

from scipy.stats import norm, spearmanr
from tqdm import tqdm

from common import (BadInput, append_lines, at_least, continue_lines, cost_line, forecast, judge_tokens, money, parser,
                    read_jsonl, read_records, run, save_run, seed_for, start_run, write_jsonl, write_whole)
from models import load_tokenizer
from scoring import (endpoint_requests, judge_answers, judge_endpoint, judge_ids, judge_pairs, load_judge,
                     overall_score, read_constitution)
from verify import check_fields, is_refusal, verify, visible


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument("--judge", required=True, help="hub name, model or run folder; a name at --endpoint; or random")
    p.add_argument("--endpoint", help="URL of an OpenAI-compatible server (strict JSON verdicts)")
    p.add_argument("--constitution", required=True, help="Markdown: criteria with weights and anchors")
    p.add_argument("--data", required=True, nargs="+", help="candidates: JSONL files or hf:name[:split]")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    # the method
    p.add_argument("--no-verify", nargs="+", default=[], metavar="SLICE", help="slices where the judge alone decides")
    p.add_argument("--both-orders", action="store_true", help="also ask a local judge: best or worst, in both orders")
    p.add_argument("--run-code", action="store_true", help="run unit tests on model-written code, in a sandbox")
    p.add_argument("--min-margin", type=at_least(0, float, 5), default=1.0, help="smallest gap of a pair")
    p.add_argument("--keep", type=at_least(0, float, 1), default=1.0, help="share of the pairs kept per slice")
    p.add_argument("--good", type=at_least(0, float, 5), default=4.0, help="a score from here on is labelled true")
    p.add_argument("--bad", type=at_least(0, float, 5), default=2.0, help="a score up to here is labelled false")
    p.add_argument("--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU")
    p.add_argument("--seed", type=int, default=0, help="of --judge random")
    # look before you pay
    p.add_argument("--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit")
    p.add_argument("--tokens-per-second", type=at_least(1e-9, float), help="for the forecast (default: an earlier run)")
    p.add_argument("--price-judge", type=at_least(0, float), default=0.0, help="price per million tokens")
    p.add_argument("--price-gpu-hour", type=at_least(0, float), default=0.0, help="price of the machine per hour")
    return p.parse_args(argv)


# ---- the method -----------------------------------------------------------------------------------------------

BROKEN = {"empty", "truncated", "repetition", "markers"}  # in no pair: "better than broken" teaches nothing
MARKERS = re.compile(r"<\|\w+\|>|</?s>|<(user|assistant|system|end|pad)>|\[/?INST\]")
INJECTION = re.compile(r"(ignore|disregard) (all|the|any|previous|above).{0,20}(instruction|rubric|criteria)"
                       r"|(give|rate|score)( this| me| it)?( a)? (5|five|maximum|full marks)|score: ?[0-9]", re.I)


def find_flags(row):
    """Names of the filters an answer trips: empty, truncated, repetition, markers, injection, refusal, over-refusal."""
    text = visible(row["completion"][0]["content"]).strip()
    words = text.split()
    grams = [tuple(words[i:i + 4]) for i in range(len(words) - 3)]
    expected = row.get("expected")
    found = {"empty": not text and not row["completion"][0].get("tool_calls"),
             "truncated": row.get("finish") == "length",
             "repetition": len(grams) >= 8 and len(set(grams)) < 0.5 * len(grams),
             "markers": bool(MARKERS.search(text)), "injection": bool(INJECTION.search(text)),
             "refusal": is_refusal(text) and expected is None,
             "over-refusal": is_refusal(text) and expected == "comply"}
    return [name for name, hit in found.items() if hit]


def grade(scores, criteria, verified):
    """One number 0-5 for an answer, or None: the judge's overall score, moved to 3-5 when the verifier says right and
    to 0-2 when it says wrong."""
    judged = overall_score(scores, criteria)
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
    if chosen["completion"] == rejected["completion"]:  # the next worst instead would favour the commonest answer
        return None, None, "tied"
    if chosen["score"] - rejected["score"] < max(min_margin, 1e-9):
        return None, None, "tied"
    return chosen, rejected, None


def told_apart(chosen, rejected):
    """Does a verifier say that chosen is right and rejected is wrong?"""
    return [(a["verify"] or {}).get("ok") for a in (chosen, rejected)] == [True, False]


def preference(chosen, rejected):
    """Probability that chosen is better: 1 where the verifier tells them apart, else from the judge's means and spreads
    (0.5 when it gave none)."""
    if told_apart(chosen, rejected):
        return 1.0
    if None in (chosen["sd"], rejected["sd"], chosen["judged"], rejected["judged"]):
        return 0.5
    spread = max((chosen["sd"] ** 2 + rejected["sd"] ** 2) ** 0.5, 1e-3)
    return max(0.5, float(norm.cdf((chosen["judged"] - rejected["judged"]) / spread)))


OF_ANSWER = {"candidate", "completion", "generator", "temperature", "system", "seed", "tokens", "read", "finish",
             "score", "judged", "judge_tokens", "scores", "sd", "mass", "verify", "flags", "both_orders"}


def make_pairs(judged, min_margin, keep):
    """judged rows -> (pairs, Counter of (slice, outcome)). `keep` is the share kept by margin within each slice."""
    groups, pairs, outcomes = {}, [], Counter()
    for row in judged:
        groups.setdefault(row["id"], []).append(row)
    for answers in groups.values():
        chosen, rejected, reason = pick_pair(answers, min_margin)
        piece = answers[0].get("slice", "all")
        asked = None if reason else chosen.get("both_orders")
        if asked and (None in asked or min(asked) < 0.5):
            reason = "not confirmed in both orders"
        if reason:
            outcomes[piece, reason] += 1
            continue
        shared = {k: v for k, v in chosen.items() if k not in OF_ANSWER}
        pairs.append(shared | {"slice": piece, "chosen": chosen["completion"], "rejected": rejected["completion"],
                               "score_chosen": chosen["score"], "score_rejected": rejected["score"],
                               "margin": chosen["score"] - rejected["score"],
                               "p": sum(asked) / 2 if asked else preference(chosen, rejected),
                               "weight": chosen.get("weight", 1.0)})
    kept = []
    for piece in dict.fromkeys(pair["slice"] for pair in pairs):
        own = sorted((pair for pair in pairs if pair["slice"] == piece), key=lambda pair: -pair["margin"])
        some = own[:max(1, round(keep * len(own)))]
        kept += some
        outcomes[piece, "kept"] += len(some)
        outcomes[piece, "below --keep"] += len(own) - len(some)
    order = {name: place for place, name in enumerate(groups)}
    return sorted(kept, key=lambda pair: order[pair["id"]]), outcomes


def make_labels(judged, good, bad):
    """judged rows -> labelled answers: true from `good` on (so a right answer that the judge dislikes has no label),
    false up to `bad` or when broken; the rest says little."""
    labels = []
    for row in judged:
        broken = bool(BROKEN & set(row["flags"]))
        if row["score"] is None and not broken:
            continue
        if broken or row["score"] <= bad or row["score"] >= good:
            shared = {k: v for k, v in row.items() if k not in OF_ANSWER}
            labels.append({"weight": 1.0, "slice": "all"} | shared | {
                "completion": row["completion"], "label": not broken and row["score"] >= good, "score": row["score"]})
    return labels


def agreement(judged):
    """Share of right/wrong answer pairs of a prompt that the judge alone orders as the verifier does -> (share, n)."""
    agree = total = 0
    groups = {}
    for row in judged:
        if row["verify"] and row["verify"]["ok"] is not None and row["judged"] is not None:
            groups.setdefault(row["id"], {True: [], False: []})[row["verify"]["ok"]].append(row["judged"])
    for group in groups.values():
        for right in group[True]:
            for wrong in group[False]:
                agree, total = agree + (right > wrong) + 0.5 * (right == wrong), total + 1
    return (agree / total if total else None), total


def report_lines(judged, pairs, labels, outcomes):
    """Terminal lines and the same as a dict: what was kept and dropped by slice, and how far to believe the judge."""
    slices = list(dict.fromkeys(piece for piece, _ in outcomes))
    by_slice = {piece: {reason: n for (s, reason), n in outcomes.items() if s == piece and n} for piece in slices}
    share, compared = agreement(judged)
    scored = [row for row in judged if row["judged"] is not None]
    masses = [row["mass"] for row in judged if row["mass"] is not None]
    flags = Counter(flag for row in judged for flag in row["flags"])
    by_length = [(row["judged"], row.get("tokens", 0)) for row in scored]
    varied = all(len(set(values)) > 1 for values in zip(*by_length)) and by_length
    longer = float(spearmanr(by_length).statistic) if varied else None
    facts = {"answers": len(judged), "unscored": len(judged) - len(scored), "pairs": len(pairs), "labels": len(labels),
             "labels_true": sum(row["label"] for row in labels), "by_slice": by_slice, "flags": dict(flags),
             "agreement_with_verifiers": share, "compared": compared, "score_length_correlation": longer,
             "mass": sum(masses) / len(masses) if masses else None}
    lines = [f"slice    {piece}: " + ", ".join(f"{n} {reason}" for reason, n in counts.items())
             for piece, counts in by_slice.items()]
    lines.append(f"flags    {', '.join(f'{name} {n}' for name, n in flags.most_common()) or 'none'}")
    lines.append("judge    "
                 + (f"orders {share:.0%} of {compared} right/wrong pairs as verifiers do; " if compared else "")
                 + f"{facts['unscored']} of {len(judged)} answers without a score"
                 + (f"; mean mass {facts['mass']:.2f}" if masses else "")
                 + (f"; score and length correlate {longer:+.2f}" if longer is not None else ""))
    return lines, facts


# ---- the run --------------------------------------------------------------------------------------------------


def main(args):
    if args.both_orders and (args.endpoint or args.judge == "random"):
        raise BadInput("--both-orders needs a local judge")
    if args.bad >= args.good:
        raise BadInput(f"--bad {args.bad} must be below --good {args.good}")
    constitution = read_constitution(args.constitution)
    rows = [row for path in args.data for row in read_records(path, "candidates", args.limit)]
    groups = {}
    for row in rows:
        row.setdefault("candidate", len(groups.get(row["id"], [])))
        try:
            check_fields(row)
        except BadInput as error:
            raise BadInput(f"{' '.join(args.data)}: id {row['id']!r}: {error}") from None
        groups.setdefault(row["id"], []).append(row)
        if row["prompt"] != groups[row["id"]][0]["prompt"]:
            raise BadInput(f"id {row['id']!r} stands for two different prompts in --data; ids must be unique")
    groups, local = list(groups.values()), args.judge != "random" and not args.endpoint
    tokenizer = load_tokenizer(args.judge) if local else None
    tokens = 0
    if local:  # every so many prompts stand for all; the prefix is rubric + prompt
        some = groups[::max(1, len(groups) // 50)]
        shapes = [judge_ids(tokenizer, constitution, g[0]["prompt"], [g[0]["completion"]], g[0].get("slice"),
                            g[0].get("tools")) for g in some]
        prefix = sum(len(s[0]) for s in shapes) / len(some)
        answer = sum(len(s[1][0]) + sum(map(len, s[2].values())) for s in shapes) / len(some)
        tokens = round(judge_tokens(len(groups), len(rows) / len(groups), answer, 0, prefix))
        tokens += round(len(groups) * (prefix + 4 * answer)) * args.both_orders
    elif args.endpoint:  # every answer and criterion is a request of its own; 4 characters a token
        tokens = sum(len(request["messages"][0]["content"]) // 4 + 20 for g in groups for request in endpoint_requests(
            constitution, g[0]["prompt"], [row["completion"] for row in g], g[0].get("slice"),
            g[0].get("tools")))
    plan = forecast(args.out, "judge.py", tokens, args.tokens_per_second, args.price_judge, args.price_gpu_hour,
                    args.judge)
    name = f"{constitution['name']}@{constitution['hash']}"
    print(f"plan     {len(groups)} prompts, {len(rows)} answers, constitution {name}: {cost_line(plan)}")
    if args.plan:
        return 0
    inputs = args.data + [args.constitution] + ([args.judge] if local else [])
    record = start_run(args.out, "judge.py", vars(args), inputs)
    if record["finished"]:
        print(f"{args.out} is finished: nothing to do")
        return 0
    batches = [groups[i:i + 16] for i in range(0, len(groups), 16)]
    path = Path(args.out) / "judged.jsonl"
    done = continue_lines(path, [sum(map(len, batch)) for batch in batches])
    seconds, start = record["seconds"], time.perf_counter()
    model = load_judge(args.judge, args.quantize) if local and done < len(batches) else None

    for batch in tqdm(batches[done:], initial=done, total=len(batches), desc="judge"):
        asked = [(answers[0]["prompt"], [answer["completion"] for answer in answers], answers[0].get("slice"),
                  answers[0].get("tools")) for answers in batch]
        told, judged = judge_answers(model, tokenizer, constitution, asked) if local else None, []
        for at, answers in enumerate(batch):
            prompt, _, piece, tools = asked[at]
            if args.judge == "random":
                draw = [random.Random(seed_for(args.seed, a["id"], a["candidate"])) for a in answers]
                scores = [{c["name"]: {"score": 5 * d.random(), "sd": 1.0, "mass": 1.0}
                           for c in constitution["criteria"]} for d in draw]
                used = 0
            elif args.endpoint:
                scores, used = judge_endpoint(args.endpoint, args.judge, constitution, *asked[at])
            else:
                scores, used = told[at]
            for row, score in zip(answers, scores):
                trust = args.judge != "random" and piece not in args.no_verify
                verified = verify(row, row["completion"], args.run_code) if trust else None
                weights = {c["name"]: c["weight"] for c in constitution["criteria"] if c["name"] in score}
                spreads = [(weights[c], s["sd"]) for c, s in score.items()]
                masses = [s["mass"] for s in score.values() if s["mass"] is not None]
                judged.append(row | {
                    "score": grade(score, constitution["criteria"], verified),
                    "judged": grade(score, constitution["criteria"], None),
                    "scores": {c: s["score"] for c, s in score.items()},
                    "sd": None if not spreads or any(sd is None for _, sd in spreads) else
                    sum((w * sd) ** 2 for w, sd in spreads) ** 0.5 / sum(weights.values()),
                    "mass": min(masses) if masses else None, "verify": verified,
                    "flags": find_flags(row) if args.judge != "random" else [],
                    "judge": args.judge, "constitution": name, "judge_tokens": 0})
            chosen, rejected, _ = pick_pair(judged[-len(answers):], args.min_margin)
            if args.both_orders and local and chosen and not told_apart(chosen, rejected):
                [(chosen["both_orders"], more)] = judge_pairs(model, tokenizer, constitution, [
                    (prompt, [chosen["completion"], rejected["completion"]], piece, tools)])
                used += more
            judged[-len(answers)]["judge_tokens"] = used  # what one reading of the prompt and all its answers took
        append_lines(path, judged)
        save_run(record, seconds=seconds + time.perf_counter() - start)

    judged = [row for _, row in read_jsonl(path)]
    tokens = sum(row["judge_tokens"] for row in judged)
    pairs, outcomes = make_pairs(judged, args.min_margin, args.keep)
    labels = make_labels(judged, args.good, args.bad)
    write_jsonl(Path(args.out) / "pairs.jsonl", pairs)
    write_jsonl(Path(args.out) / "labels.jsonl", labels)
    lines, facts = report_lines(judged, pairs, labels, outcomes)
    write_whole(Path(args.out) / "report.json", json.dumps(facts, indent=1) + "\n")
    measured = {"tokens": tokens, "seconds": record["seconds"],
                "cost": money(tokens, args.price_judge, record["seconds"], args.price_gpu_hour)}
    save_run(record, finished=True, forecast=plan, **measured)
    print("\n".join(lines))
    print(f"result   {len(pairs)} pairs from {len(groups)} prompts, {len(labels)} labels ({facts['labels_true']} "
          f"good); {cost_line(measured)} -> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
