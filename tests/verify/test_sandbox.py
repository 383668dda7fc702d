"""sandbox.py and sandbox_child.py against reward hacks, honest solutions, and the messages between the two processes."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
from sandbox_cases import HACKS, HONEST, TESTS, entry_point

from posttrain.cli import BadInput
from posttrain.verify import sandbox
from posttrain.verify import sandbox_child as inside
from posttrain.verify.checks import verify
from posttrain.verify.sandbox import PROGRAM, find_code, parse_test, run_tests

REAL = os.environ.get("KIT_REAL")
SQUARE = "def f(x): return x * x"
# Words in the names of hacks that end by the clock alone: they run out of their time on purpose.
SLOW = (
    "loop",
    "sleep",
    "flood",
    "bomb",
    "daemon",
    "silence",
    "ever",
    "endless",
    "calls to come",
    "pieces",
    "doubles",
)
PATIENCE = 60  # seconds, for what takes one on an idle machine


def processes(mark):
    """Numbers and command lines of the processes with a mark in it."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if mark in line]


@pytest.mark.parametrize("name", HACKS)
def test_a_reward_hack_is_rejected(name):
    code, tests = HACKS[name]
    is_slow = any(word in name for word in SLOW)
    result = run_tests(code, tests, "f", timeout=1 if is_slow else PATIENCE)
    assert result["ok"] is False
    assert is_slow or "no result within" not in result["why"], result
    assert result["why"] and len(result["why"]) < 150 and result["why"].isprintable()


UNSUPPORTED = {
    "F() + 1": "add of an object",
    "2 * F()": "rmul of an object",
    "abs(F())": "abs of an object",
    "F() < F()": "lt of an object",
    "3 > F()": "lt of an object",
    "copy.deepcopy([F()])": "deepcopy of an object",
    "copy.copy(F())": "copy of an object",
    "pickle.dumps(F())": "reduce_ex of an object",
    "[1][F()]": "index of an object",
    "issubclass(F, F)": "subclasscheck of an object",
    "f(iter([1]))": "the test's list_iterator",
    "f(object())": "the test's object",
    "with F(): pass": "enter of an object",
    "F().missing()": "missing",
    "async def g(): await F()\nasyncio.run(g())": "await of an object",
    "with contextlib.redirect_stdout(io.StringIO()): f(1)": "redirected output",
}


@pytest.mark.parametrize("call", UNSUPPORTED)
def test_what_is_not_supported_is_never_accepted(call):
    """The verdict says what it is, and no `except` of the test hides it."""
    code, call = "class F: pass\ndef f(x): pass", call.replace("\n", "\n    ")
    test = (
        f"F\ntry:\n    {call}\n    assert False\nexcept (TypeError, ValueError, RuntimeError): pass"
    )
    result = run_tests(code, [test], timeout=PATIENCE)
    assert not result["ok"] and UNSUPPORTED[call.replace("    ", "")] in result["why"]


@pytest.mark.parametrize("name", [name for name in HACKS if name.startswith("!")])
def test_it_is_a_hack(name):
    """Python that runs the code and then the tests ends without an error."""
    code, tests = HACKS[name]
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "\n".join([code, *tests])],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr.decode()[-300:]


def test_there_are_enough():
    assert (
        len(HACKS) >= 100
        and sum(name.startswith("!") for name in HACKS) >= 45
        and len(HONEST) >= 54
    )


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_solution_is_accepted(name):
    code, tests = HONEST[name]
    total = len(tests)
    assert run_tests(code, tests, entry_point(code), PATIENCE) == {
        "ok": True,
        "passed": total,
        "total": total,
        "why": "",
    }


@pytest.mark.skipif(not REAL, reason="KIT_REAL is not set")
def test_humaneval():
    """Every canonical solution passes its own check(), and none does when its answers are put in a list."""
    rows = [json.loads(line) for line in open(f"{REAL}/data/eval/humaneval164.jsonl")]
    for row in rows:
        code = row["prompt"] + row["canonical_solution"]
        result = run_tests(code, [row["test"]], row["entry_point"], PATIENCE)
        assert result["ok"], (row["task_id"], result)
    for row in rows[::8]:
        code, name = row["prompt"] + row["canonical_solution"], row["entry_point"]
        spoilt = f"{code}\n{name} = lambda *a, _f={name}: [_f(*a)]"
        assert not run_tests(spoilt, [row["test"]], name, PATIENCE)["ok"], row["task_id"]


# ---- what a result says ----------------------------------------------------------------------------------------


