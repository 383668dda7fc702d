"""What an answer may not make up: digits in a tool call, and facts that a text at hand speaks of.

Both are cheap readings without a model. `invented` decides (a call with a made-up order number is
wrong); `check_facts` is a spot check that flags and never decides, for it reads words, not meaning.
conversation.py says where a value of a call may come from.
"""

import functools
import json
import math
import re
from collections import Counter

from posttrain.verify import times_said
from posttrain.verify.conversation import Conversation
from posttrain.verify.number_words import reading_form

NEGATION = re.compile(
    r"\b(?:not|no|never|none|neither|nor|without|cannot|nicht|kein\w*|nie)\b|n't\b"
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")

# check_facts
LEAST_COVERED = 0.6  # of a sentence's words, weighted by idf, that stand in the passage
LEAST_WORDS = 3  # of a sentence
# Numbers in words, and what may stand behind a number, as the facts read them.
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
SCALES = {"k": 1e3, "thousand": 1e3, "million": 1e6, "m": 1e6, "%": 0.01, "percent": 0.01}
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SCALED_NUMBER = re.compile(rf"({NUMBER.pattern}) ?(k\b|thousand|million|m\b|%|percent)?")
THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")  # 1,234.5

# ---- arguments of a tool call --------------------------------------------------------------------


def dates_of(text):
    """(month, day) and (year, month, day) of the dates in a text, in every reading."""
    dates = set()
    for _, readings in times_said.date_phrases(reading_form(text)):
        for year, month, day in readings:
            dates |= {(month, day), (year, month, day)}
    return dates


def clocks_of(text):
    """Times of day in a text, in minutes since midnight."""
    clocks = set()
    for _, seconds in times_said.clock_phrases(reading_form(text)):
        clocks |= {second // 60 for second in seconds}
    return clocks


def invented(arguments, schema, conversation):
    """Values among a call's arguments whose digits come from nowhere -> ["path: value", ...].

    A value with a digit in it (a number, an id, a date, a time) must occur in the conversation (a
    text), in digits or in words, or be the default, the const or of the enum of its field in the
    JSON schema. A date of this century, or near a year that is said, is granted where the
    conversation says "tomorrow". A text of digits keeps its zeros: "0042" is not "42". Words
    without a digit, true, false and null are free.
    """
    conversation = Conversation(conversation)
    made_up = []
    for path, value, description in leaves(arguments, schema, ""):
        is_infinite = value in (math.inf, -math.inf)  # 1e999 is no number
        field = f"{path.rpartition('.')[2]} {description}"
        is_said = not is_infinite and conversation.says(str(value).casefold(), field)
        if isinstance(value, str) and not conversation.keeps_zeros(value, field):
            is_said = False
        if not is_said:
            made_up.append(f"{path}: {str(value)[:40]}")
    return made_up


def leaves(value, field, path):
    """(path, number or text, description) of all in arguments that the schema does not name.

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
        yield path, value, str(field.get("description", ""))


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
