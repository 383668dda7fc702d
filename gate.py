"""Step 5: the release gate. Did the candidate improve on the baseline without regressing any slice?

Reads   a suite (*.jsonl; gating/suite.py has the types of its items), or the sample logs of lm-evaluation-harness.
Writes  a folder: the answers of both models, items.jsonl (their scores), report.json, .md and .html, run.json.
Exits   0 SHIP, 1 BLOCK, 3 NOT ENOUGH DATA (and how much more is needed), 2 bad input.

    python gate.py --model runs/dpo --baseline runs/sft --suite data/tiny/gate --out runs/gate-dpo
    python gate.py --model runs/sft --baseline runs/sft --suite data/tiny/gate --out runs/gate-same --profile release
    python gate.py --model runs/dpo --baseline runs/sft --suite data/gate --out runs/gate-judged --judge runs/judge \\
        --constitution data/constitution.md --policy data/policy.jsonl
    python gate.py --power --suite data/tiny/gate
    python gate.py --selftest --out runs/gate-dpo

Both models answer every prompt and are compared prompt by prompt, clusters kept whole, after 2, 4, 8 and 16 answers. A
slice is CLEAR, and is asked no more, when its lower bound lies above minus the margin (--profile hobby: 10 points, 30
prompts; release: 5, 100; --policy FILE: yours, per slice). It FAILs when its drop is significant over all slices and
looks. One failed slice, a significant drop of the mean of all, a canary that the baseline passes and the candidate does
not, or a budget overdrawn (tokens, truncation, latency, cost): BLOCK. All clear: SHIP. gating/decision.py has the rule;
--power says what a suite can show before anything is spent, --selftest how often this gate is wrong on this suite.
What to look at: the forest plot in report.html, then the worst flips. A gain that a cooler baseline has, too (--model
BASE --model-temperature 0.3), or that --greedy does not show, is only sharpening.
Left out on purpose: one score for everything. A slice that falls is not made good by one that rises.
"""

import json
import time
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

from common import cost_line, money
from posttrain.chat.encode import prompt_ids
from posttrain.chat.stops import stop_ids
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.gating.answers import (
    ROLES,
    borrow,
    choose,
    compare,
    grade,
    key_of,
    keys_of,
    lendable,
    make_answers,
    time_requests,
)
from posttrain.gating.contamination import contaminated
from posttrain.gating.decision import (
    BASELINE_DRAWS,
    PROFILES,
    assumed,
    differences,
    promises,
    repeat,
    sequential,
)
from posttrain.gating.rates import power, selftest
from posttrain.gating.report import html, markdown, terminal
from posttrain.gating.suite import ONCE, at, read_lm_eval, read_policy, read_suite
from posttrain.gating.summary import summarise, unscored_slices
from posttrain.hashing import seed_for
from posttrain.judging.scoring import open_judge, read_constitution
from posttrain.model.load import load_model, load_tokenizer
from posttrain.model.memory import free_memory
from posttrain.model.names import fingerprint
from posttrain.records.jsonl import write_jsonl, write_whole
from posttrain.run.folder import save_run, start_run
from posttrain.run.forecast import forecast
from posttrain.verify.checks import verify

