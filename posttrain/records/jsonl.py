"""JSONL files: read with file:line in every complaint, written whole, or appended and continued."""

import json
import os
import re
from pathlib import Path

from posttrain.cli import BadInput

# Bytes of a JSONL line: a file without line breaks is refused before it fills the memory.
MAX_LINE = 1 << 24


# ---- reading -------------------------------------------------------------------------------------


def read_jsonl(path, limit=None, *, allow_nan=False):
    """[(line number, row), ...] of a JSONL file: stream_jsonl, held in memory."""
    return list(stream_jsonl(path, limit, allow_nan=allow_nan))


def stream_jsonl(path, limit=None, *, allow_nan=False):
    """Yield (line number, row) of a JSONL file, so that one row is in memory at a time.

    limit: only so many rows; the rest of the file is not read. Blank lines are skipped, but they
    count as lines. BadInput names file:line; NaN and Infinity are refused, unless allow_nan: then
    whoever reads a field refuses them there.
    """
    path = Path(path)
    if not path.is_file():
        why = "a folder or device, expected a file" if path.exists() else "no such file"
        raise BadInput(f"{path}: {why}")

    rows = 0
    with open(path, "rb") as file:
        for number, line in enumerate(_lines(file), 1):
            place = f"{path}:{number}"
            if len(line) > MAX_LINE:
                raise BadInput(
                    f"{place}: a line of more than {MAX_LINE >> 20} MiB; expected one record a line"
                )
            if not line.strip():
                continue
            if rows == limit:
                break
            rows += 1
            yield number, _parse(line, place, allow_nan)


def _lines(file):
    """The lines of an open file as bytes; a line that is too long comes in pieces that are, too."""
    while line := file.readline(MAX_LINE + 1):
        yield line


def _parse(line, place, allow_nan):
    """One line, in bytes -> the JSON object in it."""
    try:
        row = parse_json(line.decode("utf-8-sig"), allow_nan=allow_nan)
    except RecursionError:
        raise BadInput(f"{place}: not a JSON object on one line (nested too deeply)") from None
    except ValueError as error:
        raise BadInput(f"{place}: not a JSON object on one line ({str(error)[:120]})") from None
    if not isinstance(row, dict):
        raise BadInput(f"{place}: expected a JSON object, got {type(row).__name__}")
    return row


def parse_json(text, *, allow_nan=False):
    """The value of a JSON text; ValueError or RecursionError for what is none.

    Python reads NaN, 1e999 and half a surrogate pair without complaint, but no other program would
    read them: they are refused.
    """
    value = json.loads(text)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=allow_nan).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair such as \\ud83d, which is no letter") from None
    except ValueError:
        raise ValueError("NaN or Infinity, which JSON has not: write null") from None
    return value


# ---- files that are written at once --------------------------------------------------------------


def write_jsonl(path, rows):
    """Write a derived file whole, then rename it: a reader never sees half of it."""
    write_whole(path, _as_jsonl(rows))


def _as_jsonl(rows):
    """Rows as text, one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_whole(path, text):
    """Replace `path` by `text` at once; a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # the text is on the disk before it gets its name
    os.replace(temporary, path)


# ---- files that grow batch by batch --------------------------------------------------------------


def append_lines(path, rows):
    """Append rows to a JSONL file. A kill inside leaves a torn line, which continue_lines cuts."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(_as_jsonl(rows))


def continue_lines(path, sizes):
    """Cut a killed run's output after its last complete batch -> the number of batches done.

    sizes: how many lines each batch writes, in order. A file that does not exist has no line yet.
    """
    path = Path(path)
    line_ends = []  # the offset behind each complete line, in bytes
    if path.exists():
        line_ends = [line_break.end() for line_break in re.finditer(b"\n", path.read_bytes())]

    batches = 0
    lines = 0
    while batches < len(sizes) and lines + sizes[batches] <= len(line_ends):
        lines += sizes[batches]
        batches += 1

    if path.exists():
        os.truncate(path, line_ends[lines - 1] if lines else 0)
    return batches
