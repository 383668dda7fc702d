"""A finished gate's report (the dict of report.json) as text and as a page.

`parts` says the numbers in the order in which people read them. `markdown` lays them out for a
terminal and for report.md, `html` for a browser, with figures and whole texts; nothing is computed
here. Prompts and answers are hostile until shown: text.py makes every character visible, long texts
lose their middle, and each form escapes what is left. The page runs no script and loads nothing;
equal reports give equal bytes.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from posttrain.gating.figures import LOOKS, figures_of
from posttrain.gating.rule import ALPHA
from posttrain.gating.text import (
    COLUMNS,
    between,
    cut,
    fit,
    flat,
    listed,
    outcome,
    points,
    share,
    tables_that_fit,
    times,
    visible,
    wrapped,
)

# Characters of a text that are shown: on the page, in a terminal, of a canary's answer, of a name.
PAGE_SHOWS = 2000
TEXT_SHOWS = 600
CANARY_SHOWS = 300
NAME_SHOWS = 24
LARGEST_PAGE = 300_000  # bytes

TEXT_FLIPS = 5  # that the terminal shows
CANARIES_LISTED = 20

# Later lines of a paragraph begin with so many blanks that a text cannot begin a heading, a list
# or a rule there.
INDENT = " " * 4
INDENT_IN_LIST = " " * 6


class Part(NamedTuple):
    """A chapter of the report."""

    title: str
    lines: list = []  # sentences
    rows: list = []  # [{head: cell}] of a table
    is_wide: bool = False  # the table has sentences in its last column
    flips: list = []  # {"id", "slice", "prompt", "baseline", "candidate", and their scores}

    @property
    def head(self):
        """What stands above the columns."""
        return list(self.rows[0])


def title(report):
    """The verdict, and whether it can be believed."""
    return report["verdict"] + (" - CONTAMINATED" if report["contaminated"] else "")


def reasons(report):
    """Sentences below the title."""
    sentences = [f"Candidate {report['candidate']} against {report['baseline']}: {report['why']}."]
    if report["contaminated"]:
        sentences.append(f"No independent witness: {report['contaminated']}.")
    return sentences


# ---- the parts, in reading order -----------------------------------------------------------------


def parts(report, most=PAGE_SHOWS):
    """What follows the title, every text visible and cut to `most` characters.

    What was not measured is said.
    """
    chapters = [
        slice_part(report["slices"], report["overall"]),
        flip_part(report["flips"], most),
        canary_part(report["canaries"]),
        winrate_part(report["winrate"]),
        refusal_part(report["refusals"]),
        budget_part(report["budgets"], report["returned"]),
        blind_part(report),
        provenance_part(report),
    ]
    shown = []
    for part in chapters:
        lines = [cut(line, most) for line in part.lines]
        rows = []
        for row in part.rows:
            rows.append({head: cut(cell, most) for head, cell in row.items()})
        shown.append(part._replace(lines=lines, rows=rows))
    return shown


def slice_part(slices, overall):
    """What decides: each slice's difference, and the mean's."""
    lines = [] if slices else ["No slice could be compared."]
    if overall:
        as_a_whole = "; a drop as a whole" if overall["fail"] else ""
        lines.append(
            f"All slices together: {points(overall['delta'])} "
            f"{between(overall['low'], overall['high'])} points; p of a drop "
            f"{overall['p_drop']:.3g}, of a gain {overall['p_gain']:.3g}{as_a_whole}."
        )
    if not all(numbers["hard"] for numbers in slices.values()):
        lines.append("(soft): this slice may fall without blocking.")
    lines += levels_told(slices)
    rows = [slice_row(name, numbers) for name, numbers in slices.items()]
    return Part("Slices", lines, rows)


def levels_told(slices):
    """What p, interval and k of a row mean."""
    levels = sorted({numbers["level"] for numbers in slices.values()})
    if not levels:
        return []
    limits = " or ".join(f"{level:.2g}" for level in levels)
    return [
        f"A slice fails where the p of a drop is below {limits} ({100 * ALPHA:g} % over all slices "
        "and looks). Intervals hold at whichever look the run ended. k: answers of the candidate "
        "to each prompt."
    ]


def slice_row(name, numbers):
    """Shares are in per cent, differences and the margin in points."""
    row = {
        "slice": name,
        "verdict": outcome(numbers),
        "baseline": share(numbers["baseline"]),
        "candidate": share(numbers["candidate"]),
    }
    interval = between(numbers["low"], numbers["high"])
    row["delta, points [95 %]"] = f"{points(numbers['delta'])} {interval}"
    row["margin"] = f"{100 * numbers['margin']:.3g}"
    row["p of a drop"] = f"{numbers['p_drop']:.2g}"
    row["wins:losses"] = f"{numbers['wins']}:{numbers['losses']}"
    row["n"] = str(numbers["n"])
    if numbers["clusters"] != numbers["n"]:
        row["n"] += f" ({numbers['clusters']} clusters)"
    row["k"] = numbers["k"] or "-"
    row["type"] = numbers["type"]
    row["tokens"] = change(numbers, "tokens", "{:.1f}".format)
    row["greedy"] = change(numbers, "greedy", share)
    return row


def change(numbers, measure, form):
    """From the baseline's value to the candidate's."""
    pair = [numbers[f"{measure}_baseline"], numbers[f"{measure}_candidate"]]
    if None in pair:
        return "-"
    return " -> ".join(form(value) for value in pair)


def flip_part(flips, most):
    """The worst items with their texts."""
    if not flips:
        return Part("Worst flips", ["None."])
    shown = []
    for flip in flips:
        texts = {key: cut(flip[key], most) for key in ("id", "slice", "baseline", "candidate")}
        shown.append(flip | texts | {"prompt": prompt_text(flip["prompt"], most)})
    lines = ["Items that lost most, worst first; one answer of each model."]
    return Part("Worst flips", lines, flips=shown)


def prompt_text(messages, most):
    """A prompt, a paragraph a message."""
    paragraphs = []
    for message in messages:
        content = message.get("content") or json.dumps(message.get("tool_calls"))
        paragraphs.append(f"{message['role']}: {cut(content, most // len(messages))}")
    return "\n".join(paragraphs)


def canary_part(canaries):
    """What must pass. Of n that all pass, at most 3 / n would fail (rule of three)."""
    if not canaries:
        return Part("Canaries", ["Not measured: the suite has no canaries."])
    broken = [c for c in canaries if c["baseline"] and not c["candidate"]]
    kinds = {
        "failed": [c for c in broken if c["confirmed"]],
        "flaky": [c for c in broken if not c["confirmed"]],
        "quarantined": [c for c in canaries if not c["baseline"]],
    }
    meaning = {
        "failed": "and one of two more answers",
        "flaky": "failed once, passed twice",
        "quarantined": "the baseline fails them, too",
    }
    count = len(canaries) - len(kinds["quarantined"])
    sentence = f"{count - len(broken)} of {count} pass"
    if count and not broken:
        bound = min(3 / count, 1)
        sentence += f"; with 95 % the true rate of failures is at most 3/n = {bound:.1%}"
    lines = [f"{sentence}."]
    rows = []
    for kind, members in kinds.items():
        if members:
            names = listed([c["id"] for c in members])
            lines.append(f"{kind.capitalize()} ({meaning[kind]}): {names}.")
        for c in members:
            answer = flat(cut(c["text"], CANARY_SHOWS))
            rows.append({"canary": kind, "id": c["id"], "candidate's answer": answer})
    return Part("Canaries", lines, rows[:CANARIES_LISTED], is_wide=True)


def winrate_part(winrate):
    """What the judge prefers, as it is and at equal lengths."""
    if not winrate:
        return Part("Win-rate", ["Not measured: nothing was judged head to head."])
    sentence = (
        f"Decided wins:losses:ties {winrate['wins']}:{winrate['losses']}:{winrate['ties']}; the "
        f"candidate's answers have {winrate['length_ratio']:.2f} times the tokens (median)"
    )
    if winrate["outside_support"]:
        sentence += (
            "; outside support: too far for the length-controlled rate, which is extrapolated and "
            "decides nothing"
        )
    rows = [
        winrate_row("raw", winrate["raw"], winrate["low"], winrate["high"]),
        winrate_row(
            "length-controlled",
            winrate["length_controlled"],
            winrate["lc_low"],
            winrate["lc_high"],
        ),
    ]
    return Part("Win-rate", [f"{sentence}."], rows)


def winrate_row(name, rate, low, high):
    """A rate with its interval, or dashes."""
    if rate is None:
        return {"win-rate": name, "candidate": "-", "95 %": "-"}
    return {"win-rate": name, "candidate": share(rate), "95 %": between(low, high, share)}


def refusal_part(refusals):
    """Who is refused what."""
    if not refusals:
        sentence = "Not measured: no item expects a refusal, or none expects an answer."
        return Part("Refusals", [sentence])
    rows = []
    for role in ("baseline", "candidate"):
        row = {"refused": role}
        for kind in ("harmful", "harmless"):
            refused, answers = refusals[role][kind]
            in_per_cent = f" ({refused / answers:.1%})" if answers else ""
            row[f"{kind} requests"] = f"{refused} of {answers}{in_per_cent}"
        rows.append(row)
    return Part("Refusals", rows=rows)


class BudgetForm(NamedTuple):
    """How a budget is written."""

    name: str
    value: Callable  # of a model's value
    ratio: Callable  # of what is compared to the limit
    unit: str = ""  # of the ratio


BUDGET_FORMS = {
    "tokens": BudgetForm("tokens of a right answer", "{:.1f}".format, times),
    "slice_tokens": BudgetForm("the same, most in a slice", "{:.1f}".format, times),
    "truncated": BudgetForm("truncated answers", share, points, " points"),
    "latency": BudgetForm("seconds, median", "{:.3g}".format, times),
    "cost": BudgetForm("cost of 1,000 requests", "{:.4g}".format, times),
}
BESIDE_LATENCY = {"p95": "seconds, 95th percentile", "tokens_per_second": "tokens per second"}
RETURNS = {
    "points": "verified points",
    "points_per_money": "points per unit of money",
    "points_per_hour": "points per GPU-hour",
    "winrate_points": "points of win-rate",
    "winrate_per_money": "points of win-rate per unit of money",
}


def budget_part(budgets, returned):
    """What the answers take, and what the training brought for its cost."""
    rows = []
    for key, form in BUDGET_FORMS.items():
        budget = budgets.get(key)
        if not budget:
            continue
        rows.append(budget_row(budget, form))
        if key == "latency":
            for measure, name in BESIDE_LATENCY.items():
                rows.append(budget_cells(name, budget[measure], form))
    lines = [] if rows else ["Not measured."]
    if returned:
        gains = []
        for key, unit in RETURNS.items():
            if returned[key] is not None:
                gains.append(f"{returned[key]:+z.2f} {unit}")
        lines.append(
            f"Return: the candidate's runs cost {returned['spent']:.2f} of money and "
            f"{returned['gpu_hours']:.2f} GPU-hours: {', '.join(gains)}."
        )
    return Part("Budgets", lines, rows)


def budget_row(budget, form):
    """Both models' values, their ratio and its limit."""
    name = form.name
    if "slice" in budget:
        name = f"{name}: {cut(budget['slice'], NAME_SHOWS)}"
    row = budget_cells(name, budget.get("p50", budget), form)
    ratio = form.ratio(budget["ratio"]) + form.unit
    if budget.get("low") is not None:
        ratio += f" {between(budget['low'], budget['high'], form.ratio)}"
    row["ratio [95 %]"] = ratio
    row["limit"] = "none"
    row["result"] = "-"
    if budget["limit"] is not None:
        row["limit"] = form.ratio(budget["limit"]) + form.unit
        row["result"] = "FAIL" if budget["fail"] else "ok"
    return row


