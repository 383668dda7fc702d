"""Plant faults that nobody chose, and see how many the tests notice: part of `make mutants`.

    python tests/random_mutants.py --count 200 --seed 3
    python tests/random_mutants.py --count 60 --files posttrain/records posttrain/chat kto.py

Places are drawn from the source, operators are those of tests/random_faults.py. Each fault runs the
tests that call its function, the quickest first, until one fails. Which these are is found out by
one run of all tests without a fault, kept in .pytest_cache: after a change of the source all are run
again, after a change of the tests those files. A fault with which the tests cannot even be imported
is caught. Survivors are printed with what stood there and what stands there now. Those that mean
the same as the code they replace belong into tests/equivalent_faults.py, with the reason. Exit code
1 when less than --at-least of the faults are caught."""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from equivalent_faults import EQUIVALENT
from random_faults import faults_at, plant_fault
from run_mutants import ROOT, WORKERS, Trial, run_trials

MAPS = ROOT / ".pytest_cache" / "who_runs"
# Seconds of tests for one fault: what the nearest and quickest miss, the rest would hardly notice.
# Those that call its function have the more of them.
BUDGET_CALLING = 150
BUDGET = 60
# What ends of a trial mean that the fault was noticed: 2 is pytest's code when a file of tests
# cannot be imported, as it could be without the fault.
NOTICED = ("caught", "BROKEN 2")


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--count", type=int, default=40, help="faults (default: 40)")
    p.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    p.add_argument("--files", nargs="+", default=[""], metavar="WORD", help="where, by name")
    p.add_argument("--kinds", nargs="+", metavar="KIND", help="operators (default: all)")
    p.add_argument("--tests", nargs="+", default=["tests"], help="tests that may notice")
    p.add_argument("--at-least", type=float, default=0.95, help="share to catch (default: 0.95)")
    p.add_argument("--jobs", type=int, default=WORKERS, help="at a time (default: 2)")
    p.add_argument("--list", action="store_true", help="print the faults; run nothing")
    return p.parse_args(argv)


# ---- faults -------------------------------------------------------------------------------------


def source_files(words):
    """The kit's own files, as paths in the tree, whose name contains one of the words."""
    names = sorted(path.relative_to(ROOT).as_posix() for path in source_paths())
    return [name for name in names if any(word in name for word in words)]


def source_paths():
    return [*ROOT.glob("*.py"), *(ROOT / "posttrain").rglob("*.py")]


def draw_faults(files, count, seed, kinds=None):
    """[(fault, the changed file), ...]: places drawn evenly over these files, one fault of each.

    kinds: names of operators; None stands for all."""
    sources = {}
    groups = []
    for file in files:
        sources[file] = (ROOT / file).read_text(encoding="utf-8")
        for group in faults_at(file, sources[file]):
            groups.append([fault for fault in group if kinds is None or fault.kind in kinds])

    drawing = random.Random(seed)
    drawing.shuffle(groups)
    drawn = []
    for group in groups:
        if len(drawn) == count:
            break
        if not group:
            continue
        fault = drawing.choice(group)
        changed = plant_fault(sources[fault.file], fault)
        if changed is not None and not is_equivalent(fault):
            drawn.append((fault, changed))
    return drawn


def is_equivalent(fault):
    """Does it stand in the list of those that change nothing?"""
    return (fault.file, fault.function, fault.before, fault.after) in EQUIVALENT


# ---- which tests run what -----------------------------------------------------------------------


def test_files(names):
    """The files of tests in these files and folders, as paths in the tree."""
    files = []
    for name in names:
        path = ROOT / name
        paths = [path] if path.is_file() else path.rglob("test_*.py")
        files += [path.relative_to(ROOT).as_posix() for path in paths]
    return sorted(files)


def hash_of(file):
    """Of a file of tests and of all that it may run: the source, and what tests share."""
    return hashlib.sha256((ROOT / file).read_bytes() + hash_of_shared()).hexdigest()


@cache
def hash_of_shared():
    shared = [path for path in (ROOT / "tests").rglob("*.py") if path.name.startswith("conftest")]
    text = b"".join(path.read_bytes() for path in sorted(source_paths()) + sorted(shared))
    return hashlib.sha256(text).digest()


def map_of(file):
    """Where it is kept which functions the tests of this file run."""
    return MAPS / (file.replace("/", "-") + ".json")


def is_fresh(file):
    path = map_of(file)
    return path.exists() and json.loads(path.read_text())["hash"] == hash_of(file)


