"""Step 3: judge candidates with verifiers, AI judges on a written constitution, and filters.

Reads   candidates.jsonl (several answers per id), a constitution in Markdown.
Writes  a folder: judged.jsonl (every answer with score, scores, sd, mass, verify, flags),
        pairs.jsonl (for dpo.py), labels.jsonl (for kto.py), report.json, run.json;
        --more FILE: prompts that deserve more candidates.

    python judge.py --judge data/tiny/judge --constitution data/tiny/constitution.md \\
        --data data/candidates.jsonl --out runs/judged
    python judge.py --judge Qwen/Qwen3-4B Skywork/Skywork-Reward-V2-Qwen3-0.6B --keep 0.5 \\
        --constitution data/constitution.md --data data/candidates.jsonl --out runs/judged-jury
    python judge.py --judge gpt --endpoint http://localhost:8000/v1 --out runs/judged-api \\
        --constitution data/constitution.md --data data/candidates.jsonl --show-prompt 1

Where a prompt carries its truth (answer, call, sql, constraints, tests, expected, or a field of
--verifiers) the verifier decides and the judge ranks within right and within wrong. Elsewhere the
score is the expected digit 0-5 of the judge's next token, weighted over the criteria. It then sees
the best and the worst answer as a pair, in both orders; where these disagree there is no pair.
A judge that could not score (mass below 0.5) gives null: never 0, never a tie.
What to look at: agreement with the verifiers (near 50 %: it guesses), order flips, mass, ties.
`--judge random` is the control of every experiment, without verifiers and filters; it must teach
nothing.
Left out on purpose: chains of thought (slower, no better for small judges).
"""

import json
from collections import Counter, namedtuple
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path

from common import cost_line, money
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.filters import BROKEN, find_flags, flag_groups, read_words
from posttrain.judging.constitution import read_constitution, rubric_for
from posttrain.judging.judges import Judge
from posttrain.judging.reliability import report_lines, report_numbers
from posttrain.model.family import family_of, related
from posttrain.model.memory import OneInMemory
from posttrain.model.names import is_endpoint
from posttrain.records.files import read_records
from posttrain.records.jsonl import read_jsonl, write_jsonl, write_whole
from posttrain.run.file_run import FileRun
from posttrain.run.folder import read_run
from posttrain.run.forecast import forecast
from posttrain.verify.checks import check_fields, verify
from posttrain.verify.custom import read_checks, refuse_unused

CHECKED_AT_ONCE = 64  # answers that verifiers look at between two appends
JUDGED_AT_ONCE = 16  # prompts, or pairs, that a judge reads between two appends


