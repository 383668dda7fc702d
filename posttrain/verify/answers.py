r"""The field `answer`: the final answer of a text, a number or a short string.

Where a text has a \boxed{...}, its last one is the answer; else the answer is the text's end.

A number, or a string that is one: the last number in the text equals it ("1,234" = 1234,
"3.0" = 3, "$18" = 18). A fraction is one exact number: 3/4 = 0.75, and it does not end in 4. A box
has to hold one number, "x = 5" or "5 cm", and no formula. Another string: the whole text, or its
last line, equals it apart from case, white space, surrounding punctuation and "the answer is".
"""

import re
from fractions import Fraction

from posttrain.verify.latex import boxed, without_latex
from posttrain.verify.values import Verdict, is_number, need

# Sign and currency, digits, decimals and exponent. A sign counts only where no digit, letter or
# bracket precedes it: "x = -5" is -5, "10-5" ends in 5.
NUMBER = re.compile(
    r"(?<![\w.)\]])([-+−]?[$€£]?[-+−]?)"
    r"([0-9]{1,3}(?:,[0-9]{3}){1,40}(?![0-9])|[0-9]+)"
    r"((?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?)"
)
# Sign, the whole part of a mixed number (2 1/2), upper and lower part. More slashes around it make
# a date or a path. The lengths are bounded, so that hostile text is read in linear time.
PART = r"([0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,40}(?:\.[0-9]{1,40})?)"
FRACTION = re.compile(
    rf"(?<![\w.)\]/])(?<!/ )([-+−]?[$€£]?[-+−]?)(?:([0-9]{{1,9}}) )?{PART} ?/ ?{PART}"
    r"(?![0-9]|\.[0-9]|,[0-9]{3}| ?/)"
)
NUMBER_OR_FRACTION = re.compile(rf"{FRACTION.pattern}|{NUMBER.pattern}")
LONGEST_NUMBER = 100  # characters; a longer one is no answer, and slow to compare
# What may follow the one number of a box. In "5x", "x^2", "2\sqrt{3}" and "3, 4" it is a part only.
BEHIND = re.compile(r" ?(?:%|°|[$€£]|[.!]| (?:[^\W\d_]|[ /])+\.?|[^\W\d_]{2,}\.?)?")
FORMULA = re.compile(r"[\\^_{}]")

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
    expected = final_answer(accepted.strip() if isinstance(accepted, str) else repr(accepted))
    number = exact_number(expected)
    box = boxed(text)
    if number is not None:
        return number == (last_number(without_latex(text)) if box is None else number_in_box(box))
    if NUMBER.fullmatch(expected):
        return False  # too long to be an answer
    text = without_latex(text if box is None else box)
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and bare(expected) in (bare(text), bare(lines[-1]))


def final_answer(expected):
    """An expected answer without the LaTeX that it may be written in."""
    box = boxed(expected)
    return without_latex(expected if box is None else box).strip()


def last_number(text):
    """The last number in a text, exact; None when it has none, or too long a one."""
    matches = [*NUMBER_OR_FRACTION.finditer(text)]
    return exact_number(matches[-1][0]) if matches else None


def number_in_box(box):
    """The number that a box holds, exact; None for a formula, and for more than one number."""
    text = " ".join(without_latex(box).rpartition("=")[2].split()).strip(" $()")
    match = NUMBER_OR_FRACTION.search(text)
    if not match or FORMULA.search(text) or not BEHIND.fullmatch(text, match.end()):
        return None
    return exact_number(match[0])


def exact_number(text):
    """The exact value of a text that is a number or a fraction; None where it is none.

    Too long a number and a fraction with nought below have no value either.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    text = text.replace("−", "-")
    fraction = FRACTION.fullmatch(text)
    if fraction:
        sign, whole, upper, lower = fraction.groups(default="0")
        if not plain_value(lower):
            return None
        size = int(whole) + plain_value(upper) / plain_value(lower)
        return -size if "-" in sign else size
    number = NUMBER.fullmatch(text)
    if not number:
        return None
    size = plain_value(number[2] + number[3])
    return -size if "-" in number[1] else size


def plain_value(digits):
    return Fraction(digits.replace(",", ""))


def bare(text):
    """A text without what makes no difference: case, white space, its edge, "the answer is"."""
    text = " ".join(text.casefold().split())
    core = LEAD_IN.sub("", text.strip(EDGE)).strip(EDGE)
    return core or text