def read_runs(files, jobs):
    """[{"test", "seconds", "functions"}, ...] of all tests in these files.

    Files that have changed since they were last looked at are run. SystemExit when tests fail."""
    stale = [file for file in files if not is_fresh(file)]
    if stale:
        print(f"looking which functions the tests of {len(stale)} files run", flush=True)
        record(stale, jobs)
    runs = []
    for file in files:
        runs += json.loads(map_of(file).read_text())["runs"]
    return runs


def record(files, jobs):
    """Run these files of tests once and keep which functions each test runs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-n", str(jobs)]
        command += ["--dist", "loadfile", "-p", "who_runs", "--who-runs", folder, *files]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
        ended = subprocess.run(command, cwd=ROOT, env=environment)
        # 1: some have failed; 5: no test in these files is quick.
        if ended.returncode not in (0, 1, 5):
            sys.exit("pytest did not end as it should")
        runs = {file: [] for file in files}
        for path in Path(folder).glob("*.jsonl"):
            for line in path.read_text().splitlines():
                run = json.loads(line)
                runs[run["test"].partition("::")[0]].append(run)
    # What has passed need not run again when the rest is mended.
    MAPS.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not any(run["failed"] for run in runs[file]):
            map_of(file).write_text(json.dumps({"hash": hash_of(file), "runs": runs[file]}))
    if ended.returncode == 1:
        sys.exit("the tests fail without any fault")


# ---- trials -------------------------------------------------------------------------------------


def tests_for(fault, runs):
    """The tests to run for a fault, in order, as far as the time allows: [names], their seconds.

    Those that call its function come first, then those that run anything else of its file or speak
    of it: what runs in another process is not seen."""
    key = f"{fault.file}::{fault.function}"
    calling = [run for run in runs if fault.function and key in run["functions"]]
    near = [run for run in runs if run not in calling and runs_file(run, fault.file)]
    module = Path(fault.file).stem

    def by_nearness(run):
        return module not in run["test"].partition("::")[0], run["seconds"]

    names = []
    total = 0.0
    for tests, budget in ((calling, BUDGET_CALLING), (near, BUDGET)):
        for run in sorted(tests, key=by_nearness):
            if total + run["seconds"] <= budget or not names:
                names.append(run["test"])
                total += run["seconds"]
    return names, total


def runs_file(run, file):
    """Does a test run a function of this file, or stand in a file of tests that names it?"""
    if any(function.startswith(f"{file}::") for function in run["functions"]):
        return True
    text = (ROOT / run["test"].partition("::")[0]).read_text(encoding="utf-8")
    return Path(file).stem in text


class Only:
    """A pytest plugin: these tests, those of a file together, in the order of the list."""

    def __init__(self, tests):
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        self.order = {}
        for test in tests:
            self.order[test] = (files.index(test.partition("::")[0]), len(self.order))

    def pytest_collection_modifyitems(self, items):
        chosen = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])


def trial_of(fault, changed, runs):
    """The trial of a fault; None when no test comes near it."""
    tests, seconds = tests_for(fault, runs)
    if not tests:
        return None
    files = sorted({test.partition("::")[0] for test in tests})
    label = f"{fault}: {shortened(fault.before)} -> {shortened(fault.after)}"
    limit = int(60 + 6 * seconds)  # a fault whose tests hang is caught
    return Trial(label, fault.file, changed, files, limit, (Only(tests),))


def shortened(text):
    text = " ".join(text.split())
    return text if len(text) <= 70 else f"{text[:67]}..."


def main(args):
    faults = draw_faults(source_files(args.files), args.count, args.seed, args.kinds)
    if not faults:
        sys.exit("no file has one of these words in its name, or no fault of these kinds fits it")
    if args.list:
        for fault, _ in faults:
            print(f"{fault}: {shortened(fault.before)} -> {shortened(fault.after)}")
        return 0
    runs = read_runs(test_files(args.tests), args.jobs)

    trials = []
    unseen = []
    for fault, changed in faults:
        trial = trial_of(fault, changed, runs)
        if trial is None:
            unseen.append(str(fault))
        else:
            trials.append(trial)
    results = run_trials(trials, args.jobs)

    survivors = [trial.label for trial, verdict in results if verdict not in NOTICED]
    for line in survivors:
        print(f"survived {line}")
    for line in unseen:
        print(f"no test  {line}")
    count = len(results) - len(survivors)
    share = count / len(faults)
    print(f"{count} of {len(faults)} caught ({share:.1%}), seed {args.seed}")
    return 0 if share >= args.at_least else 1


if __name__ == "__main__":
    sys.exit(main(parse_args()))