def parse_args(argv=None):
    p = parser(__doc__)
    share = at_least(0, float, 1)
    score = at_least(0, float, 5)
    price = at_least(0, float)

    add = p.add_argument_group("files").add_argument
    judges = (
        "hub names, models, run folders, reward models; names at --endpoint; NAME@URL; or random. "
        "Several are a jury"
    )
    add("--judge", required=True, nargs="+", action="extend", help=judges)
    add("--endpoint", help="URL of an OpenAI-compatible server that has every --judge")
    criteria = "Markdown: criteria with weights and anchors"
    add("--constitution", required=True, help=criteria)
    data = "candidates: JSONL files or hf:name[:split]"
    add("--data", required=True, nargs="+", help=data)
    add("--out", required=True, help="folder to write")
    more = "write the prompts that deserve more candidates, and why"
    add("--more", metavar="FILE", help=more)
    add("--limit", type=at_least(1), help="only the first rows of each file")

    add = p.add_argument_group("the method").add_argument
    add("--verifiers", metavar="FILE", help="Python file of checks of your own, one per field")
    skip = "slices where the judge alone decides"
    add("--no-verify", nargs="+", default=[], metavar="SLICE", help=skip)
    orders = "do not ask for the best and the worst as a pair"
    add("--no-orders", action="store_true", help=orders)
    short = "show the judge the questions without their anchors"
    add("--short", action="store_true", help=short)
    code = "run unit tests on model-written code, in a sandbox"
    add("--run-code", action="store_true", help=code)
    unsafe = "with --run-code: also where no isolation works"
    add("--unsafe", action="store_true", help=unsafe)
    add("--words", help="file of policy words per slice (data/words.md)")
    facts = "texts that answers may contradict (a flag)"
    add("--facts", nargs="+", default=[], metavar="FILE", help=facts)
    add("--min-margin", type=score, default=1.0, help="smallest gap of a pair")
    add("--keep", type=share, default=1.0, help="share of the pairs kept per slice")
    add("--good", type=score, default=4.0, help="a score from here on is labelled true")
    add("--bad", type=score, default=2.0, help="a score up to here is labelled false")
    family = "family of each judge, where the name does not tell it"
    add("--family", nargs="+", default=[], help=family)
    quantize = ["auto", "nf4", "none"]
    add("--quantize", choices=quantize, default="auto", help="auto = nf4 on a GPU")
    at_once = "requests at an endpoint at the same time"
    add("--concurrency", type=at_least(1), default=8, help=at_once)
    add("--seed", type=int, default=0, help="of --judge random")

    add = p.add_argument_group("look before you pay").add_argument
    prompt = (
        "print what the judge reads of the first N prompts (an answer with every question, and a "
        "pair); load no model; exit"
    )
    add("--show-prompt", type=at_least(1), metavar="N", help=prompt)
    plan = "print tokens, seconds, cost; load no model; exit"
    add("--plan", action="store_true", help=plan)
    speed = "for the forecast (default: an earlier run)"
    add("--tokens-per-second", type=at_least(1e-9, float), help=speed)
    add("--price-judge", type=price, default=0.0, help="price per million tokens")
    add("--price-gpu-hour", type=price, default=0.0, help="price of the machine per hour")
    args = p.parse_args(argv)
    if args.bad >= args.good:
        p.error(f"--bad {args.bad} must be below --good {args.good}")
    if args.family and len(args.family) != len(args.judge):
        p.error("--family: expected one for each --judge")
    return args


# ---- the method: what votes and verdicts make of an answer ---------------------------------------


def calibrate(columns, raw):
    """Scores of several judges for the same answers -> one score 0-5 per answer, or None.

    columns[j]: judge j's numbers, None where it has none; raw[j]: True for a reward model, whose
    unit means nothing. Each is brought to mean 0 and spread 1 over this run, averaged, and taken
    back to the scale of the judges on 0-5; without any of these it is ranked by the normal curve.
    One judge on 0-5 stays as it is.
    """
    if raw == [False]:
        return columns[0]
    units = [mean_and_spread(column) for column in columns]
    units_of_digits = [unit for unit, is_reward in zip(units, raw) if not is_reward]
    combined = []
    for scores in zip(*columns):
        if None in scores:
            combined.append(None)
            continue
        z = sum((score - mean) / spread for score, (mean, spread) in zip(scores, units))
        z = z / len(scores)
        if units_of_digits:
            mean, spread = (sum(part) / len(units_of_digits) for part in zip(*units_of_digits))
            combined.append(min(max(mean + spread * z, 0.0), 5.0))
        else:
            combined.append(5 * normal_share(z))
    return combined


def overall_scores(columns):
    """The votes of each judge -> one score per answer: see calibrate."""
    scores = []
    raw = []
    for votes in columns:
        scores.append([vote["score"] for vote in votes])
        raw.append(any(vote["raw"] for vote in votes))
    return calibrate(scores, raw)


def normal_share(z):
    """The share of a standard normal distribution that lies below z."""
    from scipy.stats import norm  # an extra: loaded where it is used

    return float(norm.cdf(z))


def mean_and_spread(column):
    """Mean and standard deviation of the scores that are not None; the latter is above 0."""
    scores = [score for score in column if score is not None] or [0.0]
    mean = sum(scores) / len(scores)
    variance = sum((score - mean) ** 2 for score in scores) / len(scores)
    return mean, max(variance**0.5, 1e-6)


def grade(judged, verified, flags=()):
    """One number 0-5 for an answer, or None: the judge's score, where no verifier decides.

    Where one does, it is moved to 3-5 when the verifier says right and to 0-2 when it says wrong.
    It is 0 when a filter says broken.
    """
    if BROKEN & set(flags):
        return 0.0
    if verified is None or verified["ok"] is None:
        return judged
    lowest = 3.0 if verified["ok"] else 0.0
    share = 0.5 if judged is None else judged / 5
    return lowest + 2.0 * share


# ---- the method: pairs and labels ----------------------------------------------------------------

