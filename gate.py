"""Step 5: the release gate. Did the candidate improve on the baseline, and no slice get worse?

Reads   a suite (*.jsonl; posttrain/gating/suite.py has the types of its items). Programs in
        data/make/ convert public benchmarks, and logs of lm-evaluation-harness.
Writes  a folder: the answers of both models, items.jsonl (their scores), report.json, .md and
        .html, run.json.
Exits   0 SHIP, 1 BLOCK, 3 NOT ENOUGH DATA (and how much more is needed), 2 bad input.

    python gate.py --model runs/dpo --baseline runs/sft --suite data/tiny/gate --out runs/gate-dpo
    python gate.py --model runs/dpo --baseline runs/sft --suite data/gate --out runs/gate-judged \\
        --judge runs/judge --constitution data/constitution.md --policy data/policy.jsonl
    python gate.py --power --suite data/tiny/gate
    python gate.py --selftest --out runs/gate-dpo

Both models answer every prompt and are compared prompt by prompt, clusters kept whole, after 2, 4,
8 and 16 answers. A slice is CLEAR, and is asked no more, when its lower bound lies above minus the
margin (--profile hobby: 10 points, 30 prompts; release: 5, 100; --policy FILE: yours, per slice).
It FAILs when its drop is significant over all slices and looks. One failed slice, a significant
drop of the mean of all, a canary that the baseline passes and the candidate does not, or a budget
overdrawn (tokens, truncation, latency, cost): BLOCK. All clear: SHIP. --power says what a suite can
show before anything is spent, --selftest how often this gate is wrong on this suite.
What to look at: the forest plot in report.html, then the worst flips. A gain that a cooler baseline
has, too (--model BASE --model-temperature 0.3), or that --greedy does not show, is only sharpening.
Left out on purpose: one score for all. A slice that falls is not made good by one that rises.
"""

import json
from collections import Counter
from functools import partial

from common import cost_line, money
from posttrain.chat.encode import prompt_ids
from posttrain.chat.stops import stop_ids
from posttrain.cli import BadInput, at, at_least, parser, run_stage
from posttrain.gating.answers import Answer, key_of, keys_of, lendable
from posttrain.gating.collect import (
    AnswerCollector,
    Duel,
    Sampling,
    Side,
    check_choices,
    draws_of,
    evenly,
    of_type,
    pair_of,
)
from posttrain.gating.contamination import contaminated
from posttrain.gating.rates import expected_answers, power_lines, promise_lines, selftest_lines
from posttrain.gating.report import html, markdown
from posttrain.gating.rule import PROFILES, sequential
from posttrain.gating.suite import IN_SLICES, ONCE, RECORDED, read_policy, read_suite
from posttrain.gating.summary import Evidence, summarise, unscored_slices
from posttrain.gating.text import between, points
from posttrain.judging.constitution import read_constitution
from posttrain.judging.judges import Judge
from posttrain.model.limits import check_format, fit_prompts
from posttrain.model.load import load_tokenizer
from posttrain.model.memory import OneInMemory
from posttrain.model.names import fingerprint, is_endpoint
from posttrain.records.jsonl import write_jsonl, write_whole
from posttrain.run.file_run import FileRun
from posttrain.run.forecast import forecast
from posttrain.verify.checks import verify
from posttrain.verify.custom import read_checks, refuse_unused

EXIT = {"SHIP": 0, "BLOCK": 1, "NOT ENOUGH DATA": 3}


