"""A process that has loaded the libraries, and forks one for each script that a test runs.

Loading torch, transformers and peft takes longer than most scripts that tests run. Here it is done
once. The scripts and the kit's own modules are loaded anew in every fork.

As a program it reads requests from stdin, one JSON object a line, and answers each with a line:
    {"argv": [...], "folder": ..., "environment": {...}, "stdout": ..., "stderr": ...}  ->  number
    {"wait": number}  ->  exit code"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 280  # a script that runs longer hangs


class Forker:
    """Starts scripts in forks; makes the process that forks when it is first needed."""

    def __init__(self):
        self.process = None
        self.lock = threading.Lock()

    def ask(self, request):
        with self.lock:
            if self.process is None:
                self.process = subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())

    def start(self, argv, scrap, *, folder=ROOT, environment=None):
        """Start a script -> a Started. argv: [path or "-c", ...]; "-c" is followed by a program.

        scrap: a folder for what it prints. environment: all of it (default: that of the tests)."""
        scrap = Path(scrap)
        scrap.mkdir(parents=True, exist_ok=True)
        request = {
            "argv": [str(word) for word in argv],
            "folder": str(folder),
            "environment": dict(os.environ if environment is None else environment),
            "stdout": str(scrap / "stdout"),
            "stderr": str(scrap / "stderr"),
        }
        return Started(self, self.ask(request), request)

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


class Started:
    """A script that runs in a fork."""

    def __init__(self, forker, number, request):
        self.forker, self.number, self.request = forker, number, request

    def wait(self):
        """Its end, as subprocess.run has it."""
        code = self.forker.ask({"wait": self.number})
        texts = [Path(self.request[name]).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self.request["argv"], code, *texts)


# ---- the process that forks ---------------------------------------------------------------------


def load_libraries():
    """Import what takes long, quietened as the kit does it, and nothing of the kit itself."""
    sys.path.insert(0, str(ROOT))
    import posttrain  # noqa: F401, I001
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401
    from threads import one_thread

    one_thread()
    for name in [name for name in sys.modules if name.partition(".")[0] == "posttrain"]:
        del sys.modules[name]
    for folder in (str(ROOT), str(ROOT / "tests")):
        while folder in sys.path:
            sys.path.remove(folder)


def serve():
    load_libraries()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                run(request)
        print(answer, flush=True)


def run(request):
    """Become the script. Never returns."""
    signal.alarm(SECONDS)
    for descriptor, name in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    code = 1
    try:
        code = run_as_program(request["argv"])
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_as_program(argv):
    """What python does with a program -> its exit code."""
    sys.argv = list(argv)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    try:
        if argv[0] == "-c":
            sys.argv.pop(1)
            sys.path[:0] = ["", *paths]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[:0] = [str(Path(argv[0]).parent), *paths]
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    serve()
