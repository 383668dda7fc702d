"""Checks of your own, for judge.py and gate.py with `--verifiers data/my_checks.py`.

Each function checks the field of its name, in every row of prompts, candidates or a gate suite that
has the field, beside whatever else the row has:

    {"prompt": "When did it open? Answer as YYYY-MM-DD.", "regex": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}

It gets the answer's text and the field's value, and `row`, the whole record, if it asks for it.
True: right. False: wrong. None: cannot tell; then the judge decides in judge.py, and in gate.py the
item has no score.
"""

import re


def regex(text, value):
    """The pattern describes the whole answer."""
    return re.fullmatch(value, text.strip()) is not None


def shorter(text, value, row):
    """{"shorter": 0.5}: at most half as long as the request. A short request decides nothing."""
    request = row["prompt"][-1]["content"]
    if len(request) < 200:
        return None
    return len(text) <= value * len(request)
