"""The whole loop on the tiny world, on a CPU: about five minutes on two cores, offline.

Reads   data/tiny: models small enough to train here, prompts, and a program that knows the truth.
Writes  a folder of runs (--out), the logs of the commands in its folder logs/.
Exits   0; or with the code of the command that failed, its last error lines printed.

    python demo.py
    python demo.py --out runs/again --seed 1

It runs the very commands that a person types, two at a time, each as soon as what it reads is
there, and echoes each: copy one, change it, run it again. What a command printed is shown whole
when it and those before it have ended; of a gate that ships, one line is shown. Prices
(--price-...) are made up, to show the cost model at work.
What to look at: the texts near the end, the table below them, the page of the gate that blocks.
Killed at any moment, the same command continues; delete the folder to start over.
Left out on purpose: anything of interest for a real model. The README says how to do that.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from posttrain.cli import BadInput, parser, run_stage
from posttrain.records.files import read_records
from posttrain.records.jsonl import read_jsonl
from posttrain.verify.checks import verify

ROOT = Path(__file__).resolve().parent
TINY = "data/tiny"
WIDTH = 110  # columns of the widest line
AT_ONCE = 2  # commands that run at the same time, as two cores allow
TABLE_PAGE = "docs/promises.md"

# Of every command. On Linux a large tensor that is freed goes back to the system, and the next one
# is taken from it page by page; memory that is kept saves some five percent of the time.
ENVIRONMENT = {
    "PYTHONUTF8": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}

# What a gate answers with: SHIP, BLOCK, NOT ENOUGH DATA. Other codes are accidents.
VERDICT_CODES = (0, 1, 3)

TRAIN = "--tokens-per-second 7000 --price-gpu-hour 0.40"
SAMPLE = "--n 4 --temperatures 1.0 --max-tokens 48 --batch-size 384"
SAMPLE_PLAN = "--answer-len 26 --tokens-per-second 7000 --price-gen 0.60"
JUDGE = "--min-margin 0.5"
JUDGE_PLAN = "--tokens-per-second 12000 --price-judge 0.60"
GATE = "--greedy --max-tokens 48 --batch-size 512"
GATE_PLAN = "--answer-len 22 --tokens-per-second 6000 --price-gpu-hour 0.40"

# Whose word labels the answers: (what the names of its runs begin with, words for judge.py).
LABELS = {
    "judge": ("", f"--judge {TINY}/judge --no-verify unsafe benign context german long"),
    "rules": ("rules-", f"--judge {TINY}/judge"),
    "random": ("random-", "--judge random"),
}

# Slices of the suite whose texts are shown.
SHOWN = {"tool": "a tool call", "unsafe": "a harmful request", "format": "a format instruction"}
TEXTS_INTRO = """What they answer to held-out prompts, greedily. Of each kind the first is shown
that only one of SFT and DPO gets right; if there is none, the first that any two differ on.
"""
# Policy: the gate that has its answers, and in which role.
ANSWERED = {
    "base": ("gate-base", "baseline"),
    "sft": ("gate-base", "candidate"),
    "dpo": ("gate-dpo", "candidate"),
}


def parse_args(argv=None):
    p = parser(__doc__)
    sft = f"{TINY}/sft.jsonl"
    labels = (
        "who labels: judge (a program in three slices, the tiny AI judge in five), rules (the "
        "program everywhere; the judge ranks among the right) or random (a control)"
    )
    add = p.add_argument
    add("--out", default="runs/demo", help="folder of the runs; paths start at this script's")
    add("--seed", type=int, default=0, help="of every stage")
    add("--suite", default=f"{TINY}/gate", help="the gate's prompts")
    add("--sft", default=sft, help="data of the supervised fine-tuning")
    add("--labels", choices=LABELS, default="judge", help=labels)
    args = p.parse_args(argv)
    for name in ("out", "suite", "sft"):  # with / on every system
        setattr(args, name, Path(getattr(args, name)).as_posix())
    return args


# ---- the commands --------------------------------------------------------------------------------


@dataclass(eq=False)  # two tasks are never the same one
class Task:
    """Commands, lists of words, that run one after another as soon as what they need is there."""

    commands: list
    after: list  # names of the runs that they need
    threads: int = 1  # of each command
    before: Callable | None = None  # what is done first; returns what is shown of it

    def names(self):
        """Of the runs that it makes."""
        return [name_of(command) for command in self.commands]


class Phase(NamedTuple):
    """Tasks that are shown under one heading."""

    title: str
    tasks: list


class Commands:
    """The commands of the demo, as lists of words. Names of runs are folders in `out`."""

    def __init__(self, *, out, seed, suite, labels):
        self.out = out
        self.seed = ["--seed", str(seed)]
        self.suite = suite
        self.prefix, judge = LABELS[labels]
        self.judge_words = judge.split()

    def path(self, name):
        return f"{self.out}/{name}"

    def pairs(self, number):
        return self.path(f"{self.prefix}judged{number}/pairs.jsonl")

    def train(self, script, model, data, *, name, method):
        """A trainer's command; it writes the run `name`. method: the flags of its method."""
        files = ["--model", model, "--data", data, "--out", self.path(name)]
        return [script, *files, *method.split(), *self.seed, *TRAIN.split()]

    def candidates(self, model, number):
        files = ["--model", model, "--data", f"{TINY}/prompts.jsonl"]
        files += ["--out", self.path(f"candidates{number}.jsonl")]
        return ["gen_candidates.py", *files, *SAMPLE.split(), *self.seed, *SAMPLE_PLAN.split()]

    def judge(self, number):
        files = ["--data", self.path(f"candidates{number}.jsonl")]
        files += ["--out", self.path(f"{self.prefix}judged{number}")]
        files += ["--constitution", f"{TINY}/constitution.md"]
        flags = [*JUDGE.split(), *self.seed, *JUDGE_PLAN.split()]
        return ["judge.py", *files, *flags, *self.judge_words]

    def gate(self, name, model, baseline, control=""):
        """control: more flags for the candidate, as text."""
        files = ["--model", model, *control.split(), "--baseline", baseline]
        files += ["--out", self.path(f"gate-{name}"), "--suite", self.suite]
        return ["gate.py", *files, *GATE.split(), *self.seed, *GATE_PLAN.split()]

    def gate_against_sft(self, name):
        return self.gate(name, self.path(name), self.path("sft"))