# The best and the worst answer to a prompt, or None and None with the reason why there is no pair.
# both_orders: P(chosen is better) asked in this order and in the other, where judges were asked.
Pick = namedtuple("Pick", ["id", "slice", "chosen", "rejected", "reason", "both_orders"])


def pick_pair(answers, min_margin):
    """The Pick of a prompt's answers: best against worst of the scored, unbroken ones."""
    no_pair = Pick(answers[0]["id"], answers[0].get("slice", "all"), None, None, None, None)
    usable = [a for a in answers if a["score"] is not None and not BROKEN & set(a["flags"])]
    if len(usable) < 2:
        return no_pair._replace(reason="fewer than two usable answers")
    usable.sort(key=lambda answer: (answer["score"], -answer["candidate"]))
    chosen = usable[-1]
    rejected = usable[0]
    if chosen["completion"] == rejected["completion"]:
        # The next worst instead would favour the commonest answer.
        return no_pair._replace(reason="tied")
    if chosen["score"] - rejected["score"] < max(min_margin, 1e-9):
        return no_pair._replace(reason="tied")
    return no_pair._replace(chosen=chosen, rejected=rejected)


def told_apart(pick):
    """Does a verifier say that chosen is right and rejected is wrong?"""
    verdicts = [(answer["verify"] or {}).get("ok") for answer in (pick.chosen, pick.rejected)]
    return verdicts == [True, False]


def with_orders(pick, replies):
    """The pick with both_orders: for each order the mean of the judges, None if one has none.

    replies: what each judge says of the pair, see Judge.compare.
    """
    both_orders = []
    for votes in zip(*(reply["p"] for reply in replies)):
        both_orders.append(None if None in votes else sum(votes) / len(votes))
    tokens = pick.chosen["judge_tokens"] + sum(reply["tokens"] for reply in replies)
    chosen = pick.chosen | {"judge_tokens": tokens, "both_orders": both_orders}
    return pick._replace(chosen=chosen, both_orders=both_orders)


def with_chosen(answers, pick):
    """A prompt's answers, with the chosen one as the pick has it."""
    if not pick.both_orders:
        return answers
    number = pick.chosen["candidate"]
    return [pick.chosen if answer["candidate"] == number else answer for answer in answers]


def confirm(pick):
    """The pick, without its pair where the judges that saw it in both orders do not confirm it."""
    if pick.reason or not pick.both_orders:
        return pick
    if None in pick.both_orders:
        return pick._replace(reason="no verdict on the pair")
    chosen_wins = {p >= 0.5 for p in pick.both_orders}
    if len(chosen_wins) > 1:
        return pick._replace(reason="orders disagree")
    if chosen_wins == {False}:
        return pick._replace(reason="the pair says otherwise")
    return pick


def spread(pick):
    """Standard deviation of the difference of the two scores."""
    return max((pick.chosen["sd"] ** 2 + pick.rejected["sd"] ** 2) ** 0.5, 1e-3)


def preference(pick):
    """Probability that chosen is better.

    1 where the verifier tells them apart, the mean of both orders where they were asked, else from
    the judge's means and spreads (0.5 when it gave none).
    """
    chosen, rejected = pick.chosen, pick.rejected
    if told_apart(pick):
        return 1.0
    if pick.both_orders:
        return sum(pick.both_orders) / 2
    if None in (chosen["sd"], rejected["sd"], chosen["judged"], rejected["judged"]):
        return 0.5
    return max(0.5, normal_share((chosen["judged"] - rejected["judged"]) / spread(pick)))


def certainty(pick):
    """What --keep ranks the pairs of a slice by.

    First what a verifier tells apart; then how many spreads lie between the scores (the gap alone
    where the judge gave no spread): a wide gap between wide spreads says little.
    """
    gap = pick.chosen["score"] - pick.rejected["score"]
    if told_apart(pick):
        return True, gap
    if None in (pick.chosen["sd"], pick.rejected["sd"]):
        return False, gap
    return False, gap / spread(pick)