def parse_args(argv=None):
    p = parser(__doc__)
    heat = at_least(0, float)
    price = at_least(0, float)

    add = p.add_argument_group("files").add_argument
    add("--model", help="candidate: hub name, model folder or run folder")
    add("--baseline", help="what is in use today")
    add("--suite", help="folder of *.jsonl, or one file")
    add("--out", help="folder to write")
    add("--limit", type=at_least(1), help="only the first rows of each file")

    add = p.add_argument_group("the method").add_argument
    profile = "margin and prompts per slice: see above"
    policy = "JSONL: margin, min_n, hard per slice; limits of budgets"
    cooler = "another one for --model (a control: cooler)"
    judge = "compares the answers to items of type judge: a model, a reward model or NAME@URL"
    verifiers = "Python file with checks of your own (data/my_checks.py)"
    truncate = "left: cut prompts at their start until an answer fits behind them"
    think = "on: both models may think first; their answers alone are graded"
    run_code = "run unit tests on model-written code, in a sandbox"
    unsafe = "with --run-code: also where no isolation works"
    add("--profile", choices=PROFILES, default="hobby", help=profile)
    add("--policy", metavar="FILE", help=policy)
    add("--temperature", type=heat, default=0.7, help="of the answers; canaries are greedy")
    add("--model-temperature", type=heat, help=cooler)
    add("--greedy", action="store_true", help="one greedy answer more per prompt, reported beside")
    add("--max-tokens", type=at_least(1), default=512, help="longest answer, its thought included")
    add("--truncate", choices=["left"], help=truncate)
    add("--think", choices=["off", "on"], default="off", help=think)
    add("--judge", nargs="+", action="extend", help=judge)
    add("--constitution", help="for --judge")
    add("--verifiers", metavar="FILE", help=verifiers)
    add("--run-code", action="store_true", help=run_code)
    add("--unsafe", action="store_true", help=unsafe)
    add("--latency", type=at_least(5), metavar="N", help="also time N prompts one by one")

    add = p.add_argument_group("how it runs").add_argument
    quantize = ["auto", "nf4", "none"]
    requests = "requests at a judge's endpoint at the same time"
    add("--quantize", choices=quantize, default="auto", help="auto = nf4 on a GPU")
    add("--batch-size", type=at_least(1), default=64, help="answers sampled at once")
    add("--concurrency", type=at_least(1), default=8, help=requests)
    add("--seed", type=int, default=0, help="both models draw from it, each its own stream")

    add = p.add_argument_group("look before you pay, and after").add_argument
    plan = "print tokens, seconds, cost; load no model; exit"
    rates = "error rates on the answers of a finished --out; exit"
    length = "expected tokens per answer, for the forecast (--max-tokens)"
    speed = "for the forecast (default: an earlier run)"
    add("--power", action="store_true", help="what this --suite can show; load no model; exit")
    add("--selftest", action="store_true", help=rates)
    add("--simulate", action="store_true", help="with --selftest: in made worlds of 8 slices")
    add("--plan", action="store_true", help=plan)
    add("--answer-len", type=at_least(1), help=length)
    add("--tokens-per-second", type=at_least(1e-9, float), help=speed)
    add("--price-gpu-hour", type=price, default=0.0, help="price of the machine per hour")
    return p.parse_args(argv)


# ---- the method ----------------------------------------------------------------------------------

SHOWN = 3  # failed slices with their numbers in the sentence; the others by name
BUDGET_SENTENCES = {
    "tokens": "right answers take {ratio:.2f} times the tokens [{low:.2f}, {high:.2f}], "
    "limit {limit:.2f}",
    "slice_tokens": "right answers in {slice} take {ratio:.2f} times the tokens [{low:.2f}, "
    "{high:.2f}], limit {limit:.2f}",
    "truncated": "the share of answers that are cut off grew by {ratio:.1f} points [{low:.1f}, "
    "{high:.1f}], limit {limit:.0f}",
    "latency": "an answer takes {ratio:.2f} times as long [{low:.2f}, {high:.2f}], limit {limit}",
    "cost": "a request costs {ratio:.2f} times as much, limit {limit}",
}


