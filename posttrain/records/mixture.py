"""--data FILE=WEIGHT ...: several files, weighted by file and by slice."""

import math

from posttrain.cli import BadInput
from posttrain.records.files import read_records


def read_mixture(specs, kind, limit=None, slices=()):
    """Rows of --data FILE[=WEIGHT] ...; row["source"] = (file, slice or "", weight) tells the sampler the mixture: rows
    of one source are drawn `weight` times an epoch. slices: NAME=WEIGHT, multiplied with the file's. BadInput for a
    name that no row has."""
    if not all("=" in spec for spec in slices or ()):
        raise BadInput("--slice-weight: expected SLICE=WEIGHT, for instance tools=2")
    rows, by_slice = [], dict(split_weight(spec, "--slice-weight") for spec in slices or ())
    for number, spec in enumerate(specs):
        path, weight = split_weight(spec)
        for row in read_records(path, kind, limit):
            row = {"weight": 1.0, "slice": "all"} | row
            named = row["slice"] if row["slice"] in by_slice else ""
            rows.append(row | {"source": (number, named, weight * by_slice.get(named, 1.0))})
    unknown = by_slice.keys() - {row["slice"] for row in rows}
    if unknown:
        raise BadInput(f"--slice-weight: no row has the slice {', '.join(sorted(unknown))} (the data has "
                       f"{', '.join(sorted({row['slice'] for row in rows}))})")
    return rows


def split_weight(spec, flag="--data"):
    """"FILE=2" -> ("FILE", 2.0); "FILE" -> ("FILE", 1.0)."""
    path, _, weight = spec.rpartition("=")
    try:
        weight = float(weight) if path else None
    except ValueError:
        weight = None
    if weight is not None and not 0 < weight < math.inf:
        raise BadInput(f"{flag} {spec}: the weight must be a number above 0")
    return (path, weight) if weight is not None else (spec, 1.0)
