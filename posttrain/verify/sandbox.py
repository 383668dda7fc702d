"""The sandbox for model-written code: two walled-in processes, one with the solution, one with the tests.

`run_tests(code, tests, entry_point)` starts both at once, gives the code to the child and the tests to the tester,
which calls the code's functions over a socket (sandbox_child.py: what runs in there), and reads the tester's verdicts. So
expected values and comparisons never enter the process that runs model-written code. A test is Python that can fail:

    "assert f(2) == 4"                      an assert; `candidate` stands for `entry_point`
    "s = Stack()\\ns.push(1)\\nassert ..."    several statements
    "def check(candidate): ..."             HumanEval's form: check(candidate) is called; so are functions test_...()

Every test has a namespace of its own, where the names of Python and its library are the test's own whatever the
solution defines, `entry_point` excepted. The solution is loaded once for all tests and keeps its state. What a call
changes in its arguments is changed in the test; exceptions arrive as the builtin that they are or derive from, objects
as handles with attributes, methods, ==, len, [], in and loops. Each process has its own namespaces (processes, network,
mounts, IPC), no environment, a bare read-only root with a small temporary folder, and limits on memory, processes,
files, CPU and wall time. What stays the test's own care: a helper that a test uses belongs in the test, for the
solution's can be forged; and what is computed after a call from an argument (`y = f(x)`, then `sorted(x)`) should be
computed before it, for the call may have changed it.
"""

import ast
import functools
import marshal
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.verify import sandbox_child as inside

LIBRARIES = f"{sys.base_prefix}/lib"  # where a Python that is not the system's has its own
CODE = marshal.dumps(
    compile(
        Path(inside.__file__).read_text(encoding="utf-8"), "sandbox_child.py", "exec", optimize=2
    )
)
# argv of what runs inside: both processes are this very interpreter, so compiled code can be handed over
PROGRAM = [
    os.path.realpath(sys.executable),
    "-I",
    "-S",
    "-c",
    f"import marshal; exec(marshal.loads(bytes.fromhex('{CODE.hex()}')))",
]
# The way there: own processes, network and IPC; a bare root on a small tmpfs that holds the interpreter and libraries,
# read-only; no capabilities. Inside a chroot no new user namespace can be made, so none come back. The shell stays, as
# process 1: it dies with `unshare`, whatever the code does to its own parent-death signal, and all the others with it.
# Should memory run out all the same, the kernel ends these processes first.
SHELL = """set -e; id=$1 folders=$2 fstab=$3; shift 3
{ echo 1000 > /proc/self/oom_score_adj; echo 0 > /proc/sys/kernel/shmall; } 2> /dev/null || :
mount -t tmpfs -o size=16m,nr_inodes=1k,mode=1777 none /mnt; cd /mnt; mkdir -p -m 777 tmp dev $folders; : > dev/null
echo "$fstab" > fstab; mount -T fstab -a
chroot . setpriv $id --bounding-set=-all --inh-caps=-all --no-new-privs "$@"; exit 0"""


@functools.cache
def find_sandbox():
    """argv prefix of the first isolation that works on this machine, or None; tried once a process. USER in it becomes
    another user number for each process, so that none counts among the processes of another."""
    folders = [
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/bin",
        f"{sys.base_prefix}/bin",
        LIBRARIES,
    ]
    folders = [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]
    inner = [
        " ".join(at[1:] for at in folders),
        "/dev/null /mnt/dev/null none bind\n"
        + "\n".join(f"{at} /mnt{at} none rbind,ro,nosuid,nodev" for at in folders),
    ]
    as_nobody = "--reuid=USER --regid=USER --clear-groups"
    unshare = "setpriv --pdeathsig KILL unshare -n -m -i -u -p -f --kill-child".split()
    bwrap = [
        "bwrap",
        *"--unshare-all --die-with-parent --new-session --cap-drop ALL --tmpfs /tmp --chdir /tmp".split(),
        *[word for at in folders for word in ("--ro-bind", at, at)],
        *"--dev-bind /dev/null /dev/null".split(),
    ]
    ways = [
        ["setpriv", *as_nobody.split(), *bwrap],
        [*unshare, "sh", "-c", SHELL, "sh", as_nobody, *inner],
    ]  # as root
    if os.geteuid():
        ways = [bwrap, [*unshare, "-r", "sh", "-c", SHELL, "sh", "", *inner]]
    probe = "def six(x): return 6 * x", ["assert six(7) == 42"], None, 10
    return next((way for way in ways if run_pair(way, *probe) == ["", ""]), None)


