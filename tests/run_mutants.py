"""Plant each fault of tests/mutants/ in a copy of the tree and see its tests fail: `make mutants`.

    python tests/run_mutants.py            all
    python tests/run_mutants.py gate       those in files, or with tests, whose name contains a word

The libraries are imported once; each mutant runs in a fork, two at a time. Exit code 1 when a fault
survives, when its pattern does not occur exactly once, or when the tests fail without any fault."""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import posttrain  # noqa: F401, I001  (quietens the libraries, which must not be loaded before)
import datasets  # noqa: F401
import peft  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import transformers  # noqa: F401
from mutants import MUTANTS
from planting import plant
from threads import one_thread

WORKERS = 2
SECONDS = 240  # a fault whose tests take longer is caught: they hang
SECONDS_WITHOUT_FAULT = 3600  # for all of these tests together
one_thread()
sys.path.remove(str(ROOT))


def forget_own_modules():
    """A fork imports the modules of its own copy of the tree: posttrain, the scripts, the tests."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        is_own = file.is_relative_to(ROOT) and "site-packages" not in file.parts
        if is_own and name != "__main__":
            del sys.modules[name]


def copy_tree(folder):
    """The tree without what tests do not need; returns the copy."""
    skip = (".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")
    copy = Path(folder) / "tree"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*skip))
    return copy


def start(tree, tests, seconds, plugins=()):
    """pytest on `tests` in a fork, inside `tree` -> process number; its exit code is pytest's."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            signal.alarm(seconds)
            forget_own_modules()
            os.chdir(tree)
            log = os.open("pytest.log", os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.path[:0] = [str(tree), str(tree / "tests")]
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
            options += ["--basetemp", str(tree / "tmp")]
            code = int(pytest.main([*options, *tests], plugins=plugins))
        finally:
            os._exit(code)
    return pid


class Trial(NamedTuple):
    """A file with a fault in it, and the tests of which one should fail."""

    label: str
    file: str
    changed: str  # its text
    tests: list  # as on pytest's command line
    seconds: int = SECONDS
    plugins: tuple = ()


def choose(words):
    """[(number, mutant)] whose file or tests have one of the words; all without words."""
    chosen = []
    for number, mutant in enumerate(MUTANTS, 1):
        names = " ".join([mutant.file, *mutant.tests])
        if not words or any(word in names for word in words):
            chosen.append((number, mutant))
    return chosen


def pass_without_fault(tests):
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(folder)
        _, status = os.waitpid(start(tree, tests, SECONDS_WITHOUT_FAULT), 0)
        passed = os.waitstatus_to_exitcode(status) == 0
        if not passed:
            print((tree / "pytest.log").read_text()[-3000:])
    return passed


def label_of(number, mutant):
    begin = " ".join(mutant.pattern.split())[:60]
    return f"{number:3} {mutant.file} {mutant.function or '-'}: {begin!r}"


def verdict_of(status):
    """What the exit of a fork says: caught when its tests failed or took too long."""
    code = os.waitstatus_to_exitcode(status)
    if code in (1, -signal.SIGALRM):
        return "caught"
    return "SURVIVED" if code == 0 else f"BROKEN {code}"


def start_trial(trial):
    """-> (process number, folder of its copy of the tree)."""
    folder = tempfile.mkdtemp()
    tree = copy_tree(folder)
    (tree / trial.file).write_text(trial.changed, encoding="utf-8")
    return start(tree, trial.tests, trial.seconds, trial.plugins), folder


def finish_one(running):
    """Wait for one of the forks {process number: (folder, trial, begin)} -> (trial, verdict)."""
    pid, status = os.wait()
    folder, trial, begin = running.pop(pid)
    verdict = verdict_of(status)
    print(f"{verdict:8} {trial.label} ({time.perf_counter() - begin:.1f} s)", flush=True)
    if verdict.startswith("BROKEN"):
        print((Path(folder) / "tree" / "pytest.log").read_text()[-1500:])
    shutil.rmtree(folder, ignore_errors=True)
    return trial, verdict


def run_trials(trials, workers=WORKERS):
    """[(trial, verdict), ...] as they end, so many at a time."""
    running, results = {}, []
    for trial in trials:
        begin = time.perf_counter()
        pid, folder = start_trial(trial)
        running[pid] = (folder, trial, begin)
        if len(running) == workers:
            results.append(finish_one(running))
    while running:
        results.append(finish_one(running))
    return results


def caught(results):
    """How many of [(trial, verdict), ...] are caught."""
    return sum(verdict == "caught" for _, verdict in results)


def trials_of(chosen):
    """The trials of planted faults [(number, mutant), ...]; those that do not fit are named."""
    trials = []
    for number, mutant in chosen:
        label = label_of(number, mutant)
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        try:
            trials.append(Trial(label, mutant.file, plant(source, mutant), mutant.tests))
        except ValueError as error:
            print(f"STALE    {label}: {error}", flush=True)
    return trials


def main(words):
    begin, chosen = time.perf_counter(), choose(words)
    if not chosen:
        print("no fault has this word in its file or tests")
        return 1
    tests = sorted({test for _, mutant in chosen for test in mutant.tests})
    if not pass_without_fault(tests):
        print("the tests fail without any fault")
        return 1
    seconds = time.perf_counter() - begin
    print(f"{len(tests)} tests pass without a fault ({seconds:.0f} s)", flush=True)
    count = caught(run_trials(trials_of(chosen)))
    print(f"{count} of {len(chosen)} caught in {time.perf_counter() - begin:.0f} s")
    return 0 if count == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
