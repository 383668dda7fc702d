"""What is said of SFT data before it is learned: lengths, copies, empty answers, hedges."""

from posttrain.train.report import HEDGES, data_report, opening_hedge


def row(prompt, answer, **more):
    completion = [{"role": "assistant", "content": answer} | more]
    return {"prompt": [{"role": "user", "content": prompt}], "completion": completion}


def test_lengths_copies_and_empty_answers():
    """Ten answers of 1 to 8 words, one empty, and one that is a call and no text."""
    rows = [row(f"q{n}", "word " * n) for n in range(1, 9)]
    rows += [row("q8", "word " * 8), row("q8", " "), row("call", "", tool_calls=[{}])]
    first, second = data_report(rows)
    assert first == (
        "report   words per answer: median 4, 90 % below 8, longest 8; "
        "1 exact duplicates, 2 repeated prompts, 1 empty answers"
    )
    assert second == "report   0 answers open with a hedge"


def test_hedges_are_counted_the_most_frequent_shown():
    openers = [hedge for n, hedge in enumerate(HEDGES[:4]) for _ in range(4 - n)]
    rows = [row(f"q{n}", f"{hedge.upper()} so.") for n, hedge in enumerate(openers)]
    _, line = data_report([*rows, row("q", "No hedge.")])
    shown = ", ".join(f"'{hedge}' {4 - n}" for n, hedge in enumerate(HEDGES[:3]))
    assert line == f"report   10 answers open with a hedge ({shown})"
    assert opening_hedge("So.") is None
    assert data_report([row("q", "Sure.")])[1].startswith("report   1 answers open with a hedge")
