"""The field `constraints`: [{"type": NAME, "value": ...}, ...], each about the form of a text.

A new one is a function of (text, value) that says whether the text obeys, and a line in CONSTRAINTS
with the value that it takes:

    def ends_as_question(text, _):
        return text.endswith("?")

    "question": Constraint(NOTHING, ends_as_question),

The text comes stripped of white space at its ends and is not empty: saying nothing obeys nothing.
It is not trusted: no function may raise, or take long over 200,000 characters of anything.
Most of IFEval's kinds (arXiv 2311.07911) can be said in these.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from posttrain.chat.scan import strict_json
from posttrain.cli import BadInput
from posttrain.verify.values import Verdict, need

# ---- what a value can be -------------------------------------------------------------------------


class Shape(NamedTuple):
    """Which values a constraint takes."""

    name: str  # as a message shows it
    fits: Callable  # fits(value) -> bool


def is_count(value):
    return type(value) is int  # true is none


def is_text(value):
    return isinstance(value, str) and value != ""


def is_texts(value):
    return isinstance(value, list) and {type(item) for item in value} == {str}


def is_nothing(value):
    return value is None


def is_range(value, *texts):
    """Is this an object with "min", "max" or both, counts from 0, and beside them these texts?"""
    if not isinstance(value, dict):
        return False
    limits = [value[key] for key in ("min", "max") if key in value]
    return (
        bool(limits)
        and {*texts} <= value.keys() <= {*texts, "min", "max"}
        and all(is_count(limit) and limit >= 0 for limit in limits)
        and all(is_words(value[key]) for key in texts)
    )


def is_words(value):
    return isinstance(value, str) and bool(value.strip())


def is_text_range(value):
    return is_range(value, "text")


def is_place(value):
    """Is this {"number": of a paragraph from 1, "word"}?"""
    return (
        isinstance(value, dict)
        and value.keys() == {"number", "word"}
        and is_count(value["number"])
        and value["number"] >= 1
        and is_words(value["word"])
    )


NUMBER = Shape("int", is_count)
TEXT = Shape("str", is_text)
TEXTS = Shape("list", is_texts)
NOTHING = Shape("none", is_nothing)
RANGE = Shape('{"min" and/or "max"}', is_range)
TEXT_RANGE = Shape('{"text", "min" and/or "max"}', is_text_range)
PLACE = Shape('{"number" from 1, "word"}', is_place)


# ---- what is counted -----------------------------------------------------------------------------

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\**[^\S\n]*\n)+")  # or lines of asterisks alone
SIX_ASTERISKS = re.compile(r"^[^\S\n]*\*{6}[^\S\n]*$", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’)\]]*(?:\s+|$)|[。！？]+|\n+")
ABBREVIATION = re.compile(
    r"\b(?:[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|approx|z\. ?B|d\. ?h|bzw|ca)\.(?= \S)"
)
BULLET = re.compile(r"(?:[-*•+]|[0-9]{1,3}[.)])\s+\S")
HIGHLIGHT = re.compile(r"(?<!\*)(\*{1,2})(?=[^\s*])[^*\n]*(?<!\s)\1(?!\*)")  # *so* or **so**
PLACEHOLDER = re.compile(r"\[[^][\n]*\w[^][\n]*\]")  # [so]
TITLE = re.compile(r"<<[^<>]*\w[^<>]*>>")
COMMAS = set(",，、،")


def lines_of(text):
    """Lines without white space at their ends; empty ones do not count."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line]


def paragraphs_of(text):
    """What lies between empty lines or lines of asterisks."""
    return [part.strip() for part in BLANK_LINES.split(text) if part.strip("* \n")]


def count_words(text):
    return len(text.split())


def count_lines(text):
    return len(lines_of(text))


def count_sentences(text):
    parts = SENTENCE_END.split(ABBREVIATION.sub("x", text))
    return len([part for part in parts if re.search(r"\w", part)])


def count_paragraphs(text):
    return len(paragraphs_of(text))


def count_responses(text):
    """Texts between lines of six asterisks; 0 when one is empty or two are the same."""
    responses = [part.strip() for part in SIX_ASTERISKS.split(text)]
    different = {*responses} - {""}
    return len(responses) if len(different) == len(responses) else 0


def count_bullets(text):
    return len([line for line in lines_of(text) if BULLET.match(line)])


def count_highlights(text):
    return len(HIGHLIGHT.findall(text))


def count_placeholders(text):
    return len(PLACEHOLDER.findall(text))


def exactly(count):
    """A test that count(text) is the value."""

    def test(text, number):
        return count(text) == number

    return test


def at_least(count):
    """A test that count(text) is the value or more."""

    def test(text, number):
        return count(text) >= number

    return test


def at_most(count):
    """A test that count(text) is the value or less."""

    def test(text, number):
        return count(text) <= number

    return test


def in_range(count, limits):
    return limits.get("min", 0) <= count <= limits.get("max", math.inf)


# ---- one function for each constraint ------------------------------------------------------------


def is_json(text, _):
    try:
        strict_json(text)
    except ValueError:
        return False
    return True


