"""Faults that nobody chose: each operator does what it says, and the fault is really in the file."""

import ast
import json
import os
import subprocess
import sys

import pytest
import random_faults
import random_mutants
from conftest import ROOT
from equivalent_faults import EQUIVALENT
from planting import shape
from random_faults import faults_at, plant_fault
from run_mutants import Trial, caught, run_trials

SOURCE = '''\
"""A module of 3 lines."""
import os
LIMIT = 3


class Counter:
    step: int = 1

    @property
    def most(self, first=10, *, last=None):
        """No more than 5."""
        if not self.step:
            raise ValueError("more than 7" + str(8))
        print(f"{self.step + 1} of", 9)
        self.step += LIMIT
        return max(self.step * 2, 0)


def choose(rows, limit=2.5):
    kept = [row for row in rows if row.x > limit and row.y]
    for row in kept:
        if row is None:
            continue
        elif row.name == "ä":
            row.seen = True
    p.add_argument("--n", help="at most " + str(4), default=6)
    return sorted(kept[1:], key=len) if kept else -1


if os.name == "nt":
    choose([], 12)


if __name__ == "__main__":
    choose([], 11)
'''


@pytest.mark.parametrize(
    ("operator", "text", "expected"),
    [
        ("comparison", "a == b", ["a != b"]),
        ("comparison", "a < b", ["a <= b", "a >= b"]),
        ("comparison", "a >= b", ["a > b", "a < b"]),
        ("comparison", "0 <= a < b", ["0 < a < b", "0 > a < b", "0 <= a <= b", "0 <= a >= b"]),
        ("comparison", "a not in b", ["a in b"]),
        ("comparison", "a is None", ["a is not None"]),
        ("connective", "a and b", ["a or b", "b", "a"]),
        ("connective", "a or b or c", ["a and b and c", "b or c", "a or c", "a or b"]),
        ("sign", "not a", ["a"]),
        ("sign", "-a", ["a"]),
        ("arithmetic", "a + b", ["a - b"]),
        ("arithmetic", "a * b", ["a / b"]),
        ("arithmetic", "a // b", ["a * b"]),
        ("arithmetic", "'a' + b", []),
        ("constant", "True", ["False"]),
        ("constant", "3", ["4", "0"]),
        ("constant", "0", ["1"]),
        ("constant", "300", ["600", "0"]),
        ("constant", "0.5", ["1.0", "0.0"]),
        ("constant", "0.0", ["1.0"]),
        ("constant", "None", []),
        ("constant", "'a'", []),
        ("condition", "if a:\n    b()", ["if not a:\n    b()"]),
        ("condition", "while a:\n    b()", ["while not a:\n    b()"]),
        ("condition", "if a == b:\n    c()", []),  # which the comparison has
        ("branch", "a if b else c", ["a", "c"]),
        ("argument", "f(a, b, c=d, e=f)", ["f(a, b, e=f)", "f(a, b, c=d)", "f(a, c=d, e=f)"]),
        ("argument", "f(a)", []),
        ("argument", "f(a, *b)", []),
        ("wrapper", "max(a, b)", ["a"]),
        ("wrapper", "a.strip()", ["a"]),
        ("wrapper", "a.open()", []),
        ("bound", "a[b:c]", ["a[:c]", "a[b:]"]),
        ("bound", "a[b]", []),
        ("every_item", "[a for a in b if c]", ["[a for a in b]"]),
        ("nothing_returned", "return a", ["return None"]),
        ("nothing_returned", "return None", []),
        ("nothing_returned", "return False", []),
        ("statement", "a += 1", ["pass"]),
        ("statement", "a.b = 1", ["pass"]),
        ("statement", "a = 1", []),
        ("statement", "a()", ["pass"]),
        ("statement", "if a:\n    return b", ["pass"]),
        ("statement", "if a:\n    b()\nelse:\n    c()", []),
        ("statement", "continue", ["pass"]),
    ],
)
def test_an_operator(operator, text, expected):
    (node,) = ast.parse(text).body
    if isinstance(node, ast.Expr) and operator != "statement":
        node = node.value
    assert getattr(random_faults, operator)(node) == expected


