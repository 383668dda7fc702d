"""Records of one file or of a data set of the hub, normalised."""

from pathlib import Path

from posttrain.cli import BadInput
from posttrain.hashing import seed_for
from posttrain.records.jsonl import read_jsonl
from posttrain.records.layouts import normalise


def read_records(path, kind, limit=None):
    """Normalised rows of a JSONL file or of hf:name[[:config]:split]; `id` is filled in where absent, and unique."""
    where, rows, seen = str(path), [], set()
    if where.startswith("hf:"):
        raw = [(n, {k: v for k, v in row.items() if v is not None or k in ("label_chosen", "label_rejected")})
               for n, row in enumerate(hub_rows(where[3:]), 1)]
    else:
        raw = read_jsonl(path, limit)
    for number, row in raw[:limit]:
        try:
            row = normalise(row, kind)
        except BadInput as error:
            raise BadInput(f"{where}:{number}: {error}") from None
        # answers to one prompt share its id
        mark = f"{seed_for(row['prompt']):x}"[:10] if kind == "candidates" else number
        row.setdefault("id", f"{Path(where).stem}-{mark}")
        key = (row["id"], row.get("candidate", number)) if kind == "candidates" else row["id"]
        if kind in ("prompts", "candidates") and key in seen:
            raise BadInput(f"{where}:{number}: field 'id': {row['id']!r} occurs twice; ids must be unique")
        seen.add(key)
        rows.append(row)
    if not rows:
        raise BadInput(f"{where}: no records")
    return rows


def hub_rows(name):
    """Rows of NAME[[:CONFIG]:SPLIT], a data set of the hub or a local folder of the library `datasets`."""
    import datasets

    name, _, rest = name.partition(":")
    config, _, split = rest.rpartition(":")
    try:
        if (Path(name) / "state.json").exists() or (Path(name) / "dataset_dict.json").exists():
            data = datasets.load_from_disk(name)
            return data[split or "train"] if isinstance(data, datasets.DatasetDict) else data
        return datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the library raises a dozen kinds: no network, no such name, no such split
        raise BadInput(f"hf:{name}: cannot be loaded ({type(error).__name__}: {str(error)[:160]})") from None
