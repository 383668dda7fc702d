"""Step 5: the release gate. Did the candidate improve on the baseline without regressing any slice?

Reads   a suite folder of *.jsonl: id, slice, prompt, type ("verify", "judge" or "canary") and what verify.py needs.
Writes  a folder: answers-*.jsonl of both models, items.jsonl (their scores), report.json, report.md, run.json.
Exits   0 SHIP, 1 BLOCK, 3 NOT ENOUGH DATA (and how much more is needed), 2 bad input.

    python gate.py --model runs/dpo --baseline runs/sft --suite data/tiny/gate --out runs/gate-dpo
    python gate.py --model runs/sft --baseline runs/sft --suite data/tiny/gate --out runs/gate-same --profile release
    python gate.py --model runs/dpo --baseline runs/sft --suite data/gate --out runs/gate-judged --judge runs/judge \\
        --constitution data/constitution.md

Both models answer every prompt k times (--profile hobby: k 4, margin 10 points, 30 prompts a slice; release: 8, 5, 100)
and are compared prompt by prompt. A slice FAILs when its drop is significant (one-sided t test, clusters kept whole,
level 0.05 / (slices + 1)) and at least one point. It is CLEAR when the lower 95 % bound of the difference lies above
minus the margin. One failed slice, a significant drop of the mean over all slices, or a canary that the baseline passes
and the candidate fails: BLOCK; but a drop must be there again in k fresh answers (judged slices are asked once). All
clear: SHIP.
What to look at: the slice table (delta with interval, wins:losses, tokens per answer) before the verdict. A gain that
a cooler baseline has, too (--model BASE --model-temperature 0.3), or that --greedy does not show, is only sharpening.
Left out on purpose: one score for everything. A slice that falls is not made good by one that rises.
"""

import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
from scipy.stats import t as student
from tqdm import tqdm

from common import (BadInput, append_lines, at_least, continue_lines, cost_line, digest, forecast, money, parser,
                    prompt_ids, read_jsonl, read_records, run, runs_beside, save_run, seed_for, start_run, write_jsonl,
                    write_whole)
from inference import generation_batches, sample
from scoring import judge_answers, load_judge, overall_score, read_constitution
from models import fingerprint, load_model, load_tokenizer
from verify import check_fields, verify

EXIT = {"SHIP": 0, "BLOCK": 1, "NOT ENOUGH DATA": 3}
PROFILES = {"hobby": {"k": 4, "margin": 0.10, "min_n": 30}, "release": {"k": 8, "margin": 0.05, "min_n": 100}}


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument("--model", required=True, help="candidate: hub name, model folder or run folder")
    p.add_argument("--baseline", required=True, help="what is in use today")
    p.add_argument("--suite", required=True, help="folder of *.jsonl, or one file")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    # the method
    p.add_argument("--profile", choices=PROFILES, default="hobby", help="answers, margin, prompts per slice: see above")
    p.add_argument("--temperature", type=at_least(0, float), default=0.7, help="of the k answers; canaries are greedy")
    p.add_argument("--model-temperature", type=at_least(0, float), help="another one for --model (a control: cooler)")
    p.add_argument("--greedy", action="store_true", help="one greedy answer more per prompt, reported beside the k")
    p.add_argument("--max-tokens", type=at_least(1), default=512, help="longest answer")
    p.add_argument("--judge", nargs="+", action="extend", help="model that scores the items of type judge")
    p.add_argument("--constitution", help="for --judge")
    p.add_argument("--run-code", action="store_true", help="run unit tests on model-written code, in a sandbox")
    p.add_argument("--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU")
    p.add_argument("--batch-size", type=at_least(1), default=64, help="answers sampled at once")
    p.add_argument("--seed", type=int, default=0, help="candidate and baseline draw from different streams")
    # look before you pay
    p.add_argument("--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit")
    p.add_argument("--answer-len", type=at_least(1), help="expected tokens per answer, for the forecast (--max-tokens)")
    p.add_argument("--tokens-per-second", type=at_least(1e-9, float), help="for the forecast (default: an earlier run)")
    p.add_argument("--price-gpu-hour", type=at_least(0, float), default=0.0, help="price of the machine per hour")
    return p.parse_args(argv)


