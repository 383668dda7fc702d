"""Which rows each optimiser step reads, and which are held out."""

import random

from posttrain.cli import BadInput
from posttrain.hashing import seed_for

HELD_OUT_MOST = 64  # rows: enough for a curve, cheap enough to be scored five times a run
HELD_OUT_LEAST = 8  # fewer would say nothing


def hold_out(rows, share, seed):
    """(training rows, held-out rows): about `share` of the rows, whole prompts drawn by their hash.

    At most HELD_OUT_MOST rows; none at all if they would be fewer than HELD_OUT_LEAST.
    """
    limit = min(HELD_OUT_MOST, round(share * len(rows)))
    numbers_of_prompt = {}
    for number, row in enumerate(rows):
        key = seed_for("hold out", seed, row["prompt"])
        numbers_of_prompt.setdefault(key, []).append(number)

    held = set()
    for _, numbers in sorted(numbers_of_prompt.items()):
        if len(held) + len(numbers) <= limit:
            held.update(numbers)
    if len(held) < HELD_OUT_LEAST:
        held = set()

    training_rows = [row for number, row in enumerate(rows) if number not in held]
    held_rows = [row for number, row in enumerate(rows) if number in held]
    return training_rows, held_rows


def batches(rows, batch_size, epochs, seed, *, max_steps=None):
    """Row numbers of every optimiser step, a pure function of its arguments.

    An epoch has ceil(rows / batch_size) steps. A file of weight w gives w times its rows to an
    epoch (whole copies and a random rest), spread evenly, so that every batch has the mixture.
    BadInput for a file that would give less than one row.
    """
    numbers_of_source = {}
    for number, row in enumerate(rows):
        numbers_of_source.setdefault(row["source"], []).append(number)

    steps = []
    for epoch in range(epochs):
        rng = random.Random(seed_for("order", seed, epoch))
        order = epoch_order(numbers_of_source, rng)
        for start in range(0, len(order), batch_size):
            steps.append(order[start : start + batch_size])

    drawn = set()
    for step in steps:
        drawn.update(rows[number]["source"] for number in step)
    refuse_undrawn(numbers_of_source, drawn)
    return steps[:max_steps]


def epoch_order(numbers_of_source, rng):
    """Row numbers of one epoch: each source's rows in random order, spread evenly over it."""
    placed = []  # (place from 0 to 1, row number)
    for source, numbers in sorted(numbers_of_source.items()):
        copies = numbers * int(source.weight)
        rest = rng.sample(numbers, round(len(numbers) * (source.weight % 1)))
        picks = copies + rest
        rng.shuffle(picks)
        for k, number in enumerate(picks):
            placed.append(((k + rng.random()) / len(picks), number))
    return [number for _, number in sorted(placed)]


def refuse_undrawn(numbers_of_source, drawn):
    """BadInput when a source of --data was never drawn."""
    missing = numbers_of_source.keys() - drawn
    if not missing:
        return
    source = min(missing)
    place = f"file {source.file + 1} of --data"
    if source.slice:
        place += f", slice {source.slice}"
    count = len(numbers_of_source[source])
    raise BadInput(
        f"{place}: {count} rows at weight {source.weight:g} are less than one a pass: raise the "
        "weight or --epochs"
    )


def rows_used(rows, steps):
    """The rows that some step reads, in their order: others need no reference."""
    numbers = set()
    for step in steps:
        numbers.update(step)
    return [rows[number] for number in sorted(numbers)]
