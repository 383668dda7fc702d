"""--data FILE=WEIGHT ...: several files, weighted by file and by slice."""

import math
from typing import NamedTuple

from posttrain.cli import BadInput
from posttrain.records.files import read_records


class Source(NamedTuple):
    """Where a row comes from, for the sampler: rows of the same source are drawn equally often."""

    file: int  # number of the file on the command line, counted from 0
    slice: str  # one that --slice-weight names; "" for all others of the file
    weight: float  # draws of each row an epoch: weight of the file x weight of the slice


def read_mixture(specs, kind, limit=None, slices=()):
    """Rows of --data FILE[=WEIGHT] ...; row["source"], a Source, tells the sampler the mixture.

    specs: FILE or FILE=WEIGHT. kind: as in layouts.normalise. limit: rows of each file. slices:
    SLICE=WEIGHT, which multiplies the weight of the file. A row without `weight` or `slice` gets
    1.0 and "all". BadInput for a slice that no row has.
    """
    slice_weights = _read_slice_weights(slices or ())
    rows = []
    for file_number, spec in enumerate(specs):
        path, file_weight = split_weight(spec)
        for record in read_records(path, kind, limit):
            row = {"weight": 1.0, "slice": "all"} | record
            weighted_slice = row["slice"] if row["slice"] in slice_weights else ""
            weight = file_weight * slice_weights.get(weighted_slice, 1.0)
            rows.append(row | {"source": Source(file_number, weighted_slice, weight)})

    slices_of_data = {row["slice"] for row in rows}
    unknown = slice_weights.keys() - slices_of_data
    if unknown:
        raise BadInput(
            f"--slice-weight: no row has the slice {', '.join(sorted(unknown))} (the data has "
            f"{', '.join(sorted(slices_of_data))})"
        )
    return rows


def _read_slice_weights(specs):
    """["SLICE=WEIGHT", ...] -> {slice: weight}."""
    if not all("=" in spec for spec in specs):
        raise BadInput("--slice-weight: expected SLICE=WEIGHT, for instance tools=2")
    return dict(split_weight(spec, "--slice-weight") for spec in specs)


def split_weight(spec, flag="--data"):
    """FILE=2 -> ("FILE", 2.0); FILE -> ("FILE", 1.0).

    What follows the last = is a weight only if it is a number. flag: for BadInput.
    """
    name, _, text = spec.rpartition("=")
    try:
        weight = float(text)
    except ValueError:  # a file whose name has an equals sign in it
        return spec, 1.0
    if not name:  # "2" is a file
        return spec, 1.0
    if not 0 < weight < math.inf:
        raise BadInput(f"{flag} {spec}: the weight must be a number above 0")
    return name, weight
