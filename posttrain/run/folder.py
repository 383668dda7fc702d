"""Run records (run.json): what was done, with what, at what cost; how a killed run continues."""

import json
import sys
from pathlib import Path

import torch

from posttrain.cli import BadInput
from posttrain.hashing import digest
from posttrain.records.jsonl import write_whole


def start_run(out, script, arguments, inputs):
    """Open the record of a run, or continue it. `out` is the output file or folder; `inputs` are paths, hashed.

    Returns the record; record["finished"] says that nothing is left to do. BadInput when `out` was made with other
    arguments or inputs: continuing would mix two runs. A run that never got to its first result starts anew."""
    out = Path(out)
    is_file = out.suffix == ".jsonl"
    path = out.with_suffix(".run.json") if is_file else out / "run.json"
    free = ("out", "plan", "show_mask", "selfcheck", "track", "save_every",
            "tokens_per_second", "answer_len", "price_gen", "price_judge",
            "price_gpu_hour")  # what may change between two halves of a run
    new = {"script": script, "inputs": {path: digest(path) for path in map(str, inputs)},
           "arguments": json.loads(json.dumps({k: v for k, v in arguments.items() if k not in free}))}
    begun = [out] if out.is_file() else [p for p in out.iterdir() if p.name not in (
        "run.json", "run.json.tmp", "ref_logps.jsonl", "log.jsonl", "tracker")] if out.is_dir() else []
    old = read_run(path)
    if old and (begun or old["finished"]):
        for part in new:
            if old.get(part) != new[part]:
                keys = new[part] if isinstance(new[part], dict) else {part: 0}
                changed = [k for k in keys if part == "script" or old[part].get(k) != new[part][k]] or [part]
                raise BadInput(f"{out} was made with other {part} ({', '.join(changed)}): take another --out")
        return old | {"path": str(path)}  # a folder may have been renamed since
    if begun or (path.exists() and not old):
        raise BadInput(f"{out} exists and is not a run of this kit: take another --out")
    import peft
    import transformers

    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
                "peft": peft.__version__}
    record = new | {"path": str(path), "versions": versions, "finished": False, "seconds": 0.0}
    save_run(record)
    return record


def read_run(path):
    """The run record at `path`; {} when there is none of ours."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return record if record["script"] and isinstance(record["finished"], bool) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save_run(record, **measured):
    """Store what is known so far. Called after each batch, so that seconds and tokens survive a kill."""
    record.update(measured)
    write_whole(record["path"], json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def runs_beside(out):
    """Finished run records next to `out`, oldest first; each knows its folder or file as record["path"]."""
    beside = Path(out).parent
    paths = sorted([*beside.glob("*.run.json"), *beside.glob("*/run.json")], key=lambda p: (p.stat().st_mtime, p))
    return [record | {"path": str(path)} for path, record in zip(paths, map(read_run, paths)) if record.get("finished")]
