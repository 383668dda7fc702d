"""demo.py: the commands it runs are those that were recorded; what it prints; how it ends."""

import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Barrier, Lock
from types import SimpleNamespace

import pytest
from conftest import ROOT, write

import demo
from posttrain.cli import BadInput

# A stage that does nothing but write what the demo reads of it.
STUB = """
import json, os, pathlib, sys, time
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1]) if "--out" in words else pathlib.Path("none")
out.parent.mkdir(parents=True, exist_ok=True)
with open("calls.txt", "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *words]) + "\\n")
print("plan     " + "many words that make a line wider than the screen " * 4)
if out.stem == os.environ.get("STUB_FAILS"):
    print("one", "two", "three", "four", sep="\\n", file=sys.stderr)
    sys.exit(5)
if out.stem == os.environ.get("STUB_SLEEPS"):
    pathlib.Path("pid.txt").write_text(str(os.getpid()))
    time.sleep(100)
if sys.argv[0].endswith("judge.py"):
    out.mkdir(exist_ok=True)
    lines = ['{"id": 1, "slice": "tool"}', '{"id": 2, "slice": "unsafe"}']
    (out / "pairs.jsonl").write_bytes("".join(line + "\\n" for line in lines).encode())
if sys.argv[0].endswith("gate.py") and "--selftest" not in words:
    out.mkdir(exist_ok=True)
    verdict = "BLOCK" if out.stem == "gate-helpful" else "SHIP"
    models = [words[words.index(flag) + 1] for flag in ("--model", "--baseline")]
    report = dict(zip(("candidate", "baseline"), models), verdict=verdict, why="it is so")
    (out / "report.json").write_text(json.dumps(report))
    for role in ("candidate", "baseline"):
        (out / f"answers-{role}-greedy.jsonl").write_text(
            json.dumps({"id": "t", "sample": "greedy", "text": f"{out.stem} {role}"}) + "\\n"
        )
    print("verdict  " + verdict + " in many words")
    sys.exit(int(verdict == "BLOCK"))
"""
SCRIPTS = ("sft", "gen_candidates", "judge", "dpo", "kto", "gate", "bench/table")


def recorded(labels):
    """The commands that the demo ran when it was a shell script."""
    text = (ROOT / "tests/demo_commands.txt").read_text(encoding="utf-8")
    part = text.split(f"# --labels {labels}\n")[1].split("# ")[0]
    return [line.split() for line in part.splitlines()]


def commands(*flags):
    commands = []
    for phase in demo.phases(demo.parse_args(list(flags))):
        for task in phase.tasks:
            commands += task.commands
    return commands


@pytest.fixture
def kit(tmp_path):
    """A copy of the demo in a folder with a space in its name, with stubs for stages."""
    folder = tmp_path / "my kit"
    (folder / "bench").mkdir(parents=True)
    shutil.copy(ROOT / "demo.py", folder)
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "posttrain", folder / "posttrain", ignore=hidden)
    for name in SCRIPTS:
        (folder / f"{name}.py").write_text(STUB)
    suite = folder / "data/tiny/gate"
    suite.mkdir(parents=True)
    for name in demo.SHOWN:
        write(suite / f"{name}.jsonl", [{"id": "t", "prompt": f"Do {name}.", "answer": 5}])
    return folder


