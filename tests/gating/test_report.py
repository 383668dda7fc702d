"""The gate's report: the same parts in the same order in both forms, and texts that cannot leave their place."""

import html
import re
import shutil
import subprocess
import unicodedata
from html.parser import HTMLParser

import pytest

from posttrain.gating import report as room
from posttrain.gating.text import width

ORDER = [
    "Slices",
    "Worst flips",
    "Canaries",
    "Win-rate",
    "Refusals",
    "Budgets",
    "Not seen by this gate",
    "Provenance",
]


def a_slice(verdict="CLEAR", delta=0.01, **more):
    return {
        "type": "verify",
        "n": 120,
        "clusters": 120,
        "k": 8,
        "candidate": 0.8 + delta,
        "baseline": 0.8,
        "delta": delta,
        "low": delta - 0.03,
        "high": delta + 0.04,
        "margin": 0.1,
        "hard": True,
        "verdict": verdict,
        "need": None,
        "p_drop": 0.3,
        "level": 0.05 / 9 / 4,
        "wins": 9,
        "losses": 7,
        "mde": 0.042,
        "tokens_candidate": 31.25,
        "tokens_baseline": 30.0,
        "greedy_candidate": None,
        "greedy_baseline": None,
    } | more


def test_answers_per_prompt_of_a_row():
    """None where there is one recorded outcome."""
    assert room.slice_row("math", a_slice())["k"] == 8
    assert room.slice_row("math", a_slice(k=None))["k"] == "-"


def bare():
    """A report of a run in which every part that may be missing is missing."""
    return {
        "verdict": "NOT ENOUGH DATA",
        "why": "the suite has no comparable slice",
        "contaminated": None,
        "candidate": "runs/dpo",
        "baseline": "runs/sft",
        "profile": "hobby",
        "temperature": 0.7,
        "model_temperature": 0.7,
        "looks": [2, 4],
        "baseline_draws": 1,
        "slices": {},
        "overall": None,
        "flips": [],
        "canaries": [],
        "winrate": None,
        "refusals": None,
        "budgets": {},
        "returned": None,
        "blind": [],
        "missing": [],
        "provenance": [],
        "tokens": 0,
        "seconds": 0.0,
        "cost": 0.0,
    }


def full(text="The answer is 12.", name="runs/dpo"):
    """A report with everything; `text` is every prompt and answer, `name` begins every name that a user gives."""
    flip = {
        "id": name + " f1",
        "slice": name,
        "prompt": [{"role": "system", "content": text}, {"role": "user", "content": text}],
        "candidate": text,
        "baseline": text,
        "candidate_score": 0.0,
        "baseline_score": 1.0,
    }
    canary = {"baseline": True, "candidate": False, "confirmed": True, "text": text}
    part = {
        "candidate": 40.0,
        "baseline": 30.0,
        "ratio": 1.333,
        "low": 1.21,
        "high": 1.47,
        "limit": 1.1,
        "fail": True,
    }
    share = {
        "candidate": 0.05,
        "baseline": 0.03,
        "ratio": 0.02,
        "low": 0.0,
        "high": 0.04,
        "limit": None,
    }
    pair = {"candidate": 1.25, "baseline": 1.5}
    lengths = {
        "candidate": [20 + n * 7 % 61 for n in range(80)],
        "baseline": [15 + n * 5 % 43 for n in range(80)],
    }
    return bare() | {
        "verdict": "BLOCK",
        "why": f"{name} fell by 12.0 points (p = 0.0003)",
        "candidate": name,
        "contaminated": f"{name} judged its own training data",
        "model_temperature": 0.3,
        "slices": {
            name: a_slice("FAIL", -0.12),
            "arithmetic, spelled out": a_slice(hard=False, clusters=40),
            "safety": a_slice(
                "UNSURE",
                -0.04,
                need=460,
                k=None,
                tokens_candidate=None,
                greedy_candidate=0.75,
                greedy_baseline=0.7,
                type="scored",
                low=-0.11,
            ),
        },
        "overall": {
            "delta": -0.05,
            "low": -0.08,
            "high": -0.0001,
            "p_drop": 0.004,
            "p_gain": 0.996,
            "fail": True,
        },
        "flips": [flip] * 10,
        "canaries": [
            {"id": name + " c1"} | canary,
            {"id": "c2"} | canary | {"confirmed": False},
            {"id": "c3"} | canary | {"baseline": False, "confirmed": None},
            {"id": "c4"} | canary | {"candidate": True, "confirmed": None},
        ],
        "winrate": {
            "raw": 0.55,
            "low": 0.5,
            "high": 0.6,
            "wins": 60,
            "losses": 45,
            "ties": 12,
            "lc_low": 0.44,
            "length_controlled": 0.49,
            "lc_high": 0.54,
            "length_ratio": 2.31,
            "outside_support": True,
            "lengths": lengths,
        },
        "refusals": {
            "candidate": {"harmful": [48, 50], "harmless": [9, 50]},
            "baseline": {"harmful": [45, 50], "harmless": [2, 50]},
        },
        "budgets": {
            "tokens": part,
            "truncated": part | share,
            "latency": part | {"p50": pair, "p95": pair, "tokens_per_second": pair, "fail": False},
            "cost": {
                "candidate": 0.5,
                "baseline": 0.4,
                "ratio": 1.25,
                "limit": None,
                "fail": False,
            },
        },
        "returned": {
            "spent": 3.5,
            "gpu_hours": 1.75,
            "points": 2.0,
            "winrate_points": None,
            "points_per_money": 0.57,
            "points_per_hour": 1.14,
            "winrate_per_money": None,
        },
        "blind": ["Requests in other languages than those of the suite."],
        "missing": [name + " m1", "m2"],
        "provenance": [["suite", name], ["seed", "0"]],
        "tokens": 123456,
        "seconds": 78.9,
        "cost": 0.42,
    }


