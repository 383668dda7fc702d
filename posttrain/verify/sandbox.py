"""The sandbox for model-written code: a process with the solution, another with the tests.

`run_tests(code, tests, entry_point)` starts both at once, gives the code to the child and the tests
to the tester, which calls the code's functions over a socket (sandbox_child.py: what runs in
there), and reads the tester's verdicts. So expected values and comparisons never enter the process
that runs model-written code. A test is Python that can fail:

    "assert f(2) == 4"                      an assert; `candidate` stands for `entry_point`
    "s = Stack()\\ns.push(1)\\nassert ..."    several statements
    "def check(candidate): ..."             HumanEval's form: check(candidate) is called; so are
                                            functions test_...()

Every test has a namespace of its own, where the names of Python and its library are the test's own
whatever the solution defines, `entry_point` excepted. The solution is loaded once for all tests and
keeps its state. What a call changes in its arguments is changed in the test; exceptions arrive as
the builtin that they are or derive from, objects as handles with attributes, methods, ==, len, [],
in and loops.

Each process has its own namespaces (processes, network, mounts, IPC), no environment, a bare
read-only root with a small temporary folder, and limits on memory, processes, files, CPU and wall
time. What stays the test's own care: a helper that a test uses belongs in the test, for the
solution's can be forged; and what is computed after a call from an argument (`y = f(x)`, then
`sorted(x)`) should be computed before it, for the call may have changed it.
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
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": LIBRARIES,
}

# argv of what runs inside. Both processes are this very interpreter, so compiled code can be handed
# over.
SOURCE = Path(inside.__file__).read_text(encoding="utf-8")
CODE = marshal.dumps(compile(SOURCE, "sandbox_child.py", "exec", optimize=2))
PROGRAM = [
    os.path.realpath(sys.executable),
    "-I",
    "-S",
    "-c",
    f"import marshal; exec(marshal.loads(bytes.fromhex('{CODE.hex()}')))",
]

# Folders with the interpreter and the libraries, which are to be read in there, nothing else.
FOLDERS = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/bin",
    f"{sys.base_prefix}/bin",
    LIBRARIES,
)
# One way in, bubblewrap.
BWRAP = (
    "bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --tmpfs /tmp --chdir /tmp"
)
# The other, util-linux: own processes, network and IPC, then SHELL.
UNSHARE = "setpriv --pdeathsig KILL unshare -n -m -i -u -p -f --kill-child"
# A bare root on a small tmpfs that holds the interpreter and libraries, read-only; no capabilities.
# Inside a chroot no new user namespace can be made, so none come back. The shell stays, as process
# 1: it dies with `unshare`, whatever the code does to its own parent-death signal, and all the
# others with it. Should memory run out all the same, the kernel ends these processes first.
SHELL = """set -e; id=$1 folders=$2 fstab=$3; shift 3
{ echo 1000 > /proc/self/oom_score_adj; echo 0 > /proc/sys/kernel/shmall; } 2> /dev/null || :
mount -t tmpfs -o size=16m,nr_inodes=1k,mode=1777 none /mnt; cd /mnt
mkdir -p -m 777 tmp dev $folders; : > dev/null
echo "$fstab" > fstab; mount -T fstab -a
chroot . setpriv $id --bounding-set=-all --inh-caps=-all --no-new-privs "$@"; exit 0"""
AS_NOBODY = "--reuid=USER --regid=USER --clear-groups"


# ---- walls ---------------------------------------------------------------------------------------


@functools.cache
def find_sandbox():
    """argv prefix of the first isolation that works on this machine, or None; tried once a process.

    USER in it becomes another user number for each process, so that none counts among the processes
    of another.
    """
    folders = [folder for folder in dict.fromkeys(FOLDERS) if os.path.isdir(folder)]
    if os.geteuid() == 0:
        ways = [
            ["setpriv", *AS_NOBODY.split(), *bwrap(folders)],
            [*UNSHARE.split(), *shell(AS_NOBODY, folders)],
        ]
    else:
        ways = [bwrap(folders), [*UNSHARE.split(), "-r", *shell("", folders)]]
    for way in ways:
        pair = Pair("def six(x): return 6 * x", ["assert six(7) == 42"], None)
        if pair.run(way, timeout=10) == ["", ""]:
            return way
    return None


def bwrap(folders):
    """argv of bubblewrap with these folders in it, to be read."""
    command = BWRAP.split()
    for folder in folders:
        command += ["--ro-bind", folder, folder]
    return [*command, "--dev-bind", "/dev/null", "/dev/null"]


def shell(user, folders):
    """argv of SHELL as a user (options of setpriv) with these folders, to be read."""
    mounts = ["/dev/null /mnt/dev/null none bind"]
    for folder in folders:
        mounts.append(f"{folder} /mnt{folder} none rbind,ro,nosuid,nodev")
    names = " ".join(folder.removeprefix("/") for folder in folders)
    return ["sh", "-c", SHELL, "sh", user, names, "\n".join(mounts)]


def with_user(command):
    """An argv prefix with a user number of its own in the place of USER."""
    user = str(30000 + int.from_bytes(os.urandom(2), "big") % 30000)
    return [word.replace("USER", user) for word in command]


class Pair:
    """The two processes of one run."""

    def __init__(self, code, tests, entry_point):
        """tests: as parse_test returns them."""
        job = []
        inside.encode((entry_point, tests), job, {}, None)
        self.code = code
        self.job = "\n".join(job)
        self.line_count = 1 + len(tests)  # that the tester writes
        self.processes = []

    def run(self, command, timeout):
        """Lines of the tester: one for the code, one for each test; "" where all is well.

        There are fewer where it ended or `timeout` seconds were over. Then both processes and all
        that they started are dead. command: argv prefix, as of find_sandbox.
        """
        end = time.monotonic() + timeout
        seconds = str(int(timeout) + 1)  # of CPU time
        ours, theirs = socket.socketpair()
        text = b""
        with ours, theirs, tempfile.TemporaryDirectory() as folder:
            try:
                tester = [*with_user(command), *PROGRAM, "tester", seconds]
                child = [*with_user(command), *PROGRAM, "child", seconds]
                self.start(tester, self.job, stdout=subprocess.PIPE, link=ours, folder=folder)
                self.start(child, self.code, stdout=subprocess.DEVNULL, link=theirs, folder=folder)
                text = self.read(self.processes[0].stdout, end)
            except OSError:  # no such command
                pass
            finally:
                self.kill()
        complete = text.split(b"\n")[:-1]
        return [line.decode("ascii", "replace")[1:-1] for line in complete]

    def start(self, command, text, *, stdout, link, folder):
        """Start one process, with a text as its stdin and its end of the socket as its stderr."""
        with tempfile.TemporaryFile() as stdin:
            stdin.write(text.encode("utf-8", "surrogatepass"))
            stdin.seek(0)
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=link,
                cwd=folder,
                start_new_session=True,
                env=ENVIRONMENT,
            )
        self.processes.append(process)
        link.close()

    def read(self, pipe, end):
        """What the tester writes, until it has written all, ends, or the time is over."""
        text = b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while text.count(b"\n") < self.line_count and poll.poll(
            max(0, end - time.monotonic()) * 1000
        ):
            part = os.read(pipe.fileno(), 1 << 16)
            if not part:
                break
            text += part
        return text

    def kill(self):
        """Killing the command ends its namespaces, and all that is in them."""
        for process in self.processes:  # not reaped before, so its number is still its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()


# ---- tests ---------------------------------------------------------------------------------------


def parse_test(source, number=0, entry_point=None):
    """A test as text -> the Python to run. BadInput: no Python, or nothing in it can fail."""
    field = f"tests[{number}]"
    refusal = BadInput(f"field '{field}': expected Python that can fail, like \"assert f(2) == 4\"")
    try:
        tree = ast.parse(source.strip() if isinstance(source, str) else "")
        calls, idle = calls_of_definitions(tree, field, entry_point)
        if not can_fail([node for node in tree.body if node not in idle]):
            raise refusal
        for node in [*ast.walk(tree)]:
            compute_expected_first(getattr(node, "test", None))
        return "\n".join([ast.unparse(tree), *calls])
    except BadInput:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise refusal from None


def calls_of_definitions(tree, field, entry_point):
    """(calls that a test needs at its end, its definitions that nothing uses)."""
    loads = {node.id for node in names_in(tree) if isinstance(node.ctx, ast.Load)}
    calls, idle = [], []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name in loads:
            continue
        parameters = len(node.args.args) if isinstance(node, ast.FunctionDef) else None
        if node.name == "check" and parameters == 1:
            if not entry_point:
                expected = f"the function that {field} checks"
                raise BadInput(f"field 'entry_point': expected {expected}")
            calls.append("check(candidate)")
        elif node.name.startswith("test") and parameters == 0:
            calls.append(f"{node.name}()")
        else:
            idle.append(node)
    return calls, idle


def can_fail(statements):
    """Is there an assert, a raise, or a method such as assertEqual?"""
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assert | ast.Raise):
                return True
            if getattr(node, "attr", "").startswith("assert"):
                return True
    return False


def names_in(node):
    return [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]


def compute_expected_first(test):
    """Of f(x) == sorted(x) swap the sides, in place: sorted(x) must not see what f does to x."""
    if not isinstance(test, ast.Compare) or [type(op) for op in test.ops] != [ast.Eq]:
        return
    left, right = test.left, test.comparators[0]
    if any(isinstance(node, ast.NamedExpr) for node in ast.walk(left)):
        return
    if arguments_in(left) & values_in(right):
        test.left, test.comparators = right, [left]


def values_in(node):
    """Names whose value is used, other than by a call."""
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    called = [call.func for call in calls]
    return {name.id for name in names_in(node) if name not in called}


def arguments_in(node):
    """Names whose value is used in the arguments of a call."""
    names = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            for argument in (*call.args, *call.keywords):
                names |= values_in(argument)
    return names


# ---- a run ---------------------------------------------------------------------------------------


def find_code(text, entry_point=None):
    """The Python of a text.

    Of its ``` fences the last one that defines `entry_point`, else the last that defines a function
    or class, else the last; a text without fences whole.
    """
    fence = r"^ {0,3}```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)"
    blocks = re.findall(fence, text, re.DOTALL | re.MULTILINE)
    if not blocks:
        return text
    for name in (re.escape(entry_point or r"-"), r"\w+"):
        defines = re.compile(rf"^[ \t]*(?:(?:async )?def|class) {name}\b|^{name} *=", re.MULTILINE)
        defining = [block for block in blocks if defines.search(block)]
        if defining:
            return textwrap.dedent(defining[-1])
    return blocks[-1]


