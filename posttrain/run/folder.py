"""Run records (run.json): what was done, with what, at what cost; how a killed run continues."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.hashing import digest
from posttrain.records.jsonl import write_whole

# Arguments that may change between two halves of a run, since they do not change its result.
FREE_ARGUMENTS = {
    "out",
    "plan",
    "show_mask",
    "show_prompt",
    "selfcheck",
    "track",
    "save_every",
    "tokens_per_second",
    "answer_len",
    "price_gen",
    "price_judge",
    "price_gpu_hour",
}

# Files that a run writes before its first result; a run that has no other may start anew.
BEFORE_RESULTS = {"run.json", "run.json.tmp", "ref_logps.jsonl", "log.jsonl", "tracker"}

LIBRARIES = ("torch", "transformers", "peft")  # their versions are recorded


def start_run(out, script, arguments, inputs):
    """Open the record of a run, or continue it -> the record.

    out: the output, a .jsonl file or a folder. script: its file name. arguments: {name: value}.
    inputs: paths, which are hashed. record["finished"] says that nothing is left to do. A run that
    never got to its first result starts anew. BadInput when `out` was made with other arguments or
    inputs, since continuing would mix two runs, and when it is no run of ours.
    """
    out = Path(out)
    path = out.with_suffix(".run.json") if out.suffix == ".jsonl" else out / "run.json"
    new = {
        "script": script,
        "inputs": {name: digest(name) for name in map(str, inputs)},
        "arguments": _recorded_arguments(arguments),
    }
    old = read_run(path)
    has_results = _has_results(out)

    # Continue a run of ours.
    if old and (has_results or old["finished"]):
        _refuse_other_run(out, old, new)
        return old | {"path": str(path)}  # the folder may have been renamed since

    # Start a run, but never over something else.
    is_foreign = path.exists() and not old
    if has_results or is_foreign:
        raise BadInput(f"{out} exists and is not a run of this kit: take another --out")
    record = new | {"path": str(path), "versions": _versions(), "finished": False, "seconds": 0.0}
    save_run(record)
    return record


def _recorded_arguments(arguments):
    """The arguments that make the result, as they will be read back from JSON."""
    fixed = {name: value for name, value in arguments.items() if name not in FREE_ARGUMENTS}
    return json.loads(json.dumps(fixed))


def _has_results(out):
    """Has a run written anything to `out` that must not be lost?"""
    if out.is_dir():
        return any(file.name not in BEFORE_RESULTS for file in out.iterdir())
    return out.is_file()


def _refuse_other_run(out, old, new):
    """BadInput that names what differs between the record of a run and what it would be now."""
    for section in ("script", "inputs", "arguments"):
        if old.get(section) == new[section]:
            continue
        names = [section]
        if section != "script":
            changed = [
                name for name, value in new[section].items() if old[section].get(name) != value
            ]
            names = changed or [section]  # none changed: then there were more of them before
        raise BadInput(
            f"{out} was made with other {section} ({', '.join(names)}): take another --out"
        )


def _versions():
    """Versions of Python and of the libraries. To load those for it would take seconds."""
    versions = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        versions[library] = version(library)
    return versions


def read_run(path):
    """The run record at `path`; {} when there is none of ours."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        is_ours = record["script"] and isinstance(record["finished"], bool)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return record if is_ours else {}


def save_run(record, **measured):
    """Store what is known so far: after each batch, so that seconds and tokens survive a kill."""
    record.update(measured)
    write_whole(record["path"], json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def runs_beside(out):
    """Records of finished runs next to `out`, oldest first; record["path"] is where each lies."""
    folder = Path(out).parent
    paths = [*folder.glob("*.run.json"), *folder.glob("*/run.json")]
    paths.sort(key=lambda path: (path.stat().st_mtime, path))
    records = []
    for path in paths:
        record = read_run(path)
        if record.get("finished"):
            records.append(record | {"path": str(path)})
    return records
