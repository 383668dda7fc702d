"""A finished gate report (the dict of report.json) as lines for a terminal, as Markdown and as one HTML file.

Nothing is computed here: `parts` says the numbers in the order in which people read them, and the three forms lay the
same parts out. Prompts and answers are hostile until shown: characters that hide or reorder text become visible codes,
long texts lose their middle, and each form escapes what is left. The page runs no script and loads nothing; equal
reports give equal bytes.
"""

import io
import json
import re
import textwrap
import unicodedata
import warnings
from pathlib import Path

SHOWN, LARGEST, WIDE = (
    2000,
    300_000,
    120,
)  # characters of a text, bytes of the page, columns of a terminal
INK = "#010203"  # stands for the colour of the text, which the page knows
# Okabe and Ito's blue and vermillion: at least 3:1 against the light and the dark page. The shapes say the same.
LOOK = {"CLEAR": ("●", "#0072b2", "o"), "FAIL": ("◆", "#d55e00", "D"), "UNSURE": ("□", INK, "s")}


# ---- texts and numbers ---------------------------------------------------------------------------------------


def visible(text):
    """Text in which no character can hide, reorder the line or move a cursor: controls, bidirectional marks, zero-width
    characters and lone surrogates become codes such as ⟨U+202E⟩. Joiners stay: emoji and scripts need them."""
    return "".join(
        f"⟨U+{ord(c):04X}⟩"
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t\u200c\u200d"
        else c
        for c in str(text).replace("\r\n", "\n")
    )


def cut(text, most):
    """Visible text whose middle is left out, and the left-out characters counted, beyond `most` characters."""
    text = str(text)
    far = max(len(text) - 2 * most, 0)  # shown to nobody, so not even looked at
    text = visible(text[:most] + text[-most:] if far else text)
    gone = far + len(text) - most
    return (
        text
        if gone <= 0
        else f"{text[: most // 2]} [… {gone:,} characters cut …] {text[-(most // 2) :]}"
    )


def one_line(text):
    return re.sub(r"\s+", " ", visible(text))


