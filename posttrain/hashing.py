"""Hashes that stay the same between processes and machines: of files, and of what seeds a draw."""

import hashlib
import json
from pathlib import Path


def digest(path):
    """Short sha256 of a file or folder, hf:folder[:split] included (files above 64 MiB by size and 64 KiB of each MiB).
    A hub name stands for itself."""
    name = str(path).removeprefix("hf:")
    path, total = Path(name if Path(name).exists() else name.partition(":")[0]), hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files if path.exists() else []:
        size = file.stat().st_size
        with open(file, "rb") as f:
            total.update(f"{file.relative_to(path) if path.is_dir() else ''}|{size}|".encode())
            for at in range(0, size, 1 << 20):
                f.seek(at)
                total.update(f.read(1 << 20 if size <= 1 << 26 else 1 << 16))
    return total.hexdigest()[:16] if path.exists() else name


def seed_for(*parts):
    """A 63-bit seed that depends on all parts and on nothing else (Python's hash() changes between processes)."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1