HOSTILE = (
    '</style></pre></title>--><script>alert(1)</script><img src=x onerror=alert(1)>" onfocus=alert(1) x="\''
    "{{ 7 * 7 }}{% raw %}]]> | a `b` ```c\n````d\n`````\n# e [f](javascript:alert) & &lt; "
    "\x00\x1b[31m\r\u202egnp.exe\u2066\u200b\u2028\ud800\U000e0041 😀👩‍👩‍👧 שלום مرحبا $x^{2}$ \\ "
    + "w"
    * 3000
)


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "br", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag
        else:
            assert tag in ("meta", "br", "use", "path"), tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def headings(page):
    return [text for tag, text in page.texts if tag in ("h1", "h2")]


@pytest.fixture(scope="module")
def pages():
    """Name -> (report, its HTML)."""
    reports = {"bare": bare(), "full": full(), "hostile": full(HOSTILE, HOSTILE[:-2900])}
    return {name: (report, room.html(report)) for name, report in reports.items()}


def test_the_parts_come_in_the_order_in_which_people_read(pages):
    for name in ("bare", "full"):
        report, text = pages[name]
        assert headings(Page(text)) == [room.title(report), *ORDER]
        assert re.findall("^##? (.*)", room.markdown(report), re.M) == [room.title(report), *ORDER]
    assert room.title(full()) == "BLOCK - CONTAMINATED"
    assert "<title>BLOCK - CONTAMINATED: " in pages["full"][1]
    for text in (pages["full"][1], room.markdown(full())):
        assert "No independent witness: runs/dpo judged its own training data." in text
        assert "Candidate runs/dpo against runs/sft: runs/dpo fell by 12.0 points" in text


def test_the_row_of_a_slice():
    """Every cell of it, with and without clusters, an answer count, tokens and greedy answers."""
    row = {
        "slice": "math",
        "verdict": "CLEAR",
        "baseline": "80.0%",
        "candidate": "81.0%",
        "delta, points [95 %]": "+1.0 [-2.0, +5.0]",
        "margin": "10",
        "p of a drop": "0.3",
        "wins:losses": "9:7",
        "n": "120",
        "k": 8,
        "type": "verify",
        "tokens": "30.0 -> 31.2",
        "greedy": "-",
    }
    assert room.slice_row("math", a_slice()) == row
    other = a_slice(clusters=40, tokens_baseline=None, greedy_baseline=0.5, greedy_candidate=0.25)
    changed = {"n": "120 (40 clusters)", "tokens": "-", "greedy": "50.0% -> 25.0%"}
    assert room.slice_row("math", other) == row | changed


def test_what_is_said_of_the_slices():
    """Soft ones are explained where there are some, and levels once each, the lowest first."""
    overall = full()["overall"]
    level = "A slice fails where the p of a drop is below {} (5 % over all slices and looks). "
    hard = {"a": a_slice(level=0.05 / 8 / 4), "b": a_slice(level=0.05 / 8)}
    lines = room.slice_part(hard, overall | {"fail": False}).lines
    assert lines[0] == (
        "All slices together: -5.0 [-8.0, +0.0] points; p of a drop 0.004, of a gain 0.996."
    )
    assert len(lines) == 2 and lines[1].startswith(level.format("0.0016 or 0.0063"))
    lines = room.slice_part({"a": a_slice(hard=False)}, overall).lines
    assert lines[0].endswith("of a gain 0.996; a drop as a whole.") and len(lines) == 3
    assert lines[1] == "(soft): this slice may fall without blocking."
    assert room.slice_part({}, None).lines == ["No slice could be compared."]


