"""JSONL files: read with file and line in every complaint, written whole, or appended and continued."""

import json
import os
import re
from pathlib import Path

from posttrain.cli import BadInput

MAX_LINE = 1 << 24  # bytes of a JSONL line: a file without line breaks is refused before it fills the memory


def read_jsonl(path, limit=None):
    """[(line number, row), ...] of a JSONL file, of its first `limit` rows when given: the rest is not read. BadInput
    names file:line; NaN and Infinity are refused."""
    path, rows = Path(path), []
    if not path.is_file():
        raise BadInput(f"{path}: {'a folder or device, expected a file' if path.exists() else 'no such file'}")
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise BadInput(f"{path}:{number}: a line of more than {MAX_LINE >> 20} MiB; expected one record a line")
            if not line.strip():
                continue
            if len(rows) == limit:
                break
            try:
                row = json.loads(line.decode("utf-8-sig"))
                json.dumps(row, ensure_ascii=False, allow_nan=False).encode()  # NaN, 1e999, lone surrogates
            except (ValueError, RecursionError) as error:
                why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
                raise BadInput(f"{path}:{number}: not a JSON object on one line ({why})") from None
            if not isinstance(row, dict):
                raise BadInput(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
            rows.append((number, row))
    return rows


def write_jsonl(path, rows):
    """Write a derived file whole, then rename it: a reader never sees half of it."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_whole(path, text):
    """Replace `path` by `text` at once; a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def continue_lines(path, sizes):
    """Cut a killed run's output after its last complete batch -> number of batches done. sizes: lines of each batch."""
    path = Path(path)
    ends = [found.end() for found in re.finditer(b"\n", path.read_bytes())] if path.exists() else []
    done, lines = 0, 0
    while done < len(sizes) and lines + sizes[done] <= len(ends):
        lines, done = lines + sizes[done], done + 1
    if path.exists():
        os.truncate(path, ends[lines - 1] if lines else 0)
    return done


def append_lines(path, rows):
    """Append rows to a JSONL file. A kill inside leaves a torn line, which continue_lines cuts."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