def run_tests(code, tests, entry_point=None, timeout=5.0, *, unsafe=False):
    """Run model-written Python (`code`, or a text with ``` fences) against tests.

    {"ok", "passed", "total", "why"}. All tests together have `timeout` seconds of wall time; each
    process 512 MB. BadInput: a test that cannot fail, or no isolation works here and `unsafe` is
    not set (with it there are only the limits and a temporary folder).
    """
    parsed = [parse_test(test, number, entry_point) for number, test in enumerate(tests)]
    command = find_sandbox()
    if command is None and not unsafe:
        raise BadInput(
            "no sandbox for model-written code: neither unshare (util-linux) nor bwrap "
            "(bubblewrap) works; install bubblewrap, allow user namespaces, or pass --unsafe to "
            "run it unprotected"
        )
    pair = Pair(find_code(code, entry_point), parsed, entry_point)
    lines = pair.run(command or [], timeout)
    lines += [f"no result within {timeout:g} s"] * (pair.line_count - len(lines))

    of_code, *of_tests = lines
    failures = [why for why in of_tests if why]
    why = failures[0] if failures else ""
    if of_code:
        why = f"the code {of_code}"
    return {
        "ok": not why,
        "passed": 0 if of_code else of_tests.count(""),
        "total": len(tests),
        "why": why[:140],
    }