EXIT = {"SHIP": 0, "BLOCK": 1, "NOT ENOUGH DATA": 3}


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument("--model", help="candidate: hub name, model folder or run folder")
    p.add_argument("--baseline", help="what is in use today")
    p.add_argument("--suite", help="folder of *.jsonl, or one file")
    p.add_argument(
        "--lm-eval",
        nargs=2,
        metavar=("CANDIDATE", "BASELINE"),
        help="folders of lm_eval --log_samples: their tasks are slices, too",
    )
    p.add_argument("--out", help="folder to write")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    # the method
    p.add_argument(
        "--profile",
        choices=PROFILES,
        default="hobby",
        help="margin and prompts per slice: see above",
    )
    p.add_argument(
        "--policy", metavar="FILE", help="JSONL: margin, min_n, hard per slice; limits of budgets"
    )
    p.add_argument(
        "--temperature",
        type=at_least(0, float),
        default=0.7,
        help="of the answers; canaries are greedy",
    )
    p.add_argument(
        "--model-temperature",
        type=at_least(0, float),
        help="another one for --model (a control: cooler)",
    )
    p.add_argument(
        "--greedy", action="store_true", help="one greedy answer more per prompt, reported beside"
    )
    p.add_argument("--max-tokens", type=at_least(1), default=512, help="longest answer")
    p.add_argument(
        "--judge",
        nargs="+",
        action="extend",
        help="compares the answers to items of type judge: a model, a reward model or NAME@URL",
    )
    p.add_argument("--constitution", help="for --judge")
    p.add_argument(
        "--run-code", action="store_true", help="run unit tests on model-written code, in a sandbox"
    )
    p.add_argument(
        "--unsafe", action="store_true", help="with --run-code: also where no isolation works"
    )
    p.add_argument(
        "--latency",
        type=at_least(5),
        metavar="N",
        help="also time N prompts one by one, both models",
    )
    p.add_argument(
        "--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU"
    )
    p.add_argument("--batch-size", type=at_least(1), default=64, help="answers sampled at once")
    p.add_argument(
        "--concurrency",
        type=at_least(1),
        default=8,
        help="requests at a judge's endpoint at the same time",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="candidate and baseline draw from different streams"
    )
    # look before you pay
    p.add_argument(
        "--power", action="store_true", help="what this --suite can show; load no model; exit"
    )
    p.add_argument(
        "--selftest",
        action="store_true",
        help="error rates on the answers of a finished --out; exit",
    )
    p.add_argument(
        "--simulate",
        action="store_true",
        help="with --selftest: in made worlds of 8 slices, no --out",
    )
    p.add_argument(
        "--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit"
    )
    p.add_argument(
        "--answer-len",
        type=at_least(1),
        help="expected tokens per answer, for the forecast (--max-tokens)",
    )
    p.add_argument(
        "--tokens-per-second",
        type=at_least(1e-9, float),
        help="for the forecast (default: an earlier run)",
    )
    p.add_argument(
        "--price-gpu-hour",
        type=at_least(0, float),
        default=0.0,
        help="price of the machine per hour",
    )
    return p.parse_args(argv)


# ---- the method -----------------------------------------------------------------------------------------------