def test_a_result_counts_and_says_why():
    result = run_tests(
        SQUARE,
        ["assert f(3) == 9", "assert f(2) == 5", "assert candidate(1) == 1", "assert g(1)"],
        "f",
    )
    assert result == {"ok": False, "passed": 2, "total": 4, "why": "assert f(2) == 5 gave 4"}
    assert run_tests(SQUARE, ["x = 1\nassert g(1)"])["why"] == (
        "assert g(1) raised AttributeError: module 'solution' has no attribute 'g'"
    )
    result = run_tests(SQUARE + "\nraise ValueError('no')", TESTS)
    assert result == {"ok": False, "passed": 0, "total": 3, "why": "the code raised ValueError: no"}
    assert "has no attribute 'g'" in run_tests(SQUARE, ["assert g(1)"], "g")["why"]
    assert run_tests("def sum(a, b): return a + b", ["assert sum(1, 2) == 3"], "sum")["ok"]
    result = run_tests("def sum(a): return 0", ["xs = [1, 2]\nassert sum(xs) == 3"])
    assert result["why"] == "the test uses nothing of the solution"
    result = run_tests(
        "def f(x):\n    while x: pass",
        ["assert f(0) is None", "assert f(1)", "assert f(0)"],
        timeout=1,
    )
    assert result == {"ok": False, "passed": 1, "total": 3, "why": "no result within 1 s"}
    assert run_tests("import os\ndef f(x): os._exit(0)", TESTS)["why"] == (
        "assert f(3) == 9 raised Broken: the code ended its process, or gave no plain value"
    )
    for name, why in [
        ("a reply with the token, then its own", "an answer that nobody asked for"),
        ("a function of the test that there is not", "the code ended"),
        ("!os._exit", "the code ended"),
        ("a length of 4 GB", "the code ended"),
        ("a builtin for the tester to call", "no plain value"),
        ("!a failed assert that the solution catches", "an assert failed in a function"),
    ]:
        assert why in run_tests(*HACKS[name], "f")["why"], name
    assert verify(
        {"tests": TESTS, "entry_point": "f"}, f"```python\n{SQUARE}\n```", run_code=True
    ) == {"ok": True, "tests": True}
    assert verify({"tests": TESTS}, SQUARE) == {"ok": None, "tests": None}


def test_what_cannot_be_passed_fails_its_own_test_alone():
    result = run_tests(SQUARE, ["assert f(object())", *TESTS], timeout=PATIENCE)
    why = "assert f(object()) raised Broken: the test's object cannot be passed to the solution"
    assert result == {"ok": False, "passed": 3, "total": 4, "why": why}


def test_wrong_values_are_wrong():
    for value, wrong in [
        ("(1,)", "[1]"),
        ("'1'", "1"),
        ("0.1 + 0.2", "0.3"),
        ("float('nan')", "float('nan')"),
        ("[[]]", "[()]"),
        ("b'a'", "'a'"),
        ("{1: 2}", "{1}"),
        ("1", "None"),
        ("object()", "1"),
        ("[object()]", "[1]"),
        ("{'a': object()}", "{'a': 1}"),
        ("2", "(lambda: 2)"),
    ]:
        assert not run_tests(f"def f(): return {value}", [f"assert f() == {wrong}"])["ok"], (
            value,
            wrong,
        )


BAD = [
    "import os",
    "f(1) == 1",
    "assert f(1",
    7,
    "",
    "assert " + "(" * 5000,
    "def g():\n    assert f(1)",
    "x = f(2)",
    "def check():\n    assert f(1)",
    "async def test_f():\n    assert f(1)",
    "class TestF:\n    def test_f(self): assert f(1)",
    "if x:\n  assert y\n z",
    "def test_f(x): assert f(x)",
]


@pytest.mark.parametrize("test", BAD)
def test_a_test_that_cannot_fail_is_refused(test):
    with pytest.raises(BadInput, match=re.escape("field 'tests[3]': expected ")):
        parse_test(test, 3)


def test_a_check_needs_its_function():
    with pytest.raises(BadInput, match="field 'entry_point': expected the function that tests"):
        parse_test("def check(candidate): assert candidate(1)")
    assert "check(candidate)" in parse_test("def check(candidate): assert candidate(1)", 0, "f")
    assert (
        parse_test("def check(candidate): assert candidate(1)\ncheck(f)", 0, "f").count("check(")
        == 2
    )


@pytest.mark.parametrize(
    "test, runs",
    [
        ("assert f(x) == sorted(x)", "assert sorted(x) == f(x)"),
        ("assert f(x + 1, 2) == x", "assert x == f(x + 1, 2)"),
        *[
            (same, same)
            for same in (
                "assert f(x)",
                "assert f(2) == y",
                "assert f(f(x)) == f",
                "assert s.pop() == s.n",
                "assert f((x := [1])) == x",
                "assert f(x) != x",
                "assert 1 == f(x) == x",
            )
        ],
    ],
)
def test_what_an_argument_gives_is_computed_before_the_call(test, runs):
    assert parse_test(test) == runs


