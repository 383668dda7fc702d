"""Plant each fault of mutants.py in a copy of the tree and see its tests fail: `make mutants`.

    python tests/run_mutants.py            all
    python tests/run_mutants.py gate       those in files, or with tests, whose name contains a word

The libraries are imported once; each mutant runs in a fork, two at a time. Exit code 1 when a fault survives, when its
text does not occur exactly once, or when the tests fail without any fault."""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import datasets  # noqa: F401
import peft  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch
import transformers  # noqa: F401
from mutants import MUTANTS

import posttrain  # noqa: F401

WORKERS, SECONDS = 2, 240
torch.set_num_threads(1)
sys.path.remove(str(ROOT))
own = [name for name, module in sys.modules.items() if Path(getattr(module, "__file__", None) or "/").parent == ROOT]
for name in own:
    del sys.modules[name]  # a fork imports those of its own copy


def copy_tree(folder):
    """The tree without what tests do not need; returns the copy."""
    skip = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")
    return Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=skip))


def start(tree, tests):
    """pytest on `tests` in a fork, inside `tree` -> process number; its exit code is pytest's."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            signal.alarm(SECONDS)
            os.chdir(tree)
            log = os.open("pytest.log", os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.path[:0] = [str(tree), str(tree / "tests")]
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(tree / "tmp"), *tests]))
        finally:
            os._exit(code)
    return pid


def main(words):
    begin, waiting = time.perf_counter(), []
    for number, mutant in enumerate(MUTANTS, 1):
        if not words or any(word in str((mutant[0], mutant[3])) for word in words):
            waiting.append((number, *mutant))
    total, running, caught = len(waiting), {}, 0
    if not waiting:
        print("no fault has this word in its file or tests")
        return 1
    tests = sorted({test for mutant in waiting for test in mutant[4]})
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(folder)
        if os.waitstatus_to_exitcode(os.waitpid(start(tree, tests), 0)[1]) != 0:
            print((tree / "pytest.log").read_text()[-3000:])
            print("the tests fail without any fault")
            return 1
    print(f"{len(tests)} tests pass without a fault ({time.perf_counter() - begin:.0f} s)", flush=True)
    while waiting or running:
        while waiting and len(running) < WORKERS:
            number, file, find, replacement, tests = waiting.pop(0)
            text, label = (ROOT / file).read_text(encoding="utf-8"), f"{number:3} {file}: {find.strip()[:60]!r}"
            if text.count(find) != 1:
                print(f"STALE    {label} occurs {text.count(find)} times", flush=True)
                continue
            folder = tempfile.mkdtemp()
            tree = copy_tree(folder)
            (tree / file).write_text(text.replace(find, replacement), encoding="utf-8")
            running[start(tree, tests)] = (folder, label, time.perf_counter())
        if running:
            pid, status = os.wait()
            folder, label, since = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            verdict = {1: "caught", 0: "SURVIVED", -signal.SIGALRM: "caught"}.get(code, f"BROKEN {code}")
            caught += verdict == "caught"
            print(f"{verdict:8} {label} ({time.perf_counter() - since:.1f} s)", flush=True)
            if verdict.startswith("BROKEN"):
                print((Path(folder) / "tree" / "pytest.log").read_text()[-1500:])
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{caught} of {total} caught in {time.perf_counter() - begin:.0f} s")
    return 0 if caught == total > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