def decide(slices, overall, canaries, spent=None, unscored=()):
    """(verdict, one sentence of why), the worst first. canaries: [{"id", "candidate", "baseline", "confirmed"}]; spent:
    budgets; unscored: slices where too many items have no score (unit tests without --run-code): they cannot ship."""
    hard = {name: s for name, s in slices.items() if s.get("hard", True)}
    failed = sorted(
        (name for name, s in hard.items() if s["verdict"] == "FAIL"),
        key=lambda name: hard[name]["delta"],
    )
    reasons = [
        f"{name} fell by {-100 * hard[name]['delta']:.1f} points (p = {hard[name]['p_drop']:.1g}"
        + (f"; {hard[name]['note']})" if hard[name].get("note") else ")")
        for name in failed[:3]
    ]
    if len(failed) > 3:
        reasons[0] = f"{len(failed)} of {len(hard)} slices fell: {reasons[0]}"
        reasons[2] += f"; and {', '.join(failed[3:])}"
    broken = [
        c["id"]
        for c in canaries
        if c["baseline"] and not c["candidate"] and c.get("confirmed", True)
    ]
    if broken:
        reasons.append(f"canaries that the baseline passes fail: {', '.join(broken[:5])}")
    if overall and overall["fail"] and not failed:
        reasons.append(f"the mean over all slices fell by {-100 * overall['delta']:.1f} points")
    words = {
        "tokens": "right answers take {ratio:.2f} times the tokens [{low:.2f}, {high:.2f}], limit {limit:.2f}",
        "slice_tokens": "right answers in {slice} take {ratio:.2f} times the tokens [{low:.2f}, {high:.2f}], "
        "limit {limit:.2f}",
        "truncated": "{ratio:.1%} more answers are cut off [{low:.1%}, {high:.1%}], limit {limit:.0%}",
        "latency": "an answer takes {ratio:.2f} times as long [{low:.2f}, {high:.2f}], limit {limit}",
        "cost": "a request costs {ratio:.2f} times as much, limit {limit}",
    }
    reasons += [
        words[name].format(**one)
        for name, one in (spent or {}).items()
        if one
        and one["fail"]
        and not (name == "slice_tokens" and spent["tokens"] and spent["tokens"]["fail"])
    ]
    if reasons:
        return "BLOCK", "; ".join(reasons)
    needs = [
        f"{name} has {s['clusters']} {'clusters' if s['clusters'] != s.get('n', s['clusters']) else 'prompts'} "
        f"and needs {'more' if s['need'] is None else s['need']}"
        for name, s in hard.items()
        if s["verdict"] == "UNSURE"
    ]
    needs += [f"{name} has too many items without a score" for name in unscored]
    if needs or not hard:
        more = [f"and {len(needs) - 4} slices more"] if len(needs) > 5 else needs[4:]
        return "NOT ENOUGH DATA", "; ".join(needs[:4] + more) or "the suite has no comparable slice"
    gain = "{delta:+.1%} over all slices [{low:+.1%}, {high:+.1%}]".format(**overall)
    soft = [name for name, s in slices.items() if name not in hard and s["verdict"] != "CLEAR"]
    return "SHIP", (
        f"no slice fell; {'improved' if overall['low'] > 0 else 'no improvement shown'}: {gain}"
        + (f"; not clear, but soft: {', '.join(soft)}" if soft else "")
    )


# ---- the run --------------------------------------------------------------------------------------------------


def read_items(args):
    """(items, policies {slice: ...}, limits of budgets) of --suite, --lm-eval and --policy."""
    items = read_suite(args.suite, args.limit) if args.suite else []
    items += (
        read_lm_eval(*args.lm_eval, taken={item["slice"] for item in items}) if args.lm_eval else []
    )
    if not args.judge and any(item["type"] == "judge" for item in items):
        print("note     without --judge, items of type judge are left out")
        items = [item for item in items if item["type"] != "judge"]
    compared = {
        item["slice"]: item["type"] for item in items if item["type"] not in ("canary", "budget")
    }
    policies, limits = read_policy(args.policy, [*compared], PROFILES[args.profile])
    greedy = args.temperature == 0 and args.model_temperature in (None, 0)
    for name, policy in policies.items():
        policy["once"] = greedy or compared[name] in ONCE
    return items, policies, limits


def check_args(args):
    """One line for what does not go together; the judge as one name."""
    if not args.suite and not args.lm_eval:
        raise BadInput("--suite or --lm-eval: one of them is needed")
    if args.judge and (len(args.judge) > 1 or args.judge == ["random"]):
        raise BadInput("--judge: the gate takes one judge, and no random one")
    args.judge = args.judge[0] if args.judge else None
    if bool(args.judge) != bool(args.constitution):
        raise BadInput("--judge and --constitution go together")


def draws_of(heat, k):
    """Answers of each role that count at the look of k; greedy ones are all the same. heat {role: temperature}."""
    return {
        "candidate": k if heat["candidate"] else 1,
        "baseline": k * BASELINE_DRAWS if heat["baseline"] else 1,
    }