def budget_cells(name, pair, form):
    """A row with both models' values alone."""
    return {
        "budget": name,
        "baseline": form.value(pair["baseline"]),
        "candidate": form.value(pair["candidate"]),
        "ratio [95 %]": "",
        "limit": "",
        "result": "",
    }


def blind_part(report):
    """What this gate could not see, and how much it would take."""
    lines = list(report["blind"])
    if report["missing"]:
        lines.append(f"Without a score and left out: {listed(report['missing'])}.")
    rows = []
    for name, numbers in report["slices"].items():
        row = {"slice": name, "n": numbers["n"], "k": numbers["k"] or "-"}
        row["smallest drop caught 4 times in 5 (points)"] = f"{100 * numbers['mde']:.1f}"
        row["prompts that would decide"] = numbers["need"] or "-"
        rows.append(row)
    return Part("Not seen by this gate", lines, rows)


def provenance_part(report):
    """Where everything comes from."""
    sampling = f"profile {report['profile']}; temperature {report['temperature']}"
    if report["model_temperature"] != report["temperature"]:
        sampling += f", the candidate at {report['model_temperature']}"
    sampling += (
        f"; looks after {listed(report['looks'])} answers; "
        f"baseline draws: {report['baseline_draws']}"
    )
    spent = f"{report['tokens']:,} tokens, {report['seconds']:.1f} s, {report['cost']:.2f} of money"
    lines = [
        ["candidate", report["candidate"]],
        ["baseline", report["baseline"]],
        ["sampling", sampling],
        *report["provenance"],
        ["this gate spent", spent],
    ]
    rows = [{"what": what, "which": which} for what, which in lines]
    return Part("Provenance", rows=rows, is_wide=True)


