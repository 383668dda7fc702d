"""What an answer may not make up: ids, dates and numbers of a tool call, and facts that a text at hand speaks of.

Both are cheap readings without a model. `invented` decides (a call with a made-up order number is wrong); `check_facts`
is a spot check that flags and never decides, for it reads words, not meaning.
"""

import functools
import json
import math
import re
from collections import Counter

WORDS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()
    )
} | {
    "couple": "2",
    "dozen": "12",
    "fifteen": "15",
    "twenty": "20",
    "thirty": "30",
    "half": "0.5",
    "hundred": "100",
}
MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}
MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DATES = [
    (re.compile(pattern), order)
    for pattern, order in (
        (r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b", "ymd"),
        (r"\b(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})\b", "xxy"),
        (rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {MONTH}(?:,? (\d{{4}}))?\b", "dmy"),
        (rf"\b{MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?\b", "mdy"),
    )
]
RELATIVE = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|next|last|this|coming|"
    r"in \w+ (?:day|week|month|year)s?|(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b"
)
CLOCK = re.compile(
    r"\b(\d{1,2})(?::(\d{2}))?(?::00)? ?([ap])\.?m\b|\b(\d{1,2}):(\d{2})(?::\d{2})?\b"
)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
NEGATION = re.compile(
    r"\b(?:not|no|never|none|neither|nor|without|cannot|nicht|kein\w*|nie)\b|n't\b"
)


# ---- arguments of a tool call --------------------------------------------------------------------


def numbers_of(text):
    """Numbers in a text as plain decimals: "1,234" = "1234", "3.0" = "3", "two" = "2", "5k" also 5000, "5%" 0.05."""
    found = set()
    for match in re.finditer(rf"({NUMBER.pattern}) ?(k\b|thousand|million|m\b|%|percent)?", text):
        value = (
            match[1].replace(",", "")
            if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", match[1])
            else match[1]
        )
        parts = [value] if value.count(".") < 2 and "," not in value else re.split("[.,]", value)
        for part in parts:
            scale = {
                "k": 1e3,
                "thousand": 1e3,
                "million": 1e6,
                "m": 1e6,
                "%": 0.01,
                "percent": 0.01,
            }.get(match[2], 1)
            found |= {f"{float(part):.12g}", f"{float(part) * scale:.12g}"}
    return found | {WORDS[word] for word in re.findall(r"[a-z]+", text) if word in WORDS}


def dates_of(text):
    """(month, day) and (year, month, day) of the dates in a text, in both readings where 3/4/2024 has two."""
    found = set()
    for pattern, order in DATES:
        for match in pattern.finditer(text):
            parts = [MONTHS.get(part) or (int(part) if part else None) for part in match.groups()]
            for reading in ("dmy", "mdy") if order == "xxy" else (order,):
                year, month, day = (parts[reading.index(one)] for one in "ymd")
                found |= {(month, day), (year, month, day)}
    return found


def clocks_of(text):
    """Times of day in a text as minutes; "3" o'clock of the afternoon also as 15:00."""
    found = set()
    for hour, minute, half, plain, after in CLOCK.findall(text):
        at = (
            60 * (int(hour or plain) % (12 if half else 24))
            + int(minute or after or 0)
            + 720 * (half == "p")
        )
        found.add(at)
    return found


def invented(arguments, schema, conversation):
    """Values among a call's arguments whose digits come from nowhere -> ["path: value", ...], empty when all is well.

    A value with a digit in it (a number, an id, a date, a time) must occur in the conversation (a text), or be the
    default, the const or of the enum of its field in the JSON schema. A date is granted where the conversation says
    "tomorrow". Words without a digit, true, false and null are free."""
    text = conversation.casefold()
    known, dates, clocks = numbers_of(text), dates_of(text), clocks_of(text)
    squeezed, made_up = re.sub(r"[\W_]", "", text), []

    def visit(value, field, path):
        field = field if isinstance(field, dict) else {}
        given = [field.get("default"), field.get("const"), *(field.get("enum") or [])]
        if (
            isinstance(value, bool)
            or value is None
            or any(value == one and type(value) is type(one) for one in given)
        ):
            return
        if isinstance(value, dict):
            for name, one in value.items():
                visit(one, (field.get("properties") or {}).get(name), f"{path}.{name}".strip("."))
        elif isinstance(value, list):
            for number, one in enumerate(value):
                visit(one, field.get("items"), f"{path}[{number}]")
        elif value in (math.inf, -math.inf) or not said(
            str(value).casefold()
        ):  # 1e999 is no number
            made_up.append(f"{path}: {str(value)[:40]}")

    def said(value):
        if re.sub(r"[\W_]", "", value) in squeezed and not re.fullmatch(r"[-+\d.,e]+", value):
            return True
        day, hour = dates_of(value), clocks_of(value)
        if day:
            return bool(day & dates) or bool(RELATIVE.search(text))
        if hour:
            return hour <= clocks or any(
                str(minute // 60 % 12 or 12) in known and not minute % 60 for minute in hour
            )
        words = [word for word in re.findall(r"[\w.,-]*\d[\w.,-]*", value)]
        return all(
            numbers_of(word) <= known
            if re.fullmatch(r"[-+]?[\d.,]+(?:e[-+]?\d+)?", word)
            else re.sub(r"[\W_]", "", word) in squeezed
            for word in words
        )

    visit(arguments, schema, "")
    return made_up


# ---- facts ---------------------------------------------------------------------------------------


def words_of(text):
    return re.findall(r"[^\W_]+", text.casefold())


@functools.lru_cache(8)
def index_of(passages):
    """(words of each passage, idf of every word, mean length) of a tuple of texts."""
    bags = [Counter(words_of(text)) for text in passages]
    counts = Counter(word for bag in bags for word in bag)
    idf = {word: math.log(1 + (len(bags) - n + 0.5) / (n + 0.5)) for word, n in counts.items()}
    return bags, idf, sum(map(Counter.total, bags)) / max(len(bags), 1)


def bm25(query, passages, k1=1.2, b=0.75):
    """BM25 of a text against each passage (Robertson and Zaragoza 2009, eq. 3.15, with the +1 of Lucene in the idf)."""
    bags, idf, mean = index_of(tuple(passages))
    return [
        sum(
            idf[word] * bag[word] * (k1 + 1) / (bag[word] + k1 * (1 - b + b * bag.total() / mean))
            for word in {*words_of(query)}
            if word in bag
        )
        for bag in bags
    ]


def check_facts(text, passages, least=0.6):
    """{"support", "contradict", "absent"}: sentences of a text against the passage that BM25 finds for each.

    absent: under `least` of its words stand there (weighted by idf), or a name does not. contradict: they do, but a
    number is another one, or one of the two says "not". Sentences of fewer than three words are left out."""
    told = Counter(support=0, contradict=0, absent=0)
    passages = [
        part
        for passage in passages
        for part in re.split(r"(?<=[.!?])\s+|\n+", passage)
        if part.strip()
    ]
    for claim in re.split(r"(?<=[.!?])\s+|\n+", text):
        words = {*words_of(claim)}
        if len(words) < 3 or not passages:
            continue
        scores = bm25(claim, passages)
        best = passages[max(range(len(passages)), key=scores.__getitem__)]
        there, idf = {*words_of(best)}, index_of(tuple(passages))[1]
        rare = math.log(1 + (len(passages) + 0.5) / 0.5)  # of a word in no passage
        plain = {word for word in words if not word[0].isdigit()}
        covered = sum(idf.get(w, rare) for w in plain & there) / max(
            sum(idf.get(w, rare) for w in plain), 1e-9
        )
        numbers, known = numbers_of(claim.casefold()), numbers_of(best.casefold())
        names = {*words_of(" ".join(re.findall(r"(?<=\w )[A-Z]\w+", claim)))}
        negated = [bool(NEGATION.search(part.casefold())) for part in (claim, best)]
        if covered < least or not names <= there:
            told["absent"] += 1
        else:
            told[
                "contradict"
                if not numbers <= known and known or negated[0] != negated[1]
                else "support"
            ] += 1
    return dict(told)


def spoken(messages):
    """All that a conversation says, tool calls and their results included, as one text."""
    return "\n".join(
        m["content"]
        + " ".join(json.dumps(call["function"]["arguments"]) for call in m.get("tool_calls", []))
        for m in messages
    )
