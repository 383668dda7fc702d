"""The field `answer`: the final answer of a text, a number or a short string.

A number, or a string that is one: the last number in the text equals it ("1,234" = 1234,
"3.0" = 3, "$18" = 18). Another string: the whole text, or its last line, equals it apart from case,
white space, surrounding punctuation and "the answer is".
"""

import re
from decimal import Decimal

from posttrain.verify.values import Verdict, is_number, need

# Sign and currency, digits, decimals and exponent. A sign counts only where no digit, letter or
# bracket precedes it: "x = -5" is -5, "10-5" ends in 5.
NUMBER = re.compile(
    r"(?<![\w.)\]])([-+−]?[$€£]?[-+−]?)"
    r"([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
    r"((?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?)"
)
LONGEST_NUMBER = 100  # characters; a longer one is no answer, and slow to compare

EDGE = " \t\n.,;:!?…。！？¡¿'\"`´“”„‘’«»*_()[]{}"
LEAD_IN = re.compile(r"^(so |therefore,? )?(the|my) (final )?answer is\b")


def answer_shape(row, field):
    accepted = accepted_answers(row[field])
    need(
        accepted and all(is_answer(value) for value in accepted),
        field,
        "a non-empty string, a finite number, or a non-empty list of them",
    )


def answer_verdict(answer, value):
    return Verdict(check_answer(answer.text, value))


def accepted_answers(value):
    """A list is a list of answers, each of which is right."""
    return value if isinstance(value, list) else [value]


def is_answer(value):
    return is_number(value) or isinstance(value, str) and bool(value.strip())


def check_answer(text, value):
    """Is this the right final answer? value: a string, a number, or a list of accepted ones."""
    return any(ends_in(text, accepted) for accepted in accepted_answers(value))


def ends_in(text, accepted):
    """Is one accepted answer the final answer of a text?"""
    expected = accepted.strip() if isinstance(accepted, str) else repr(accepted)
    number = NUMBER.fullmatch(expected)
    if number:
        return last_number(text) == number_value(number) is not None
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and bare(expected) in (bare(text), bare(lines[-1]))


def last_number(text):
    """The last number in a text, exact; None when it has none, or too long a one."""
    matches = [*NUMBER.finditer(text)]
    return number_value(matches[-1]) if matches else None


def number_value(match):
    """The exact value of a match of NUMBER; None when it is too long to be an answer."""
    if len(match[0]) > LONGEST_NUMBER:
        return None
    sign = "-" if set(match[1]) & {"-", "−"} else ""
    return Decimal(sign + match[2].replace(",", "") + match[3])


def bare(text):
    """A text without what makes no difference: case, white space, its edge, "the answer is"."""
    text = " ".join(text.casefold().split())
    core = LEAD_IN.sub("", text.strip(EDGE)).strip(EDGE)
    return core or text