def test_every_operator_is_in_use():
    kinds = {fault.kind for group in faults_at("a.py", SOURCE) for fault in group}
    assert kinds == {operator.__name__ for operator in random_faults.OPERATORS}


def test_what_is_for_people_is_left_alone():
    befores = {fault.before for group in faults_at("a.py", SOURCE) for fault in group}
    numbers = {before for before in befores if before.isdecimal()}
    assert numbers == {"3", "1", "10", "2", "0", "6"}, "not 4, 5, 7, 8, 9, 11 and 12"
    assert not any("print" in before or "raise" in before[:5] for before in befores)


def test_the_fault_is_in_the_file_and_nothing_else_has_changed():
    """Each fault's file reads as the tree with the one node exchanged; texts stay where they are."""
    original = ast.parse(SOURCE)
    count = 0
    for group in faults_at("a.py", SOURCE):
        for fault in group:
            changed = plant_fault(SOURCE, fault)
            if changed is None:  # an `elif` is no statement of its own
                assert "elif" in SOURCE.splitlines()[fault.line - 1]
                continue
            count += 1
            assert shape(ast.parse(changed)) != shape(original), fault
            lines = changed.splitlines()
            assert lines[: fault.line - 1] == SOURCE.splitlines()[: fault.line - 1], fault
            assert lines[-4:] == SOURCE.splitlines()[-4:], fault
    assert count > 40


def test_a_fault_names_its_place():
    faults = [fault for group in faults_at("a.py", SOURCE) for fault in group]
    (fault,) = [
        fault for fault in faults if fault.before == "row.x > limit" and "=" in fault.after
    ][:1]
    assert str(fault) == "a.py:20 choose [comparison]"
    assert "row.x >= limit and row.y" in plant_fault(SOURCE, fault)
    (fault,) = [fault for fault in faults if fault.before == "10" and fault.after == "0"]
    assert fault.function == "Counter.most"
    assert "first=0," in plant_fault(SOURCE, fault)


# ---- drawing --------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_faults():
    files = random_mutants.source_files(["posttrain/records", "common.py"])
    assert "common.py" in files and "posttrain/records/jsonl.py" in files and "kto.py" not in files
    drawn = random_mutants.draw_faults(files, 12, 5)
    assert len(drawn) == 12 and drawn == random_mutants.draw_faults(files, 12, 5)
    assert drawn != random_mutants.draw_faults(files, 12, 6)
    assert drawn[:4] == random_mutants.draw_faults(files, 4, 5)
    few = random_mutants.draw_faults(files, 12, 5, ["sign", "bound"])
    assert {fault.kind for fault, _ in few} == {"sign", "bound"}
    for fault, changed in drawn + few:
        assert changed != (ROOT / fault.file).read_text(encoding="utf-8")


def test_equivalent_faults_are_not_drawn(monkeypatch):
    files = ["posttrain/hashing.py"]
    (fault, _), *rest = random_mutants.draw_faults(files, 5, 0)
    key = (fault.file, fault.function, fault.before, fault.after)
    monkeypatch.setitem(EQUIVALENT, key, "because")
    assert fault not in [other for other, _ in random_mutants.draw_faults(files, 99, 0)]


@pytest.mark.parametrize("key", EQUIVALENT, ids=str)
def test_an_equivalent_fault_is_one(key):
    """It can be planted still, and there is a reason."""
    file, function, before, after = key
    source = (ROOT / file).read_text(encoding="utf-8")
    faults = [fault for group in faults_at(file, source) for fault in group]
    assert key in {(fault.file, fault.function, fault.before, fault.after) for fault in faults}
    assert len(EQUIVALENT[key]) > 20


# ---- which tests run what ---------------------------------------------------------------------

TESTS = """
import pytest
from posttrain.hashing import digest, seed_for

@pytest.fixture(scope="module")
def made():
    return digest(__file__)

@pytest.fixture
def twice(made):
    return made * 2

def test_first(made):
    assert made

def test_second(twice):
    assert [seed_for(n) for n in range(2)]

def test_third():
    assert callable(digest)


def test_fails():
    raise ValueError
"""