def gather(args, out, record, key, items, asked, policies, names, heat, tokenizers, ids):
    """Ask both models until the rule has decided -> {"rows": scores, "found", "ks", "failed", "fallen": see sequential,
    "canaries", "unjudged": rows of budget items, "tokens": read and written}. asked: the items that models answer; ids
    {role: {item: prompt ids}}; key: of the baseline's answers, for borrowing."""
    begin, looks, held = (
        time.perf_counter() - record["seconds"],
        PROFILES[args.profile]["looks"],
        [],
    )
    constitution = read_constitution(args.constitution) if args.constitution else None
    speed, tokens = record.setdefault("speed", {role: [0, 0.0] for role in ROLES}), Counter()
    made, scored = {role: {item["id"]: {} for item in asked} for role in ROLES}, {}
    if asked:
        record["baseline_key"] = key
        for row in borrow(out, key, keys_of(asked, ids["baseline"])):
            made["baseline"][row["id"]][row["sample"]] = row

    def at_work(name):
        """The model of this name, alone in memory; of "judge" its functions (score, pair)."""
        if held[:1] != [name]:
            held.clear()
            free_memory()
            held.extend(
                (
                    name,
                    open_judge(
                        args.judge,
                        constitution,
                        args.quantize,
                        args.concurrency,
                        args.seed,
                        out / "kept.jsonl",
                        record.setdefault("logprobs", {}),
                    )
                    if name == "judge"
                    else load_model(name, args.quantize),
                )
            )
        return held[1]

    def tally(role=None, *spent):
        """A batch is done: keep the time, and of sampling the role's answers and seconds."""
        if role:
            speed[role] = [a + b for a, b in zip(speed[role], spent)]
        save_run(record, seconds=time.perf_counter() - begin)

    def ask(label, some, samples):
        """Make what some items lack of samples {role: [(sample, temperature)]}; the model in memory goes first."""
        for role in sorted(samples if some else (), key=lambda role: names[role] not in held[:1]):
            jobs = [
                (
                    item,
                    ids[role][item["id"]],
                    [
                        (n, t, seed_for(args.seed, role, item["id"], n))
                        for n, t in samples[role]
                        if n not in made[role][item["id"]]
                    ],
                )
                for item in some
            ]
            jobs = [job for job in jobs if job[2]]
            for row in make_answers(
                out / f"answers-{role}-{label}.jsonl",
                jobs,
                partial(at_work, names[role]),
                tokenizers[role],
                args.max_tokens,
                args.batch_size,
                partial(tally, role),
            ):
                made[role][row["id"]][row["sample"]] = row
                tokens[role] += row["tokens"]
            tokens[role] += sum(len(prompt) for _, prompt, _ in jobs)

    def scores(some, k):
        """Rows of items.jsonl; None where a score is missing."""
        return [
            grade(
                item,
                {role: made[role].get(item["id"]) for role in ROLES},
                draws_of(heat, k),
                args.run_code,
                args.unsafe,
            )
            for item in some
        ]

    def draw(slices, k):
        """The next look: answers to the items of these slices and their scores -> differences for decision.py."""
        own = [
            item
            for item in items
            if item["slice"] in slices
            and item["type"] not in ("canary", "budget")
            and (item["id"] in made["baseline"] or item["type"] in ("ab", "lm-eval"))
        ]  # the rest has no score
        some, counts = [item for item in own if item["id"] in made["baseline"]], draws_of(heat, k)
        ask(
            k,
            [item for item in some if item["type"] != "mc"],
            {role: [(n, heat[role]) for n in range(counts[role])] for role in ROLES},
        )
        for role in ROLES if some else ():
            jobs = [
                (item, ids[role][item["id"]])
                for item in some
                if item["type"] == "mc" and "mc" not in made[role][item["id"]]
            ]
            for row in choose(
                out / f"choices-{role}.jsonl", jobs, partial(at_work, names[role]), tokenizers[role]
            ):
                made[role][row["id"]]["mc"] = row
                tokens[role] += row["tokens"]
        pairs = [
            (
                item,
                made["candidate"][item["id"]][n],
                made["baseline"][item["id"]][n % counts["baseline"]],
            )
            for item in some
            if item["type"] == "judge"
            for n in range(counts["candidate"])
        ]
        tokens["judge"] += compare(
            out / f"judged-{k}.jsonl",
            [pair for pair in pairs if "p" not in pair[1]],
            partial(at_work, "judge"),
            tally,
        )
        for name in slices:
            scored[name] = [
                row for row in scores([item for item in own if item["slice"] == name], k) if row
            ]
        return {name: differences(scored[name]) for name in slices if scored[name]}

    def passes(role, item, sample):
        return verify(item, made[role][item["id"]][sample]["text"], args.run_code, args.unsafe)[
            "ok"
        ]

    canaries, unjudged = (
        [item for item in asked if item["type"] == kind] for kind in ("canary", "budget")
    )
    ask(
        "greedy",
        canaries + [item for item in asked if item["type"] == "verify" and args.greedy],
        {role: [("greedy", 0.0)] for role in ROLES},
    )
    passed = {
        item["id"]: {role: passes(role, item, "greedy") for role in ROLES} for item in canaries
    }
    broken = [
        item for item in canaries if passed[item["id"]] == {"baseline": True, "candidate": False}
    ]
    ask(
        "again", broken, {"candidate": [(n, heat["candidate"] or 0.7) for n in range(2)]}
    )  # a failure is confirmed
    canaries = [
        {
            "id": item["id"],
            "text": made["candidate"][item["id"]]["greedy"]["text"],
            "confirmed": None
            if item not in broken
            else not all(passes("candidate", item, n) for n in range(2)),
        }
        | passed[item["id"]]
        for item in canaries
    ]
    ask(
        "budget",
        unjudged,
        {role: [(n, heat[role]) for n in range(draws_of(heat, looks[0])[role])] for role in ROLES},
    )
    found, ks, failed, fallen = (
        sequential(policies, looks, draw) if policies else ({}, {}, [], False)
    )
    if args.latency and "timed" not in record:
        some = [asked[n * len(asked) // args.latency]["id"] for n in range(args.latency)]
        record["timed"] = {
            role: time_requests(
                at_work(names[role]),
                tokenizers[role],
                [ids[role][one] for one in some],
                args.max_tokens,
            )
            for role in ROLES
        }
    return {
        "rows": [row for own in scored.values() for row in own],
        "found": found,
        "ks": ks,
        "failed": failed,
        "fallen": fallen,
        "canaries": canaries,
        "unjudged": scores(unjudged, looks[0]),
        "tokens": tokens.total(),
    }


def main(args):
    if args.selftest and args.simulate:
        lines, kept = promises()
        print("\n".join(lines))
        return 0 if kept else 1
    if args.selftest or args.simulate:
        if not args.selftest or not args.out:
            raise BadInput("--selftest takes the --out of a finished gate, or --simulate")
        return selftest(args.out)
    check_args(args)
    (items, policies, limits), looks = read_items(args), PROFILES[args.profile]["looks"]
    if args.power:
        return power(items, policies, looks)
    asked = [item for item in items if item["type"] not in ("ab", "lm-eval")]
    names = {
        "candidate": args.model or (args.lm_eval or [None])[0],
        "baseline": args.baseline or (args.lm_eval or [None])[-1],
    }
    if not args.out or None in ((args.model, args.baseline) if asked else names.values()):
        raise BadInput(
            "--model, --baseline and --out are needed (--power, --selftest and --lm-eval alone do without)"
        )
    if any("tests" in item for item in asked) and not args.run_code:
        print("note     without --run-code, items with unit tests have no score")
        asked = [item for item in asked if "tests" not in item]
    if args.latency and args.latency > len(asked):
        raise BadInput(f"--latency {args.latency}: the suite has {len(asked)} prompts")
    heat = {"baseline": args.temperature, "candidate": args.model_temperature}
    heat["candidate"] = (
        args.temperature if args.model_temperature is None else args.model_temperature
    )
    tokenizers = {role: load_tokenizer(names[role]) for role in ROLES} if asked else {}
    if args.judge and "@http" not in args.judge:
        load_tokenizer(args.judge)  # a wrong name is said before anything is asked
    ids = {role: {} for role in tokenizers}
    for role, item in product(tokenizers, asked):
        with at(f"{names[role]}, id {item['id']!r}"):
            ids[role][item["id"]] = prompt_ids(tokenizers[role], item["prompt"], item.get("tools"))
    sizes, a_look = (
        Counter(item["slice"] for item in asked if item["type"] in ("verify", "judge")),
        sum(draws_of(heat, looks[0]).values()),
    )
    expected = repeat(
        100, 0, assumed(sizes), {}, {name: policies[name] for name in sizes}, looks, {}
    )["answers"]
    rounds, total = (
        expected / looks[0] / max(sizes.total(), 1),
        sizes.total(),
    )  # of the first look, for each item
    key, lent = None, Counter()
    if asked:  # the template also says where an answer ends
        ends = key_of(
            {}, [str(tokenizers["baseline"].chat_template), stop_ids(tokenizers["baseline"])]
        )
        key = [
            fingerprint(args.baseline, args.quantize),
            ends,
            args.temperature,
            args.max_tokens,
            args.seed,
        ]
        lent = Counter(
            row["id"] for row in lendable(args.out, key, keys_of(asked, ids["baseline"]))
        )
    count = round(
        rounds * a_look * total
        - sum(min(n, rounds * draws_of(heat, looks[0])["baseline"]) for n in lent.values())
    )
    read = sum(len(one) for own in ids.values() for one in own.values())
    plan = forecast(
        args.out,
        "gate.py",
        read + count * (args.answer_len or args.max_tokens),
        args.tokens_per_second,
        price_gpu_hour=args.price_gpu_hour,
    )
    print(
        f"plan     {len(items)} items, {len(policies)} slices, about {count:,} answers if nothing changed, at most "
        f"{sum(sizes.values()) * sum(draws_of(heat, looks[-1]).values()):,}: {cost_line(plan)}"
    )
    if args.plan:
        return 0
    record = start_run(
        args.out,
        "gate.py",
        vars(args),
        [
            path
            for path in (
                args.suite,
                args.model,
                args.baseline,
                args.policy,
                args.constitution,
                *(args.lm_eval or []),
                args.judge if args.judge and "@http" not in args.judge else None,
            )
            if path
        ],
    )
    out, begin = Path(args.out), time.perf_counter() - record["seconds"]
    if record["finished"]:
        try:
            print(
                "\n".join(terminal(json.loads((out / "report.json").read_text(encoding="utf-8"))))
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(
                f"{out}: this gate is finished, but report.json is damaged: take another --out"
            ) from None
        return EXIT[record["verdict"]]
    got = gather(args, out, record, key, items, asked, policies, names, heat, tokenizers, ids)
    summary = summarise(
        got,
        items,
        policies,
        limits,
        names=names,
        sampling={
            "profile": args.profile,
            "temperature": heat["baseline"],
            "model_temperature": heat["candidate"],
            "looks": looks,
        },
        record=record,
        price_gpu_hour=args.price_gpu_hour,
    )
    verdict, why = decide(
        summary["slices"],
        summary["overall"],
        summary["canaries"],
        summary["budgets"],
        unscored_slices(items, summary["missing"], policies),
    )
    report = {
        "verdict": verdict,
        "why": why,
        "contaminated": contaminated(args.judge, args.model) if summary["winrate"] else None,
    } | summary
    measures = {"tokens": got["tokens"], "seconds": time.perf_counter() - begin}
    report |= measures | {
        "cost": money(seconds=measures["seconds"], price_gpu_hour=args.price_gpu_hour)
    }
    write_jsonl(
        out / "items.jsonl", [{k: v for k, v in row.items() if k != "texts"} for row in got["rows"]]
    )
    for name, text in (
        ("report.json", json.dumps(report, indent=1) + "\n"),
        ("report.md", markdown(report)),
        ("report.html", html(report)),
    ):
        write_whole(out / name, text)
    save_run(
        record,
        finished=True,
        forecast=plan,
        verdict=report["verdict"],
        cost=report["cost"],
        **measures,
    )
    print("\n".join(terminal(report)))
    print(f"result   {report['verdict']}; {cost_line(report)} -> {out / 'report.html'}")
    return EXIT[report["verdict"]]


if __name__ == "__main__":
    run_stage(main, parse_args())