# ---- text ----------------------------------------------------------------------------------------


def markdown(report):
    """The report as text that reads well in a terminal, no line wider than it, and is Markdown."""
    lines = [f"# {title(report)}"]
    for sentence in reasons(report):
        lines += ["", *wrapped(plain(sentence), INDENT)]
    for part in parts(report, TEXT_SHOWS):
        lines += ["", f"## {part.title}"]
        for sentence in part.lines:
            lines += ["", *wrapped(plain(sentence), INDENT)]
        for flip in part.flips[:TEXT_FLIPS]:
            lines += ["", *flip_lines(flip)]
        if len(part.flips) > TEXT_FLIPS:
            lines += [
                "",
                f"These are {TEXT_FLIPS} of {len(part.flips)}: report.html has the others.",
            ]
        if part.rows and part.is_wide:
            lines += ["", *list_lines(part.rows)]
        elif part.rows:
            for table in tables_that_fit(plain_cells(part)):
                lines += ["", *table]
    return "\n".join(lines) + "\n"


def plain(text):
    """Text on one line that writes no markup, no tag, no link and no border of a cell."""
    return re.sub(r"([\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\()", r"\\\1", flat(text))


def plain_cells(part):
    """The table of a part, its head first."""
    rows = [part.head, *(row.values() for row in part.rows)]
    return [[plain(cell) for cell in row] for row in rows]