def keep_surest(picks, keep):
    """The picks, those beyond the surest share `keep` of their slice without their pair.

    At least one pair of a slice stays.
    """
    by_slice = {}
    for pick in picks:
        if not pick.reason:
            by_slice.setdefault(pick.slice, []).append(pick)
    kept = set()
    for pairs in by_slice.values():
        surest = sorted(pairs, key=certainty, reverse=True)
        kept.update(pick.id for pick in surest[: max(1, round(keep * len(surest)))])
    return [
        pick if pick.reason or pick.id in kept else pick._replace(reason="below --keep")
        for pick in picks
    ]


# Fields that say something of one answer, and nothing of its prompt.
OF_ANSWER = frozenset(
    """
    candidate completion generator family temperature system seed tokens read finish
    score judged judge_tokens scores sd mass verify flags both_orders votes
    """.split()
)


def make_pair(pick):
    """The line of pairs.jsonl of a pick that has a pair."""
    chosen, rejected = pick.chosen, pick.rejected
    of_prompt = {key: value for key, value in chosen.items() if key not in OF_ANSWER}
    return of_prompt | {
        "slice": pick.slice,
        "chosen": chosen["completion"],
        "rejected": rejected["completion"],
        "score_chosen": chosen["score"],
        "score_rejected": rejected["score"],
        "margin": chosen["score"] - rejected["score"],
        "p": preference(pick),
        "weight": chosen.get("weight", 1.0),
    }


def make_labels(rows, good, bad):
    """Judged rows -> the lines of labels.jsonl: true from `good` on, false up to `bad`.

    So a right answer that the judge dislikes has no label, nor has one in between. Ties of a prompt
    have their labels, too; a broken answer has the score 0.
    """
    labels = []
    for row in rows:
        score = row["score"]
        if score is None or bad < score < good:
            continue
        of_prompt = {key: value for key, value in row.items() if key not in OF_ANSWER}
        labels.append(
            {"weight": 1.0, "slice": "all"}
            | of_prompt
            | {"completion": row["completion"], "label": score >= good, "score": score}
        )
    return labels


def ask_more(prompts, picks, good, bad):
    """Prompts that deserve more candidates, with "why": see why_more. prompts: judged answers."""
    of_answer = OF_ANSWER | {"judge", "constitution", "contaminated"}
    more = []
    for answers, pick in zip(prompts, picks):
        why = why_more(answers, pick, good, bad)
        if why:
            of_prompt = {key: v for key, v in answers[0].items() if key not in of_answer}
            more.append(of_prompt | {"why": why})
    return more


def why_more(answers, pick, good, bad):
    """Why a prompt deserves more candidates: none is good, they divide, or the orders do."""
    scores = [answer["score"] for answer in answers if answer["score"] is not None]
    if not scores:
        return "no score"
    if max(scores) < good:
        return "all fail"
    if min(scores) <= bad or pick.reason in ("orders disagree", "the pair says otherwise"):
        return "disagree"
    return None


# ---- what is read --------------------------------------------------------------------------------


def by_prompt(rows):
    """Rows -> those of each prompt in a list, in the order of their first."""
    groups = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)
    return list(groups.values())


def read_candidates(paths, limit, constitution, checks):
    """Candidates of all files, checked: [[answers to one prompt], ...]."""
    rows = []
    for path in paths:
        rows += read_records(path, "candidates", limit)
    groups = {}
    for row in rows:
        earlier = groups.setdefault(row["id"], [])
        row.setdefault("candidate", len(earlier))
        try:
            check_candidate(row, earlier, constitution, checks)
        except BadInput as error:
            raise BadInput(f"{' '.join(paths)}: id {row['id']!r}: {error}") from None
        earlier.append(row)
    refuse_unused(checks, rows)
    return list(groups.values())


def check_candidate(row, earlier, constitution, checks):
    """BadInput when a candidate cannot be judged beside the earlier ones of its id."""
    check_fields(row, checks=checks)
    if earlier and row["prompt"] != earlier[0]["prompt"]:
        raise BadInput("stands for two different prompts in --data; ids must be unique")
    if row["candidate"] in [other["candidate"] for other in earlier]:
        raise BadInput(
            f"candidate {row['candidate']} occurs twice; number a second round with "
            "gen_candidates.py --first"
        )
    criteria, _ = rubric_for(constitution, row.get("slice"), row["prompt"])
    if not criteria:
        raise BadInput(f"no criterion of the constitution is for the slice {row.get('slice')!r}")