def phases(args):
    """All that the demo runs, in the order in which it is shown."""
    run = Commands(out=args.out, seed=args.seed, suite=args.suite, labels=args.labels)
    by_judge = args.labels == "judge"
    trained = ["dpo"] if args.labels == "random" else ["dpo", "ipo", "kto", "helpful"]
    plan = [
        Phase(
            "stage A: supervised fine-tuning of the tiny base on chatty, slightly wrong examples",
            [first_stage(run, args.sft)],
        ),
        Phase(
            "steps 2 and 3: four candidates for each of 896 new prompts, judged",
            labelling(run, by_judge),
        ),
        Phase(
            f"stage B: {', '.join(trained)} against the SFT policy; the gate: SFT against itself",
            training(run, trained, by_judge),
        ),
        Phase(
            "step 5: the gate, on held-out prompts; at the end how often it is wrong",
            gating(run, trained, by_judge),
        ),
    ]
    everything = [name for phase in plan for task in phase.tasks for name in task.names()]
    show_answers = partial(answers_shown, ROOT / args.out, ROOT / args.suite)
    before = show_answers if by_judge else None
    table = Task([["bench/table.py", args.out]], everything, before=before)
    return [*plan, Phase("results", [table])]


def first_stage(run, data):
    """SFT of the base. It runs alone, so on two threads; later commands run two at a time."""
    command = run.train("sft.py", f"{TINY}/base", data, name="sft", method="--lr 2e-3 --epochs 2")
    return Task([command], after=[], threads=2)


def labelling(run, by_judge):
    """Candidates of the SFT policy and their labels; is SFT better than the base?"""
    tasks = [Task([run.candidates(run.path("sft"), 1), run.judge(1)], after=["sft"])]
    if by_judge:
        tasks.append(Task([run.gate("base", run.path("sft"), f"{TINY}/base")], after=["sft"]))
    return tasks


