"""Records of one file or of a data set of the hub, as message lists."""

from collections import Counter
from itertools import islice
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.hashing import seed_for
from posttrain.records.jsonl import read_jsonl
from posttrain.records.layouts import VALUE_CHECKS, VERIFIER_FIELDS, normalise
from posttrain.records.table_values import plain_row

# Columns whose null says something: leave this answer out; no call is right (if there are tools).
NULL_HAS_MEANING = ("label_chosen", "label_rejected", "call", "tools")
# Columns that something reads. NaN in any other is the null of a table.
FIELDS_READ = frozenset(
    [
        *[field for field, _, _ in VALUE_CHECKS],
        *VERIFIER_FIELDS,
        *NULL_HAS_MEANING,
        *("prompt", "messages", "conversations", "completion", "response", "chosen", "rejected"),
    ]
)
# Files of tables -> what the library `datasets` calls them.
TABLE_FILES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".arrow": "arrow"}
MOST_KEYS = 8  # that a note names, of each kind


def read_records(path, kind, limit=None, *, check=None):
    """Normalised records of a JSONL file or of hf:name[[:config]:split].

    kind: as in layouts.normalise. limit: only so many rows are read. `id` is filled in where it is
    absent. It must be unique where later stages find a row by it: among prompts, and together with
    `candidate` among candidates. check(record), if there is one, raises BadInput for a record that
    the caller cannot use. BadInput names file:line and field. One line is printed of the keys that
    nothing reads.
    """
    source = str(path)
    if source.startswith("hf:"):
        numbered_rows = _read_hub(source.removeprefix("hf:"), limit)
    else:
        numbered_rows = read_jsonl(path, limit)

    records = []
    seen = set()
    unread = Counter()
    for number, row in numbered_rows:
        place = f"{source}:{number}"
        record = _read_row(row, kind, unread, place=place, check=check)
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
    note_unread(source, unread)
    return records


def _read_row(row, kind, unread, *, place, check):
    """The record that a row makes, checked. BadInput begins with the place."""
    try:
        record = normalise(row, kind, unread)
        if check:
            check(record)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    except RecursionError:
        raise BadInput(f"{place}: nested too deeply") from None
    return record


def note_unread(source, unread):
    """Print one line of the keys of a file that nothing reads. unread: see layouts.normalise."""
    if unread:
        print(f"note     {source}: nothing reads these {_name_keys(unread)}")


def _most_first(item):
    """Sorts the items of `unread` by their rows, and those with as many by name."""
    key, rows = item
    return -rows, key


def _name_keys(unread):
    """{(what they are of, key): rows} -> "keys of messages: vote (3 rows); fields: a (1 row)"."""
    names = {}
    for (what, key), rows in sorted(unread.items(), key=_most_first):
        count = "1 row" if rows == 1 else f"{rows:,} rows"
        names.setdefault(what, []).append(f"{' '.join(key.split())[:40]} ({count})")
    kinds = []
    for what in sorted(names, reverse=True):  # messages first
        shown = names[what][:MOST_KEYS]
        if len(names[what]) > MOST_KEYS:
            shown.append(f"and {len(names[what]) - MOST_KEYS} more")
        kinds.append(f"{what}: {', '.join(shown)}")
    return "; ".join(kinds)


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
    """Yield (row number, row) in plain JSON. A column that is empty in a row is left out.

    BadInput names the row and the column that no record can hold.
    """
    rows = islice(hub_rows(name), limit)
    number = 0
    while True:
        number += 1
        try:
            columns = plain_row(next(rows), FIELDS_READ)
        except StopIteration:
            return
        except BadInput as error:
            raise BadInput(f"hf:{name}:{number}: {error}") from None
        except Exception as error:  # a picture or a sound that no library here can decode
            raise BadInput(
                f"hf:{name}:{number}: cannot be read ({type(error).__name__}: {str(error)[:160]}); "
                "remove columns that are not needed"
            ) from None
        yield number, _without_empty(columns)


def _without_empty(columns):
    """The columns of a row that have a value, or whose null says something."""
    row = {}
    for field, value in columns.items():
        if value is not None or field in NULL_HAS_MEANING:
            row[field] = value
    if row.get("call") is None and row.get("tools") is None:
        row.pop("call", None)
    return row


def hub_rows(name):
    """Rows of NAME[[:CONFIG]:SPLIT].

    NAME is a data set of the hub, a folder of save_to_disk, or a file or folder of tables.
    """
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
        data = data[split] if isinstance(data, datasets.DatasetDict) else data
        return data.with_format(None)  # it may have been saved for another library than Python's
    if folder.is_file() and folder.suffix in TABLE_FILES:
        return datasets.load_dataset(TABLE_FILES[folder.suffix], data_files=name, split=split)
    return datasets.load_dataset(name, config, split=split)