def read_texts(paths):
    """The paragraphs of text files."""
    try:
        texts = [Path(path).read_text(encoding="utf-8") for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--facts: {' '.join(paths)}: not a text in UTF-8 ({str(error)[:80]})"
        ) from None
    paragraphs = []
    for text in texts:
        paragraphs += [part.strip() for part in text.split("\n\n") if part.strip()]
    return paragraphs


# ---- what is said of the answers -----------------------------------------------------------------


def is_control(names):
    """Is this the control run, in which nothing that knows anything has a say?"""
    return names == ["random"]


def is_verified(row, checks, no_verify):
    """Has a prompt a verifier field, and may verifiers decide on its slice?"""
    return row.get("slice") not in no_verify and not checks.keys().isdisjoint(row)


def check_answers(rows, args, checks, evidence):
    """What verifiers say of answers: [{"verify": see verify; None where none is asked}, ...]."""
    truth = {"evidence": evidence} if evidence else {}
    verdicts = []
    for row in rows:
        verdict = None
        if not is_control(args.judge) and row.get("slice") not in args.no_verify:
            record = truth | row
            text = row["completion"]
            verdict = verify(record, text, args.run_code, args.unsafe, checks=checks)
        verdicts.append({"verify": verdict})
    return verdicts


def judged_rows(rows, verdicts, votes, *, judges, constitution):
    """Candidates with what verifiers and judges say of them, in their order.

    verdicts: see check_answers. votes: for each judge, one per row. judges, constitution: names.
    """
    judged = []
    for row, verdict, row_votes, score in zip(rows, verdicts, zip(*votes), overall_scores(votes)):
        fields = {
            "judged": score,
            **means_of_votes(row_votes),
            "verify": verdict["verify"],
            "judge": " + ".join(judges),
            "constitution": constitution,
            "judge_tokens": sum(vote["tokens"] for vote in row_votes),
        }
        if len(judges) > 1:
            fields["votes"] = [{"judge": name} | vote for name, vote in zip(judges, row_votes)]
        judged.append(row | fields)
    refuse_unscored(judged)
    return judged


def refuse_unscored(rows):
    """BadInput when the judges could not score a single answer: nothing is learned from that."""
    if all(row["judged"] is None for row in rows):
        raise BadInput(
            f"not one of {len(rows)} answers has a score (a judge gives digits less than half of "
            "its probability, or its replies are no verdicts): look at --show-prompt, or take "
            "another --judge and --out"
        )


def means_of_votes(votes):
    """{"scores", "sd", "mass"} of an answer from one vote per judge.

    scores: by criterion, the mean of the judges that score on 0-5, None where one of them has none.
    sd: of a single judge. mass: the lowest.
    """
    digit_votes = [vote for vote in votes if not vote["raw"]]
    scores = {}
    for name in digit_votes[0]["scores"] if digit_votes else ():
        values = [vote["scores"][name] for vote in digit_votes]
        scores[name] = None if None in values else sum(values) / len(values)
    masses = [vote["mass"] for vote in votes if vote["mass"] is not None]
    return {
        "scores": scores,
        "sd": votes[0]["sd"] if len(votes) == 1 else None,
        "mass": min(masses, default=None),
    }


def mark_family(rows, families):
    """The rows, with "contaminated" where a model of a judge's family wrote the answer.

    A judge may favour its own family. families: those of the judges.
    """
    family_by_generator = {}
    for name in {row.get("generator", "") for row in rows}:
        family_by_generator[name] = family_of(name)
    marked = []
    for row in rows:
        writer = row.get("family") or family_by_generator[row.get("generator", "")]
        is_related = any(related(family, writer) for family in families)
        marked.append(row | {"contaminated": True} if is_related else row)
    return marked


def with_grades(rows, words, control):
    """Judged rows with the filters' flags and their score, the last word on an answer.

    control: without flags. words: see read_words.
    """
    flags_of_run = [[] for _ in rows] if control else flag_groups(rows)
    graded = []
    for row, flags in zip(rows, flags_of_run):
        if not control:
            flags = find_flags(row, words) + flags
        score = grade(row["judged"], row["verify"], flags)
        graded.append(row | {"flags": flags, "score": score})
    return graded


# ---- the run -------------------------------------------------------------------------------------


def a_single_line(item):
    """How many lines most items make."""
    return 1