def test_who_runs_what(tmp_path):
    """What a module's fixture calls counts for all tests that use it, whichever came first."""
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "who_runs", "--who-runs", "seen"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command += ["-p", "no:cacheprovider", "--rootdir", "."]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1 and "1 failed, 3 passed" in ended.stdout, ended.stderr
    (path,) = (tmp_path / "seen").glob("*.jsonl")
    seen = {}
    for line in path.read_text().splitlines():
        run = json.loads(line)
        assert run["seconds"] >= 0 and run["failed"] == run["test"].endswith("fails")
        functions = [name for name in run["functions"] if name.startswith("posttrain/hashing.py")]
        seen[run["test"]] = [name.partition("::")[2] for name in functions]
    assert seen == {
        "test_it.py::test_first": ["_add_file", "digest"],
        "test_it.py::test_second": ["_add_file", "digest", "seed_for"],
        "test_it.py::test_third": [],
        "test_it.py::test_fails": [],
    }


def run_of(test, seconds, *functions):
    return {"test": test, "seconds": seconds, "functions": list(functions)}


RUNS = [
    run_of("tests/test_hashing.py::test_slow", 30.0, "posttrain/hashing.py::digest"),
    run_of("tests/test_hashing.py::test_quick", 1.0, "posttrain/hashing.py::digest"),
    run_of("tests/test_samples.py::test_other", 0.1, "posttrain/hashing.py::digest"),
    run_of(
        "tests/test_samples.py::test_long",
        random_mutants.BUDGET_CALLING - 20.0,
        "posttrain/hashing.py::digest",
    ),
    run_of("tests/test_copy.py::test_seed", 0.5, "posttrain/hashing.py::seed_for"),
    run_of("tests/test_copy.py::test_late", 30.0, "posttrain/hashing.py::_add_file"),
]


def fault_in(function):
    source = (ROOT / "posttrain/hashing.py").read_text()
    for group in faults_at("posttrain/hashing.py", source):
        for fault in group:
            if fault.function == function:
                return fault
    raise AssertionError(function)


def test_the_tests_of_a_fault_are_those_that_call_its_function():
    """Those of its own room first, the quick before the slow, as far as the time allows.

    Then those of its file: what another process runs is seen in none."""
    tests, seconds = random_mutants.tests_for(fault_in("digest"), RUNS)
    assert [test.partition("::test_")[2] for test in tests] == ["quick", "slow", "other", "seed"]
    assert seconds == pytest.approx(31.6)
    tests, _ = random_mutants.tests_for(fault_in("seed_for"), RUNS)
    assert [test.partition("::test_")[2] for test in tests] == ["seed", "quick", "slow", "other"]
    tests, _ = random_mutants.tests_for(fault_in(""), RUNS)
    assert len(tests) == 4, "a constant of the module: all that run anything of it, in time"


def test_tests_of_a_file_stay_together():
    class Item:
        def __init__(self, nodeid):
            self.nodeid = nodeid

    items = [Item(name) for name in ("a::x", "a::y", "b::x", "c::x", "b::y")]
    only = random_mutants.Only(["b::y", "a::y", "b::x"])
    only.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["b::y", "b::x", "a::y"]


def test_a_fault_is_caught_and_no_fault_survives(capsys):
    file = "posttrain/hashing.py"
    source = (ROOT / file).read_text()
    wrong = source.replace(">> 1", "<< 1")
    assert wrong != source
    test = "tests/test_hashing.py::test_seed_and_digest_are_the_same_in_every_process"
    results = run_trials(
        [Trial("wrong", file, wrong, [test], 100), Trial("same", file, source, [test], 100)], 1
    )
    assert [(trial.label, verdict) for trial, verdict in results] == [
        ("wrong", "caught"),
        ("same", "SURVIVED"),
    ]
    assert caught(results) == 1 and "SURVIVED same" in capsys.readouterr().out
