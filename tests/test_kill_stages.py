"""kill -9 in gen_candidates, judge and gate at ten points each: inside a line, mid batch, between two files.

This file, run as a script, imports a stage once and forks a child for each run. In the child every write is an event,
and so is every batch that is computed but not yet written; at the chosen event the child writes half of what it was
about to write and sends itself SIGKILL. The same command then has to end in the bytes of an uninterrupted run."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

POINTS = 10


def computing(real, event):
    """The function, with an event after its work and before anything is written."""

    def compute(*given, **more):
        made = real(*given, **more)
        event("batch computed")
        return made

    return compute


def replace_everywhere(name, watched):
    """Whoever imported the function `name` of posttrain.records.jsonl calls `watched` instead."""
    from posttrain.records import jsonl

    real = getattr(jsonl, name)
    for module in list(sys.modules.values()):
        if getattr(module, name, None) is real:
            setattr(module, name, watched)


def watch(stage, kill_at, list_file):
    """Number the events of this process, die in event `kill_at` (0: never), append each event's label to list_file."""
    from posttrain.records import jsonl

    script, labels = importlib.import_module(stage), []

    def event(label, half=lambda: None):
        labels.append(label)
        with open(list_file, "a") as file:
            file.write(label + "\n")
        if len(labels) == kill_at:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def append(path, rows, real=jsonl.append_lines):
        def half():
            real(path, rows)
            os.truncate(path, size + (os.path.getsize(path) - size) // 2)

        size = os.path.getsize(path) if os.path.exists(path) else 0
        event(f"inside {Path(path).name}", half)
        real(path, rows)
        event(f"after {Path(path).name}")

    def whole(path, text, real=jsonl.write_whole):
        def half():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{path}.tmp").write_text(text[: len(text) // 2])

        event(f"half of {Path(path).name}.tmp", half)
        real(path, text)

    def copy(source, target, real=shutil.copy):
        event("half of a copy", lambda: Path(target).write_bytes(Path(source).read_bytes()[:999]))
        real(source, target)
        event("after a copy")

    shutil.copy = copy
    replace_everywhere("append_lines", append)
    replace_everywhere("write_whole", whole)
    for name in {"sample", "judge_answers", "flag_groups", "make_pairs"} & vars(script).keys():
        setattr(script, name, computing(getattr(script, name), event))
    return script


def child(stage, argv, kill_at, list_file):
    """Run the stage in a fork -> its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            with open(os.devnull, "w") as silence:
                os.dup2(silence.fileno(), 1)
                script = watch(stage, kill_at, list_file)
                code = script.main(script.parse_args(argv))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def drive(stage, root, beside, argv):
    """Whole run, then POINTS times: killed run, continued run; prints [[label, exit code killed, continued], ...]."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    importlib.import_module(stage)
    import peft
    from threads import one_thread

    assert peft
    one_thread()

    def arguments(folder):
        return [word.replace("OUT", str(folder)) for word in argv]

    labels, done = root / "labels", []
    for name in (
        ("whole", "counted") if beside else ("whole",)
    ):  # the second finds the first beside it
        labels.unlink(missing_ok=True)
        if name == "counted":
            shutil.copytree(root / "whole", root / "counted" / "first")
        (root / name).mkdir(exist_ok=True)
        code = child(stage, arguments(root / name), 0, labels)
    events = labels.read_text().splitlines()
    kinds = {}
    for number, label in enumerate(events, 1):
        kinds.setdefault(label, []).append(number)
    chosen = [
        numbers[len(numbers) // 2] for numbers in kinds.values()
    ]  # each kind once, the rest spread out
    rest = [number for number in range(1, len(events) + 1) if number not in chosen]
    missing = max(0, POINTS - len(chosen))
    chosen += [rest[k * len(rest) // missing] for k in range(missing)] if rest and missing else []
    for number in sorted(chosen):
        folder = root / f"killed-{number}"
        if beside:
            shutil.copytree(root / "whole", folder / "first")
        folder.mkdir(exist_ok=True)
        killed = child(stage, arguments(folder), number, root / "ignored")
        done.append(
            [
                events[number - 1],
                folder.name,
                killed,
                child(stage, arguments(folder), 0, root / "ignored"),
            ]
        )
    print(json.dumps({"code": code, "points": done}))


def contents(folder):
    """{name: bytes} of a stage's output; run.json and report.json without what depends on the clock or the folder."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "first" not in p.parts):
        data = path.read_bytes()
        if path.name.endswith(("run.json", "report.json")):
            data = {
                k: v
                for k, v in json.loads(data).items()
                if k not in ("seconds", "cost", "path", "speed")
            }
            if data.get("script") == "judge.py":
                data.pop("tokens")  # what a killed batch had read is not known
        elif path.stem == "report":
            data = re.sub(rb"[\d.]+ s, [\d.]+ of money", b"", data)
        files[str(path.relative_to(folder))] = data
    return files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gen_candidates", "judge", "judge-random", "gate", "gate-beside"])
def test_killed_at_any_point_it_ends_the_same(base, tmp_path, name):
    from conftest import save_folder, text_of, write
    from judge_samples import TEXT, candidate_rows, save_judge
    from test_gate import noisy_items

    stage, _, beside = name.partition("-")
    (tmp_path / "c.md").write_text(TEXT)
    prompts = [{"id": f"q{n}", "prompt": text_of(n, 2 + n % 4), "answer": n} for n in range(12)]
    judged = [
        "--constitution",
        tmp_path / "c.md",
        "--data",
        write(tmp_path / "c.jsonl", candidate_rows(70)),
        "--min-margin",
        0.1,
    ]
    other = save_folder(tmp_path / "other", seed=1)
    items = noisy_items(20, "a") + [
        {
            "id": "canary",
            "prompt": "hi",
            "type": "canary",
            "constraints": [{"type": "min_words", "value": 1}],
        },
        {"id": "j", "prompt": "hi", "type": "judge", "slice": "math"},
    ]
    suite = write(tmp_path / "suite.jsonl", items)
    argv = {
        "gen_candidates": [
            "--model",
            base,
            other,
            "--data",
            write(tmp_path / "p.jsonl", prompts),
            "--out",
            "OUT/c.jsonl",
            "--n",
            4,
            "--max-tokens",
            8,
            "--batch-size",
            8,
        ],
        "judge": ["--judge", save_judge(tmp_path / "judge"), *judged, "--out", "OUT/judged"],
        "judge-random": ["--judge", "random", *judged, "--out", "OUT/judged"],
        "gate": [
            "--model",
            other,
            "--baseline",
            base,
            "--suite",
            suite,
            "--out",
            "OUT/gate",
            "--max-tokens",
            8,
            "--batch-size",
            32,
            "--judge",
            tmp_path / "judge",
            "--constitution",
            tmp_path / "c.md",
        ],
    }
    words = [str(word) for word in argv.get(name, argv.get(stage))]
    root = tmp_path / "runs"
    root.mkdir()
    ended = subprocess.run(
        [
            sys.executable,
            __file__,
            stage,
            str(root),
            "beside" if beside == "beside" else "",
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    result = json.loads(ended.stdout.splitlines()[-1])
    expected = contents(root / "whole")
    assert len(expected) >= 2 and len(result["points"]) >= (8 if name == "judge-random" else POINTS)
    assert {"gate": 5, "judge": 4}.get(stage, 3) <= len({point[0] for point in result["points"]}), (
        result
    )
    for label, folder, killed, code in result["points"]:
        assert killed == -signal.SIGKILL and code == result["code"], (
            label,
            killed,
            code,
            ended.stderr[-2000:],
        )
        assert contents(root / folder) == expected, label


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]), bool(sys.argv[3]), sys.argv[4:])