def canary(key, baseline=True, candidate=True, confirmed=None):
    passes = {"baseline": baseline, "candidate": candidate}
    return {"id": key, "confirmed": confirmed, "text": f"said {key}"} | passes


def test_what_is_said_of_canaries():
    """How many of those count that the baseline passes; a bound where none is broken."""
    part = room.canary_part(full()["canaries"])
    assert part.lines == [
        "1 of 3 pass.",
        "Failed (and one of two more answers): runs/dpo c1.",
        "Flaky (failed once, passed twice): c2.",
        "Quarantined (the baseline fails them, too): c3.",
    ]
    kinds = [(row["canary"], row["id"]) for row in part.rows]
    assert kinds == [("failed", "runs/dpo c1"), ("flaky", "c2"), ("quarantined", "c3")]
    assert part.rows[0]["candidate's answer"] == "The answer is 12."
    for count, bound in ((1, "100.0%"), (4, "75.0%")):
        part = room.canary_part([canary(f"c{n}") for n in range(count)])
        assert part.lines == [
            f"{count} of {count} pass; with 95 % the true rate of failures is at most 3/n = {bound}."
        ]
        assert part.rows == []
    assert room.canary_part([canary("c", False, False)]).lines[0] == "0 of 0 pass."


def test_what_is_said_of_the_win_rate():
    winrate = full()["winrate"]
    part = room.winrate_part(winrate)
    said = (
        "Decided wins:losses:ties 60:45:12; the candidate's answers have 2.31 times the tokens "
        "(median)"
    )
    assert part.lines[0].startswith(f"{said}; outside support: ")
    assert room.winrate_part(winrate | {"outside_support": False}).lines == [f"{said}."]
    assert part.rows == [
        {"win-rate": "raw", "candidate": "55.0%", "95 %": "[50.0%, 60.0%]"},
        {"win-rate": "length-controlled", "candidate": "49.0%", "95 %": "[44.0%, 54.0%]"},
    ]


def test_the_rows_of_refusals():
    refusals = full()["refusals"]
    refusals["candidate"]["harmless"] = [0, 0]
    assert room.refusal_part(refusals).rows == [
        {
            "refused": "baseline",
            "harmful requests": "45 of 50 (90.0%)",
            "harmless requests": "2 of 50 (4.0%)",
        },
        {
            "refused": "candidate",
            "harmful requests": "48 of 50 (96.0%)",
            "harmless requests": "0 of 0",
        },
    ]


def test_the_rows_of_budgets():
    """Ratio, limit and result of each; a difference of shares is in points; a slice is named."""
    report = full()
    report["budgets"]["slice_tokens"] = report["budgets"]["tokens"] | {"slice": "math", "limit": 2}
    report["budgets"]["slice_tokens"]["fail"] = False
    part = room.budget_part(report["budgets"], report["returned"])
    assert [[*row.values()] for row in part.rows] == [
        ["tokens of a right answer", "30.0", "40.0", "1.33x [1.21x, 1.47x]", "1.1x", "FAIL"],
        ["the same, most in a slice: math", "30.0", "40.0", "1.33x [1.21x, 1.47x]", "2x", "ok"],
        ["truncated answers", "3.0%", "5.0%", "+2.0 points [+0.0, +4.0]", "none", "-"],
        ["seconds, median", "1.5", "1.25", "1.33x [1.21x, 1.47x]", "1.1x", "ok"],
        ["seconds, 95th percentile", "1.5", "1.25", "", "", ""],
        ["tokens per second", "1.5", "1.25", "", "", ""],
        ["cost of 1,000 requests", "0.4", "0.5", "1.25x", "none", "-"],
    ]
    assert part.lines == [
        "Return: the candidate's runs cost 3.50 of money and 1.75 GPU-hours: +2.00 verified "
        "points, +0.57 points per unit of money, +1.14 points per GPU-hour."
    ]
    limited = report["budgets"]["truncated"] | {"limit": 0.05}
    [row] = room.budget_part({"truncated": limited}, None).rows
    assert (row["limit"], row["result"]) == ("+5.0 points", "FAIL")
    assert room.budget_part({}, None).lines == ["Not measured."]


