"""The sandbox measured: reward hacks and honest solutions accepted, milliseconds a call and a test. JSON lines.

    python bench/sandbox.py                                 # a minute; the lists are in tests/verify/sandbox_cases.py
    python bench/sandbox.py --humaneval humaneval.jsonl           # and canonical solutions, with their check()

Lines: {"hacks", "accepted", "names"}; {"honest", "accepted", "names" of the others}; the same of HumanEval (fields
prompt, entry_point, canonical_solution, test). Then milliseconds, medians over `--repeats` that take turns:
interpreter_ms a bare `python -I -S -c pass`; call_ms_above what run_tests with one test takes above it; test_ms what
each of 100 more tests adds; request_ms what a test pays for one call of the solution. Exit code 1: a hack was accepted,
an honest solution was not, or a call takes more than 50 ms above the interpreter's start."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "verify")]

from sandbox_cases import HACKS, HONEST, TESTS, entry_point

from posttrain.verify.sandbox import PROGRAM, find_sandbox, run_tests

SQUARE = "def f(x): return x * x"


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--humaneval", metavar="FILE", help="HumanEval's problems as JSON lines")
    p.add_argument("--repeats", type=int, default=30, help="turns of each timing")
    return p.parse_args(argv)


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def timings(repeats):
    """Milliseconds, medians over `repeats` turns."""
    calls = ["for _ in range(1000):\n    f(1)\nassert f(3) == 9"]
    ways = {
        "interpreter": lambda: subprocess.run([*PROGRAM[:-1], "pass"]),
        "call": lambda: run_tests(SQUARE, TESTS[:1]),
        "hundred": lambda: run_tests(SQUARE, TESTS[:1] * 101),
        "thousand": lambda: run_tests(SQUARE, calls),
    }
    took = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            took[name].append(1000 * seconds(run))
    ms = {name: statistics.median(times) for name, times in took.items()}
    return {
        "interpreter_ms": ms["interpreter"],
        "call_ms_above": ms["call"] - ms["interpreter"],
        "test_ms": (ms["hundred"] - ms["call"]) / 100,
        "request_ms": (ms["thousand"] - ms["call"]) / 1000,
    }


def main(args):
    failed = False
    accepted = [
        name for name, (code, tests) in HACKS.items() if run_tests(code, tests, "f", 1.5)["ok"]
    ]
    print(json.dumps({"hacks": len(HACKS), "accepted": len(accepted), "names": accepted}))
    suites = {
        "honest": [(name, code, tests, entry_point(code)) for name, (code, tests) in HONEST.items()]
    }
    if args.humaneval:
        rows = [json.loads(line) for line in open(args.humaneval, encoding="utf-8")]
        suites["humaneval"] = [
            (
                row["task_id"],
                row["prompt"] + row["canonical_solution"],
                [row["test"]],
                row["entry_point"],
            )
            for row in rows
        ]
    for suite, cases in suites.items():
        refused = [
            name
            for name, code, tests, point in cases
            if not run_tests(code, tests, point, 20)["ok"]
        ]
        print(
            json.dumps({suite: len(cases), "accepted": len(cases) - len(refused), "names": refused})
        )
        failed = failed or bool(refused)
    measured = timings(args.repeats)
    way = " ".join(word for word in find_sandbox() if word in ("bwrap", "unshare"))
    print(json.dumps({"by": way} | {name: round(value, 2) for name, value in measured.items()}))
    return int(failed or bool(accepted) or measured["call_ms_above"] > 50)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