def decide(slices, overall, canaries, budgets, *, unscored=()):
    """(verdict, one sentence of why).

    slices, overall, canaries, budgets: as in report.json; unscored: slices where too many items
    have no score (unit tests without --run-code), which cannot ship.
    """
    hard = {name: numbers for name, numbers in slices.items() if numbers["hard"]}

    fallen = falls(hard)
    reasons = list(fallen)
    broken = [canary["id"] for canary in canaries if is_broken(canary)]
    if broken:
        reasons.append(f"canaries that the baseline passes fail: {', '.join(broken[:5])}")
    if overall and overall["fail"] and not fallen:
        reasons.append(f"the mean over all slices fell by {-100 * overall['delta']:.1f} points")
    reasons += overdrawn(budgets)
    if reasons:
        return "BLOCK", "; ".join(reasons)

    needs = [need_of(name, hard[name]) for name in hard if hard[name]["verdict"] == "UNSURE"]
    needs += [f"{name} has too many items without a score" for name in unscored]
    if needs or not hard:
        nothing = "no slice is hard" if slices else "the suite has no comparable slice"
        return "NOT ENOUGH DATA", at_most_five(needs) or nothing

    sentence = "no slice fell; no improvement shown"
    if overall["low"] > 0:
        sentence = "no slice fell; improved"
    interval = between(overall["low"], overall["high"])
    sentence += f": {points(overall['delta'])} points over all slices {interval}"
    soft = [name for name in slices if name not in hard and slices[name]["verdict"] != "CLEAR"]
    if soft:
        sentence += f"; not clear, but soft: {', '.join(soft)}"
    return "SHIP", sentence


def falls(slices):
    """Sentences on the slices that failed, the worst first."""
    failed = [name for name in slices if slices[name]["verdict"] == "FAIL"]
    failed.sort(key=lambda name: slices[name]["delta"])
    sentences = []
    for name in failed[:SHOWN]:
        numbers = slices[name]
        note = f"; {numbers['note']}" if numbers.get("note") else ""
        drop = -100 * numbers["delta"]
        sentences.append(f"{name} fell by {drop:.1f} points (p = {numbers['p_drop']:.1g}{note})")
    if len(failed) > SHOWN:
        sentences[0] = f"{len(failed)} of {len(slices)} slices fell: {sentences[0]}"
        sentences[-1] += f"; and {', '.join(failed[SHOWN:])}"
    return sentences


def is_broken(canary):
    """Does the candidate fail, twice, what the baseline passes?"""
    return canary["baseline"] and not canary["candidate"] and canary.get("confirmed", True)


def overdrawn(budgets):
    """Sentences on the budgets that failed; growth in one slice is part of growth in all."""
    failed = [name for name, budget in budgets.items() if budget and budget["fail"]]
    if "tokens" in failed and "slice_tokens" in failed:
        failed.remove("slice_tokens")
    sentences = []
    for name in failed:
        numbers = dict(budgets[name])
        if name == "truncated":  # a difference of shares
            for key in ("ratio", "low", "high", "limit"):
                numbers[key] = 100 * numbers[key]
        sentences.append(BUDGET_SENTENCES[name].format(**numbers))
    return sentences


def need_of(name, numbers):
    """What an undecided slice lacks. Where clusters are not single prompts, they are named so."""
    clusters = numbers["clusters"]
    unit = "prompts" if numbers.get("n", clusters) == clusters else "clusters"
    need = "more" if numbers["need"] is None else numbers["need"]
    return f"{name} has {clusters} {unit} and needs {need}"


def at_most_five(needs):
    """Needs as one sentence: the first five, or four and how many are left."""
    if len(needs) > 5:
        needs = [*needs[:4], f"and {len(needs) - 4} slices more"]
    return "; ".join(needs)


# ---- the run -------------------------------------------------------------------------------------


def check_args(args):
    """One line for what does not go together; the judge as one name."""
    if not args.suite:
        raise BadInput("--suite is needed: a folder of *.jsonl, or one file")
    if args.judge and (len(args.judge) > 1 or args.judge == ["random"]):
        raise BadInput("--judge: the gate takes one judge, and no random one")
    args.judge = args.judge[0] if args.judge else None
    if bool(args.judge) != bool(args.constitution):
        raise BadInput("--judge and --constitution go together")