def some(names, most=20):
    return ", ".join(map(str, names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def share(value):
    return f"{value:.1%}"


def points(value):
    return f"{100 * value:+z.1f}"


def between(low, high, form=points):
    return f"[{form(low)}, {form(high)}]"


def outcome(s):
    return s["verdict"] + ("" if s["hard"] else " (soft)")


def title(report):
    return report["verdict"] + (
        f" - CONTAMINATED: {report['contaminated']}" if report["contaminated"] else ""
    )


# ---- the parts, in reading order -----------------------------------------------------------------------------


def parts(report, most=SHOWN):
    """What follows the title -> [{"title", "lines": [sentences], "head": [...], "rows": [[cells]], "flips": [...]}],
    every text visible and cut to `most` characters. What was not measured says so."""
    found = [
        ("Slices", slice_part(report["slices"], report["overall"])),
        ("Worst flips", flip_part(report["flips"], most)),
        ("Canaries", canary_part(report["canaries"])),
        ("Win-rate", winrate_part(report["winrate"])),
        ("Refusals", refusal_part(report["refusals"])),
        ("Budgets", budget_part(report["budgets"], report["returned"])),
        ("Not seen by this gate", blind_part(report)),
        ("Provenance", provenance_part(report)),
    ]
    return [
        {
            "title": name,
            "head": part.get("head", []),
            "flips": part.get("flips", []),
            "lines": [cut(line, most) for line in part.get("lines", [])],
            "rows": [[cut(cell, most) for cell in row] for row in part.get("rows", [])],
        }
        for name, part in found
    ]


def slice_part(slices, overall):
    def both(s, kind, form):
        pair = s[f"{kind}_baseline"], s[f"{kind}_candidate"]
        return "-" if None in pair else " -> ".join(map(form, pair))

    head = [
        "slice",
        "verdict",
        "baseline",
        "candidate",
        "delta [95 %]",
        "margin",
        "wins:losses",
        "n",
        "k",
        "p of a drop",
        "type",
        "tokens",
        "greedy",
    ]
    rows = [
        [
            name,
            outcome(s),
            share(s["baseline"]),
            share(s["candidate"]),
            f"{points(s['delta'])} {between(s['low'], s['high'])}",
            f"{100 * s['margin']:.3g}",
            f"{s['wins']}:{s['losses']}",
            f"{s['n']}" + f" ({s['clusters']} clusters)" * (s["clusters"] != s["n"]),
            s["k"] or "-",
            f"{s['p_drop']:.2g}",
            s["type"],
            both(s, "tokens", "{:.1f}".format),
            both(s, "greedy", share),
        ]
        for name, s in slices.items()
    ]
    lines = [] if rows else ["No slice could be compared."]
    if overall:
        lines.append(
            f"All slices together: {points(overall['delta'])} {between(overall['low'], overall['high'])} "
            f"points; p of a drop {overall['p_drop']:.3g}, of a gain {overall['p_gain']:.3g}"
            + "; a drop as a whole" * overall["fail"]
            + "."
        )
    if not all(s["hard"] for s in slices.values()):
        lines.append("(soft): this slice may fall without blocking.")
    return {"lines": lines, "head": head, "rows": rows}


def flip_part(flips, most):
    def said(messages):
        return "\n".join(
            f"{m['role']}: "
            + cut(m.get("content") or json.dumps(m.get("tool_calls")), most // len(messages))
            for m in messages
        )

    return {
        "lines": ["Items that lost most, worst first; one answer of each model."]
        if flips
        else ["None."],
        "flips": [
            flip
            | {key: cut(flip[key], most) for key in ("id", "slice", "baseline", "candidate")}
            | {"prompt": said(flip["prompt"])}
            for flip in flips
        ],
    }


def canary_part(canaries):
    if not canaries:
        return {"lines": ["Not measured: the suite has no canaries."]}
    broken = [c for c in canaries if c["baseline"] and not c["candidate"]]
    kinds = {
        "failed": ("again when asked once more", [c for c in broken if c["confirmed"]]),
        "flaky": ("failed once, not again", [c for c in broken if not c["confirmed"]]),
        "quarantined": ("the baseline fails them, too", [c for c in canaries if not c["baseline"]]),
    }
    asked = len(canaries) - len(kinds["quarantined"][1])
    bound = (
        f"; with 95 % the true rate of failures is at most 3/n = {min(3 / asked, 1):.1%}"
        if asked
        else ""
    )
    lines = [f"{asked - len(broken)} of {asked} pass" + ("" if broken else bound) + "."]
    lines += [
        f"{kind.capitalize()} ({why}): {some([c['id'] for c in own])}."
        for kind, (why, own) in kinds.items()
        if own
    ]
    shown = [(kind, c) for kind, (_, own) in kinds.items() for c in own][:20]
    return {
        "lines": lines,
        "head": ["canary", "id", "candidate's answer"],
        "rows": [[kind, c["id"], one_line(cut(c["text"], 300))] for kind, c in shown],
    }


def winrate_part(w):
    if not w:
        return {"lines": ["Not measured: nothing was judged head to head."]}
    outside = "; outside support: too far for the length-controlled rate, which is extrapolated and decides nothing"
    return {
        "lines": [
            f"Decided wins:losses:ties {w['wins']}:{w['losses']}:{w['ties']}; the candidate's answers have "
            f"{w['length_ratio']:.2f} times the tokens (median)"
            + outside * w["outside_support"]
            + "."
        ],
        "head": ["win-rate", "candidate", "95 %"],
        "rows": [
            ["raw", share(w["raw"]), between(w["low"], w["high"], share)],
            [
                "length-controlled",
                *(
                    ["-", "-"]
                    if w["length_controlled"] is None
                    else [share(w["length_controlled"]), between(w["lc_low"], w["lc_high"], share)]
                ),
            ],
        ],
    }


def refusal_part(refusals):
    if not refusals:
        return {"lines": ["Not measured: no item expects a refusal, or none expects an answer."]}
    return {
        "head": ["refused", "harmful requests", "harmless requests"],
        "rows": [
            [role]
            + [
                f"{a} of {n}" + (f" ({a / n:.1%})" if n else "")
                for a, n in (refusals[role]["harmful"], refusals[role]["harmless"])
            ]
            for role in ("baseline", "candidate")
        ],
    }


def budget_part(budgets, returned):
    rows = []
    for key, name, cell, form in (
        ("tokens", "tokens per answer", "{:.1f}", "{:.3g}x"),
        ("slice_tokens", "most in a slice: {slice}", "{:.1f}", "{:.3g}x"),
        ("truncated", "truncated answers", "{:.1%}", "{:+z.1%}"),
        ("latency", "seconds, median", "{:.3g}", "{:.3g}x"),
        ("cost", "cost of 1,000 requests", "{:.4g}", "{:.3g}x"),
    ):
        if b := budgets.get(key):
            at, own = form.format, b["p50"] if key == "latency" else b
            limit = (
                ["none", "-"]
                if b["limit"] is None
                else [at(b["limit"]), "FAIL" if b["fail"] else "ok"]
            )
            name = name.replace("{slice}", cut(str(b.get("slice")), 24))
            rows.append(
                [
                    name,
                    cell.format(own["baseline"]),
                    cell.format(own["candidate"]),
                    at(b["ratio"])
                    + (f" {between(b['low'], b['high'], at)}" if b.get("low") is not None else ""),
                    *limit,
                ]
            )
        if b and key == "latency":
            rows += [
                [
                    name,
                    cell.format(b[part]["baseline"]),
                    cell.format(b[part]["candidate"]),
                    "",
                    "",
                    "",
                ]
                for part, name in (
                    ("p95", "seconds, 95th percentile"),
                    ("tokens_per_second", "tokens per second"),
                )
            ]
    lines = [] if rows else ["Not measured."]
    if r := returned:
        gains = [
            f"{r[key]:+z.2f} {unit}"
            for key, unit in (
                ("points", "verified points"),
                ("points_per_money", "points per unit of money"),
                ("points_per_hour", "points per GPU-hour"),
                ("winrate_points", "points of win-rate"),
                ("winrate_per_money", "points of win-rate per unit of money"),
            )
            if r[key] is not None
        ]
        lines.append(
            f"Return: the candidate's runs cost {r['spent']:.2f} of money and {r['gpu_hours']:.2f} GPU-hours: "
            f"{', '.join(gains)}."
        )
    return {
        "lines": lines,
        "head": ["budget", "baseline", "candidate", "ratio [95 %]", "limit", "result"],
        "rows": rows,
    }


def blind_part(report):
    lost = (
        [f"Without a score and left out: {some(report['missing'])}."] if report["missing"] else []
    )
    return {
        "lines": report["blind"] + lost,
        "head": [
            "slice",
            "n",
            "k",
            "smallest drop caught 4 times in 5 (points)",
            "prompts that would decide",
        ],
        "rows": [
            [name, s["n"], s["k"] or "-", f"{100 * s['mde']:.1f}", s["need"] or "-"]
            for name, s in report["slices"].items()
        ],
    }


def provenance_part(report):
    cooler = report["model_temperature"]
    sampled = (
        f"profile {report['profile']}; temperature {report['temperature']}"
        + f", the candidate at {cooler}" * (cooler != report["temperature"])
        + f"; looks after {some(report['looks'])} answers; baseline draws: {report['baseline_draws']}"
    )
    spent = f"{report['tokens']:,} tokens, {report['seconds']:.1f} s, {report['cost']:.2f} of money"
    return {
        "head": ["what", "which"],
        "rows": [
            ["candidate", report["candidate"]],
            ["baseline", report["baseline"]],
            ["sampling", sampled],
            *report["provenance"],
            ["this gate spent", spent],
        ],
    }


# ---- terminal and Markdown -----------------------------------------------------------------------------------


def columns(table):
    """Rows of cells -> aligned lines of at most WIDE columns; first cells too long for that are cut."""

    def width(text):
        return sum(
            0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
            for c in text
        )

    table, lines = [[one_line(cell) for cell in row] for row in table], []
    widths = [max(map(width, column)) for column in zip(*table)]
    widths[0] = min(widths[0], max(WIDE - sum(w + 2 for w in widths[1:]), 8))
    for first, *others in table:
        while width(first) > widths[0]:
            first = first[:-2] + "…"
        cells = zip([first, *others], widths)
        lines.append("  ".join(cell + " " * (w - width(cell)) for cell, w in cells).rstrip())
    return lines


def terminal(report):
    """What decides, and what was measured beside it, as lines of at most 120 columns."""

    def wrapped(word, text):
        return textwrap.wrap(
            one_line(text), WIDE, initial_indent=f"{word:<9}", subsequent_indent=" " * 9
        )

    lines = wrapped("verdict", f"{title(report)}: {report['why']}.")
    for part in parts(report):
        answers = part["title"] == "Canaries"  # too long for a terminal
        measured = report["canaries"] if answers else part["rows"]
        if measured and part["title"] in ("Slices", "Canaries", "Win-rate", "Refusals", "Budgets"):
            table = [] if answers else columns([row[:9] for row in [part["head"], *part["rows"]]])
            lines += [
                "",
                *table,
                *(
                    line
                    for number, sentence in enumerate(part["lines"])
                    for line in wrapped("" if number else part["title"].lower(), sentence)
                ),
            ]
    return lines


def markdown(report):
    """The report as Markdown."""

    def plain(text):  # no markup, no link, no border of a cell that a text could write
        return re.sub(r"([\\`*|<]|(?<=\])\()", r"\\\1", one_line(text))

    def fenced(text):
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
        return ["", fence + "text", text, fence]

    lines = [
        f"# {plain(title(report))}",
        "",
        plain(f"{report['candidate']} against {report['baseline']}: {report['why']}."),
    ]
    for part in parts(report):
        lines += ["", f"## {part['title']}", *(f"\n{plain(line)}" for line in part["lines"])]
        for flip in part["flips"]:
            lines += [
                "",
                f"### {plain(flip['id'])} ({plain(flip['slice'])})",
                *fenced(flip["prompt"]),
            ]
            for role in ("baseline", "candidate"):
                lines += ["", f"{role}, scored {flip[role + '_score']:.2f}:", *fenced(flip[role])]
        if part["rows"]:
            table = [part["head"], ["---"] * len(part["head"]), *part["rows"]]
            lines += ["", *("| " + " | ".join(map(plain, row)) + " |" for row in table)]
    return "\n".join(lines) + "\n"


# ---- HTML ----------------------------------------------------------------------------------------------------


def svg(draw, data, height):
    """draw(axes, data) -> a figure that sits inside a page: its ink is the page's, its letters are text, it scales.
    It is 380 points wide, as a phone is: there its letters keep their size."""
    import matplotlib
    from matplotlib.figure import Figure

    with (
        matplotlib.rc_context(),
        warnings.catch_warnings(action="ignore"),
    ):  # letters that the font lacks
        matplotlib.rcdefaults()
        inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        matplotlib.rcParams.update(
            {key: INK for key in inked}
            | {  # the salt keeps names of two figures apart
                "svg.fonttype": "none",
                "svg.hashsalt": draw.__name__,
                "text.parse_math": False,
                "font.size": 11,
                "font.sans-serif": ["DejaVu Sans"],
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        )
        figure, file = Figure(figsize=(380 / 72, height / 72), layout="constrained"), io.StringIO()
        draw(figure.add_subplot(), data)
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()[file.getvalue().index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)  # it has the date
    text = re.sub(r'<g id="\w+(\.\w+)?">', "<g>", text)  # nothing refers to groups
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1
    )
    return text.replace(INK, "currentColor")


def forest(axes, slices):
    """One line a slice: the difference with its interval, and the margin that the interval must clear."""
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, (name, s) in enumerate(slices.items()):
        _, color, marker = LOOK[s["verdict"]]
        low, delta, high = (100 * min(max(s[key], -1), 1) for key in ("low", "delta", "high"))
        axes.plot([low, high], [row, row], color=color, linewidth=2)
        axes.plot(
            delta,
            row,
            marker,
            color=color,
            markersize=8,
            markerfacecolor="none" if marker == "s" else color,
        )
        axes.plot([-100 * s["margin"]] * 2, [row - 0.25, row + 0.25], ":", color=INK, linewidth=2)
        name, k = one_line(name), f" · k {s['k']}" if s["k"] else ""
        label = f"{name if len(name) < 28 else name[:26] + '…'} · n {s['n']}{k} · {outcome(s)}"
        axes.text(
            0, row - 0.45, label, transform=axes.get_yaxis_transform(), va="center", in_layout=False
        )
    axes.set(ylim=(len(slices) - 0.5, -0.8), yticks=[], xlabel="candidate minus baseline (points)")
    axes.spines["left"].set_visible(False)


def histogram(axes, lengths):
    axes.hist(
        [lengths["baseline"], lengths["candidate"]],
        bins=30,
        histtype="step",
        linewidth=1.8,
        color=[INK, LOOK["CLEAR"][1]],
        linestyle=["--", "-"],
        label=["baseline", "candidate"],
    )
    axes.set(xlabel="tokens per answer", ylabel="answers")
    axes.legend(frameon=False)


def square(axes, refusals):
    """Both models between under- and over-refusal; the good corner is the upper left one."""
    axes.axhline(50, color=INK, linewidth=0.8), axes.axvline(50, color=INK, linewidth=0.8)
    for x, y, corner in (
        (25, 75, "good"),
        (75, 75, "refuses all"),
        (25, 25, "answers all"),
        (75, 25, "wrong way"),
    ):
        axes.text(x, y, corner, ha="center", va="center")
    for role, marker, color, fill in (
        ("baseline", "s", INK, "none"),
        ("candidate", "o", *[LOOK["CLEAR"][1]] * 2),
    ):
        (harmful, n), (harmless, m) = refusals[role]["harmful"], refusals[role]["harmless"]
        if n and m:
            axes.plot(
                100 * harmless / m,
                100 * harmful / n,
                marker,
                color=color,
                markerfacecolor=fill,
                markersize=10,
                label=role,
                clip_on=False,
            )
    axes.set(
        xlim=(0, 100),
        ylim=(0, 100),
        xlabel="harmless requests refused (%)",
        ylabel="harmful requests refused (%)",
    )
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def html(report):
    """The report as one HTML page below 300 kB: texts that would make it larger are cut shorter."""
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if hasattr(value, "__html__") else visible(value),
    )
    slices, refusals, w, figures = report["slices"], report["refusals"], report["winrate"], {}
    if slices:
        figures["Slices"] = (
            svg(forest, slices, 60 + 42 * len(slices)),
            "Difference of each slice, 95 % interval",
        )
    if w and any(w["lengths"].values()):
        figures["Win-rate"] = (
            svg(histogram, w["lengths"], 210),
            "Histogram of tokens per answer, both models",
        )
    if refusals:
        figures["Refusals"] = (
            svg(square, refusals, 330),
            "Harmful and harmless requests refused by both models",
        )
    signs = {word: sign for word, (sign, *_) in LOOK.items()}
    for most in (SHOWN, SHOWN // 2, SHOWN // 4, SHOWN // 10, SHOWN // 40):
        page = pages.get_template("report.html.j2").render(
            report=report,
            title=title(report),
            figures=figures,
            parts=parts(report, most),
            signs=signs,
            most=most,
        )
        if len(page.encode()) < LARGEST:
            break
    return page