def run_pair(command, code, parsed, entry_point, timeout):
    """Lines of the tester: one for the code, one for each test, fewer where it ended or `timeout` seconds were over;
    then both processes and all that they started are dead."""
    job, text, last, started = [], b"", time.monotonic() + timeout, []
    inside.encode((entry_point, parsed), job, {}, None)
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryDirectory() as folder:
        try:
            for name, given, stdout, link in (
                ("tester", "\n".join(job), subprocess.PIPE, ours),
                ("child", code, subprocess.DEVNULL, theirs),
            ):
                user = str(30000 + int.from_bytes(os.urandom(2), "big") % 30000)
                with tempfile.TemporaryFile() as stdin:
                    stdin.write(given.encode("utf-8", "surrogatepass"))
                    stdin.seek(0)
                    started.append(
                        subprocess.Popen(
                            [
                                *[word.replace("USER", user) for word in command],
                                *PROGRAM,
                                name,
                                str(int(timeout) + 1),
                            ],
                            stdin=stdin,
                            stdout=stdout,
                            stderr=link,
                            cwd=folder,
                            start_new_session=True,
                            env={
                                "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                "LD_LIBRARY_PATH": LIBRARIES,
                            },
                        )
                    )
                link.close()
            said = select.poll()
            said.register(started[0].stdout, select.POLLIN)
            while text.count(b"\n") <= len(parsed) and said.poll(
                max(0, last - time.monotonic()) * 1000
            ):
                part = os.read(started[0].stdout.fileno(), 1 << 16)
                text += part
                if not part:
                    break
        except OSError:  # no such command
            pass
        finally:  # killing the command ends its namespaces, and all that is in them
            for process in started:  # not reaped before, so its number is still its own
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if process.stdout:
                    process.stdout.close()
    return [line.decode("ascii", "replace")[1:-1] for line in text.split(b"\n")[:-1]]


def parse_test(source, number=0, entry_point=None):
    """A test as text -> the Python to run. BadInput: no Python, or nothing in it can fail."""
    try:
        tree = ast.parse(source.strip() if isinstance(source, str) else "")
        nodes, calls, idle = [*ast.walk(tree)], [], []
        loads = {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        for one in tree.body:
            if (
                not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                or one.name in loads
            ):
                continue
            takes = len(one.args.args) if isinstance(one, ast.FunctionDef) else None
            if one.name == "check" and takes == 1:
                if not entry_point:
                    raise BadInput(
                        f"field 'entry_point': expected the function that tests[{number}] checks"
                    )
                calls.append("check(candidate)")
            elif one.name.startswith("test") and takes == 0:
                calls.append(f"{one.name}()")
            else:
                idle.append(one)
        live = [node for one in tree.body if one not in idle for node in ast.walk(one)]
        if any(
            isinstance(node, ast.Assert | ast.Raise)
            or getattr(node, "attr", "").startswith("assert")
            for node in live
        ):
            for node in nodes:
                compute_expected_first(getattr(node, "test", None))
            return "\n".join([ast.unparse(tree), *calls])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, BadInput):
            raise
    raise BadInput(
        f"""field 'tests[{number}]': expected Python that can fail, like "assert f(2) == 4\""""
    )


def compute_expected_first(test):
    """Of f(x) == sorted(x) swap the sides, in place: sorted(x) must not see what f does to x."""

    def names(node):
        callees = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
        return {
            one.id for one in ast.walk(node) if isinstance(one, ast.Name) and one not in callees
        }

    if isinstance(test, ast.Compare) and [type(op) for op in test.ops] == [ast.Eq]:
        left, right = test.left, test.comparators[0]
        given = {
            name
            for call in ast.walk(left)
            if isinstance(call, ast.Call)
            for one in (*call.args, *call.keywords)
            for name in names(one)
        }
        if given & names(right) and not any(
            isinstance(node, ast.NamedExpr) for node in ast.walk(left)
        ):
            test.left, test.comparators = right, [left]


def find_code(text, entry_point=None):
    """The Python of a text: of its ``` fences the last one that defines `entry_point`, else the last that defines a
    function or class, else the last; a text without fences whole."""
    blocks = re.findall(
        r"^ {0,3}```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", text, re.DOTALL | re.MULTILINE
    ) or [text]
    for name in (re.escape(entry_point or r"-"), r"\w+"):
        defines = re.compile(rf"^[ \t]*(?:(?:async )?def|class) {name}\b|^{name} *=", re.MULTILINE)
        found = [block for block in blocks if defines.search(block)]
        if found:
            return textwrap.dedent(found[-1]) if len(blocks) > 1 or blocks[0] != text else text
    return blocks[-1]


def run_tests(code, tests, entry_point=None, timeout=5.0, unsafe=False):
    """Run model-written Python (`code`, or a text with ``` fences) against tests: {"ok", "passed", "total", "why"}. All
    tests together have `timeout` seconds of wall time; each process 512 MB. BadInput: a test that cannot fail, or no
    isolation works here and `unsafe` is not set (with it there are only the limits and a temporary folder)."""
    parsed = [parse_test(test, number, entry_point) for number, test in enumerate(tests)]
    command = find_sandbox()
    if command is None and not unsafe:
        raise BadInput(
            "no sandbox for model-written code: neither unshare (util-linux) nor bwrap (bubblewrap) works; "
            "install bubblewrap, allow user namespaces, or pass --unsafe to run it unprotected"
        )
    late = f"no result within {timeout:g} s"
    start, *got = run_pair(
        command or [], find_code(code, entry_point), parsed, entry_point, timeout
    ) or [late]
    got += [late] * (len(parsed) - len(got))
    why = f"the code {start}" if start else next(filter(None, got), "")
    return {
        "ok": not why,
        "passed": 0 if start else got.count(""),
        "total": len(tests),
        "why": why[:140],
    }