# ---- the method -----------------------------------------------------------------------------------------------


def paired_difference(candidate, baseline, clusters):
    """(mean difference, standard error, degrees of freedom, raw error) of paired scores [n] in 0..1; the items of a
    cluster count as one draw (cluster-robust: G/(G-1) x sum over clusters of their summed deviations squared / n^2).

    The error is never below 1/n, what one flipped prompt would make."""
    d = np.asarray(candidate, float) - np.asarray(baseline, float)
    mean, n = d.mean(), len(d)
    sums = {}
    for deviation, cluster in zip(d - mean, clusters):
        sums[cluster] = sums.get(cluster, 0.0) + deviation
    G = len(sums)
    error = math.sqrt(G / (G - 1) * sum(s * s for s in sums.values())) / n if G > 1 else math.inf
    return float(mean), max(error, 1 / n), max(G - 1, 1), error


def compare_slice(candidate, baseline, clusters, margin, min_n, hypotheses):
    """Decide one slice from paired scores -> {"delta", "low", "high", "p_drop", "verdict", "need", ...}.

    low and high: 95 % interval of the difference. FAIL: p_drop < 0.05 / hypotheses and a drop of >= 0.01. CLEAR: the
    one-sided 95 % lower bound above -margin, and min_n prompts; what n prompts never showed may still happen in 3/n of
    them (rule of three), so the bound is at most delta - 3/n. UNSURE: neither; `need` prompts would decide it."""
    delta, error, df, raw = paired_difference(candidate, baseline, clusters)
    n, p_drop = len(candidate), float(student.cdf(delta / error, df))
    low, high = (min(max(delta + sign * student.ppf(0.975, df) * error, -1.0), 1.0) for sign in (-1, 1))
    bound = delta - max(student.ppf(0.95, df) * error, 3 / n)
    verdict, need = "UNSURE", None
    if p_drop < 0.05 / hypotheses and delta <= -0.01 and n >= 2:
        verdict = "FAIL"
    elif bound > -margin and n >= min_n:
        verdict = "CLEAR"
    elif delta > -margin and math.isfinite(error):
        need = max(min_n, n + 1)
        t = student.ppf(0.95, max(need * (df + 1) // n - 1, 1)) / (delta + margin)
        need = max(need, math.floor(n * (t * raw) ** 2) + 1, math.floor(max(t, 3 / (delta + margin)) + 1e-9) + 1)
    return {"n": n, "candidate": float(np.mean(candidate)), "baseline": float(np.mean(baseline)), "delta": float(delta),
            "low": float(low), "high": float(high), "p_drop": p_drop, "verdict": verdict, "need": need,
            "wins": int(sum(c > b for c, b in zip(candidate, baseline))),
            "losses": int(sum(c < b for c, b in zip(candidate, baseline)))}


def compare_slices(items, margin, min_n):
    """items [{"slice", "cluster", "candidate", "baseline"}] with scores 0..1 -> ({slice: result}, overall).

    overall: the mean of the slice differences, tested for a drop that is thin in each slice, and for a gain."""
    names = list(dict.fromkeys(item["slice"] for item in items))
    slices = {}
    for name in names:
        own = [item for item in items if item["slice"] == name]
        scores = [[item[side] for item in own] for side in ("candidate", "baseline")]
        slices[name] = compare_slice(*scores, [item["cluster"] for item in own], margin, min_n, len(names) + 1)
    parts = [paired_difference([i["candidate"] for i in items if i["slice"] == name],
                               [i["baseline"] for i in items if i["slice"] == name],
                               [i["cluster"] for i in items if i["slice"] == name]) for name in names]
    delta = sum(d for d, *_ in parts) / len(parts)
    error, df = math.sqrt(sum(e * e for _, e, *_ in parts)) / len(parts), min(sum(f for _, _, f, _ in parts), 10**6)
    p_drop = float(student.cdf(delta / error, df)) if math.isfinite(error) else 0.5
    width = float(min(student.ppf(0.975, df) * error, 2.0))
    return slices, {"delta": delta, "low": delta - width, "high": delta + width, "p_drop": p_drop, "p_gain": 1 - p_drop,
                    "fail": p_drop < 0.05 / (len(names) + 1) and delta <= -0.01}


def confirm(compared, fresh, suspects, overall, margin, min_n):
    """(slices, overall) anew, from the first and the fresh answers together where there seemed to be a drop. It stands
    when the fresh answers alone show it, too (p < 0.05): chance does not strike the same place twice."""
    scores = {item["id"]: item for item in fresh}
    for item in compared:
        if item["id"] in scores:
            item |= {key: (item[key] + scores[item["id"]][key]) / 2
                     for key in ("candidate", "baseline", "tokens_candidate", "tokens_baseline")}
    slices, pooled = compare_slices(compared, margin, min_n)
    alone, mean = compare_slices(fresh, margin, min_n)
    for name in suspects:
        slices[name]["again"] = {key: alone[name][key] for key in ("delta", "p_drop")}
        if slices[name]["verdict"] == "FAIL" and alone[name]["p_drop"] >= 0.05:
            slices[name] |= {"verdict": "UNSURE", "need": 2 * slices[name]["n"]}
    everywhere = len(suspects) == len(slices)
    stands = pooled["fail"] and (not everywhere or mean["p_drop"] < 0.05)
    return slices, (pooled if everywhere or stands else overall) | {"fail": stands}


def decide(slices, overall, canaries, unscored=()):
    """(verdict, one sentence of why). canaries: [{"id", "candidate": passed, "baseline": passed}]; unscored: slices
    where too many items have no score, say unit tests without --run-code: they cannot ship."""
    broken = [c["id"] for c in canaries if c["baseline"] and not c["candidate"]]
    failed = [name for name, s in slices.items() if s["verdict"] == "FAIL"]
    unsure = {name: s for name, s in slices.items() if s["verdict"] == "UNSURE"}
    reasons = [f"{name} fell by {-100 * slices[name]['delta']:.1f} points (p = {slices[name]['p_drop']:.1g})"
               for name in failed]
    if broken:
        reasons.append(f"canaries that the baseline passes fail: {', '.join(broken[:5])}")
    if overall["fail"] and not reasons:
        reasons.append(f"the mean over all slices fell by {-100 * overall['delta']:.1f} points")
    if reasons:
        return "BLOCK", "; ".join(reasons)
    if unsure or unscored or not slices:
        needs = [f"{name} has {s['n']} prompts and needs {'more' if s['need'] is None else s['need']}"
                 for name, s in unsure.items()] + [f"{name} has too many items without a score" for name in unscored]
        return "NOT ENOUGH DATA", "; ".join(needs) or "the suite has no comparable slice"
    gain = "{delta:+.1%} over all slices [{low:+.1%}, {high:+.1%}]".format(**overall)
    return "SHIP", f"no slice fell; {'improved' if overall['p_gain'] < 0.05 else 'no improvement shown'}: {gain}"


# ---- answers --------------------------------------------------------------------------------------------------


def read_suite(path, limit):
    """Suite items of a folder or file; type, slice and verifier fields are checked. BadInput names file and item."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path}: no *.jsonl in this folder")
    items, seen = [], set()
    for file in files:
        for row in read_records(file, "prompts", limit):
            row = {"slice": file.stem, "type": "verify"} | row
            where = f"{file}: id {row['id']!r}"
            if row["type"] not in ("verify", "judge", "canary"):
                raise BadInput(f"{where}: field 'type': {str(row['type'])[:40]!r}; expected verify, judge or canary")
            try:
                check_fields(row)
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from None
            if row["type"] != "judge" and verify(row, "x") is None:
                raise BadInput(f"{where}: nothing to verify; give answer, call, sql, tests, constraints or "
                               "expected, or the type judge")
            if row["id"] in seen:
                raise BadInput(f"{where}: field 'id' occurs twice in the suite")
            seen.add(row["id"])
            items.append(row)
    return items


def answer_suite(model_name, role, items, k, out, args, again=""):
    """Sample k answers per item (canaries: one, greedy) into out/answers-ROLE.jsonl -> (rows, tokens in and out). With
    --greedy a verified item has one more, "sample": "greedy", which decides nothing. `again` names a second file, with
    fresh answers."""
    path, tokenizer = Path(out) / f"answers-{role}{again}.jsonl", load_tokenizer(model_name)
    ids = [prompt_ids(tokenizer, item["prompt"], item.get("tools")) for item in items]
    warm = args.temperature
    if role == "candidate" and args.model_temperature is not None:
        warm = args.model_temperature
    temperatures = [[0.0] if item["type"] == "canary" else
                    [warm] * k + [0.0] * (args.greedy and not again and item["type"] == "verify") for item in items]
    counts = [len(own) for own in temperatures]
    batches = generation_batches([len(i) for i in ids], counts, args.batch_size)
    done = continue_lines(path, [sum(counts[n] for n in batch) for batch in batches])
    model = load_model(model_name, args.quantize) if done < len(batches) else None
    for batch in tqdm(batches[done:], initial=done, total=len(batches), desc=role):
        jobs = [(ids[n], [(temperature, seed_for(args.seed, role + again, items[n]["id"], s))
                          for s, temperature in enumerate(temperatures[n])]) for n in batch]
        rows = []
        for n, answers in zip(batch, sample(model, tokenizer, jobs, args.max_tokens)):
            for s, answer in enumerate(answers):
                rows.append({"id": items[n]["id"], "sample": s if s < k else "greedy", "text": answer["text"],
                             "tokens": answer["tokens"], "finish": answer["finish"]})
        append_lines(path, rows)
    rows = [row for _, row in read_jsonl(path)]
    if len(rows) != sum(counts):
        raise BadInput(f"{path}: {len(rows)} answers instead of {sum(counts)}; did two runs write it? Delete it")
    return rows, sum(map(len, ids)) + sum(row["tokens"] for row in rows)


def judge_suite(items, answers, args):
    """Score the answers to items of type judge, both roles together -> {(role, id): mean score in 0..1 or None}."""
    constitution, path = read_constitution(args.constitution), Path(args.out) / "judged.jsonl"
    asked = [item for item in items if item["type"] == "judge"]
    batches = [asked[i:i + 16] for i in range(0, len(asked), 16)]
    done = continue_lines(path, [*map(len, batches)])
    model = load_judge(args.judge, args.quantize) if done < len(batches) else None
    tokenizer, own = load_tokenizer(args.judge), {}
    for role in answers:
        for row in answers[role]:
            own.setdefault(row["id"], []).append((role, [{"role": "assistant", "content": row["text"]}]))
    for batch in tqdm(batches[done:], initial=done, total=len(batches), desc="judge"):
        groups = [(item["prompt"], [text for _, text in own[item["id"]]], item["slice"], item.get("tools"))
                  for item in batch]
        lines = []
        for item, (scores, _) in zip(batch, judge_answers(model, tokenizer, constitution, groups)):
            lines.append({"id": item["id"], "candidate": [], "baseline": []})
            for (role, _), score in zip(own[item["id"]], scores):
                overall = overall_score(score, constitution["criteria"])
                lines[-1][role].append(None if overall is None else overall / 5)
        append_lines(path, lines)
    return {(role, row["id"]): None if None in row[role] else float(np.mean(row[role]))
            for _, row in read_jsonl(path) for role in ("candidate", "baseline")}


def score_items(items, answers, judged, run_code=False):
    """Grade the answers -> (comparable items with the scores of both roles, canaries, ids without a score)."""
    compared, canaries, missing = [], [], []
    grouped = {role: {} for role in answers}
    for role, rows in answers.items():
        for row in rows:
            grouped[role].setdefault(row["id"], []).append(row)
    for item in items:
        own = {role: [row for row in grouped[role][item["id"]] if row["sample"] != "greedy"] for role in answers}
        scores = {role: judged.get((role, item["id"])) for role in own}
        if item["type"] != "judge":
            right = {role: [verify(item, row["text"], run_code)["ok"] for row in rows] for role, rows in own.items()}
            scores = {role: None if None in oks else sum(oks) / len(oks) for role, oks in right.items()}
        if None in scores.values():
            missing.append(item["id"])
            continue
        if item["type"] == "canary":
            canaries.append({"id": item["id"]} | {role: score == 1 for role, score in scores.items()})
            continue
        tokens = {f"tokens_{role}": float(np.mean([row["tokens"] for row in rows])) for role, rows in own.items()}
        cluster = str(item.get("cluster", item["id"]))
        greedy = {f"greedy_{role}": float(verify(item, row["text"], run_code)["ok"]) for role in answers
                  for row in grouped[role][item["id"]] if row["sample"] == "greedy"}
        compared.append({"id": item["id"], "slice": item["slice"], "cluster": cluster} | scores | greedy | tokens)
    return compared, canaries, missing


def report_text(report):
    """The report as Markdown."""
    greedy = any("greedy_candidate" in s for s in report["slices"].values())
    lines = [f"# {report['verdict']}", "", f"{report['candidate']} against {report['baseline']}: {report['why']}.", "",
             "| slice | n | baseline | candidate | delta [95 %] | wins:losses | tokens | verdict |"
             + " greedy |" * greedy, "|---" * (8 + greedy) + "|"]
    for name, s in report["slices"].items():
        lines.append(f"| {name} | {s['n']} | {s['baseline']:.1%} | {s['candidate']:.1%} | {100 * s['delta']:+.1f} "
                     f"[{100 * s['low']:+.1f}, {100 * s['high']:+.1f}] | {s['wins']}:{s['losses']} | "
                     f"{s['tokens_baseline']:.1f} -> {s['tokens_candidate']:.1f} | {s['verdict']} |"
                     + (f" {s['greedy_baseline']:.1%} -> {s['greedy_candidate']:.1%} |"
                        if "greedy_candidate" in s else " |" * greedy))
    canaries = report["canaries"]
    if canaries:
        passed = sum(c["candidate"] for c in canaries)
        failed = [c["id"] for c in canaries if c["baseline"] and not c["candidate"]]
        quarantined = [c["id"] for c in canaries if not c["baseline"]]
        lines += ["", f"Canaries: {passed} of {len(canaries)} pass"
                  + (f"; failed: {', '.join(failed)}" if failed else "")
                  + (f"; quarantined, the baseline fails too: {', '.join(quarantined)}" if quarantined else "")
                  + (f"; true failures below {min(3 / passed, 1):.0%} (95 %)" if passed == len(canaries) else "")]
    cooler = report["model_temperature"]
    again = [name for name, s in report["slices"].items() if "again" in s]
    lines += ["", f"Sampled {report['k']} times at temperature {report['temperature']}"
              + (f" (the candidate at {cooler})" if cooler != report["temperature"] else "")
              + (f"; {', '.join(again)} once more {report['k']} times, because of a drop" if again else "")
              + f"; margin {report['margin']:.0%}; {len(report['missing'])} items without a score left out."]
    return "\n".join(lines) + "\n"


# ---- the run --------------------------------------------------------------------------------------------------


def main(args):
    if args.judge and len(args.judge) > 1:
        raise BadInput("--judge: the gate takes one judge")
    args.judge = args.judge[0] if args.judge else None
    if bool(args.judge) != bool(args.constitution):
        raise BadInput("--judge and --constitution go together")
    items, profile = read_suite(args.suite, args.limit), PROFILES[args.profile]
    if not args.judge and any(item["type"] == "judge" for item in items):
        print("note     without --judge, items of type judge are left out")
        items = [item for item in items if item["type"] != "judge"]
    k = profile["k"] if args.temperature > 0 else 1
    count = sum(1 if item["type"] == "canary" else k + (args.greedy and item["type"] == "verify") for item in items)
    tokenizer = load_tokenizer(args.model)
    read = sum(len(prompt_ids(tokenizer, item["prompt"], item.get("tools"))) for item in items)
    plan = forecast(args.out, "gate.py", 2 * (read + count * (args.answer_len or args.max_tokens)),
                    args.tokens_per_second, price_gpu_hour=args.price_gpu_hour)
    print(f"plan     {len(items)} items, {count} answers a model: {cost_line(plan)}")
    if args.plan:
        return 0
    inputs = [args.suite, args.model, args.baseline] + ([args.judge, args.constitution] if args.judge else [])
    record = start_run(args.out, "gate.py", vars(args), inputs)
    if record["finished"]:
        print((Path(args.out) / "report.md").read_text(encoding="utf-8"))
        return EXIT[record["verdict"]]
    out, start, seconds = Path(args.out), time.perf_counter(), record["seconds"]
    key = [fingerprint(args.baseline, args.quantize), digest(args.suite), args.limit, k, args.temperature,
           args.greedy, args.max_tokens, args.seed, bool(args.judge), args.batch_size]
    for other in runs_beside(out):  # the same baseline on the same suite is answered once
        cached, own = Path(other["path"]).parent / "answers-baseline.jsonl", out / "answers-baseline.jsonl"
        if other.get("baseline_key") == key and cached.exists() and not own.exists():
            save_run(record, borrowed=str(cached))
            shutil.copy(cached, own.with_suffix(".tmp"))
            own.with_suffix(".tmp").rename(own)
    save_run(record, baseline_key=key)
    answers, tokens = {}, {}
    for role, name in (("baseline", args.baseline), ("candidate", args.model)):
        answers[role], tokens[role] = answer_suite(name, role, items, k, out, args)
        save_run(record, seconds=seconds + time.perf_counter() - start)
    judged = judge_suite(items, answers, args) if any(item["type"] == "judge" for item in items) else {}
    compared, canaries, missing = score_items(items, answers, judged, args.run_code)
    slices, overall = {}, {"fail": False}
    if compared:
        slices, overall = compare_slices(compared, profile["margin"], profile["min_n"])
    judged_too = {item["slice"] for item in items if item["type"] == "judge"}
    asked_again = [name for name in slices if k > 1 and name not in judged_too]
    suspects = [name for name in asked_again if slices[name]["verdict"] == "FAIL"]
    if not suspects and overall["fail"]:
        suspects = asked_again
    if suspects:
        own = [item for item in items if item["slice"] in suspects and item["type"] == "verify"]
        second = {}
        for role, name in (("baseline", args.baseline), ("candidate", args.model)):
            second[role], more = answer_suite(name, role, own, k, out, args, again="-again")
            tokens[role + "-again"] = more
            save_run(record, seconds=seconds + time.perf_counter() - start)
        fresh = score_items(own, second, {}, args.run_code)[0]
        slices, overall = confirm(compared, fresh, suspects, overall, profile["margin"], profile["min_n"])
    for name, result in slices.items():
        own = [item for item in compared if item["slice"] == name]
        for key in (f"{kind}_{role}" for kind in ("tokens", "greedy") for role in answers):
            values = [item[key] for item in own if key in item]
            result |= {key: float(np.mean(values))} if values else {}
    lost = [item["slice"] for item in items if item["id"] in set(missing)]
    left = [name for name in dict.fromkeys(lost) if lost.count(name) > 0.05 * (lost.count(name) + slices.get(
        name, {"n": 0})["n"])]
    verdict, why = decide(slices, overall, canaries, left)
    measured = {"tokens": sum(tokens.values()) - bool(record.get("borrowed")) * tokens["baseline"],
                "seconds": seconds + time.perf_counter() - start}
    measured["cost"] = money(seconds=measured["seconds"], price_gpu_hour=args.price_gpu_hour)
    report = {"verdict": verdict, "why": why, "candidate": args.model, "baseline": args.baseline,
              "profile": args.profile, "k": k, "temperature": args.temperature, "margin": profile["margin"],
              "model_temperature": args.temperature if args.model_temperature is None else args.model_temperature,
              "slices": slices, "overall": overall, "canaries": canaries, "missing": missing, **measured}
    write_jsonl(out / "items.jsonl", compared)
    write_whole(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_whole(out / "report.md", report_text(report))
    save_run(record, finished=True, forecast=plan, **measured, verdict=verdict)
    print("\n".join(line for line in report_text(report).splitlines()[2:] if line))
    print(f"result   {verdict}: {why}; {cost_line(measured)} -> {args.out}")
    return EXIT[verdict]


if __name__ == "__main__":
    run(main, parse_args())
