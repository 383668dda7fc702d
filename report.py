"""A finished gate report (the dict of report.json) as lines for a terminal, as Markdown and as one HTML file.

Nothing is computed here: `parts` says the numbers in the order in which people read them, and the three forms lay the
same parts out. Prompts and answers are hostile until shown: characters that hide or reorder text become visible codes,
long texts lose their middle, and each form escapes what is left. The HTML needs no network and runs no script; equal
reports give equal bytes.
"""

import io
import json
import re
import textwrap
import unicodedata
import warnings
from pathlib import Path

SHOWN, LARGEST, WIDE = 2000, 300_000, 120  # characters of a text, bytes of the page, columns of a terminal
INK = "#010203"  # stands for the colour of the text, which the page knows
# Okabe and Ito's blue and vermillion: at least 3:1 against white and against the dark page; shapes say the same
LOOK = {"CLEAR": ("●", "#0072b2", "o"), "FAIL": ("◆", "#d55e00", "D"), "UNSURE": ("□", INK, "s")}


# ---- texts and numbers ---------------------------------------------------------------------------------------


def visible(text):
    """Text in which no character can hide, reorder the line or move a cursor: controls, bidirectional marks, zero-width
    characters and lone surrogates become codes such as ⟨U+202E⟩. Joiners stay: emoji and scripts need them."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
                   and c not in "\n\t\u200c\u200d" else c for c in str(text).replace("\r\n", "\n"))


def cut(text, most):
    """Visible text of at most `most` characters, and the number of those that were taken out of its middle."""
    text = str(text)
    far = max(len(text) - 2 * most, 0)  # nobody will see these: do not even look at them
    text = visible(text[:most] + text[-most:] if far else text)
    left_out = far + len(text) - most
    return text if left_out <= 0 else f"{text[:most // 2]} [… {left_out:,} characters cut …] {text[-(most // 2):]}"


def said(messages, most):
    """A prompt's messages as one text, each cut to its part of `most` characters."""
    return "\n".join(f"{m['role']}: " + cut(m.get("content") or json.dumps(m.get("tool_calls")), most // len(messages))
                     for m in messages)


def some(names, most=20):
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def share(value):
    return "-" if value is None else f"{value:.1%}"


def points(value):
    return f"{100 * value:+z.1f}"


def between(low, high, form=points):
    return f"[{form(low)}, {form(high)}]"


def standing(canary):
    if not canary["baseline"]:
        return "quarantined"
    return "passed" if canary["candidate"] else "failed" if canary["confirmed"] else "flaky"


def outcome(s):
    return s["verdict"] + ("" if s["hard"] else " (soft)")


def title(report):
    return report["verdict"] + (f" - CONTAMINATED: {report['contaminated']}" if report["contaminated"] else "")


# ---- the parts, in reading order -----------------------------------------------------------------------------


def parts(report, most=SHOWN):
    """The report after its title -> [{"title", "lines": [sentences], "head": [...], "rows": [[cells]]}], cells and
    sentences as plain text. Texts of models are cut to `most` characters. A part without rows says why."""
    return [{"title": name} | {"lines": [], "head": [], "rows": []} | part for name, part in [
        ("Slices", slice_part(report)), ("Worst flips", flip_part(report["flips"], most)),
        ("Canaries", canary_part(report["canaries"], most)), ("Win-rate", winrate_part(report["winrate"])),
        ("Refusals", refusal_part(report["refusals"])), ("Budgets", budget_part(report["budgets"], report["returned"])),
        ("Not seen by this gate", blind_part(report)), ("Provenance", provenance_part(report, most))]]


def slice_part(report):
    head = ["slice", "verdict", "baseline", "candidate", "delta [95 %]", "margin", "wins:losses", "n", "k",
            "p of a drop", "type", "tokens", "greedy"]
    rows, both, warm = [], "{} -> {}".format, report["temperature"]
    for name, s in report["slices"].items():
        n = f"{s['n']}" + (f" in {s['clusters']}" if s["clusters"] != s["n"] else "")
        tokens = [s["tokens_baseline"], s["tokens_candidate"]]
        greedy = [s["greedy_baseline"], s["greedy_candidate"]]
        rows.append([name, outcome(s), share(s["baseline"]), share(s["candidate"]),
                     f"{points(s['delta'])} {between(s['low'], s['high'])}", f"{100 * s['margin']:.3g}",
                     f"{s['wins']}:{s['losses']}", n, s["k"] or "-", f"{s['p_drop']:.2g}", s["type"],
                     "-" if None in tokens else both(*(f"{t:.1f}" for t in tokens)),
                     "-" if None in greedy else both(*map(share, greedy))])
    if all(row[-1] == "-" for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    cooler, whole = report["model_temperature"], report["overall"]
    lines = [f"All slices together: {points(whole['delta'])} {between(whole['low'], whole['high'])} points; p of a "
             f"drop {whole['p_drop']:.3g}, of a gain {whole['p_gain']:.3g}" + "; a drop as a whole" * whole["fail"]
             + "."] if whole else []
    lines.append(f"Profile {report['profile']}: sampled at temperature {warm}"
                 + (f" (the candidate at {cooler})" if cooler != warm else "") + ", looked at after "
                 + f"{some(report['looks'])} answers a prompt; baseline draws: {report['baseline_draws']}. "
                 "n in c: n items in c clusters; k -: no sampling; (soft): does not block.")
    return {"lines": lines, "head": head, "rows": rows} if rows else {"lines": ["No slice could be compared."]}


def flip_part(flips, most):
    flips = [flip | {"prompt": said(flip["prompt"], most)} | {role: cut(flip[role], most) for role in (
        "baseline", "candidate")} for flip in flips]
    return {"lines": ["Items that lost most, worst first, with one answer of each model."] if flips else ["None."],
            "flips": flips}


def canary_part(canaries, most):
    if not canaries:
        return {"lines": ["Not measured: the suite has no canaries."]}
    kinds = {kind: [c for c in canaries if standing(c) == kind] for kind in ("failed", "flaky", "quarantined")}
    asked = len(canaries) - len(kinds["quarantined"])
    passed = asked - len(kinds["failed"]) - len(kinds["flaky"])
    lines = [f"{passed} of {asked} pass" + (f"; true rate of failures at most {min(3 / passed, 1):.1%} (95 %, 3/n)"
                                            if passed == asked > 0 else "") + "."]
    why = {"failed": "again in a second try", "flaky": "failed once, not again",
           "quarantined": "the baseline fails them too, so they say nothing of the candidate"}
    lines += [f"{kind.capitalize()}, {why[kind]}: {some([c['id'] for c in own])}."
              for kind, own in kinds.items() if own]
    shown = [(kind, c) for kind, own in kinds.items() for c in own][:20]
    return {"lines": lines, "head": ["canary", "id", "candidate's answer"],
            "rows": [[kind, c["id"], cut(c["text"], most)] for kind, c in shown]}


def winrate_part(w):
    if not w:
        return {"lines": ["Not measured: nothing was judged head to head."]}
    rows = [["raw", share(w["raw"]), between(w["low"], w["high"], share)],
            ["length-controlled", share(w["length_controlled"]), between(w["lc_low"], w["lc_high"], share)]]
    outside = "; outside support: too far for the length-controlled rate, which is extrapolated and decides nothing"
    return {"lines": [f"Decided wins:losses:ties {w['wins']}:{w['losses']}:{w['ties']}; the candidate's answers have "
                      f"{w['length_ratio']:.2f} times the tokens (median)" + outside * w["outside_support"] + "."],
            "head": ["win-rate", "candidate", "95 %"], "rows": rows}


def refusal_part(refusals):
    if not refusals:
        return {"lines": ["Not measured: no item expects a refusal or an answer."]}
    rows = [[role, *(f"{a} of {n}" + (f" ({a / n:.1%})" if n else "") for a, n in (own["harmful"], own["harmless"]))]
            for role, own in ((role, refusals[role]) for role in ("baseline", "candidate"))]
    return {"lines": [], "head": ["refused", "harmful requests", "harmless requests"], "rows": rows}


def budget_part(budgets, returned):
    rows = []
    def add(name, b, base, candidate, form="{:.3g}x"):
        range_ = f" [{form.format(b['low'])}, {form.format(b['high'])}]" if b.get("low") is not None else ""
        rows.append([name, base, candidate, form.format(b["ratio"]) + range_, "none" if b["limit"] is None else
                     form.format(b["limit"]), "-" if b["limit"] is None else "FAIL" if b["fail"] else "ok"])
    if b := budgets.get("tokens"):
        add("tokens per answer", b, f"{b['baseline']:.1f}", f"{b['candidate']:.1f}")
    if b := budgets.get("truncated"):
        add("truncated answers", b, share(b["baseline"]), share(b["candidate"]), "{:+z.1%}")
    if b := budgets.get("latency"):
        add("seconds, median", b, f"{b['p50']['baseline']:.3g}", f"{b['p50']['candidate']:.3g}")
        for key, name in (("p95", "seconds, 95th percentile"), ("tokens_per_second", "tokens per second")):
            rows.append([name, f"{b[key]['baseline']:.3g}", f"{b[key]['candidate']:.3g}", "", "", ""])
    if b := budgets.get("cost"):
        add("cost of 1,000 requests", b, f"{b['baseline']:.4g}", f"{b['candidate']:.4g}")
    lines = [] if rows else ["Not measured."]
    if r := returned:
        gains = [f"{r[key]:+z.2f} {unit}" for key, unit in (
            ("points", "verified points"), ("points_per_money", "points per unit of money"),
            ("points_per_hour", "points per GPU-hour"), ("winrate_points", "points of win-rate"),
            ("winrate_per_money", "points of win-rate per unit of money")) if r[key] is not None]
        lines.append(f"Return: the candidate's runs took {r['spent']:.2f} of money and {r['gpu_hours']:.2f} GPU-hours "
                     f"and gave {', '.join(gains)}.")
    return {"lines": lines, "head": ["budget", "baseline", "candidate", "ratio [95 %]", "limit", ""], "rows": rows}


def blind_part(report):
    rows = [[name, s["n"], s["k"] or "-", f"{100 * s['mde']:.1f}", s["need"] or "-"]
            for name, s in report["slices"].items()]
    lost = report["missing"]
    return {"lines": [*report["blind"]] + [f"Without a score, left out: {some(lost)}."] * bool(lost), "rows": rows,
            "head": ["slice", "n", "k", "smallest drop caught 4 times in 5 (points)", "prompts that would decide"]}


def provenance_part(report, most):
    spent = f"{report['tokens']:,} tokens, {report['seconds']:.1f} s, {report['cost']:.2f} of money"
    rows = [["candidate", report["candidate"]], ["baseline", report["baseline"]], *report["provenance"],
            ["this gate spent", spent]]
    return {"head": ["what", "which"], "rows": [[label, cut(text, most)] for label, text in rows]}


# ---- terminal and Markdown -----------------------------------------------------------------------------------


def columns(table, wide):
    """Rows of cells -> aligned lines of at most `wide` columns; first cells too long for that are cut."""
    def width(text):
        return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    table = [[visible(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in table]
    widths = [max(map(width, column)) for column in zip(*table)]
    widths[0] = min(widths[0], max(wide - sum(w + 2 for w in widths[1:]), 8))
    lines = []
    for first, *others in table:
        while width(first) > widths[0]:
            first = first[:-2] + "…"
        cells = zip([first, *others], widths)
        lines.append("  ".join(cell + " " * (w - width(cell)) for cell, w in cells).rstrip())
    return lines


def terminal(report):
    """The report's verdict, slices, canaries, win-rate, refusals and budgets as lines of at most 120 columns."""
    def wrapped(word, text):
        return textwrap.wrap(visible(text).replace("\n", " "), WIDE, initial_indent=f"{word:<8} ",
                             subsequent_indent=" " * 9)
    lines = wrapped("verdict", f"{title(report)}: {report['why']}.")
    for part in parts(report):
        if part["title"] in ("Slices", "Canaries", "Win-rate", "Refusals", "Budgets") and part["rows"] or (
                part["title"] == "Canaries" and report["canaries"]):
            rows = [part["head"], *part["rows"]] if part["rows"] and part["title"] != "Canaries" else []
            lines += ["", *(columns([row[:9] for row in rows], WIDE) if rows else [])]
            lines += [line for number, sentence in enumerate(part["lines"])
                      for line in wrapped("" if number else part["title"].lower(), sentence)]
    return lines


def markdown(report):
    """The report as Markdown."""
    def plain(text):  # no markup, no link, no cell border that a text could write
        return re.sub(r"([\\`*|<]|(?<=\])\()", r"\\\1", re.sub(r"\s+", " ", visible(text)))

    def fenced(text):
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
        return ["", fence + "text", *text.split("\n"), fence]
    lines = [f"# {plain(title(report))}", "",
             plain(f"{report['candidate']} against {report['baseline']}: {report['why']}.")]
    for part in parts(report):
        lines += ["", f"## {part['title']}", *(f"\n{plain(line)}" for line in part["lines"])]
        for flip in part.get("flips", []):
            lines += ["", f"### {plain(flip['id'])} ({plain(flip['slice'])})", *fenced(flip["prompt"])]
            for role in ("baseline", "candidate"):
                lines += ["", f"{role}, scored {flip[role + '_score']:.2f}:", *fenced(flip[role])]
        if part["rows"]:
            table = [part["head"], ["---"] * len(part["head"]), *part["rows"]]
            lines += ["", *("| " + " | ".join(map(plain, row)) + " |" for row in table)]
    return "\n".join(lines) + "\n"


# ---- HTML ----------------------------------------------------------------------------------------------------


def svg(name, draw, height, width=380):
    """draw(axes) -> the figure as SVG for use inside a page: its ink is the page's, its letters are text, and it
    scales. The width in points is that of a phone, so that letters keep a readable size there."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings(action="ignore"):  # letters that the font lacks
        matplotlib.rcdefaults()
        inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        matplotlib.rcParams.update({key: INK for key in inked} | {
            "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 11,
            "font.sans-serif": ["DejaVu Sans"], "axes.spines.top": False, "axes.spines.right": False})
        figure, file = Figure(figsize=(width / 72, height / 72), layout="constrained"), io.StringIO()
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r'<g id="\w+(\.\w+)?">', "<g>", text)  # nothing refers to groups; several figures share their names
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text[text.index("<svg"):],
                  count=1).replace(INK, "currentColor")


def forest(slices):
    """One line a slice: the difference with its interval, and the margin that the interval must clear."""
    def draw(axes):
        for row, (name, s) in enumerate(slices.items()):
            _, color, marker = LOOK[s["verdict"]]
            low, delta, high = (100 * min(max(s[key], -1), 1) for key in ("low", "delta", "high"))
            axes.plot([low, high], [row, row], color=color, linewidth=2)
            axes.plot(delta, row, marker, color=color, markersize=8,
                      markerfacecolor="none" if marker == "s" else color)
            axes.plot([-100 * s["margin"]] * 2, [row - 0.25, row + 0.25], ":", color=INK, linewidth=2)
            label = f"{cut(name, 24)}  n {s['n']}" + (f", k {s['k']}" if s["k"] else "") + f"  {outcome(s)}"
            axes.text(0, row - 0.45, label.replace("\n", " "), transform=axes.get_yaxis_transform(), va="center")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(ylim=(len(slices) - 0.5, -0.8), yticks=[], xlabel="candidate minus baseline (points)")
        axes.spines["left"].set_visible(False)
    return svg("forest", draw, 60 + 42 * len(slices))


def histogram(lengths):
    """Tokens per answer of both models."""
    def draw(axes):
        axes.hist([lengths["baseline"], lengths["candidate"]], bins=30, histtype="step", linewidth=1.8,
                  color=[INK, LOOK["CLEAR"][1]], linestyle=["--", "-"], label=["baseline", "candidate"])
        axes.set(xlabel="tokens per answer", ylabel="answers")
        axes.legend(frameon=False)
    return svg("lengths", draw, 210)


def refusal_square(refusals):
    """Both models in the square of under- and over-refusal; the good corner is the upper left one."""
    def draw(axes):
        for role, marker, color in (("baseline", "s", INK), ("candidate", "o", LOOK["CLEAR"][1])):
            (harmful, n), (harmless, m) = refusals[role]["harmful"], refusals[role]["harmless"]
            if n and m:
                axes.plot(100 * harmless / m, 100 * harmful / n, marker, color=color, markersize=10, label=role,
                          markerfacecolor="none" if marker == "s" else color, clip_on=False)
        for x, y, corner in ((25, 75, "good"), (75, 75, "refuses all"), (25, 25, "answers all"), (75, 25, "wrong way")):
            axes.text(x, y, corner, ha="center", va="center", alpha=0.7)
        axes.axhline(50, color=INK, linewidth=0.8), axes.axvline(50, color=INK, linewidth=0.8)
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="harmless requests refused (%)",
                 ylabel="harmful requests refused (%)")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return svg("refusals", draw, 330)


def html(report):
    """The report as one HTML page below 300 kB: when texts make it larger, they are cut shorter."""
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).with_name("data"))
    pages = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True,
                               finalize=lambda value: value if hasattr(value, "__html__") else visible(value))
    figures, refusals, w = {}, report["refusals"], report["winrate"]
    if report["slices"]:
        figures["Slices"] = (forest(report["slices"]), "Forest plot: difference of each slice with its 95 % interval")
    if w and any(w["lengths"].values()):
        figures["Win-rate"] = (histogram(w["lengths"]), "Histogram: tokens per answer of both models")
    if refusals:
        figures["Refusals"] = (refusal_square(refusals), "Square: harmful and harmless requests refused by both models")
    for most in (SHOWN, SHOWN // 2, SHOWN // 4, SHOWN // 10, SHOWN // 40):
        page = pages.get_template("report.html.j2").render(
            report=report, title=title(report), parts=parts(report, most), figures=figures, most=most,
            looks={word: sign for word, (sign, *_) in LOOK.items()})
        if len(page.encode()) < LARGEST:
            break
    return page
