"""Where a model comes from, and what that cost: the records of its runs, back to the prompts.

No record is trusted further than it goes: a hub name has none, and its cost is not in any sum.
"""

from pathlib import Path

from posttrain.hashing import digest
from posttrain.run.folder import read_run


def lineage(name, until=None):
    """Records (run.json) of the runs that made a model or file, the newest first, each once.

    [] for what no run of ours made. An input that has changed since, by its hash, is not followed:
    what made it then is not known. Relative paths are those of the folder where the run was
    started. until: a model whose own making is left out (the baseline, whose cost was spent
    before).
    """
    baseline = Path(until).resolve() if until else None
    records = {}  # model or file -> record of the run that made it
    # Still to be looked at: (path, the folder that it is relative to, its hash when it was read).
    todo = [(name, Path(), None)]
    while todo:
        path, folder, hash_when_read = todo.pop()
        path = folder / path
        place, record = _record_of(path)
        if not record or path.resolve() == baseline or path.resolve() in records:
            continue
        if hash_when_read and digest(path) != hash_when_read:
            continue

        record_path = str(place.resolve())
        records[path.resolve()] = record | {"path": record_path}
        folder = start_folder(record_path, record["path"], folder)
        # What is put in last is taken out first, so the first input is followed to its end, then
        # the second.
        for input_path, input_hash in reversed(record["inputs"].items()):
            todo.append((input_path, folder, input_hash))

    # A run may have made several of the files.
    by_run = {record["path"]: record for record in records.values()}
    return list(by_run.values())


def _record_of(path):
    """(place, record) of the run that made a model folder or file; (None, {}) where there is none.

    The record lies in the run's folder, or beside a single file under its name.
    """
    places = [path / "run.json"]
    if path.suffix == ".jsonl":
        places = [path.with_suffix(".run.json"), path.parent / "run.json"]
    for place in places:
        record = read_run(place)
        if record:
            return place, record
    return None, {}


def start_folder(record_path, path_when_written, default):
    """The folder where a run was started, to which the paths in its record are relative.

    record_path: where the record lies now, in full. If that ends with the path under which it was
    written, the folder is what comes before. Otherwise, and for a full path, the record does not
    tell: then it is `default`, the folder of the run that read what this run made.
    """
    if not record_path.endswith(path_when_written):
        return default
    return Path(record_path.removesuffix(path_when_written) or default)


def returned(candidate, baseline, points, winrate_points):
    """What the step from baseline to candidate brought for what it cost; None for an unknown cost.

    points: change of the mean over all slices. winrate_points: how far above 50 %, or None. Money
    (in the currency of the prices) and hours are those of all runs between the two models.
    """
    records = lineage(candidate, until=baseline)
    spent = sum(record.get("cost") or 0.0 for record in records)
    hours = sum(record.get("seconds") or 0.0 for record in records) / 3600
    if not hours:
        return None
    points_per_money = None
    winrate_per_money = None
    if spent:
        points_per_money = points / spent
        if winrate_points is not None:
            winrate_per_money = winrate_points / spent
    return {
        "spent": spent,
        "gpu_hours": hours,
        "points": points,
        "winrate_points": winrate_points,
        "points_per_money": points_per_money,
        "points_per_hour": points / hours,
        "winrate_per_money": winrate_per_money,
    }


def story(name):
    """One line: the stages that made a model, the newest first, with the hash of what each read."""
    stages = []
    for record in lineage(name):
        stage = record["script"].removesuffix(".py")
        inputs = [f"{Path(path).name} {hash_}" for path, hash_ in record["inputs"].items()]
        stages.append(f"{stage} ({', '.join(inputs)})")
    return " <- ".join(stages) or "no run of ours"
