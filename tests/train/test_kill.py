"""kill -9 at every kind of moment: inside a line, inside a checkpoint, between two files. The next run ends the same.

A driver process (this file, run as a script) imports a trainer once and forks a child for each run, so a kill costs
half a second. In the child every write of the kit and every step between files is an event; at the chosen event the
child writes half of what it was about to write and sends itself SIGKILL."""

import builtins
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def watch_events(stage, kill_at, list_file):
    """Number the events of this process; die in event `kill_at`; append each event's label to `list_file`."""
    import peft

    from posttrain.records import jsonl
    from posttrain.run import folder
    from posttrain.train import reference, training_run

    script, count = importlib.import_module(stage), [0]

    def event(label, half=lambda: None):
        with real_open(list_file, "a") as file:
            file.write(label + "\n")
        count[0] += 1
        if count[0] == kill_at:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    real_open, replace, unlink = builtins.open, os.replace, Path.unlink
    save_pretrained = peft.PeftModel.save_pretrained

    class Watched:
        """A file whose writes are events."""

        def __init__(self, file, label):
            self.file, self.label = file, label

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __iter__(self):
            return iter(self.file)

        def write(self, data):
            def half():
                self.file.write(data[: len(data) // 2])
                self.file.flush()

            event(self.label, half)
            return self.file.write(data)

    def watched_open(path, mode="r", **options):
        file = real_open(path, mode, **options)
        return file if "r" in mode else Watched(file, f"write {Path(path).name}")

    def watched_replace(source, target):
        event(f"replace {Path(target).name}")
        replace(source, target)
        event(f"replaced {Path(target).name}")

    def watched_unlink(path, **options):
        event(f"unlink {path.name}")
        unlink(path, **options)

    def watched_save(model, *args, **options):
        event("save adapter")
        save_pretrained(model, *args, **options)

    for room in (jsonl, folder, training_run, reference, script):
        room.open = watched_open
    os.replace, Path.unlink, peft.PeftModel.save_pretrained = (
        watched_replace,
        watched_unlink,
        watched_save,
    )


def in_child(stage, words, kill_at, list_file):
    """Run the trainer's main in a forked child -> its exit code, negative = killed by that signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            watch_events(stage, kill_at, list_file)
            script = importlib.import_module(stage)
            code = script.main(script.parse_args(words))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def drive(stage, folder, words):
    """Uninterrupted run, then one killed and continued run for every point; a JSON list of what happened on stdout."""
    events_file, found = Path(folder) / "events", []
    assert in_child(stage, [*words, "--out", f"{folder}/whole/run"], 0, events_file) == 0
    events = events_file.read_text().split("\n")[:-1]
    labels = [f"{label} {events[:n].count(label)}" for n, label in enumerate(events)]
    points = []  # of each kind of event the first, the middle and the last one
    for kind in dict.fromkeys(events):
        where = [n for n, label in enumerate(events) if label == kind]
        points += [where[0], where[len(where) // 2], where[-1]]
    for point in sorted(set(points)):
        out = f"{folder}/{point}/run"
        codes = [
            in_child(stage, [*words, "--out", out], kill_at, f"{folder}/scrap")
            for kill_at in (point + 1, 0)
        ]
        found.append({"point": labels[point], "out": out, "codes": codes})
    print("\n" + json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_killed_anywhere_the_run_ends_the_same(base, tmp_path, stage):
    from conftest import ROOT, ROWS, adapter_of, log_lines, same_tensors, write

    data = write(tmp_path / "data.jsonl", ROWS[stage](11))
    words = [
        "--model",
        base,
        "--data",
        data,
        "--batch-size",
        "3",
        "--lora-r",
        "2",
        "--lr",
        "0.01",
        "--save-every",
        "2",
        "--pack-tokens",
        "200",
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, __file__, stage, tmp_path, *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=580,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) >= 10
    whole = tmp_path / "whole/run"
    files = {path.name for path in whole.iterdir()}
    for run in found:
        assert run["codes"] == [-signal.SIGKILL, 0], (run, result.stderr[-2000:])
        out = Path(run["out"])
        assert same_tensors(adapter_of(whole), adapter_of(out)), run["point"]
        assert log_lines(whole) == log_lines(out), run["point"]
        assert json.loads((out / "run.json").read_text())["finished"], run["point"]
        left = {path.name for path in out.iterdir()} - {
            "checkpoint.pt"
        }  # killed after the end: it may stay
        assert left == files, run["point"]
        if stage != "sft":
            assert cached(out) == cached(whole), run["point"]
    kinds = {run["point"].rsplit(" ", 1)[0] for run in found}
    assert {
        "write log.jsonl",
        "write checkpoint.pt.tmp",
        "replace checkpoint.pt",
        "save adapter",
        "unlink README.md",
        "write run.json.tmp",
        "replace run.json",
        "unlink checkpoint.pt",
    } <= kinds
    assert stage == "sft" or "write ref_logps.jsonl" in kinds
    print(f"{stage}: {len(found)} kills")


def cached(out):
    """{key: log-probability} of a run's reference cache, whatever torn lines are in it."""
    found = {}
    for line in (out / "ref_logps.jsonl").read_text().splitlines():
        try:
            found |= {entry["key"]: entry["logp"] for entry in [json.loads(line)]}
        except ValueError:
            continue
    return found


if __name__ == "__main__":
    import torch
    from threads import one_thread

    from posttrain.model.load import load_policy, trained
    from posttrain.packed.reader import teach_lines

    # What every child would import again is imported here. No backward pass: autograd must not fork.
    one_thread()
    policy = load_policy(sys.argv[sys.argv.index("--model") + 1])
    teach_lines(policy)
    warm = trained(policy)
    warm[0].grad = torch.zeros_like(warm[0])
    torch.optim.AdamW(warm).step()
    drive(sys.argv[1], sys.argv[2], sys.argv[3:])