def training(run, names, by_judge):
    """One policy from each kind of training."""
    sft = run.path("sft")
    judged = f"{run.prefix}judged1"
    pairs = run.pairs(1)
    label_file = run.path(f"{judged}/labels.jsonl")
    helpful = run.path(f"{judged}/helpful.jsonl")
    # Script, data, and the flags of the method.
    methods = {
        "dpo": ("dpo.py", pairs, "--lr 5e-4"),
        "ipo": ("dpo.py", pairs, "--loss ipo --lr 8e-4"),
        "kto": ("kto.py", label_file, "--lr 5e-4 --beta 0.3 --max-steps 80"),
        "helpful": ("dpo.py", helpful, "--lr 5e-4 --epochs 2"),
    }
    # "helpful" learns from the pairs without those of harmful requests.
    leave_out = partial(without_slice, ROOT / pairs, ROOT / helpful, "unsafe")
    # The gate keeps what SFT answers, for those that follow; it has answered some already.
    tasks = [Task([run.gate_against_sft("sft")], after=["gate-base"] if by_judge else ["sft"])]
    for name in names:
        script, data, flags = methods[name]
        command = run.train(script, sft, data, name=run.prefix + name, method=flags)
        before = leave_out if name == "helpful" else None
        tasks.append(Task([command], after=[judged], before=before))
    return tasks


def gating(run, names, by_judge):
    """The gates of what was trained; with the judge's labels also those below."""
    gates = []
    for name in names:
        policy = run.prefix + name
        gates.append(Task([run.gate_against_sft(policy)], after=[policy, "gate-sft"]))
    if not by_judge:
        return gates

    # Post-training is a loop: the DPO policy answers, is judged and trained once more.
    dpo = run.path("dpo")
    round_two = [
        run.candidates(dpo, 2),
        run.judge(2),
        run.train("dpo.py", dpo, run.pairs(2), name="dpo2", method="--lr 5e-4"),
        run.gate_against_sft("dpo2"),
    ]
    # A cooler SFT is the control: is it learning, or only sharpening?
    sft = run.path("sft")
    cooler = [run.gate("cool", sft, sft, "--model-temperature 0.3")]
    # How often is the gate wrong? The rule on redrawn answers of SFT.
    selftest = [["gate.py", "--selftest", "--out", run.path("gate-sft")]]
    return [
        Task(round_two, after=["dpo", "gate-sft"]),
        Task(cooler, after=["gate-sft"]),
        *gates,
        Task(selftest, after=["gate-sft"]),
    ]


def without_slice(source, target, name):
    """Write the lines of a JSONL file that are not of a slice -> a line that says so."""
    lines = source.read_bytes().splitlines(keepends=True)
    mark = f'"slice": "{name}"'.encode()
    target.write_bytes(b"".join(line for line in lines if mark not in line))
    return f"note     {target.name}: the lines of {source.name} that are not of slice {name}\n"


# ---- running them --------------------------------------------------------------------------------


class Failed(Exception):
    """A command that failed: what was printed, its last error lines, its exit code."""

    def __init__(self, text, errors, code):
        super().__init__(errors)
        self.text = text
        self.errors = errors
        self.code = code


class Runner:
    """Runs commands in the checkout and knows which are at work, so that none outlives the demo.

    What a command writes to stderr, progress bars too, goes to a file of its name in `logs`.
    """

    def __init__(self, logs):
        self.logs = logs
        self.at_work = {}  # process: (name, when it began)
        self.stopping = False
        self.lock = Lock()

    def run_task(self, task):
        """Run a Task -> all that is to be shown. Failed: one of its commands failed."""
        text = "\n" + task.before() if task.before else ""
        for command in task.commands:
            text += "\n" + echo(command) + "\n"
            printed, code = self.run(command, task.threads)
            if not is_fine(command, code):
                raise Failed(text + shown(printed), self.last_errors(command), code)
            text += shown(gate_lines(command, printed) if is_gate(command) else printed)
        return text

    def run(self, command, threads):
        """(what it printed, exit code) of a command."""
        words = [sys.executable, *command]
        environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
        with open(self.log_of(command), "w", encoding="utf-8") as log:
            with self.lock:
                if self.stopping:
                    raise Failed("", "stopped", 130)
                process = subprocess.Popen(
                    words,
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    errors="replace",
                    close_fds=False,  # the lock is inherited: see take_folder
                )
                self.at_work[process] = (name_of(command), time.monotonic())
            printed, _ = process.communicate()
        with self.lock:
            del self.at_work[process]
        return printed, process.returncode

    def stop(self):
        """Kill what is at work; nothing starts any more."""
        with self.lock:
            self.stopping = True
            for process in self.at_work:
                process.kill()

    def log_of(self, command):
        return self.logs / f"{name_of(command)}.log"

    def last_errors(self, command):
        """The last three lines that a command wrote to stderr."""
        text = self.log_of(command).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.replace("\r", "\n").strip().splitlines()[-3:])

    def state(self):
        """One line: what is at work, for how long, and how far its progress bar is."""
        parts = []
        with self.lock:
            for name, began in self.at_work.values():
                log = (self.logs / f"{name}.log").read_bytes()[-300:]
                percents = re.findall(rb"(\d+)%\|", log)
                progress = f" ({percents[-1].decode()} %)" if percents else ""
                parts.append(f"{name} {time.monotonic() - began:.0f} s{progress}")
        return f"running: {', '.join(parts)}" if parts else ""


