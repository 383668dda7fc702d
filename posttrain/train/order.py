"""Which rows each optimiser step reads."""

import random

from posttrain.cli import BadInput
from posttrain.hashing import seed_for


def batches(rows, batch_size, epochs, seed, max_steps=None):
    """Row numbers of every optimiser step: ceil(rows / batch_size) steps an epoch, a pure function of its arguments.

    A file of weight w gives w times its rows to an epoch (whole copies and a random rest), spread evenly, so that every
    batch is drawn to the mixture."""
    sources = {}
    for number, row in enumerate(rows):
        sources.setdefault(row["source"], []).append(number)
    steps = []
    for epoch in range(epochs):
        rng, keyed = random.Random(seed_for("order", seed, epoch)), []
        for (*_, weight), members in sorted(sources.items()):
            picks = members * int(weight) + rng.sample(members, round(len(members) * (weight % 1)))
            rng.shuffle(picks)
            keyed += [((k + rng.random()) / len(picks), number) for k, number in enumerate(picks)]
        order = [number for _, number in sorted(keyed)]
        steps += [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
    drawn = {rows[n]["source"] for step in steps for n in step}
    if len(drawn) < len(sources):
        number, name, weight = min(sources.keys() - drawn)
        count = len(sources[number, name, weight])
        raise BadInput(f"file {number + 1} of --data{f', slice {name}' if name else ''}: {count} rows at weight "
                       f"{weight:g} are less than one a pass: raise the weight or --epochs")
    return steps[:max_steps]
