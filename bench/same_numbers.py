"""Does another checkout compute the same? Runs every stage on small fixed inputs in both and compares what they write.

Reads   data/tiny and data of this checkout; both checkouts work on the same copies of it.
Writes  nothing that stays, unless --keep names a folder.
Exits   0 all equal, 1 something differs (each difference is a line), 2 bad input.

    python bench/same_numbers.py ../before
    python bench/same_numbers.py ../before --only dpo,ipo --keep runs/same
    python bench/same_numbers.py runs/same/other              # what was kept, not run again

Compared byte for byte: adapters, reference log-probabilities, candidates, judged answers, pairs, labels, the gate's
answers and items, and what --show-mask and --plan print. Log lines and reports are compared value by value, without
seconds and what follows from them (speed, cost). It is the check between two steps of a refactoring: a stage that
computes something else on purpose shows up here, too, and then its lines are read one by one.
Left out on purpose: pictures, Markdown and HTML (they show the numbers compared here), endpoints, several processes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What follows from the clock, from where a run lies, or from how a script names its own flags.
VOLATILE = {
    "seconds",
    "cost",
    "path",
    "arguments",
    "inputs",
    "versions",
    "forecast",
    "latency",
    "returned",
}
VOLATILE |= {"cost_per_kept_pair", "provenance", "timed", "speed", "gpu_hours"}
# Files that show the numbers of other files, or that say when and where a run took place.
NOT_COMPARED = {".png", ".md", ".html"}

TRAIN = "--batch-size 16 --eval-every 3 --save-every 4 --tokens-per-second 7000"
PAIRS = f"--data runs/judged/pairs.jsonl {TRAIN}"
LABELS = f"--data runs/judged/labels.jsonl {TRAIN}"

# name: (words of the command, names of the runs it needs); a run writes runs/NAME or runs/NAME.jsonl
RUNS = {
    "sft": (
        "sft.py --model data/tiny/base --data data/tiny/sft.jsonl=1.5 --limit 160 --lr 2e-3 --slice-weight code=2 "
        + TRAIN,
        [],
    ),
    "turns": (
        f"sft.py --model runs/sft --data data/sft.jsonl --all-turns --max-steps 2 --max-dropped 1 {TRAIN}",
        ["sft"],
    ),
    "candidates": (
        "gen_candidates.py --model runs/sft --data data/tiny/prompts.jsonl --limit 160 --n 4 "
        "--temperatures 1.0 --max-tokens 40 --batch-size 160",
        ["sft"],
    ),
    "two": (
        "gen_candidates.py --model runs/sft data/tiny/base --data data/prompts.jsonl --limit 6 --n 4 "
        "--temperatures 0 0.8 --max-tokens 12 --batch-size 8 --refill 2",
        ["sft"],
    ),
    "judged": (
        "judge.py --judge data/tiny/judge --data runs/candidates.jsonl --constitution data/tiny/constitution.md "
        "--min-margin 0.3 --no-verify unsafe benign --more runs/more.jsonl",
        ["candidates"],
    ),
    "jury": (
        "judge.py --judge data/tiny/judge random --data runs/two.jsonl --constitution data/constitution.md "
        "--short --keep 0.5 --words data/words.md",
        ["two"],
    ),
    "dpo": (f"dpo.py --model runs/sft --lr 5e-4 --nll-weight 0.1 {PAIRS}", ["judged"]),
    "ipo": (
        f"dpo.py --model runs/sft --loss ipo --ref data/tiny/base --lr 5e-4 --label-smoothing 0.1 "
        f"--ipo-length sum --pack-tokens 512 {PAIRS}",
        ["judged"],
    ),
    "soft": (
        f"dpo.py --model data/tiny/base --soft-labels --selfcheck --max-steps 3 {PAIRS}",
        ["judged"],
    ),
    "kto": (f"kto.py --model runs/sft --lr 5e-4 --beta 0.3 --max-steps 8 {LABELS}", ["judged"]),
    "unary": (
        "kto.py --model runs/sft --ref data/tiny/base --max-steps 4 --pack-tokens 384 --desirable-weight 1.2 "
        f"--threshold 2.5 {TRAIN} --data runs/judged/judged.jsonl runs/judged/pairs.jsonl=0.5",
        ["judged"],
    ),
    "padded-sft": (
        f"sft.py --model models/padded --data data/tiny/sft.jsonl --limit 48 {TRAIN}",
        [],
    ),
    "padded-dpo": (
        f"dpo.py --model runs/padded-sft --max-steps 3 {PAIRS}",
        ["padded-sft", "judged"],
    ),
    "padded-kto": (
        f"kto.py --model runs/padded-sft --max-steps 3 {LABELS}",
        ["padded-sft", "judged"],
    ),
    "gate": (
        "gate.py --model runs/dpo --baseline runs/sft --suite data/tiny/gate --limit 32 --greedy --max-tokens 24 "
        "--batch-size 256 --policy policy.jsonl",
        ["dpo"],
    ),
    "mixed": (
        "gate.py --model runs/kto --baseline runs/sft --suite suite --judge data/tiny/judge "
        "--constitution data/tiny/constitution.md --max-tokens 16",
        ["kto"],
    ),
    "mask": (
        "dpo.py --model runs/sft --out runs/mask --show-mask --data runs/judged/pairs.jsonl",
        ["judged"],
    ),
    "plan": (
        "kto.py --model runs/sft --out runs/plan --plan --tokens-per-second 7000 --data runs/judged/labels.jsonl",
        ["judged"],
    ),
}
PRINTED = ("mask", "plan")  # these write nothing: their words are compared


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "other", help="folder of the other checkout, or of what it wrote and --keep kept"
    )
    p.add_argument("--only", help=f"comma-separated, with what they need; of {', '.join(RUNS)}")
    p.add_argument("--keep", help="folder to keep what both wrote, for a closer look")
    args = p.parse_args(argv)
    unknown = set((args.only or "").split(",")) - {*RUNS, ""}
    if unknown:
        p.error(f"--only: there is no run {', '.join(sorted(unknown))}")
    if not any((Path(args.other) / name).exists() for name in ("sft.py", "runs")):
        p.error(f"{args.other}: no sft.py and no runs in it: not a checkout, and nothing kept")
    return args


# ---- running -------------------------------------------------------------------------------------------------


def make_inputs(work):
    """Copies of the data, a small gate suite of every type of item, a policy, and a model that reads padded rows."""
    import torch
    import transformers

    skip = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(ROOT / "data", work / "data", ignore=skip)
    (work / "suite").mkdir()
    for name in ("choice", "requests", "twins", "tools", "canaries"):
        shutil.copy(ROOT / "data" / "gate" / f"{name}.jsonl", work / "suite")
    lines = (
        (ROOT / "data" / "tiny" / "gate" / "benign.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[:30]
    )
    items = [json.loads(line) for line in lines]
    judged = [
        {"id": f"j{item['id']}", "slice": "judged", "type": "judge", "prompt": item["prompt"]}
        for item in items
    ]
    text = "".join(json.dumps(item) + "\n" for item in judged)
    (work / "suite" / "judged.jsonl").write_text(text, encoding="utf-8")
    (work / "policy.jsonl").write_text(
        '{"slice": "code", "margin": 0.25, "min_n": 20}\n', encoding="utf-8"
    )

    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "data" / "tiny" / "base")
    torch.manual_seed(0)
    config = transformers.BloomConfig(
        vocab_size=len(tokenizer), hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2
    )
    transformers.BloomForCausalLM(config).save_pretrained(work / "models" / "padded")
    tokenizer.save_pretrained(work / "models" / "padded")


def wanted_runs(only):
    """Names of the runs to do, each behind those that it needs."""
    names = []

    def add(name):
        for needed in RUNS[name][1]:
            add(needed)
        if name not in names:
            names.append(name)

    for name in only.split(",") if only else RUNS:
        add(name)
    return names


def run_all(checkout, work, names):
    """Run the stages of one checkout in `work` -> {name: what it printed}. Ends the program when one fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}  # peft writes sets
    environment.pop("PYTHONPATH", None)
    printed = {}
    for name in names:
        script, *words = RUNS[name][0].split()
        command = [sys.executable, str(checkout / script), *words]
        if "--out" not in words:
            command += [
                "--out",
                f"runs/{name}.jsonl" if script == "gen_candidates.py" else f"runs/{name}",
            ]
        ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        verdicts = (0, 1, 3) if script == "gate.py" else (0,)
        if ended.returncode not in verdicts:
            print(
                f"{checkout}: {name} ended with {ended.returncode}:\n{ended.stderr[-2000:]}",
                file=sys.stderr,
            )
            os._exit(2)
        print(f"ran      {name:12} in {checkout}", flush=True)
        printed[name] = ended.stdout
    return printed