class Schedule:
    """Runs tasks, AT_ONCE at a time: always the first whose runs are there."""

    def __init__(self, runner, tasks):
        self.runner = runner
        self.waiting = list(tasks)
        self.futures = {}  # task that was begun: its future
        self.pool = ThreadPoolExecutor(AT_ONCE)

    def wait_for(self, task):
        """What is to be shown of a task, when it has ended. Failed: this one or another failed."""
        while task not in self.futures or not self.futures[task].done():
            self.start_ready()
            show_state(self.runner.state())
            time.sleep(0.1)
            self.raise_failure()
        show_state("")
        return self.futures[task].result()

    def start_ready(self):
        at_work = 0
        runs = set()
        for task, future in self.futures.items():
            if future.done():
                runs.update(task.names())
            else:
                at_work += 1
        for task in list(self.waiting):
            if at_work < AT_ONCE and runs.issuperset(task.after):
                self.futures[task] = self.pool.submit(self.runner.run_task, task)
                self.waiting.remove(task)
                at_work += 1

    def raise_failure(self):
        """Raise what a task has failed with, whichever is being waited for."""
        for future in self.futures.values():
            if future.done() and future.exception():
                show_state("")
                raise future.exception()

    def stop(self):
        """Kill what is at work; nothing starts any more."""
        self.runner.stop()
        self.pool.shutdown()  # none is waiting in it: a task is given to it when there is a place


def show_state(text):
    """Replace the line of progress on a terminal; anywhere else there is none."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:{width}}\r", end="", file=sys.stderr, flush=True)


def name_of(command):
    """What a command is called: the run it writes, or what it does."""
    if "--selftest" in command:
        return "selftest"
    if "--out" in command:
        return Path(command[command.index("--out") + 1]).stem
    return Path(command[0]).stem


def is_gate(command):
    return command[0] == "gate.py" and "--selftest" not in command


def is_fine(command, code):
    """Has a command done its work? BLOCK and NOT ENOUGH DATA are answers of a gate."""
    if not is_gate(command):
        return code == 0
    return code in VERDICT_CODES and (gate_folder(command) / "report.json").exists()


def gate_folder(command):
    return ROOT / command[command.index("--out") + 1]


# ---- what is printed -----------------------------------------------------------------------------


def heading(number, count, title):
    print(shown(f"\n== {number}/{count}  {title}"), end="", flush=True)


def quoted(word):
    """A word as the shell of this system takes it."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


def echo(command):
    r"""A command as it can be copied: no line is wider than WIDTH, lines that go on end in \."""
    chunks = [f"$ python {quoted(command[0])}"]
    for word in command[1:]:
        if word.startswith("--"):
            chunks.append(word)
        else:
            chunks[-1] += f" {quoted(word)}"
    lines = chunks[:1]
    for chunk in chunks[1:]:
        if len(lines[-1]) + 1 + len(chunk) + len(" \\") <= WIDTH:
            lines[-1] += f" {chunk}"
        else:
            lines.append(f"    {chunk}")
    return " \\\n".join(lines)


def shown(text):
    """Text whose lines are wrapped where they are wider than WIDTH, each with its line break."""
    lines = []
    for line in text.splitlines():
        pieces = [line]
        if len(line) > WIDTH:
            pieces = textwrap.wrap(line, WIDTH, subsequent_indent=" " * 9, break_on_hyphens=False)
        lines += pieces
    return "".join(line + "\n" for line in lines)


