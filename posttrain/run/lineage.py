"""Where a model comes from: the run records (run.json) of its stages, back to the prompts, and what they cost.

No record is trusted further than it goes: a hub name has none, and its cost is not in any sum.
"""

from pathlib import Path

from posttrain.hashing import digest
from posttrain.run.folder import read_run


def lineage(name, until=None):
    """Records of the runs that made a model or file, the newest first, each once; [] for what no run of ours made.

    An input that has changed since, by its hash, is not followed: what made it then is not known. Relative paths are
    those of the folder where the run was started. until: a model whose own making is left out (the baseline, whose cost
    was spent before)."""
    found, stop = {}, Path(until).resolve() if until else None

    def visit(path, root, hash=None):
        path = root / path
        places = [path.with_suffix(".run.json"), path.parent / "run.json"] if path.suffix == ".jsonl" else [
            path / "run.json"]
        place, record = next(((place, record) for place in places if (record := read_run(place))), (None, None))
        if not record or path.resolve() in (stop, *found) or hash and digest(path) != hash:
            return
        here = str(place.resolve())
        found[path.resolve()] = record | {"path": here}
        root = Path(here.removesuffix(record["path"]) or root) if here.endswith(record["path"]) else root
        for part, hash in record["inputs"].items():
            visit(part, root, hash)
    visit(name, Path())
    return [*{record["path"]: record for record in found.values()}.values()]


def returned(candidate, baseline, points, winrate_points):
    """What the step from baseline to candidate brought for what it cost, or None where no record says what it cost.
    points: of the mean over all slices; winrate_points: above 50 %, or None."""
    records = lineage(candidate, until=baseline)
    spent, hours = (sum(record.get(key) or 0.0 for record in records) for key in ("cost", "seconds"))
    hours /= 3600
    if not records or not hours:
        return None
    return {"spent": spent, "gpu_hours": hours, "points": points, "winrate_points": winrate_points,
            "points_per_money": points / spent if spent else None, "points_per_hour": points / hours,
            "winrate_per_money": winrate_points / spent if spent and winrate_points is not None else None}


def story(name):
    """One line: the stages that made a model, the newest first, with the hash of what each read."""
    return " <- ".join(record["script"].removesuffix(".py") + " (" + ", ".join(
        f"{Path(path).name} {hash}" for path, hash in record["inputs"].items()) + ")"
        for record in lineage(name)) or "no run of ours"