# ---- comparing -----------------------------------------------------------------------------------------------


def without_clock(value):
    """A value of a report or log line without what may differ between two runs of the same code."""
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [without_clock(part) for part in value]
    return value


def content(path, folder):
    """What is compared of a file: its bytes, or its values without the clock and without the name of `folder`."""
    if path.name == "log.jsonl":
        return [
            without_clock(json.loads(line))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
    if path.name in ("run.json", "report.json") or path.name.endswith(".run.json"):
        text = path.read_text(encoding="utf-8").replace(str(folder), "")
        return without_clock(json.loads(text))
    return path.read_bytes()


def first_difference(one, other, where=""):
    """A few words on the first place where two contents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if key not in one or key not in other:
                return f"{where}{key} stands in one of them only"
            if one[key] != other[key]:
                return first_difference(one[key], other[key], f"{where}{key}: ")
    if isinstance(one, list) and isinstance(other, list):
        for number, (a, b) in enumerate(zip(one, other)):
            if a != b:
                return first_difference(a, b, f"{where}{number + 1}: ")
        return f"{where}{len(one)} and {len(other)} entries"
    if isinstance(one, bytes) and isinstance(other, bytes):
        for number, (a, b) in enumerate(zip(one.splitlines(), other.splitlines())):
            if a != b:
                return f"{where}line {number + 1}: {a[:80]} and {b[:80]}"
        return f"{where}{len(one)} and {len(other)} bytes"
    return f"{where}{str(one)[:80]} and {str(other)[:80]}"


def run_of(path, folder):
    """The name of the run that wrote a file; --more of the judge lies beside its folder."""
    name = path.relative_to(folder / "runs").parts[0].split(".")[0]
    return {"more": "judged"}.get(name, name)


def compare(ours, theirs, names):
    """Lines that say what differs between two folders of runs, and the number of files that were compared."""
    files = {}
    for folder in (ours, theirs):
        paths = [path for path in (folder / "runs").rglob("*") if path.is_file()]
        paths = [path for path in paths if run_of(path, folder) in names]
        files[folder] = {
            path.relative_to(folder) for path in paths if path.suffix not in NOT_COMPARED
        }
    lines = [
        f"{path} is written by one checkout only" for path in sorted(files[ours] ^ files[theirs])
    ]
    both = sorted(files[ours] & files[theirs])
    for path in both:
        one, other = content(ours / path, ours), content(theirs / path, theirs)
        if one != other:
            lines.append(f"{path}: {first_difference(one, other)}")
    return lines, len(both)


def keep_printed(folder, printed):
    """What runs that write nothing printed, as files that are compared like all others."""
    for name in PRINTED:
        if name in printed:
            (folder / "runs" / f"{name}.txt").write_text(printed[name], encoding="utf-8")


def main(args):
    names = wanted_runs(args.only)
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(args.keep or temporary)
        folders = [top / "here", top / "other"]
        make_inputs(folders[0])
        checkouts = [ROOT, Path(args.other).resolve()]
        if (checkouts[1] / "runs").is_dir() and not (checkouts[1] / "sft.py").exists():
            folders[1] = checkouts.pop()
        else:
            shutil.copytree(folders[0], folders[1])
        with ThreadPoolExecutor(2) as pool:
            printed = list(pool.map(run_all, checkouts, folders, [names] * len(checkouts)))
        for folder, words in zip(folders, printed):
            keep_printed(folder, words)
        lines, count = compare(*folders, names)
    print("\n".join(f"DIFFERS  {line}" for line in lines) or "all equal")
    print(f"result   {count} files of {len(names)} runs compared, {len(lines)} differences")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
