"""Native tool calls are read as what they are, in every format that models use; tests/native_calls.py measures it."""

import pytest
from call_formats import FORMATS, Habits, formats
from native_calls import (
    NASTY,
    Case,
    Reader,
    Tally,
    cut,
    cut_positions,
    expressible,
    measure,
    measure_damaged,
    report,
)

from posttrain.chat import calls as chat_calls
from posttrain.verify.calls import check_call

read_calls = chat_calls.read_calls

QUICK, FULL = 1500, 10_000

CITY = {"type": "string"}
PARAMETERS = {"type": "object", "properties": {"city": CITY, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
CALL = {"name": "get_weather", "arguments": {"city": "Bad Ems", "days": 3}}


def check(tally, count):
    """Every call is read as right; nothing else is read as a call, and no call as none."""
    assert not tally.faults(), "\n" + report(tally)
    assert tally.total("right") == tally.total("calls") == tally.total("changed") == count
    assert tally.total("honest") >= 60
    assert tally.total("damaged") > 3 * count
    assert tally.total("unwanted") > 5 * count


def test_native_calls():
    check(measure(read_calls, check_call, QUICK, seed=1), QUICK)


@pytest.mark.slow
def test_ten_thousand_native_calls():
    check(measure(read_calls, check_call, FULL, seed=2), FULL)


def short_case(name, variant):
    """One short call, or two where the format allows."""
    style = FORMATS[name]
    second = {"name": "get_weather", "arguments": {"city": "Au", "days": 1}}
    calls = [CALL, second] if style.parallel else [CALL]
    return Case(name, style, TOOLS, calls, Habits(variant=variant))


@pytest.mark.parametrize("name", list(formats()))
def test_every_nasty_value_is_read_as_it_is(name):
    """Every string that the format can express, as a parameter's value."""
    case = short_case(name, variant=False)
    for label, text in NASTY.items():
        if expressible(case.style, text):
            calls = [{"name": "get_weather", "arguments": {"city": text, "days": 3}}]
            assert read_calls(case.text(calls), TOOLS).calls == calls, label


@pytest.mark.parametrize("variant", [False, True])
@pytest.mark.parametrize("name", list(formats()))
def test_a_cut_off_call_is_never_read(name, variant):
    """At every character behind the format's marker."""
    case = short_case(name, variant)
    tally = Tally()
    reader = Reader(read_calls, check_call, tally)
    text = case.text()
    positions = cut_positions(case, text)
    for position in positions:
        measure_damaged(reader, case, cut(case, text, position))
    assert not tally.faults(), "\n" + report(tally)
    assert tally.total("damaged") == len(positions) > 20