def test_code_is_found():
    right, wrong = "```python\ndef f(x):\n    return x * x\n```\n", "```\ndef f(x): return 0\n```\n"
    for text in (
        SQUARE,
        f"Here:\n{right}Done.",
        right + "```sh\nls\n```",
        wrong + right,
        right[:-4],
        f"{right}and\n{wrong[7:-4]}",
        right + "```python\ndef g(): return f(1)\n```\n",
    ):
        assert run_tests(text, TESTS, "f")["ok"], text
    assert not run_tests(right + wrong, TESTS, "f")["ok"]
    assert find_code("```\nimport os\n```\n```\nx = 1\n```") == "x = 1\n"
    assert find_code("```\ndef a(): 1\n```\n```\nprint(a())\n```") == "def a(): 1\n"
    start = time.process_time()
    for part in ("```\n", "`", " ", "def f(", "\n```x\n", "class f\n", "f = "):
        find_code(part * (200_000 // len(part)), "f")
    assert time.process_time() - start < 2


# ---- walls -----------------------------------------------------------------------------------------------------


def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # it does listen
        code = f"import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    return x * x"
        assert run_tests(code, TESTS)["passed"] == 0


def test_no_orphans_and_no_files(monkeypatch):
    """Whatever the code starts, nothing of it is left; its processes would sleep for minutes."""
    mark = f"mark{os.urandom(8).hex()}"
    monkeypatch.setattr(sandbox, "PROGRAM", [*PROGRAM[:-1], f"{PROGRAM[-1]}  # {mark}"])
    assert run_tests(SQUARE, TESTS, timeout=PATIENCE)["ok"], "the mark does no harm"
    run_tests(
        f"import os, time\nopen('/tmp/{mark}', 'w').write('x')\nif os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(300)\ndef f(x): return 9",
        TESTS,
        timeout=1,
    )
    stay = "import ctypes, os, time\nctypes.CDLL(None).prctl(1, 0)\nif os.fork() == 0: os.setsid()\nos.fork()\n"
    run_tests(stay + "time.sleep(300)", TESTS, timeout=1)
    end = time.monotonic() + PATIENCE  # the kernel takes a moment to end a namespace
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.02)
    assert processes(mark) == []
    assert mark not in os.listdir("/tmp")


def test_what_the_code_can_see():
    """No environment, no tests, no descriptor but its own, no user with rights, a read-only root, no devices."""
    code = """import os
def f():
    fds = [fd for fd in range(64) if not os.system(f'true <&{fd}') and fd > 3]
    return dict(os.environ), os.getuid(), os.getpid() < 10, sorted(os.listdir('/')), os.listdir('/dev'), fds
def g(path): return os.listdir(path)
def h(path): open(path, 'w')"""
    tests = [
        "env, uid, low, root, dev, fds = f()\nassert env == {} and uid >= 30000 and low and dev == ['null']\n"
        "assert fds == [] and 'proc' not in root and 'home' not in root and 'sys' not in root, root",
        "for path in ('/usr/lib/x', '/lib/x', '/usr/bin/x'):\n    try:\n        h(path)\n"
        "    except OSError: pass\n    else: assert False",
        "assert g('/tmp') == []",
    ]
    assert run_tests(code, tests, timeout=PATIENCE) == {
        "ok": True,
        "passed": 3,
        "total": 3,
        "why": "",
    }


def test_limits():
    code = """import resource
def f(): return {name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in
                 ('AS', 'NPROC', 'FSIZE', 'NOFILE', 'CORE', 'CPU')}
def g(mb): return len(bytearray(mb << 20))"""
    limits = {
        "AS": 512 << 20,
        "NPROC": 64,
        "FSIZE": 1 << 20,
        "NOFILE": 64,
        "CORE": 0,
        "CPU": PATIENCE + 1,
    }
    tests = [
        f"assert f() == { {name: (most, most) for name, most in limits.items()} }",
        "try:\n    g(600)\nexcept MemoryError: pass\nelse: assert False\nassert g(300)",
    ]
    assert run_tests(code, tests, timeout=PATIENCE)["ok"]


def test_the_child_has_no_test_and_the_tester_no_code(monkeypatch):
    given, popen = [], subprocess.Popen

    def watch(command, stdin, **more):
        stdin.seek(0)
        given.append((command[-2], stdin.read().decode(), str(command)))
        stdin.seek(0)
        return popen(command, stdin=stdin, **more)

    monkeypatch.setattr(sandbox.subprocess, "Popen", watch)
    assert run_tests(SQUARE, ["assert f(31416) == 986965056"])["ok"]
    (tester, job, _), (child, code, _) = given
    assert (tester, child, code) == ("tester", "child", SQUARE)
    assert b"986965056".hex() in job and b"x * x".hex() not in job
    assert not any(
        text in command for *_, command in given for text in ("986965056", b"986965056".hex())
    )


def test_without_isolation_it_refuses(monkeypatch):
    monkeypatch.setattr("posttrain.verify.sandbox.find_sandbox", lambda: None)
    with pytest.raises(BadInput, match="bubblewrap"):
        run_tests(SQUARE, TESTS)
    with pytest.raises(BadInput, match="bubblewrap"):
        verify({"tests": TESTS}, SQUARE, run_code=True)
    assert run_tests(SQUARE, TESTS, unsafe=True)["ok"]
    assert verify({"tests": TESTS}, SQUARE, run_code=True, unsafe=True)["ok"]
    assert not run_tests("def f(x): return 9", TESTS, unsafe=True)["ok"]


@pytest.mark.parametrize(("user", "first"), [(0, "setpriv"), (1000, "bwrap")])
def test_ways_to_isolate(monkeypatch, user, first):
    """As root and as another: both are tried, and in both the folders of Python can be read."""
    tried = []

    def run(self, command, timeout):
        tried.append((command, timeout))
        return ["", ""] if len(tried) == 2 else ["it does not work here"]

    monkeypatch.setattr(sandbox.os, "geteuid", lambda: user)
    monkeypatch.setattr(sandbox.Pair, "run", run)
    assert sandbox.find_sandbox.__wrapped__() == tried[1][0]
    assert tried[0][0][0] == first and "bwrap" in tried[0][0] and "unshare" in tried[1][0]
    for command, timeout in tried:
        assert f"{sys.base_prefix}/bin" in " ".join(command), "the interpreter is there"
        assert 5 <= timeout <= 60
    assert ("-r" in tried[1][0]) == (user != 0), "root needs no user of its own"


def test_several_at_once():
    results = {}
    threads = [
        threading.Thread(
            target=lambda n=n: results.update(
                {n: run_tests(f"def f(x): return x * x + {n % 2}", TESTS, timeout=PATIENCE)["ok"]}
            )
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n % 2 == 0 for n in range(6)}


# ---- messages --------------------------------------------------------------------------------------------------


def copied(value):
    lines = []
    inside.encode(value, lines, {}, None)
    return inside.decode(iter(lines), [], None)


def test_values_survive_a_message():
    shared = [1]
    shared.append(shared)
    values = [
        None,
        True,
        0,
        -5,
        1 << 200,
        0.1,
        -0.0,
        float("inf"),
        3 - 4j,
        "",
        "é\n\0\udfff",
        b"\n",
        bytearray(b"x"),
        (),
        [[]],
        {1: [2]},
        {(1, "a")},
        frozenset([2]),
        range(3),
    ]
    assert copied(values) == values and list(map(type, copied(values))) == list(map(type, values))
    assert str(copied([float("nan"), -0.0])) == "[nan, -0.0]"
    again = copied((shared, shared))
    assert again[0] is again[1] is again[0][1] and again[0][0] == 1


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "i",
        "ixyz",
        "s0",
        "sff",
        "l2\nN",
        "l99999999999",
        "u1\nl0",
        "r0",
        "r-1",
        "t1\nr0",
        "m\nN",
        "xos.system\nt1\ns61",
        "xbuiltins.eval\nt1\ns61",
        "x",
        "q",
        "d2\nl0\nN",
        "lx",
        "b6",
        "xdatetime.date\nt1\nN",
        "nN",
        "peval",
        "neval",
        "o",
        "ox",
        "k",
        "o1 x",
        "e1",
        "xdatetime.datetime\nt1\nN",
    ],
)
def test_no_other_text_is_a_value(lines):
    with pytest.raises(Exception) as found:
        inside.decode(iter(lines.split("\n")), [], inside.tester_resolve)
    assert isinstance(
        found.value, (ValueError, TypeError, IndexError, KeyError, AttributeError, StopIteration)
    )


@pytest.mark.parametrize(("letter", "rest"), [("o", "x"), ("k", "1.5"), ("p", "0"), ("n", "len")])
def test_what_the_child_names_is_a_handle_or_refused(letter, rest):
    """It must not choose what the tester calls."""
    with pytest.raises(ValueError):
        inside.tester_resolve(letter, rest)


@pytest.mark.parametrize(("drawn", "user"), [(b"\x00\x05", 30005), (b"\xff\xff", 35535)])
def test_a_run_has_a_user_of_its_own(monkeypatch, drawn, user):
    """One of 30,000: limits on processes are counted for each user."""
    monkeypatch.setattr(sandbox.os, "urandom", lambda count: drawn[:count])
    assert sandbox.with_user(["--reuid=USER", "USER"]) == [f"--reuid={user}", f"{user}"]