def read_items(args, checks):
    """(items, policies {slice: ...}, limits of budgets) of --suite and --policy."""
    items = read_suite(args.suite, args.limit, checks=checks)
    refuse_unused(checks, items)
    if not args.judge and any(item["type"] == "judge" for item in items):
        print("note     without --judge, items of type judge are left out")
        items = [item for item in items if item["type"] != "judge"]

    type_of_slice = {item["slice"]: item["type"] for item in items if item["type"] in IN_SLICES}
    policies, limits = read_policy(args.policy, [*type_of_slice], PROFILES[args.profile])
    for budget, flag, is_given in (
        ("latency", "--latency N", args.latency),
        ("cost", "--price-gpu-hour", args.price_gpu_hour),
    ):
        if limits[budget] is not None and not is_given:
            print(f"note     the limit of {budget} is not looked at: it needs {flag}")
    is_greedy = args.temperature == 0 and args.model_temperature in (None, 0)
    for name, policy in policies.items():
        policy["once"] = is_greedy or type_of_slice[name] in ONCE
    return items, policies, limits


def items_for_models(args, items):
    """Items that both models answer."""
    items = [item for item in items if item["type"] not in RECORDED]
    if not args.out or (items and None in (args.model, args.baseline)):
        raise BadInput(
            "--model, --baseline and --out are needed (--power and --selftest do without; a suite "
            "of recorded outcomes needs --out alone)"
        )
    if not args.run_code and any("tests" in item for item in items):
        print("note     without --run-code, items with unit tests have no score")
        items = [item for item in items if "tests" not in item]
    if args.latency and args.latency > len(items):
        raise BadInput(f"--latency {args.latency}: the suite has {len(items)} prompts")
    return items


def temperatures_of(args):
    """{role: temperature} of the answers."""
    candidate = args.model_temperature
    if candidate is None:
        candidate = args.temperature
    return {"baseline": args.temperature, "candidate": candidate}


def model_names(args, items):
    """{role: its name}. Without the flag it is what scored items say, or that nothing says it."""
    names = {}
    for role, name in (("candidate", args.model), ("baseline", args.baseline)):
        recorded = dict.fromkeys(item["models"][role] for item in items if "models" in item)
        names[role] = name or ", ".join(recorded) or f"{role} of unknown name"
    return names


def read_sides(args, items):
    """{role: Side}: whom to ask, and the tokens of every prompt; {} when no model is asked."""
    if args.judge and not is_endpoint(args.judge):
        load_tokenizer(args.judge)  # a wrong name is told before anything is asked
    if not items:
        return {}
    names = {"baseline": args.baseline, "candidate": args.model}
    think = args.think == "on"
    sides = {}
    for role, temperature in temperatures_of(args).items():
        name = names[role]
        tokenizer = load_tokenizer(name)
        prompts = {}
        for item in items:
            with at(f"{name}, id {item['id']!r}"):
                tools = item.get("tools")
                prompts[item["id"]] = prompt_ids(tokenizer, item["prompt"], tools, think=think)
        prompts = fit_items(args, name, tokenizer, items=items, prompts=prompts)
        sides[role] = Side(name, tokenizer, temperature, prompts, keys_of(items, prompts))
    check_judge(args, items)
    return sides


def check_judge(args, items):
    """BadInput when a judge on this machine cannot read the prompts, even without answers.

    The answers are not there yet: AnswerCollector looks again when they are.
    """
    items = of_type(items, "judge")
    if not items or is_endpoint(args.judge):
        return
    constitution = read_constitution(args.constitution)
    judge = Judge(args.judge, constitution, OneInMemory(), quantize=args.quantize)
    empty = Answer("", 0)
    judge.check([pair_of(Duel(item, 0, empty, empty)) for item in items])


def fit_items(args, name, tokenizer, *, items, prompts):
    """The prompts {item: ids} as a model can read them, see fit_prompts. BadInput if it cannot."""
    check_format(name, args.quantize)
    choices = of_type(items, "mc")
    # Those with choices are answered in words only where requests are timed.
    answered = [item["id"] for item in items if args.latency or item["type"] != "mc"]
    texts = [(key, prompts[key]) for key in answered]
    fitted = fit_prompts(name, tokenizer, texts, args.max_tokens, truncate=args.truncate)
    check_choices(name, tokenizer, choices, prompts)
    return prompts | dict(zip(answered, fitted))