def run_step(run, name, items, work, *, at_once, lines_of=a_single_line):
    """What work(batch) makes of items, `at_once` of them in a batch -> all its rows.

    They are kept in NAME.jsonl until the run ends, and what a killed run has there is not made
    again. lines_of(item): how many rows an item makes.
    """
    batches = [items[start : start + at_once] for start in range(0, len(items), at_once)]
    sizes = [sum(map(lines_of, batch)) for batch in batches]
    path = run.folder / f"{name}.jsonl"
    run.extend(path, batches, sizes, work)
    return [row for _, row in read_jsonl(path)] if batches else []


def ask_both_orders(run, picks, judges):
    """The picks, with what judges say in both orders of pairs that no verifier tells apart.

    The last judge is asked first: it is still in memory.
    """
    doubtful = [pick for pick in picks if not pick.reason and not told_apart(pick)]
    pairs = [(pick.chosen, pick.rejected) for pick in doubtful]
    replies = []
    for number, judge in reversed(list(enumerate(judges, 1))):
        if judge.compares:
            name = f"orders-{number}"
            replies.append(run_step(run, name, pairs, judge.compare, at_once=JUDGED_AT_ONCE))
    compared = {}
    for pick, replies_to_pair in zip(doubtful, zip(*replies)):
        compared[pick.id] = with_orders(pick, replies_to_pair)
    return [compared.get(pick.id, pick) for pick in picks]


def judge_names(names, endpoint):
    """Names of the judges; those of an endpoint as NAME@URL."""
    if not endpoint:
        return names
    if not endpoint.startswith("http"):
        raise BadInput(
            f"--endpoint {endpoint}: expected a URL that begins with http:// or https://"
        )
    return [name if name == "random" else f"{name}@{endpoint}" for name in names]


def forecast_run(args, judges, prompts, checks):
    """(what judging will take: see forecast, tokens of the first judge's rubric).

    BadInput when a judge cannot read what it will be shown.
    """
    for judge in judges:
        judge.check(prompts, pairs=not args.no_orders)
    pairs = 0  # prompts whose best and worst answers are shown as a pair
    if not args.no_orders:
        pairs = sum(not is_verified(answers[0], checks, args.no_verify) for answers in prompts)
    forecasts = [judge.forecast(prompts, pairs) for judge in judges]
    plan = forecast(
        args.out,
        "judge.py",
        sum(tokens for tokens, _ in forecasts),
        args.tokens_per_second,
        price_per_million=args.price_judge,
        price_gpu_hour=args.price_gpu_hour,
        model=args.judge,
    )
    return plan, forecasts[0][1]


def input_files(args, names):
    """Whatever on this machine decides on the result: it is hashed, and must not change."""
    local = [name for name in names if name != "random" and not is_endpoint(name)]
    paths = [*args.data, args.constitution, *local, *args.facts, args.words, args.verifiers]
    return [path for path in paths if path]


def print_prompts(judges, prompts):
    """Print what each judge reads of prompts, by the example of an answer and a pair."""
    for judge in judges:
        for answers in prompts:
            for heading, text in judge.texts(answers):
                print(f"==== {judge.name}, id {answers[0]['id']!r}: {heading}\n{text}")


def cost_of_run(args, judged, seconds):
    """{"tokens", "seconds", "cost"} of the judging."""
    tokens = sum(row["judge_tokens"] for row in judged)
    cost = money(tokens, args.price_judge, seconds, args.price_gpu_hour)
    return {"tokens": tokens, "seconds": seconds, "cost": cost}


def cost_per_pair(paths, cost, pairs):
    """Cost of a kept pair: the judging, and the candidates as far as records beside them tell."""
    for path in paths:
        cost += read_run(Path(path).with_suffix(".run.json")).get("cost", 0.0)
    return cost / len(pairs) if pairs else None


def pair_cost_phrase(numbers):
    """What a kept pair has cost, for the terminal."""
    cost = numbers["cost_per_kept_pair"]
    return "" if cost is None else f" ({cost:.6f} a kept pair with its candidates)"


def remove_steps(folder):
    """Delete the files of run_step: all of it stands in judged.jsonl."""
    for pattern in ("checks.jsonl", "votes-*.jsonl", "orders-*.jsonl"):
        for path in folder.glob(pattern):
            path.unlink()


