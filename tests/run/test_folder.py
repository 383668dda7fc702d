"""Run folders: what is continued, what is left alone, what is refused."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, log_lines, pair_rows, run_main, sft_rows, write

from posttrain.cli import BadInput
from posttrain.run.folder import read_run, save_run, start_run


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """(arguments, run folder) of a finished SFT run."""
    folder = tmp_path_factory.mktemp("finished")
    data = write(folder / "data.jsonl", sft_rows(4))
    arguments = [
        "--model",
        base,
        "--data",
        data,
        "--out",
        folder / "run",
        "--batch-size",
        2,
        "--lora-r",
        2,
    ]
    assert run_main("sft", *arguments) == 0
    return arguments, folder / "run"


def test_a_finished_run_is_left_alone(finished, capsys):
    arguments, out = finished
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert run_main("sft", *arguments) == 0
    assert "finished" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    record = json.loads(before["run.json"])
    assert (
        record["finished"]
        and record["tokens"] > 0
        and record["seconds"] > 0
        and "checkpoint.pt" not in before
    )
    assert record["tokens"] == sum(line["tokens"] for line in log_lines(out))


def test_other_arguments_or_inputs_are_refused(finished, tmp_path):
    import shutil

    arguments, out = finished
    shutil.copytree(out, tmp_path / "run")
    data = write(tmp_path / "data.jsonl", sft_rows(4))
    moved = [str(word).replace(str(out.parent), str(tmp_path)) for word in arguments]
    with pytest.raises(BadInput, match="argument"):
        run_main("sft", *moved)  # another path is another argument
    with pytest.raises(BadInput, match="seed"):
        run_main("sft", *arguments, "--seed", 3)
    original = (out.parent / "data.jsonl").read_text()
    try:
        write(out.parent / "data.jsonl", sft_rows(5))
        with pytest.raises(BadInput, match=r"inputs \(.*data.jsonl"):
            run_main("sft", *arguments)
    finally:
        (out.parent / "data.jsonl").write_text(original)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file.txt").write_text("something of the user's")
    with pytest.raises(BadInput, match="not a run"):
        run_main("sft", "--model", arguments[1], "--data", data, "--out", tmp_path / "other")


def test_run_folders_may_have_dots_in_their_names(base, tmp_path):
    data = write(tmp_path / "p.jsonl", pair_rows(4))
    for beta in (0.1, 0.3):
        assert (
            run_main(
                "dpo",
                "--model",
                base,
                "--data",
                data,
                "--out",
                tmp_path / f"dpo-{beta}",
                "--beta",
                beta,
                "--batch-size",
                2,
                "--lora-r",
                2,
            )
            == 0
        )
        assert (
            json.loads((tmp_path / f"dpo-{beta}" / "run.json").read_text())["arguments"]["beta"]
            == beta
        )
    with pytest.raises(BadInput, match=".jsonl file"):
        run_main(
            "gen_candidates", "--model", base, "--data", data, "--out", tmp_path / "candidates"
        )


def test_a_start_that_failed_does_not_lock_the_folder(base, tmp_path):
    data = write(tmp_path / "s.jsonl", sft_rows(4))
    first = [
        "--model",
        base,
        "--data",
        data,
        "--out",
        tmp_path / "a",
        "--batch-size",
        2,
        "--lora-r",
        2,
    ]
    assert run_main("sft", *first) == 0
    second = ["--model", tmp_path / "a", "--data", data, "--out", tmp_path / "b", "--batch-size", 2]
    with pytest.raises(BadInput, match="rank 2"):
        run_main("sft", *second, "--lora-r", 8)
    assert run_main("sft", *second) == 0
    assert json.loads((tmp_path / "b" / "run.json").read_text())["arguments"]["lora_r"] is None


def test_versions_are_those_of_the_libraries(tmp_path):
    import peft
    import torch
    import transformers

    versions = start_run(tmp_path / "run", "sft.py", {}, [])["versions"]
    libraries = {library.__name__: library.__version__ for library in (torch, transformers, peft)}
    assert versions == {"python": sys.version.split()[0]} | libraries


def test_a_run_is_opened_without_loading_the_libraries(tmp_path):
    """Loading them takes seconds, and a run whose answers come from an endpoint needs none."""
    code = (
        "import sys\n"
        "from posttrain.run.folder import start_run\n"
        f"start_run({str(tmp_path / 'a.jsonl')!r}, 'gen_candidates.py', {{}}, [])\n"
        "print({'torch', 'transformers', 'peft'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n" and read_run(tmp_path / "a.run.json")["versions"]["peft"]


def test_what_may_change_and_what_may_not(tmp_path):
    """Another script, an argument fewer, another value: each is named. Prices and the place of the output may change."""
    out = tmp_path / "run"
    arguments = {"seed": 1, "lr": 0.1, "out": str(out), "price_gpu_hour": 1.0}
    save_run(start_run(out, "sft.py", arguments, []), finished=True)
    again = start_run(out, "sft.py", arguments | {"out": "elsewhere", "price_gpu_hour": 2.0}, [])
    assert again["finished"] and again["arguments"] == {"seed": 1, "lr": 0.1}
    for script, changed, why in (
        ("dpo.py", arguments, r"other script \(script\)"),
        ("sft.py", arguments | {"seed": 2, "lr": 0.2}, r"other arguments \(seed, lr\)"),
        ("sft.py", {"seed": 1}, r"other arguments \(arguments\)"),
    ):
        with pytest.raises(BadInput, match=why):
            start_run(out, script, changed, [])


def test_a_run_without_a_result_starts_anew(tmp_path):
    """What is written before the first result is no result; anything else is, and is not overwritten."""
    out = tmp_path / "run"
    start_run(out, "sft.py", {"seed": 1}, [])
    (out / "log.jsonl").write_text("")
    assert start_run(out, "sft.py", {"seed": 2}, [])["arguments"] == {"seed": 2}
    (out / "checkpoint.pt").write_text("")
    with pytest.raises(BadInput, match=r"other arguments \(seed\)"):
        start_run(out, "sft.py", {"seed": 3}, [])
    (out / "run.json").write_text("torn")
    with pytest.raises(BadInput, match="not a run of this kit"):
        start_run(out, "sft.py", {"seed": 2}, [])


FOREIGN = [
    "torn",
    "[]",
    "3",
    "{}",
    '{"finished": true}',
    '{"script": "", "finished": true}',
    '{"script": "sft.py", "finished": 1}',
]


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("name", ["run", "made.jsonl"])
def test_a_record_that_is_not_ours_is_never_overwritten(tmp_path, name, text):
    """Neither where it stands alone: nothing tells that it is the start of a run."""
    place = tmp_path / ("made.run.json" if name == "made.jsonl" else "run/run.json")
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    assert read_run(place) == {}
    with pytest.raises(BadInput, match="not a run of this kit"):
        start_run(tmp_path / name, "sft.py", {"seed": 1}, [])
    assert place.read_text() == text