def list_lines(rows):
    """Rows as a list: the last cell behind the others."""
    lines = []
    for row in rows:
        *names, value = (plain(cell) for cell in row.values())
        lines += wrapped(f"- {' '.join(names)}: {value}", INDENT_IN_LIST)
    return lines


def flip_lines(flip):
    """An item that was lost: its prompt and both answers, their lines behind each other."""
    lines = [fit(f"### {plain(flip['id'])} ({plain(flip['slice'])})", COLUMNS), ""]
    texts = {"prompt": flip["prompt"]}
    for role in ("baseline", "candidate"):
        texts[f"{role}, scored {flip[role + '_score']:.2f}"] = flip[role]
    for name, text in texts.items():
        text = text.strip().replace("\n", " ⏎ ")
        lines += wrapped(f"- {name}: {plain(text)}", INDENT_IN_LIST)
    return lines


# ---- the page ------------------------------------------------------------------------------------


def html(report):
    """The report as one page below 300 kB: texts that would make it larger are cut shorter."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown_on_page,
    )
    template = environment.get_template("report.html.j2")
    figures = figures_of(report)
    signs = {verdict: look.sign for verdict, look in LOOKS.items()}
    for shorter in (1, 2, 4, 10, 40):
        most = PAGE_SHOWS // shorter
        page = template.render(
            title=title(report),
            reasons=reasons(report),
            report=report,
            figures=figures,
            parts=parts(report, most),
            signs=signs,
            most=most,
        )
        if len(page.encode()) < LARGEST_PAGE:
            break
    return page


def shown_on_page(value):
    """A value of the template; what is markup already stays as it is."""
    return value if hasattr(value, "__html__") else visible(value)