def gate_lines(command, printed):
    """What is shown of a gate: one line where it ships; else all, and which page to open."""
    folder = gate_folder(command)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if report["verdict"] == "SHIP":
        return verdict_line(report, folder.name)
    page = folder / "report.html"
    return f"{printed}open     {page}: why this is no SHIP, and the answers that lost most\n"


def verdict_line(report, name):
    """A gate in one line; name: its folder's."""
    candidate = Path(report["candidate"]).name
    baseline = Path(report["baseline"]).name
    models = f"{candidate} against {baseline} ({name})"
    return f"gate     {models}: {report['verdict']}, {report['why']}"


def answers_shown(out, suite):
    """What base, SFT and DPO answer to three held-out prompts, and whether it is right: text."""
    texts = {}
    for policy, (gate, role) in ANSWERED.items():
        rows = read_jsonl(out / gate / f"answers-{role}-greedy.jsonl")
        texts[policy] = {row["id"]: row["text"] for _, row in rows}
    shown_texts = [TEXTS_INTRO]
    for name, title in SHOWN.items():
        items = read_records(suite / f"{name}.jsonl", "prompts")
        shown_texts.append(example(title, items, texts))
    return "\n".join(shown_texts)


def example(title, items, texts):
    """A prompt and every policy's answer to it, right or wrong, as lines.

    texts: {policy: {id: its greedy answer}}. The first item on which SFT and DPO differ; if there
    is none, the first on which any two differ, else the first.
    """

    def is_right(item, policy):
        return verify(item, texts[policy][item["id"]])["ok"]

    def differ(item, policies):
        return len({is_right(item, policy) for policy in policies}) > 1

    items = [item for item in items if all(item["id"] in answers for answers in texts.values())]
    candidates = [item for item in items if differ(item, ("sft", "dpo"))]
    candidates += [item for item in items if differ(item, texts)]
    item = (candidates + items)[0]

    lines = [f"{title}: {item['prompt'][-1]['content']}"]
    for policy in texts:
        word = "right" if is_right(item, policy) else "wrong"
        lines.append(f"    {policy:5} {word}  {texts[policy][item['id']]}")
    text = ""
    for line in lines:
        readable = "".join(c if c.isprintable() else " " for c in line)
        text += "\n".join(textwrap.wrap(readable, WIDTH, subsequent_indent=" " * 17)) + "\n"
    return text


def next_lines(out):
    """What to open when all is done."""
    lines = []
    for path in sorted((ROOT / out).glob("gate-*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["verdict"] != "SHIP":
            page = f"{out}/{path.parent.name}/report.html"
            lines.append(f"open     {page}: why the gate said {report['verdict']}")
    for path in sorted((ROOT / out).glob("*dpo/curves.png")):
        lines.append(
            f"open     {out}/{path.parent.name}/curves.png: what one training run looks like"
        )
    lines.append(f"read     {TABLE_PAGE}: the table above, line by line")
    return lines


# ---- the run -------------------------------------------------------------------------------------


def take_folder(out):
    """Keep others out of the folder while this file is open, or while a command of ours is at work.

    BadInput when another demo, or what a killed one has left, is at work there.
    """
    file = open(out / "lock", "w")  # noqa: SIM115  (it stays open)
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(file.fileno(), True)  # commands hold the lock, too
    except OSError:
        raise BadInput(f"another run is at work in {out}") from None
    return file


def stop_on_signals():
    """Let other signals end the demo as Ctrl-C does, but not where nohup ignores them."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def main(args):
    began = time.monotonic()
    out = ROOT / args.out
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    lock = take_folder(out)
    stop_on_signals()

    plan = phases(args)
    schedule = Schedule(Runner(logs), [task for phase in plan for task in phase.tasks])
    try:
        for number, phase in enumerate(plan, 1):
            heading(number, len(plan), phase.title)
            for task in phase.tasks:
                print(schedule.wait_for(task), end="", flush=True)
    except Failed as failure:
        print(failure.text, end="", flush=True)
        print(f"demo.py: failed with exit code {failure.code}:", file=sys.stderr)
        print(failure.errors, file=sys.stderr)
        return failure.code if failure.code > 0 else 128 - failure.code
    finally:  # an interrupt from the keyboard, too
        schedule.stop()

    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"done     in {minutes} min {seconds} s -> {args.out}")
    for line in next_lines(args.out):
        print(shown(line), end="")
    lock.close()
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows fewer letters
    run_stage(main, parse_args())