def start(kit, *words, signals=None, **environment):
    """The demo in a process of its own; signals: called in it before it begins."""
    return subprocess.Popen(
        [sys.executable, str(kit / "demo.py"), *words],
        env=os.environ | environment,
        cwd=kit.parent,
        preexec_fn=signals,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- the commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", demo.LABELS)
def test_commands_are_the_recorded_ones(labels):
    """In the order in which they were begun, two at a time, when it was a shell script."""
    ours, theirs = commands("--labels", labels), recorded(labels)
    assert sorted(ours) == sorted(theirs)
    assert ours[0] == theirs[0] and ours[-1] == theirs[-1]


def test_flags_reach_the_commands():
    words = ["--out", "runs/other/", "--seed", "7", "--suite", "runs/suite", "--sft", "my.jsonl"]
    ours = commands(*words)
    assert all(
        command[command.index("--seed") + 1] == "7" for command in ours if "--seed" in command
    )
    assert sum("--seed" in command for command in ours) == 18
    assert ours[0][:6] == ["sft.py", "--model", "data/tiny/base", "--data", "my.jsonl", "--out"]
    for command in ours:
        assert not any(word.startswith("runs/demo") or "//" in word for word in command)
        if "--suite" in command:
            assert command[command.index("--suite") + 1] == "runs/suite"


@pytest.mark.parametrize("labels", demo.LABELS)
def test_commands_parse(labels):
    for script, *words in commands("--labels", labels):
        assert (ROOT / script).is_file()
        importlib.import_module(Path(script).stem).parse_args(words)


@pytest.mark.parametrize("labels", demo.LABELS)
def test_tasks_wait_for_all_that_they_read(labels):
    """A folder of runs in a command is that of a run before it, and of one that is waited for."""
    plan = demo.phases(demo.parse_args(["--labels", labels]))
    assert len(plan) == 5 and all(phase.tasks for phase in plan)
    needs = {}  # run: all that is there when it begins
    for task in (task for phase in plan for task in phase.tasks):
        ready = set(task.after).union(*(needs[name] for name in task.after))
        for command, name in zip(task.commands, task.names(), strict=True):
            words = [word for word in command if word.startswith("runs/demo/")]
            read = {Path(word).parts[2].removesuffix(".jsonl") for word in words} - {name}
            assert read <= ready | ({"gate-sft"} if name == "selftest" else set())
            ready = ready | {name}
        needs |= dict.fromkeys(task.names(), ready)
        assert task.threads == (2 if task.names() == ["sft"] else 1)
    assert needs["table"] == set(needs), "the table comes last"
    assert all("gate-sft" in needs[name] for name in needs if name.startswith("gate-r"))


# ---- what is printed -----------------------------------------------------------------------------


def test_an_echo_can_be_copied():
    for out in ("runs/demo", "runs/it's a demo", "runs/" + "long/" * 12 + "demo"):
        for command in commands("--out", out):
            text = demo.echo(command)
            assert shlex.split(text.replace("\\\n", "")) == ["$", "python", *command]
            assert max(map(len, text.splitlines())) <= demo.WIDTH
            assert all(line.endswith(" \\") for line in text.splitlines()[:-1])


def test_a_line_of_an_echo_takes_what_fits():
    """Up to the last column, the backslash included."""
    long = "a" * 60
    for length in range(1, demo.WIDTH):
        text = demo.echo(["dpo.py", "--out", "b" * length, "--data", long, "--lr", "1"])
        first = f"$ python dpo.py --out {'b' * length} --data {long} \\"
        fits = len(first) <= demo.WIDTH
        assert (text.splitlines()[0] == first) == (fits and "--lr" not in text.splitlines()[0])


def test_wide_lines_are_wrapped_and_others_left():
    narrow = "a  table   is kept\n\n  so is this\n"
    assert demo.shown(narrow) == narrow
    text = demo.shown("plan     " + "word-with-hyphens " * 20)
    assert max(map(len, text.splitlines())) <= demo.WIDTH and "word-with-hyphens" in text
    assert text.split() == ["plan", *["word-with-hyphens"] * 20]
    assert all(line.startswith(" " * 9 + "word") for line in text.splitlines()[1:])


def test_texts_of_three_policies(tmp_path):
    """Of each kind the first prompt on which SFT and DPO differ, else one on which any two do."""
    rows = [{"id": f"q{n}", "prompt": f"Number {n}?", "answer": n} for n in range(4)]
    suite = tmp_path / "suite"
    suite.mkdir()
    for name in demo.SHOWN:
        write(suite / f"{name}.jsonl", rows)
    answers = {
        ("gate-base", "baseline"): ["9", "9", "9", "9"],
        ("gate-base", "candidate"): ["0", "1", "8", "8"],
        ("gate-dpo", "candidate"): ["0", "1", "2", "3" * 150],
        ("gate-dpo", "baseline"): ["7", "7", "7", "7"],
    }
    for (gate, role), texts in answers.items():
        (tmp_path / gate).mkdir(exist_ok=True)
        lines = [{"id": f"q{n}", "text": text} for n, text in enumerate(texts)]
        write(tmp_path / gate / f"answers-{role}-greedy.jsonl", lines)
    printed = demo.answers_shown(tmp_path, suite)
    block = [
        "a harmful request: Number 2?",
        "    base  wrong  9",
        "    sft   wrong  8",
        "    dpo   right  2",
    ]
    assert "\n".join(block) in printed and printed.count("Number") == 3

    texts = {"base": {"q0": "9", "q1": "9"}, "sft": {"q0": "1", "q1": "1"}}
    texts["dpo"] = {"q0": "\x1b[2J" + "wide " * 40, "q1": "1"}
    items = [
        row | {"prompt": [{"role": "user", "content": "Hi"}], "type": "verify"} for row in rows
    ]
    text = demo.example("a kind", items, texts)
    assert text.startswith("a kind: Hi\n    base  wrong  9\n    sft   right  1\n")
    texts["sft"]["q1"] = "5"
    text = demo.example("a kind", items[:1], texts)
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= demo.WIDTH


def test_slice_is_left_out_byte_for_byte(tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "helpful.jsonl"
    source.write_bytes('{"slice": "tool", "a": "ü"}\n{"slice": "unsafe"}\n{"b": 1}\n'.encode())
    note = demo.without_slice(source, target, "unsafe")
    assert target.read_bytes() == '{"slice": "tool", "a": "ü"}\n{"b": 1}\n'.encode()
    assert note.startswith("note ") and "helpful.jsonl" in note


def test_the_page_that_the_last_line_names_explains_the_table():
    page = (ROOT / demo.TABLE_PAGE).read_text(encoding="utf-8")
    assert "Read the demo's table like this" in page


# ---- how it runs and ends ------------------------------------------------------------------------


class Steps:
    """Stands for demo.Runner: notes what was there when a task began, and how many were at work."""

    def __init__(self):
        self.begun = []
        self.ended = set()
        self.at_work = 0
        self.most = 0
        self.both = Barrier(2)  # the first two tasks wait for each other
        self.lock = Lock()

    def run_task(self, task):
        (name,) = task.names()
        with self.lock:
            self.begun.append((name, set(self.ended)))
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        if name in ("a", "b"):
            self.both.wait(timeout=60)
        if name == "bad":
            raise demo.Failed("", "bad", 5)
        with self.lock:
            self.at_work -= 1
            self.ended.add(name)
        return f"output of {name}"

    def state(self):
        return ""

    def stop(self):
        pass


def task_of(name, *after):
    return demo.Task([["dpo.py", "--out", f"runs/{name}"]], after=list(after))


def test_tasks_begin_when_what_they_need_is_there():
    tasks = [task_of("a"), task_of("late", "a", "b"), task_of("b"), task_of("c"), task_of("d", "c")]
    steps = Steps()
    schedule = demo.Schedule(steps, tasks)
    assert [schedule.wait_for(task) for task in tasks] == [
        f"output of {name}" for name in ("a", "late", "b", "c", "d")
    ]
    schedule.stop()
    begun = dict(steps.begun)
    assert begun["late"] >= {"a", "b"} and "c" in begun["d"]
    assert [name for name, _ in steps.begun].index("late") < 4, "first in the list, first begun"
    assert steps.most == demo.AT_ONCE == 2


def test_a_failure_elsewhere_ends_the_wait():
    tasks = [task_of("bad"), task_of("after", "bad")]
    schedule = demo.Schedule(Steps(), tasks)
    with pytest.raises(demo.Failed, match="bad"):
        schedule.wait_for(tasks[1])
    schedule.stop()


def test_it_runs_to_the_end_in_a_folder_with_a_space(kit):
    """Echoes, output in order, headings, one line for a gate that ships, what to open."""
    ended = start(kit, "--out", "my runs/x")
    printed, errors = ended.communicate(timeout=300)
    assert ended.returncode == 0 and not errors, errors
    lines = printed.splitlines()
    assert max(map(len, lines)) <= demo.WIDTH
    assert [line.split()[1] for line in lines if line.startswith("== ")] == [
        f"{n}/5" for n in range(1, 6)
    ]
    calls = [json.loads(line) for line in (kit / "calls.txt").read_text().splitlines()]
    expected = commands("--out", "my runs/x")
    assert sorted(calls) == sorted([Path(name).name, *words] for name, *words in expected)
    echoed = [line for line in lines if line.startswith("$ ")]
    assert [line.split()[2] for line in echoed] == [command[0] for command in expected]
    assert printed.count("SHIP, it is so") == 7 and printed.count("in many words") == 1
    assert "open     my runs/x/gate-helpful/report.html" in " ".join(printed.split("\n"))
    assert "a tool call: Do tool." in printed and "gate-dpo candidate" in printed
    assert (kit / "my runs/x/judged1/helpful.jsonl").read_text() == '{"id": 1, "slice": "tool"}\n'
    assert (kit / "my runs/x/logs/dpo2.log").exists()


def test_other_labels_show_no_texts(kit):
    """Their policies have other names, and no gate asks the base."""
    ended = start(kit, "--labels", "random")
    printed, errors = ended.communicate(timeout=300)
    assert ended.returncode == 0 and not errors, errors
    assert "== 5/5  results" in printed and "a tool call" not in printed
    assert not (kit / "runs/demo/random-judged1/helpful.jsonl").exists()


def test_a_failed_command_ends_it(kit):
    ended = start(kit, STUB_FAILS="judged1")
    printed, errors = ended.communicate(timeout=300)
    assert ended.returncode == 5
    assert errors == "demo.py: failed with exit code 5:\ntwo\nthree\nfour\n"
    assert "$ python judge.py" in printed and "3/5" not in printed
    again = start(kit)
    assert again.communicate(timeout=300) and again.returncode == 0, "the same command goes on"


def run_alone(folder, monkeypatch, code):
    """The demo in this process, with one command whose program is `code` -> its exit code."""
    monkeypatch.setattr(demo, "ROOT", folder)
    monkeypatch.setattr(demo, "stop_on_signals", lambda: None)
    (folder / "dpo.py").write_text(code)
    plan = [demo.Phase("a title", [task_of("dpo")])]
    monkeypatch.setattr(demo, "phases", lambda args: plan)
    return demo.main(demo.parse_args(["--out", "runs"]))


@pytest.mark.parametrize(
    ("how", "code", "exit_code"),
    [("os.kill(os.getpid(), 9)", -9, 137), ("sys.exit(1)", 1, 1), ("sys.exit(70)", 70, 70)],
)
def test_a_failed_commands_code_is_the_demos(tmp_path, monkeypatch, capsys, how, code, exit_code):
    """Of one that was killed, what a shell makes of it."""
    program = (
        f"import os, sys; print('begun', flush=True); print('why\\n\\n', file=sys.stderr); {how}"
    )
    assert run_alone(tmp_path, monkeypatch, program) == exit_code
    printed, errors = capsys.readouterr()
    assert printed.endswith("\n== 1/1  a title\n\n$ python dpo.py --out runs/dpo\nbegun\n")
    assert errors == f"demo.py: failed with exit code {code}:\nwhy\n"


def test_how_long_it_took_and_what_its_commands_are_given(tmp_path, monkeypatch, capsys):
    """The checkout as folder, one thread, UTF-8, and nobody who types."""
    clock = iter([1000.0])
    timing = SimpleNamespace(monotonic=lambda: next(clock, 1124.6), sleep=time.sleep)
    monkeypatch.setattr(demo, "time", timing)
    code = (
        "import os, sys\n"
        "print(os.getcwd(), os.environ['OMP_NUM_THREADS'], os.environ['PYTHONUTF8'])\n"
        "print(sys.argv[1:], repr(sys.stdin.read()))\n"
    )
    assert run_alone(tmp_path, monkeypatch, code) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path} 1 1\n['--out', 'runs/dpo'] ''\ndone     in 2 min 5 s -> runs\n" in printed


def test_nothing_begins_after_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    (tmp_path / "dpo.py").write_text("print('done')")
    runner = demo.Runner(tmp_path)
    assert runner.run_task(task_of("a")).endswith("\ndone\n")
    assert runner.state() == "", "what has ended is not at work"
    runner.stop()
    with pytest.raises(demo.Failed, match="stopped") as failed:
        runner.run_task(task_of("a"))
    assert failed.value.code == 130


def test_what_to_open_when_all_is_done(tmp_path, monkeypatch):
    """Gates that do not ship, curves of DPO, and the page that explains the table."""
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    gates = {"gate-b": "SHIP", "gate-a": "NOT ENOUGH DATA"}
    gates |= {f"gate-z{number}": "BLOCK" for number in (3, 0, 5, 1, 4, 2)}
    for name, verdict in gates.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        write(tmp_path / "runs" / name / "report.json", [{"verdict": verdict}])
    for name in ("rules-dpo", "dpo", "ipo"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "curves.png").write_text("")
    assert demo.next_lines("runs") == [
        "open     runs/gate-a/report.html: why the gate said NOT ENOUGH DATA",
        *(f"open     runs/gate-z{n}/report.html: why the gate said BLOCK" for n in range(6)),
        "open     runs/dpo/curves.png: what one training run looks like",
        "open     runs/rules-dpo/curves.png: what one training run looks like",
        f"read     {demo.TABLE_PAGE}: the table above, line by line",
    ]


def test_a_gate_without_a_report_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    gate = ["gate.py", "--out", "g"]
    assert not demo.is_fine(gate, 1)
    (tmp_path / "g").mkdir()
    (tmp_path / "g/report.json").write_text("{}")
    assert [demo.is_fine(gate, code) for code in (0, 1, 2, 3, 70)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert not demo.is_fine([*gate, "--selftest"], 1) and not demo.is_fine(["dpo.py"], 3)


def wait_for(path, process):
    """Wait until a file has something in it, as long as the process lives."""
    while not (path.exists() and path.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def is_alive(pid):
    """Does this process run, and is it more than an entry that nobody has read yet?"""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_killed_it_leaves_no_command_at_work(kit, number):
    process = start(kit, signals=lambda: signal.signal(number, signal.SIG_DFL), STUB_SLEEPS="kto")
    wait_for(kit / "pid.txt", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command continues" in errors
    assert not is_alive(int((kit / "pid.txt").read_text()))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal")
def test_nohup_keeps_it_at_work(monkeypatch):
    handlers = {}
    ignored = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", ignored.get)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    demo.stop_on_signals()
    assert handlers == {signal.SIGTERM: signal.default_int_handler}


@pytest.mark.skipif(os.name == "nt", reason="the lock is not inherited there")
def test_two_cannot_work_in_one_folder(kit):
    """Not even when the first was killed hard, as long as what it began is at work."""
    process = start(kit, STUB_SLEEPS="sft")
    wait_for(kit / "pid.txt", process)
    for _ in range(2):
        second = start(kit)
        _, errors = second.communicate(timeout=300)
        assert second.returncode == 2 and "another run is at work" in errors
        process.kill()
        process.wait()
    process.stdout.close()
    process.stderr.close()
    os.kill(int((kit / "pid.txt").read_text()), signal.SIGKILL)


def test_a_folder_is_free_again(tmp_path):
    file = demo.take_folder(tmp_path)
    if os.name != "nt":
        with pytest.raises(BadInput, match="another run"):
            demo.take_folder(tmp_path)
    file.close()
    demo.take_folder(tmp_path).close()


def test_what_is_at_work_is_said_with_its_progress(tmp_path, monkeypatch, capsys):
    runner = demo.Runner(tmp_path)
    assert runner.state() == ""
    (tmp_path / "dpo.log").write_bytes(b"dpo:  10%|# | 1/9\rdpo:  20%|## | 2/9")
    (tmp_path / "kto.log").write_bytes(b"")
    runner.at_work = {1: ("dpo", time.monotonic() - 45), 2: ("kto", time.monotonic())}
    assert runner.state() == "running: dpo 45 s (20 %), kto 0 s"
    demo.show_state("nothing of this")
    assert capsys.readouterr().err == "", "no terminal, no line"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    demo.show_state("running: dpo 45 s")
    assert capsys.readouterr().err.startswith("\rrunning: dpo 45 s ")
