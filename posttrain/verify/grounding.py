"""What an answer may not make up: digits in a tool call, and facts that a text at hand speaks of.

Both are cheap readings without a model. `invented` decides (a call with a made-up order number is
wrong); `check_facts` is a spot check that flags and never decides, for it reads words, not meaning.
"""

import functools
import json
import math
import re
from collections import Counter

# Words for numbers -> the number in digits.
NUMBER_WORDS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "couple": "2",
    "dozen": "12",
    "fifteen": "15",
    "twenty": "20",
    "thirty": "30",
    "half": "0.5",
    "hundred": "100",
}
# What may stand behind a number -> what it is multiplied by.
SCALES = {"k": 1e3, "thousand": 1e3, "million": 1e6, "m": 1e6, "%": 0.01, "percent": 0.01}

MONTH_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec".split()
MONTHS = {name: number for number, name in enumerate(MONTH_NAMES, 1)}
MONTH = rf"({'|'.join(MONTH_NAMES)})[a-z]*\.?"
# Ways to write a date -> what the groups are: year, month, day. 3/4/2024 has two readings.
DATES = (
    (re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b"), ("ymd",)),
    (re.compile(r"\b(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})\b"), ("dmy", "mdy")),
    (re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {MONTH}(?:,? (\d{{4}}))?\b"), ("dmy",)),
    (re.compile(rf"\b{MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?\b"), ("mdy",)),
)
# Where a conversation says this, any date may follow from it.
RELATIVE = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|next|last|this|coming|"
    r"in \w+ (?:day|week|month|year)s?|(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b"
)
CLOCK = re.compile(
    r"\b(\d{1,2})(?::(\d{2}))?(?::00)? ?([ap])\.?m\b|\b(\d{1,2}):(\d{2})(?::\d{2})?\b"
)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SCALED_NUMBER = re.compile(rf"({NUMBER.pattern}) ?(k\b|thousand|million|m\b|%|percent)?")
THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")  # 1,234.5
SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?e[-+]?\d+")
NEGATION = re.compile(
    r"\b(?:not|no|never|none|neither|nor|without|cannot|nicht|kein\w*|nie)\b|n't\b"
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")

# check_facts
LEAST_COVERED = 0.6  # of a sentence's words, weighted by idf, that stand in the passage
LEAST_WORDS = 3  # of a sentence


# ---- arguments of a tool call --------------------------------------------------------------------


def numbers_of(text):
    """Numbers in a text as plain decimals.

    "1,234" = "1234", "3.0" = "3", "two" = "2"; "5k" is also 5000, "5%" also 0.05.
    """
    numbers = set()
    for match in SCALED_NUMBER.finditer(text):
        scale = SCALES.get(match[2], 1)
        for part in parts_of_number(match[1]):
            numbers |= {f"{float(part):.12g}", f"{float(part) * scale:.12g}"}
    for word in re.findall(r"[a-z]+", text):
        if word in NUMBER_WORDS:
            numbers.add(NUMBER_WORDS[word])
    return numbers


def parts_of_number(digits):
    """The number in digits, commas and points, or its parts: "1,234" is one, "1.2.3" are three."""
    if THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    if "," in digits or digits.count(".") > 1:
        return re.split("[.,]", digits)
    return [digits]


def dates_of(text):
    """(month, day) and (year, month, day) of the dates in a text, in every reading."""
    dates = set()
    for pattern, readings in DATES:
        for match in pattern.finditer(text):
            groups = [number_of_group(group) for group in match.groups()]
            for reading in readings:
                part = dict(zip(reading, groups))
                dates |= {(part["m"], part["d"]), (part["y"], part["m"], part["d"])}
    return dates


def number_of_group(group):
    """A month's name or digits as a number; None where a date says nothing."""
    if not group:
        return None
    return MONTHS.get(group) or int(group)


def clocks_of(text):
    """Times of day in a text, in minutes since midnight."""
    clocks = set()
    for hour, minute, half, hour_of_24, minute_of_24 in CLOCK.findall(text):
        if half:
            noon = 720 if half == "p" else 0
            clocks.add(60 * (int(hour) % 12) + int(minute or 0) + noon)
        else:
            clocks.add(60 * (int(hour_of_24) % 24) + int(minute_of_24))
    return clocks


def letters_and_digits(text):
    return re.sub(r"[\W_]", "", text)


class Conversation:
    """What a conversation says, in the forms in which values are looked for."""

    def __init__(self, text):
        self.text = text.casefold()
        self.numbers = numbers_of(self.text)
        self.dates = dates_of(self.text)
        self.clocks = clocks_of(self.text)
        self.squeezed = letters_and_digits(self.text)

    def says(self, value):
        """Does a value (a text in small letters) come from here, or has it no digit?"""
        if not re.fullmatch(r"[-+\d.,e]+", value) and letters_and_digits(value) in self.squeezed:
            return True
        # Python writes very large and very small numbers so: 0.00001 is 1e-05.
        if SCIENTIFIC.fullmatch(value) and f"{abs(float(value)):.12g}" in self.numbers:
            return True
        dates = dates_of(value)
        if dates:
            return bool(dates & self.dates) or bool(RELATIVE.search(self.text))
        clocks = clocks_of(value)
        if clocks:
            return all(minute in self.clocks or self.says_hour(minute) for minute in clocks)
        words = re.findall(r"[\w.,-]*\d[\w.,-]*", value)
        return all(self.says_word(word) for word in words)

    def says_hour(self, minute):
        """Is a time on the hour (in minutes) said as a bare number? 15:00 for "at 3"."""
        hour = str(minute // 60 % 12 or 12)
        return minute % 60 == 0 and hour in self.numbers

    def says_word(self, word):
        """Is a word with a digit in it a number that is said, or said letter by letter?"""
        if re.fullmatch(r"[-+]?[\d.,]+(?:e[-+]?\d+)?", word):
            return numbers_of(word) <= self.numbers
        return letters_and_digits(word) in self.squeezed


def invented(arguments, schema, conversation):
    """Values among a call's arguments whose digits come from nowhere -> ["path: value", ...].

    A value with a digit in it (a number, an id, a date, a time) must occur in the conversation (a
    text), or be the default, the const or of the enum of its field in the JSON schema. A date is
    granted where the conversation says "tomorrow". Words without a digit, true, false and null are
    free.
    """
    conversation = Conversation(conversation)
    made_up = []
    for path, value in leaves(arguments, schema, ""):
        is_infinite = value in (math.inf, -math.inf)  # 1e999 is no number
        if is_infinite or not conversation.says(str(value).casefold()):
            made_up.append(f"{path}: {str(value)[:40]}")
    return made_up


def leaves(value, field, path):
    """(path, number or text) of all that stands in arguments and that the schema does not name.

    field: the JSON schema of the value.
    """
    field = field if isinstance(field, dict) else {}
    if value is None or isinstance(value, bool) or is_named(value, field):
        return
    if isinstance(value, dict):
        fields = field.get("properties") or {}
        for name, item in value.items():
            yield from leaves(item, fields.get(name), f"{path}.{name}".strip("."))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, field.get("items"), f"{path}[{number}]")
    else:
        yield path, value


def is_named(value, field):
    """Is a value the default, the const or of the enum of its schema? 1 is not 1.0 here."""
    named = [field.get("default"), field.get("const"), *(field.get("enum") or [])]
    return any(type(value) is type(other) and value == other for other in named)


def spoken(messages):
    """All that a conversation says, tool calls and their results included, as one text."""
    turns = []
    for message in messages:
        calls = message.get("tool_calls", [])
        arguments = [json.dumps(call["function"]["arguments"]) for call in calls]
        turns.append(message["content"] + " ".join(arguments))
    return "\n".join(turns)


# ---- facts ---------------------------------------------------------------------------------------


def words_of(text):
    return re.findall(r"[^\W_]+", text.casefold())


def sentences_of(text):
    return SENTENCE_END.split(text)


@functools.lru_cache(8)
def index_of(passages):
    """(words of each passage, idf of every word, mean length) of a tuple of texts."""
    bags = [Counter(words_of(text)) for text in passages]
    counts = Counter()  # in how many passages a word stands
    for bag in bags:
        counts.update(bag.keys())
    idf = {word: math.log(1 + (len(bags) - n + 0.5) / (n + 0.5)) for word, n in counts.items()}
    mean = sum(bag.total() for bag in bags) / max(len(bags), 1)
    return bags, idf, mean


def bm25(query, passages, k1=1.2, b=0.75):
    """BM25 of a text against each passage.

    Robertson and Zaragoza 2009, eq. 3.15, with the +1 of Lucene in the idf.
    """
    bags, idf, mean = index_of(tuple(passages))
    words = {*words_of(query)}
    scores = []
    for bag in bags:
        length_term = k1 * (1 - b + b * bag.total() / mean)
        terms = [
            idf[word] * bag[word] * (k1 + 1) / (bag[word] + length_term)
            for word in words
            if word in bag
        ]
        scores.append(sum(terms))
    return scores


def check_facts(text, passages):
    """{"support", "contradict", "absent"}: sentences of a text against the passage that BM25 finds.

    Sentences of fewer than three words are left out.
    """
    counts = {"support": 0, "contradict": 0, "absent": 0}
    sentences = []
    for passage in passages:
        sentences += [sentence for sentence in sentences_of(passage) if sentence.strip()]
    if not sentences:
        return counts
    for claim in sentences_of(text):
        if len({*words_of(claim)}) >= LEAST_WORDS:
            counts[relation(claim, sentences)] += 1
    return counts


def relation(claim, passages):
    """What the passage nearest to a claim says of it.

    absent: too few of the claim's words stand there, or a name of it does not. contradict: they do,
    but a number is another one, or one of the two says "not".
    """
    scores = bm25(claim, passages)
    passage = passages[scores.index(max(scores))]
    if not is_covered(claim, passage, passages):
        return "absent"
    numbers, numbers_there = numbers_of(claim.casefold()), numbers_of(passage.casefold())
    has_other_number = bool(numbers_there) and not numbers <= numbers_there
    if has_other_number or is_negated(claim) != is_negated(passage):
        return "contradict"
    return "support"


def is_covered(claim, passage, passages):
    """Do most of a claim's words, weighted by idf, and all of its names stand in a passage?"""
    there = {*words_of(passage)}
    names = {*words_of(" ".join(re.findall(r"(?<=\w )[A-Z]\w+", claim)))}
    if not names <= there:
        return False
    idf = index_of(tuple(passages))[1]
    rare = math.log(1 + (len(passages) + 0.5) / 0.5)  # of a word in no passage
    words = {word for word in words_of(claim) if not word[0].isdigit()}
    weight = sum(idf.get(word, rare) for word in words)
    weight_there = sum(idf.get(word, rare) for word in words & there)
    return weight_there / max(weight, 1e-9) >= LEAST_COVERED


def is_negated(text):
    return bool(NEGATION.search(text.casefold()))