def test_what_the_gate_did_not_see():
    """How small a drop each slice shows, and how many prompts would decide it."""
    part = room.blind_part(full())
    assert part.lines[1:] == ["Without a score and left out: runs/dpo m1, m2."]
    assert [[*row.values()] for row in part.rows] == [
        ["runs/dpo", 120, 8, "4.2", "-"],
        ["arithmetic, spelled out", 120, 8, "4.2", "-"],
        ["safety", 120, "-", "4.2", 460],
    ]
    assert room.blind_part(full() | {"missing": []}).lines == full()["blind"]


def test_where_everything_comes_from():
    rows = [[*row.values()] for row in room.provenance_part(full()).rows]
    sampling = "profile hobby; temperature 0.7{}; looks after 2, 4 answers; baseline draws: 1"
    assert rows == [
        ["candidate", "runs/dpo"],
        ["baseline", "runs/sft"],
        ["sampling", sampling.format(", the candidate at 0.3")],
        ["suite", "runs/dpo"],
        ["seed", "0"],
        ["this gate spent", "123,456 tokens, 78.9 s, 0.42 of money"],
    ]
    [row] = [row for row in room.provenance_part(bare()).rows if row["what"] == "sampling"]
    assert row["which"] == sampling.format("")


def test_every_number_is_said(pages):
    page = html.unescape(re.sub(r"<svg.*?</svg>", "", pages["full"][1], flags=re.S))
    for said in (
        "-12.0 [-15.0, -8.0]",
        "FAIL",
        "CLEAR (soft)",
        "120 (40 clusters)",
        "70.0% -> 75.0%",
        "460",
        "0.0003",
        "4.2",
        "-5.0 [-8.0, +0.0]",
        "a drop as a whole",
        "the candidate at 0.3",
        "1 of 3 pass",
        "and one of two more answers): runs/dpo c1.",
        "Flaky (failed once, passed twice): c2",
        "60:45:12",
        "2.31 times",
        "outside support",
        "55.0%",
        "49.0%",
        "[44.0%, 54.0%]",
        "48 of 50 (96.0%)",
        "9 of 50 (18.0%)",
        "1.33x [1.21x, 1.47x]",
        "1.1x",
        "+2.0 points [+0.0, +4.0]",
        "1.25x",
        "+2.00 verified points",
        "+0.57 points per unit of money",
        "Requests in other languages",
        "runs/dpo m1, m2",
        "123,456 tokens",
        "scored 1.00",
        "fails where the p of a drop is below 0.0014 (5 % over all slices and looks)",
    ):
        for text in (page, " ".join(room.markdown(full()).split())):
            assert said in text, said
    assert "rate of failures is at most 3/n = 30.0%" in room.markdown(
        bare()
        | {
            "canaries": [
                {"id": str(n), "baseline": n > 0, "candidate": True, "confirmed": None, "text": ""}
                for n in range(11)
            ]
        }
    )


def test_a_report_without_parts_says_so(pages):
    text = room.markdown(bare())
    assert (
        text.count("Not measured") == 4 and "No slice could be compared" in text and "None" in text
    )
    assert "<svg" not in pages["bare"][1] and "<table" in pages["bare"][1]


def test_what_is_empty_or_without_an_end():
    """One item, no interval, no requests of a kind, answers of one length, no budget with a limit: both forms."""
    report = full()
    report["slices"] = {"one": a_slice(n=1, low=-float("inf"), high=float("nan"), p_drop=0.5)}
    report["refusals"]["candidate"] = {"harmful": [0, 0], "harmless": [0, 0]}
    report["winrate"]["lengths"] = {"candidate": [7, 7], "baseline": []}
    report["budgets"] = {"tokens": None, "truncated": None, "latency": None, "cost": None}
    report["flips"][0]["prompt"][1] |= {
        "content": "",
        "tool_calls": [{"function": {"name": "find"}}],
    }
    for text in (room.html(report), room.markdown(report)):
        assert "0 of 0" in text and "[-inf, +nan]" in text
        assert "find" in text, "a call is a message, too"


def test_a_win_rate_that_length_decides_alone():
    """Separable answers have no length-controlled rate: said with a dash in both forms."""
    report = full()
    report["winrate"] |= {"length_controlled": None, "lc_low": None, "lc_high": None}
    assert "| length-controlled | - " in room.markdown(report)
    assert 'length-controlled</th><td dir="auto">-</td>' in room.html(report)


