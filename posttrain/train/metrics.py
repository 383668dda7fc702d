"""What a step's line in the log says: sums over packs, by slice, and the means they give."""

import math
from collections import Counter

import torch

from posttrain.processes import summed


def tally(pack, losses, weights, metrics):
    """Sums over a pack of rows: {(slice, name): sum}, and {(slice, name, "rows"): rows counted}.

    losses, weights and the values of the dict `metrics` are tensors [rows]; NaN says that a metric
    is not for this row. Rows of weight 0, which only fill up packs, do not count.
    """
    columns = {"loss": weights * losses, "weight": weights, **metrics}
    stacked = torch.stack([values.detach().double() for values in columns.values()])
    table = stacked.tolist()  # one wait for the GPU instead of one for each number
    sums = Counter()
    for name, values in zip(columns, table):
        for row, value in zip(pack, values):
            if row.get("weight") != 0 and not math.isnan(value):
                slice_name = row.get("slice", "all")
                sums[slice_name, name] += value
                sums[slice_name, name, "rows"] += 1
    return sums


def means(sums):
    """tally's sums -> {name: mean over rows}; with several slices also {"slices": {slice: {...}}}.

    The loss is the mean by weight, as it is trained. Entries under the slice None belong to the
    batch as a whole: they are left to the trainer that put them there.
    """
    slices = sorted({key[0] for key in sums} - {None}, key=str)
    values = slice_means(sums, slices)
    if len(slices) > 1:
        values["slices"] = {name: slice_means(sums, [name]) for name in slices}
    return values


def slice_means(sums, slices):
    """{name: mean} over the rows of these slices."""
    totals, counts = Counter(), Counter()
    for key, value in sums.items():
        slice_name, name = key[0], key[1]
        if slice_name in slices:
            is_count = len(key) == 3
            if is_count:
                counts[name] += value
            else:
                totals[name] += value
    values = {"loss": totals["loss"] / totals["weight"]}
    for name, total in totals.items():
        if name not in ("loss", "weight"):
            values[name] = total / counts[name]
    return values


def batch_means(sums):
    """means of a batch that several processes have read together."""
    return means(summed(sums))
