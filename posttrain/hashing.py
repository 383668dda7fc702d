"""Hashes that stay the same between processes and machines: of files, and of what seeds a draw."""

import hashlib
import json
from pathlib import Path

MIB = 1 << 20
LARGE_FILE = 64 * MIB  # bytes; of a larger file only samples are hashed
SAMPLE = MIB // 16  # bytes that are read of each MiB of a large file


def digest(path):
    """Short sha256 (16 hex digits) of a file or folder: it tells whether an input has changed.

    A data set in a local folder, `hf:folder` or `hf:folder:split`, is hashed as its folder. What
    does not lie on this disk, such as the hub name of a model, stands for itself. Of files above
    64 MiB only the size and the first 64 KiB of every MiB are hashed: gigabytes of weights should
    take seconds.
    """
    name = str(path).removeprefix("hf:")
    path = Path(name)
    if not path.exists():
        path = Path(name.partition(":")[0])  # without the split
    if not path.exists():
        return name

    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            _add_file(total, file, file.relative_to(path))
    else:
        _add_file(total, path, "")
    return total.hexdigest()[:16]


def _add_file(total, file, name):
    """Add a file's name, size and content to the hash `total`."""
    size = file.stat().st_size
    length = SAMPLE if size > LARGE_FILE else MIB
    with open(file, "rb") as f:
        total.update(f"{name}|{size}|".encode())
        for start in range(0, size, MIB):
            f.seek(start)
            total.update(f.read(length))


def seed_for(*parts):
    """A 63-bit seed that depends on all `parts` and on nothing else.

    Python's own hash() of a text differs from process to process, so a run that continues could not
    repeat its draws.
    """
    first_bytes = hashlib.sha256(json.dumps(parts).encode()).digest()[:8]
    return int.from_bytes(first_bytes, "big") >> 1  # 63 bits: it fits a signed integer of 64