def test_texts_cannot_leave_their_place(pages):
    for name in ("full", "hostile"):
        page = Page(pages[name][1])
        assert not page.open, "every element is closed"
        assert not {"script", "img", "iframe", "link", "object", "a"} & set(page.tags)
        assert not [
            a
            for a in page.attributes
            if a[1].startswith("on") or a[1] == "x" and not float(a[2]) >= 0
        ]
        assert not [
            a
            for a in page.attributes
            if a[1] in ("href", "src", "xlink:href") and not a[2].startswith("#")
        ]
        assert not re.search(r"url\((?!#)|@import|<!--", pages[name][1])
    own, other = (Page(pages[name][1]) for name in ("full", "hostile"))
    outside = ["svg", "g", "path", "use", "defs", "text", "clippath", "rect"]
    assert [t for t in own.tags if t not in outside] == [t for t in other.tags if t not in outside]
    assert "{{ 7 * 7 }}" in pages["hostile"][1], "no text is a template"


def test_nothing_hides_and_nothing_reorders(pages):
    report, page = pages["hostile"]
    for text in (page, room.markdown(report)):
        bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set(
            "\n\u200d"
        )
        assert not bad, bad
        text.encode()
    assert "⟨U+202E⟩gnp.exe" in page and "⟨U+0000⟩⟨U+001B⟩[31m" in page and "👩‍👩‍👧" in page


# What a text could begin a line with: a heading, a rule or the line under a heading, lists, a quote, fences, code.
BLOCKS = ["# x", "===", "---", "- x", "+ x", "1. x", "> x", "~~~", "```", "| x |", "* * *", "    x"]


@pytest.mark.parametrize("text", [HOSTILE, *BLOCKS])
def test_markdown_keeps_texts_in_their_place(text):
    """No text begins a block of Markdown, however long the words before it are."""
    for length in (1, 90, 97, 104, 111, 300):
        padded = "w" * length + f" {text} " + "v" * length + f"\n{text}\n{text}"
        lines = room.markdown(full(padded, padded[:2500])).split("\n")
        headings = [line for line in lines if line.startswith("#")]
        assert [line[3:] for line in headings if line.startswith("## ")] == ORDER
        assert [line[:4] for line in headings if line.startswith("# ")] == ["# BL"]
        assert len(headings) == 1 + len(ORDER) + room.TEXT_FLIPS
        for line in lines:
            outside = re.sub(r"\\[\\`*|<(]", "", line)
            assert not re.search(r"[`*]|<[a-zA-Z/!?]|\]\(", outside), line
            ours = r"$|#|\| |\|-|    |- |[A-Z(]|\d of |\d canaries"
            assert re.match(ours, line), "a paragraph begins with a word of ours"
        for table in re.findall(r"(?:^\|.*\n)+", "\n".join(lines), re.M):
            bars = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(bars) == 1, "no text writes a border"


def test_a_tag_is_none_but_an_arrow_is_one():
    assert room.plain("a <- b < 5 <b> </b> <!-- [a](b) `c` *d* | \\") == (
        r"a <- b < 5 \<b> \</b> \<!-- [a]\(b) \`c\` \*d\* \| \\"
    )


@pytest.mark.parametrize("name", ["runs/dpo", "x" * 300, "字" * 90, "ab " * 200, HOSTILE])
def test_no_line_is_wider_than_a_terminal(name):
    """110 columns, of which East Asian letters take two, however long the names and texts are."""
    report = full(text=name * 3, name=name)
    text = room.markdown(report)
    assert max(width(line) for line in text.split("\n")) <= 110
    words = " ".join(text.split())
    for said in ("1 of 3 pass", "55.0%", "tokens of a right answer", "outside support", "48 of 50"):
        assert said in words


@pytest.mark.parametrize("name", ["runs/dpo", "x" * 300, "字" * 90, HOSTILE])
def test_the_tables_are_aligned(name):
    """Several of them where one is too wide, and the slices stand in each."""
    text = room.markdown(full(name=name)).partition("## Worst flips")[0]
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) in (2, 3)
    for table in tables:
        assert len(table) == 5, "head, rule and three slices"
        assert len({width(line) for line in table}) == 1
        assert table[3].startswith("| arithmetic, spelled out ")
    assert "verdict" in tables[0][0] and "delta, points [95 %]" in tables[0][0]
    assert "greedy" in tables[-1][0]


