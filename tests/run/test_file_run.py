"""Runs that write files batch by batch."""

import json

import pytest
from conftest import write

from posttrain.run.file_run import FileRun


def doubled(batch):
    return [{"value": 2 * number} for number in batch]


def start(out):
    return FileRun(out, "judge.py", {"seed": 0}, [])


@pytest.mark.parametrize("kept_lines", [0, 1, 2, 3, 5])
def test_a_killed_run_ends_in_the_same_file(tmp_path, kept_lines):
    """What stands behind the last whole batch is done again; what stands before is not."""
    batches, sizes = [[1, 2], [3], [4, 5]], [2, 1, 2]
    run = start(tmp_path / "whole")
    run.extend(tmp_path / "whole/x.jsonl", batches, sizes, doubled)
    whole = (tmp_path / "whole/x.jsonl").read_text()

    run = start(tmp_path / "cut")
    path = tmp_path / "cut/x.jsonl"
    path.write_text("".join(whole.splitlines(keepends=True)[:kept_lines]) + '{"val')
    worked = []

    def work(batch):
        worked.append(batch)
        return doubled(batch)

    start(tmp_path / "cut").extend(path, batches, sizes, work)
    assert path.read_text() == whole
    done = {0: 0, 1: 0, 2: 1, 3: 2, 5: 3}[kept_lines]
    assert worked == batches[done:]


def test_replies_of_an_endpoint_go_when_their_batch_is_written(tmp_path):
    run = start(tmp_path / "run")
    write(run.replies, [{"text": "kept"}])
    seen = []

    def work(batch):
        seen.append(run.replies.exists())
        return doubled(batch)

    run.extend(run.folder / "x.jsonl", [[1], [2]], [1, 1], work)
    assert seen == [True, False]


def test_names_of_a_run_into_a_file(tmp_path):
    run = start(tmp_path / "made.jsonl")
    assert run.folder == tmp_path and run.replies == tmp_path / "made.kept.jsonl"
    run.finish(tokens=3)
    record = json.loads((tmp_path / "made.run.json").read_text())
    assert record["finished"] and record["tokens"] == 3
    assert start(tmp_path / "made.jsonl").finished


def test_seconds_count_on_behind_a_kill(tmp_path, monkeypatch):
    """By a clock of the test's own, which is another one in the process that continues."""
    clock = [1000.0]
    monkeypatch.setattr("posttrain.run.file_run.time.perf_counter", lambda: clock[0])
    run = start(tmp_path / "run")
    (tmp_path / "run/x.jsonl").write_text("{}\n")
    clock[0] += 20
    run.save()
    clock[0] += 10  # lost: killed before it is written
    clock[0] = 3.0
    run = start(tmp_path / "run")
    clock[0] += 5
    assert run.seconds() == 25.0
    run.finish()
    assert json.loads((tmp_path / "run/run.json").read_text())["seconds"] == 20.0, (
        "those of the last batch"
    )