def lending_key(args, sides):
    """What two gates must share, so that one may borrow the baseline's answers of the other.

    None when no model is asked.
    """
    if not sides:
        return None
    # The template also says where an answer ends.
    tokenizer = sides["baseline"].tokenizer
    ends = key_of({}, [str(tokenizer.chat_template), stop_ids(tokenizer)])
    weights = fingerprint(args.baseline, args.quantize)
    return [weights, ends, args.temperature, args.max_tokens, args.seed]


def plan_run(args, items, asked_items, policies, *, sides, key):
    """Print what the run is going to take -> the forecast."""
    lent = Counter()
    if sides:
        sampled = {item["id"] for item in of_type(asked_items, "verify", "judge")}
        rows = lendable(args.out, key, sides["baseline"].keys)
        lent.update(row["id"] for row in rows if row["id"] in sampled)
    expected, at_most = answers_to_make(
        asked_items, policies, PROFILES[args.profile]["looks"], temperatures_of(args), lent=lent
    )
    tokens = expected * (args.answer_len or args.max_tokens)
    for side in sides.values():
        tokens += sum(len(ids) for ids in side.prompts.values())
    plan = forecast(
        args.out,
        "gate.py",
        tokens,
        args.tokens_per_second,
        price_gpu_hour=args.price_gpu_hour,
    )
    print(
        f"plan     {len(items)} items, {len(policies)} slices, about {expected:,} answers if "
        f"nothing changed, at most {at_most:,}: {cost_line(plan)}"
    )
    return plan


def answers_to_make(items, policies, looks, temperatures, *, lent):
    """(answers that both models make if nothing changed, answers that they make at most).

    items: those that models answer. lent {item: how many of the baseline's answers can be
    borrowed}. How often the rule will look is simulated, with pass rates as they are assumed.
    """
    sizes = Counter(item["slice"] for item in items if item["type"] in ("verify", "judge"))
    # An item gets `rounds` times the answers of the first look, in the mean.
    rounds = expected_answers(sizes, policies, looks) / looks[0] / max(sizes.total(), 1)
    first_look = draws_of(temperatures, looks[0])
    borrowed = sum(min(count, rounds * first_look["baseline"]) for count in lent.values())
    expected = rounds * sum(first_look.values()) * sizes.total() - borrowed
    last_look = draws_of(temperatures, looks[-1])
    return round(expected), sizes.total() * sum(last_look.values())


def arguments_of(args, limits):
    """The arguments, for run.json. A price decides on something where the cost has a limit."""
    deciding_price = args.price_gpu_hour if limits["cost"] is not None else None
    return vars(args) | {"deciding_price": deciding_price}


def inputs_of(args):
    """Files and models that are hashed into the record of the run."""
    paths = [args.suite, args.model, args.baseline, args.policy, args.constitution, args.verifiers]
    if args.judge and not is_endpoint(args.judge):
        paths.append(args.judge)
    return [path for path in paths if path]


def show_again(run):
    """Print the report of a finished gate once more -> its exit code."""
    try:
        report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
        print(markdown(report))
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{run.folder}: this gate is finished, but report.json is damaged: take another --out"
        ) from None
    return EXIT[run.record["verdict"]]


def make_judge(args, run, memory):
    """The judge, which is loaded when it is first asked; None without --judge."""
    if not args.judge:
        return None
    judge = Judge(
        args.judge,
        read_constitution(args.constitution),
        memory,
        quantize=args.quantize,
        concurrency=args.concurrency,
        seed=args.seed,
        kept=run.replies,
        logprobs=run.record.setdefault("logprobs", {}),
    )
    if not judge.compares:
        raise BadInput(f"--judge {args.judge}: it cannot say which of two answers is better")
    return judge