def test_the_text_shows_the_first_flips():
    """And says how many there are; the page has all of them, with their whole texts."""
    lines = "\n".join(f"line {n}" for n in range(300))
    report = full(text=lines)
    text = room.markdown(report)
    assert text.count("- baseline, scored 1.00: line 0 ⏎ line 1 ") == 5
    assert "These are 5 of 10: report.html has the others." in text
    assert text.count("characters cut") >= 15
    page = Page(room.html(report))
    assert page.tags.count("details") == 10 and page.tags.count("pre") == 30
    report["flips"] = report["flips"][:5]
    assert "report.html has" not in room.markdown(report)


@pytest.fixture(scope="module")
def drawn():
    """The figures of a report with everything, which show no text."""
    return room.figures_of(full())


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "\u202e" * 10**5, "<\"&'>" * 10**5, "😀" * 10**5, "\n" * 10**5]
)
def test_the_page_stays_small(text, drawn, monkeypatch):
    monkeypatch.setattr(room, "figures_of", lambda report: drawn)
    report = full(text) | {"missing": ["m"] * 10**4, "provenance": [["arguments", text]]}
    report["canaries"] *= 100
    report["flips"] = [flip | {"id": text} for flip in report["flips"]]
    page = room.html(report)
    assert len(page.encode()) < 300_000 and "characters cut" in page
    answers = [row["candidate's answer"] for row in room.canary_part(report["canaries"]).rows]
    assert len(answers) == 20 and all(len(answer) < 3000 for answer in answers)
    assert len(room.markdown(report).encode()) < 100_000


def test_equal_reports_give_equal_bytes(pages):
    for name in ("full", "hostile"):
        report, page = pages[name]
        assert room.html(report) == page
    assert full() == pages["full"][0], "showing it leaves it as it is"


def luminance(color):
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_contrast_in_light_and_dark(pages):
    def named(text):
        return {
            name: color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])
            for name, color in re.findall(r"--(\w+): (#\w+)", text)
        }

    light, dark = pages["full"][1].split("(prefers-color-scheme: dark)")
    light, dark = named(light), named(light) | named(dark)
    for colors in (light, dark):
        for ground in ("page", "box"):
            for name, least in (
                ("ink", 4.5),
                ("soft", 4.5),
                ("clear", 3),
                ("fail", 3),
                ("unsure", 3),
            ):
                one, two = sorted((luminance(colors[name]), luminance(colors[ground])))
                assert (two + 0.05) / (one + 0.05) >= least, (name, ground, colors)


def test_the_page_is_for_every_reader(pages):
    page = Page(pages["full"][1])
    assert ("html", "lang", "en") in page.attributes and page.tags.count("h1") == 1
    scopes = [a for a in page.attributes if a[1] == "scope"]
    assert len(scopes) == page.tags.count("th") > 20
    assert sum(a[1:] == ("role", "img") for a in page.attributes) == 3 == page.tags.count("figure")
    assert all(a[2] for a in page.attributes if a[1] == "aria-label")


# ---- in a browser --------------------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no browser")
@pytest.mark.parametrize("name", ["bare", "full", "hostile"])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_in_a_browser(pages, name, scheme, tmp_path):
    """The page in frames of a phone's and a desktop's width: nothing overflows, nothing complains."""
    frames = "".join(
        f'<iframe width="{width}" height="800" srcdoc="{html.escape(pages[name][1])}"></iframe>'
        for width in (390, 1280)
    )
    script = """<script>onload = () => { document.title = [...document.querySelectorAll("iframe")].map(f => [
        f.contentDocument.scrollingElement.scrollWidth, f.contentWindow.innerWidth,
        f.contentWindow.getComputedStyle(f.contentDocument.body).backgroundColor].join("/")).join(" ") }</script>"""
    (tmp_path / "frames.html").write_text(
        "<!DOCTYPE html><meta charset=utf-8>" + script + frames, encoding="utf-8"
    )
    ended = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            (tmp_path / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search("<title>(.*?)</title>", ended.stdout)[1].split(" ", 1)
    assert found
    values = re.findall(r"(\d+)/(\d+)/(rgb\([^)]*\))", " ".join(found))
    assert len(values) == 2 and [int(v[1]) for v in values] == [390, 1280]
    assert all(int(scroll) <= int(inner) for scroll, inner, _ in values), values
    assert {ground for *_, ground in values} == {
        "rgb(20, 23, 26)" if scheme == "dark" else "rgb(255, 255, 255)"
    }
    assert "CONSOLE" not in ended.stderr, ended.stderr
