"""Records of one file or of a data set of the hub, as message lists."""

from itertools import islice
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.hashing import seed_for
from posttrain.records.jsonl import read_jsonl
from posttrain.records.layouts import normalise

NULL_HAS_MEANING = ("label_chosen", "label_rejected")  # null: leave this answer out


def read_records(path, kind, limit=None):
    """Normalised records of a JSONL file or of hf:name[[:config]:split].

    kind: as in layouts.normalise. limit: only so many rows are read. `id` is filled in where it is
    absent. It must be unique where later stages find a row by it: among prompts, and together with
    `candidate` among candidates. BadInput names file:line and field.
    """
    source = str(path)
    if source.startswith("hf:"):
        numbered_rows = _read_hub(source.removeprefix("hf:"), limit)
    else:
        numbered_rows = read_jsonl(path, limit)

    records = []
    seen = set()
    for number, row in numbered_rows:
        place = f"{source}:{number}"
        try:
            record = normalise(row, kind)
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from None
        if "id" not in record:
            record["id"] = _new_id(record, kind, Path(source).stem, number)
        if kind in ("prompts", "candidates"):
            key = _key(record, kind, number)
            if key in seen:
                raise BadInput(
                    f"{place}: field 'id': {record['id']!r} occurs twice; ids must be unique"
                )
            seen.add(key)
        records.append(record)
    if not records:
        raise BadInput(f"{source}: no records")
    return records


def _new_id(record, kind, file_name, number):
    """An id from the line number; for candidates from the prompt, since its answers share an id."""
    if kind == "candidates":
        prompt_hash = f"{seed_for(record['prompt']):x}"[:10]
        return f"{file_name}-{prompt_hash}"
    return f"{file_name}-{number}"


def _key(record, kind, number):
    """What no second record of the file may have."""
    if kind == "candidates":
        return record["id"], record.get("candidate", number)
    return record["id"]


# ---- data sets of the hub ------------------------------------------------------------------------


def _read_hub(name, limit):
    """[(row number, row), ...], like read_jsonl. A column that is empty in a row is left out."""
    numbered_rows = []
    for number, columns in enumerate(islice(hub_rows(name), limit), 1):
        row = {}
        for field, value in columns.items():
            if value is not None or field in NULL_HAS_MEANING:
                row[field] = value
        numbered_rows.append((number, row))
    return numbered_rows


def hub_rows(name):
    """Rows of NAME[[:CONFIG]:SPLIT]; NAME is a data set of the hub or a folder of save_to_disk."""
    name, _, rest = name.partition(":")
    config, _, split = rest.rpartition(":")
    try:
        return _load_data_set(name, config or None, split or "train")
    except Exception as error:  # of a dozen kinds: no network, no such name, no such split
        raise BadInput(
            f"hf:{name}: cannot be loaded ({type(error).__name__}: {str(error)[:160]})"
        ) from None


def _load_data_set(name, config, split):
    """One split of a data set, as the library `datasets` loads it."""
    import datasets

    folder = Path(name)
    saved_to_disk = (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()
    if saved_to_disk:
        data = datasets.load_from_disk(name)
        return data[split] if isinstance(data, datasets.DatasetDict) else data
    return datasets.load_dataset(name, config, split=split)