def write_report(folder, rows, report):
    """items.jsonl, and the report: its numbers, its text and its page."""
    # The texts of a row are for the report; they stand in the files of the answers.
    rows = [{key: value for key, value in row.items() if key != "texts"} for row in rows]
    write_jsonl(folder / "items.jsonl", rows)
    write_whole(folder / "report.json", json.dumps(report, indent=1) + "\n")
    write_whole(folder / "report.md", markdown(report))
    write_whole(folder / "report.html", html(report))


def main(args):
    # How often this gate is wrong: in made worlds, or on the answers of a finished gate.
    if args.selftest and args.simulate:
        lines, are_kept = promise_lines()
        print("\n".join(lines))
        return 0 if are_kept else 1
    if args.selftest and args.out:
        print("\n".join(selftest_lines(args.out)))
        return 0
    if args.selftest or args.simulate:
        raise BadInput("--selftest takes the --out of a finished gate, or --simulate")

    # What is compared under which policy, and who is asked for it.
    check_args(args)
    checks = read_checks(args.verifiers)
    items, policies, limits = read_items(args, checks)
    looks = PROFILES[args.profile]["looks"]
    if args.power:
        print("\n".join(power_lines(items, policies, looks)))
        return 0
    asked_items = items_for_models(args, items)
    sides = read_sides(args, asked_items)

    # The plan, before a model is loaded; then the run, begun or continued.
    key = lending_key(args, sides)
    plan = plan_run(args, items, asked_items, policies, sides=sides, key=key)
    if args.plan:
        return 0
    run = FileRun(args.out, "gate.py", arguments_of(args, limits), inputs_of(args))
    if run.finished:
        return show_again(run)

    # The answers: canaries, and what is only counted; then look by look what the rule asks for.
    memory = OneInMemory()
    collector = AnswerCollector(
        run,
        items,
        sides,
        Sampling(
            args.max_tokens, args.batch_size, args.seed, args.quantize, think=args.think == "on"
        ),
        check=partial(verify, run_code=args.run_code, unsafe=args.unsafe, checks=checks),
        judge=make_judge(args, run, memory),
        memory=memory,
    )
    if sides:
        collector.borrow(key)
    canaries = of_type(asked_items, "canary")
    collector.ask_greedily(canaries + (of_type(asked_items, "verify") if args.greedy else []))
    canary_reports = collector.canaries(canaries)
    unjudged = collector.unjudged(of_type(asked_items, "budget"), looks[0])
    decision = sequential(policies, looks, collector.look)
    if args.latency:
        collector.time_requests(evenly(asked_items, args.latency))
    evidence = Evidence(decision, collector.all_rows(), unjudged, canary_reports)

    # The verdict and the report.
    summary = summarise(
        evidence,
        items,
        policies,
        limits,
        names=model_names(args, items),
        sampling={
            "profile": args.profile,
            "temperature": args.temperature,
            "model_temperature": temperatures_of(args)["candidate"],
            "looks": looks,
        },
        record=run.record,
        price_gpu_hour=args.price_gpu_hour,
    )
    unscored = unscored_slices(items, summary["missing"], policies)
    verdict, why = decide(
        summary["slices"],
        summary["overall"],
        summary["canaries"],
        summary["budgets"],
        unscored=unscored,
    )
    witness = contaminated(args.judge, args.model) if summary["winrate"] else None
    measures = {"tokens": collector.tokens, "seconds": run.seconds()}
    measures["cost"] = money(seconds=measures["seconds"], price_gpu_hour=args.price_gpu_hour)
    report = {"verdict": verdict, "why": why, "contaminated": witness} | summary | measures
    write_report(run.folder, evidence.rows, report)
    run.finish(forecast=plan, verdict=verdict, **measures)
    print(markdown(report))
    print(f"result   {verdict}; {cost_line(report)} -> {run.folder / 'report.html'}")
    return EXIT[verdict]


if __name__ == "__main__":
    run_stage(main, parse_args())