def has_json_keys(text, keys):
    """A JSON object with exactly these keys."""
    try:
        data = strict_json(text)
    except ValueError:
        return False
    return isinstance(data, dict) and data.keys() == set(keys)


def starts_with(text, start):
    return text.startswith(start)


def ends_with(text, end):
    return text.endswith(end)


def contains(text, part):
    """In any case, and inside words, too."""
    return part.casefold() in text.casefold()


def does_not_contain(text, part):
    return not contains(text, part)


def is_lowercase(text, _):
    return text == text.lower() and has_case(text)


def is_uppercase(text, _):
    return text == text.upper() and has_case(text)


def has_case(text):
    """Is there a letter that could be small or large?"""
    return text.lower() != text.upper()


def has_no_commas(text, _):
    return not COMMAS & set(text)


def has_title(text, _):
    """<<so>>, alone on a line."""
    return any(TITLE.fullmatch(line) for line in lines_of(text))


def occurs(text, value):
    """How often "text" stands there as a whole word, in any case."""
    pattern = re.escape(value["text"].casefold())
    if value["text"][0].isalnum():
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return in_range(len(re.findall(pattern, text.casefold())), value)


def has_letters(text, value):
    """How often "text" stands there anywhere, in any case."""
    return in_range(text.casefold().count(value["text"].casefold()), value)


def has_capital_words(text, limits):
    """Words of two letters or more that are all capitals."""
    words = [word for word in re.findall(r"[^\W\d_]+", text) if word.isupper() and len(word) > 1]
    return in_range(len(words), limits)


def paragraph_starts(text, value):
    """The first word of paragraph "number" is "word", in any case."""
    paragraphs = paragraphs_of(text)
    if len(paragraphs) < value["number"]:
        return False
    words = re.findall(r"\w+", paragraphs[value["number"] - 1].casefold())
    return bool(words) and words[0] == value["word"].casefold()


class Constraint(NamedTuple):
    """A line of CONSTRAINTS."""

    shape: Shape  # of its "value"
    test: Callable  # test(text, value) -> bool


CONSTRAINTS = {
    "max_words": Constraint(NUMBER, at_most(count_words)),
    "min_words": Constraint(NUMBER, at_least(count_words)),
    "exact_words": Constraint(NUMBER, exactly(count_words)),
    "exact_lines": Constraint(NUMBER, exactly(count_lines)),
    "bullets": Constraint(NUMBER, exactly(count_bullets)),
    "max_sentences": Constraint(NUMBER, at_most(count_sentences)),
    "min_sentences": Constraint(NUMBER, at_least(count_sentences)),
    "paragraphs": Constraint(NUMBER, exactly(count_paragraphs)),
    "responses": Constraint(NUMBER, exactly(count_responses)),
    "min_highlights": Constraint(NUMBER, at_least(count_highlights)),
    "min_placeholders": Constraint(NUMBER, at_least(count_placeholders)),
    "json_keys": Constraint(TEXTS, has_json_keys),
    "starts_with": Constraint(TEXT, starts_with),
    "ends_with": Constraint(TEXT, ends_with),
    "contains": Constraint(TEXT, contains),
    "not_contains": Constraint(TEXT, does_not_contain),
    "json": Constraint(NOTHING, is_json),
    "lowercase": Constraint(NOTHING, is_lowercase),
    "uppercase": Constraint(NOTHING, is_uppercase),
    "no_commas": Constraint(NOTHING, has_no_commas),
    "title": Constraint(NOTHING, has_title),
    "occurs": Constraint(TEXT_RANGE, occurs),
    "letters": Constraint(TEXT_RANGE, has_letters),
    "capital_words": Constraint(RANGE, has_capital_words),
    "paragraph_starts": Constraint(PLACE, paragraph_starts),
}


# ---- the field -----------------------------------------------------------------------------------


def constraints_shape(row, field):
    need(isinstance(row[field], list) and row[field], field, "a non-empty list")
    for number, constraint in enumerate(row[field]):
        constraint_shape(constraint, f"{field}[{number}]")


def constraint_shape(constraint, field):
    """Refuse what is no {"type": one of CONSTRAINTS, "value": of its shape}."""
    kind = constraint.get("type") if isinstance(constraint, dict) else None
    takes = ""
    if isinstance(kind, str) and kind in CONSTRAINTS:
        shape = CONSTRAINTS[kind].shape
        if shape.fits(constraint.get("value")) and constraint.keys() <= {"type", "value"}:
            return
        takes = f" ({shape.name})"
    raise BadInput(
        f"field '{field}': expected a type of {', '.join(CONSTRAINTS)} with the \"value\" it "
        f"takes{takes}, got {str(constraint)[:80]}"
    )


def constraints_verdict(answer, constraints):
    broken = [c for c in constraints if not check_constraint(answer.text, c)]
    return Verdict(not broken, f"expected {str(broken[:1])[:80]}" if broken else "")


def check_constraint(text, constraint):
    """Does a text obey one well-formed constraint? KeyError when its type is none of ours."""
    text = text.strip()
    if not text:
        return False
    return CONSTRAINTS[constraint["type"]].test(text, constraint.get("value"))
