"""What every check is handed and gives back, and when two values are the same."""

import math
from typing import NamedTuple

from posttrain.cli import BadInput


class Answer(NamedTuple):
    """A completion as the checks see it. Nothing in it may be trusted."""

    text: str  # what a person is shown: without thoughts
    message: dict  # the assistant message: "content" is that text, "tool_calls" may stand beside it
    row: dict  # the prompt record with the verifier fields
    run_code: bool = False  # may model-written code run?
    unsafe: bool = False  # may it run without a sandbox?


class Verdict(NamedTuple):
    """What a check says about an answer."""

    ok: bool | None  # None: cannot be told, or was not tried
    why: str = ""  # what is wrong; left empty, it becomes "expected" and the field's value


UNSAID = object()


def need(condition, field, expected, got=UNSAID):
    """BadInput that names a field, what was expected there and what it got, unless it holds."""
    if condition:
        return
    value = "" if got is UNSAID else f", got {str(got)[:60]!r}"
    raise BadInput(f"field '{field}': expected {expected}{value}")


def any_value(row, field):
    """The shape of a field whose value is not looked at before there is an answer."""


def is_number(value):
    """A finite number; true and false are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or isinstance(value, float) and math.isfinite(value)


def plain(value):
    """Canonical text of a value made of None, bool, int, float, str, bytes, list, tuple, set, dict.

    Equal texts are equal values: 1 = 1.0, True is not 1, a list is no tuple. TypeError for anything
    else and for NaN.
    """
    kind = type(value)  # not isinstance: a subclass brings its own __eq__ and __repr__
    if kind in (list, tuple):
        return f"{kind.__name__}({','.join([plain(item) for item in value])})"
    if kind in (set, frozenset):
        return f"set({','.join(sorted([plain(item) for item in value]))})"
    if kind is dict:
        items = [f"{plain(key)}:{plain(item)}" for key, item in value.items()]
        return f"dict({','.join(sorted(items))})"
    if kind not in (int, float, str, bytes, bool, type(None)) or value != value:
        raise TypeError(kind.__name__)
    if kind is float and value.is_integer():
        value = int(value)
    return repr(value)
