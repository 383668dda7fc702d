"""The flags of every stage, as they were when tests/flags.txt was last written: what each takes,
what it is without it. Write it anew after a change that is meant, and read the difference:

    python tests/test_flags.py > tests/flags.txt
"""

import argparse
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["sft", "gen_candidates", "judge", "dpo", "kto", "gate", "demo"]
# Words that a flag may take or refuse.
PROBES = ["-1", "0", "0.4", "1", "1.5", "5", "x", "x=2"]


class Seen(Exception):
    """Carries the parser of a stage out of its parse_args."""


def parser_of(stage):
    def give(parser, argv=None):
        raise Seen(parser)

    module = importlib.import_module(stage)
    parse_args = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = give
    try:
        module.parse_args([])
    except Seen as seen:
        return seen.args[0]
    finally:
        argparse.ArgumentParser.parse_args = parse_args


def takes(action, word):
    """Is this word a value of a flag?"""
    try:
        value = action.type(word) if action.type else word
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return action.choices is None or value in action.choices


def described(action):
    """One line: the flag, what it takes, how many words, its default."""
    flag = ", ".join(action.option_strings)
    if action.nargs == 0:
        return f"{flag}: a flag ({action.const}), else {action.default}"
    words = [*map(str, action.choices or []), *PROBES]
    taken = " ".join(word for word in words if takes(action, word))
    count = action.nargs or 1
    kind = type(action).__name__.strip("_").removesuffix("Action").lower()
    need = ", required" if action.required else ""
    return f"{flag}: {kind} {count} of [{taken}], else {action.default}{need}"


def lines_of(stage):
    actions = [action for action in parser_of(stage)._actions if action.dest != "help"]
    return [f"{stage}.py {described(action)}" for action in actions]


@pytest.mark.parametrize("stage", STAGES)
def test_flags_are_the_recorded_ones(stage):
    recorded = (ROOT / "tests" / "flags.txt").read_text(encoding="utf-8").splitlines()
    assert lines_of(stage) == [line for line in recorded if line.startswith(f"{stage}.py ")]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for stage in STAGES:
        print("\n".join(lines_of(stage)))