def write_more(path, more):
    """Write what ask_more returns -> a line that says so."""
    write_jsonl(path, more)
    counts = Counter(row["why"] for row in more)
    reasons = ", ".join(f"{count} {why}" for why, count in counts.items())
    return f"more     {len(more)} prompts -> {path} ({reasons})"


def main(args):
    # What is judged, and by what. No judge is loaded before it is used, and never two at a time.
    constitution = read_constitution(args.constitution, args.short)
    checks = read_checks(args.verifiers)
    words = read_words(args.words) if args.words else None
    evidence = read_texts(args.facts)
    prompts = read_candidates(args.data, args.limit, constitution, checks)  # answers by prompt
    rows = list(chain.from_iterable(prompts))
    names = judge_names(args.judge, args.endpoint)
    judge_named = partial(
        Judge,
        constitution=constitution,
        memory=OneInMemory(),
        quantize=args.quantize,
        concurrency=args.concurrency,
        seed=args.seed,
    )

    # What they will read, and what it will cost.
    judges = [judge_named(name) for name in names]
    if args.show_prompt:
        print_prompts(judges, prompts[: args.show_prompt])
        return 0
    plan, rubric_tokens = forecast_run(args, judges, prompts, checks)
    title = f"{constitution['name']}@{constitution['hash']}"
    print(
        f"plan     {len(prompts)} prompts, {len(rows)} answers, constitution {title}, "
        f"{rubric_tokens} tokens a prompt: {cost_line(plan)}"
    )
    if args.plan:
        return 0
    run = FileRun(args.out, "judge.py", vars(args), input_files(args, names))
    if run.finished:
        print(f"{args.out} is finished: nothing to do")
        return 0

    # Verifiers say what is true, then each judge what it thinks. Every step is kept in a file, and
    # goes on where a killed run ended.
    check = partial(check_answers, args=args, checks=checks, evidence=evidence)
    verdicts = run_step(run, "checks", rows, check, at_once=CHECKED_AT_ONCE)
    judges = [
        judge_named(name, kept=run.replies, logprobs=run.record.setdefault("logprobs", {}))
        for name in names
    ]
    votes = [
        run_step(run, f"votes-{n}", prompts, judge.score, at_once=JUDGED_AT_ONCE, lines_of=len)
        for n, judge in enumerate(judges, 1)
    ]
    judged = judged_rows(rows, verdicts, votes, judges=names, constitution=title)
    families = [family or family_of(name) for name, family in zip_longest(names, args.family)]
    judged = with_grades(mark_family(judged, families), words, is_control(names))

    # The best answer to each prompt against the worst.
    prompts = by_prompt(judged)
    picks = [pick_pair(answers, args.min_margin) for answers in prompts]
    picks = ask_both_orders(run, picks, [] if args.no_orders else judges)
    prompts = [with_chosen(answers, pick) for answers, pick in zip(prompts, picks)]
    picks = keep_surest([confirm(pick) for pick in picks], args.keep)
    judged = list(chain.from_iterable(prompts))
    pairs = [make_pair(pick) for pick in picks if not pick.reason]
    labels = make_labels(judged, args.good, args.bad)

    # What it has cost, and how far to believe it.
    measured = cost_of_run(args, judged, run.record["seconds"])
    numbers = report_numbers(prompts, names, picks=picks, pairs=pairs, labels=labels)
    numbers |= {
        "judges": dict(zip(names, families)),
        "cost_per_kept_pair": cost_per_pair(args.data, measured["cost"], pairs),
    }
    lines = report_lines(numbers)
    if args.more:
        lines.append(write_more(args.more, ask_more(prompts, picks, args.good, args.bad)))
    for name, kept_rows in (("judged", judged), ("pairs", pairs), ("labels", labels)):
        write_jsonl(run.folder / f"{name}.jsonl", kept_rows)
    write_whole(run.folder / "report.json", json.dumps(numbers, indent=1) + "\n")
    run.finish(forecast=plan, **measured)
    remove_steps(run.folder)
    print("\n".join(lines))
    print(
        f"result   {len(pairs)} pairs from {len(prompts)} prompts, {len(labels)} labels "
        f"({numbers['labels_true']} good); {cost_line(measured)}, forecast "
        f"{plan['tokens']:,.0f} tokens{pair_cost_phrase(numbers)} -> {args.out}"
    )
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
