"""Sums of a batch's metrics by slice, and their means."""

import math
from collections import Counter

import torch


def tally(pack, losses, weights, metrics):
    """Sums over a pack by slice: {(slice, name): sum}. losses, weights and the metrics' values: [rows], NaN = not for
    this row. A metric's count goes under (slice, name, "rows"). Rows of weight 0, which packs adds, do not count."""
    sums, columns = Counter(), {"loss": weights * losses, "weight": weights, **metrics}
    table = torch.stack([values.detach().double() for values in columns.values()]).tolist()  # one wait for the GPU
    for name, values in zip(columns, table):
        for row, value in zip(pack, values):
            if row.get("weight", 1) and not math.isnan(value):
                sums[row.get("slice", "all"), name] += value
                sums[row.get("slice", "all"), name, "rows"] += 1
    return sums


def means(sums):
    """tally's sums as {name: mean}; more than one slice: also {"slices": {slice: {name: mean}}}. The loss is the mean
    by weight, as it is trained."""
    slices = sorted({key[0] for key in sums})

    def over(names):
        found = Counter()
        for key, value in sums.items():
            if key[0] in names:
                found[key[1:]] += value
        return {"loss": found["loss",] / found["weight",]} | {
            name[0]: value / found[name[0], "rows"] for name, value in found.items()
            if len(name) == 1 and name[0] not in ("loss", "weight")}
    return over(slices) | ({"slices": {name: over([name]) for name in slices}} if len(slices) > 1 else {})
