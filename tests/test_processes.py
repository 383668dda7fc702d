"""Several processes: they train as one, and nobody waits for one that refuses."""

import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from conftest import ROOT, adapter_of, label_rows, log_lines, pair_rows, run_main, sft_rows, write

from posttrain import processes
from posttrain.cli import BadInput

MAKE = {"sft": sft_rows, "dpo": pair_rows, "kto": label_rows}


def launch(config, stage, *words):
    """`accelerate launch` of a stage, two processes on a CPU, by data/accelerate/<config>.yaml."""
    file, port = (
        ROOT / f"data/accelerate/{config}.yaml",
        random.SystemRandom().randrange(20000, 60000),
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        file,
        "--main_process_port",
        port,
    ]
    command += [ROOT / f"{stage}.py", *words]
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    ("stage", "config", "quantize"),
    [
        ("sft", "ddp", "none"),
        ("dpo", "fsdp", "nf4"),
        ("kto", "fsdp", "none"),
        pytest.param("dpo", "ddp", "none", marks=pytest.mark.slow),
        pytest.param("kto", "ddp", "none", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(base, tmp_path, stage, config, quantize):
    """Log and adapter of one process, to rounding; with FSDP each holds half the weights."""
    rows = [row | {"slice": "abc"[n % 3]} for n, row in enumerate(MAKE[stage](11))]
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--batch-size",
        5,
        "--lora-r",
        2,
    ]
    words += ["--lr", 0.01, "--pack-tokens", 70, "--eval-every", 1, "--quantize", quantize]
    assert run_main(stage, *words, "--out", tmp_path / "one/run") == 0
    ended = launch(config, stage, *words, "--out", tmp_path / "two/run")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("result ") == 1
    parts = re.findall(r"fsdp +([\d.]+) of ([\d.]+) MiB", ended.stdout)
    assert [2 * float(part) for part, _ in parts] == pytest.approx(
        [float(all_) for _, all_ in parts], abs=0.2
    )
    assert len(parts) == (config == "fsdp")
    one, two = log_lines(tmp_path / "one/run"), log_lines(tmp_path / "two/run")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for name in a.keys() - {"slices"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), name
    tensors = adapter_of(tmp_path / "one/run"), adapter_of(tmp_path / "two/run")
    assert (
        max((tensors[0][name] - tensors[1][name]).abs().max() for name in tensors[0]) < 1e-4
    )  # steps of 1e-2


def in_two_processes(tmp_path, code):
    """Run Python text in two processes that know each other -> [(exit code, output), ...]."""
    start = """if 1:
        import atexit, sys, torch, torch.distributed as dist
        from collections import Counter
        from posttrain.cli import BadInput, run_stage
        from posttrain.processes import *
        atexit.register(dist.destroy_process_group)  # as join_processes does
        place = "file://" + sys.argv[1]
        dist.init_process_group("gloo", init_method=place, rank=int(sys.argv[2]), world_size=2)
"""
    command = [sys.executable, "-c", start + code, tmp_path / "store"]
    started = [
        subprocess.Popen(
            [*command, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, printed)]


def test_no_process_waits_for_one_that_refuses(tmp_path):
    """The first alone opens the run record; when it refuses, all do."""
    code = """
        def refuse():
            raise BadInput(f"process {dist.get_rank()} refuses")
        print(from_first(lambda: dist.get_rank() + 5))
        run_stage(lambda args: from_first(refuse), None)"""
    for returned, printed in in_two_processes(tmp_path, code):
        assert returned == 2 and "5\n" in printed and "process 0 refuses" in printed


def test_sums_over_processes(tmp_path):
    """Counters with sums below zero, lists in order, gradients that one process lacks; shares."""
    code = """
        mine = rank()
        print(summed(Counter(a=-3.0, b=mine)), summed([mine, 7]), my_share([0, 1, 2, 3, 4], lambda n: -n))
        print(is_first(), size())
        parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(1))]
        parameters[0].grad = torch.full((2, 3), 1.0 + mine)
        if mine:
            parameters[1].grad = torch.ones(1)
        sum_gradients(parameters)
        print([parameter.grad.tolist() for parameter in parameters])"""
    for number, (returned, printed) in enumerate(in_two_processes(tmp_path, code)):
        assert returned == 0, printed
        sums, place, gradients = printed.splitlines()[-3:]
        share = [[0, 2, 4], [1, 3, -4]][number]
        assert sums == f"Counter({{'b': 1, 'a': -6.0}}) [0, 7, 1, 7] {share}"
        assert place == f"{number == 0} 2"
        assert gradients == "[[[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]], [1.0]]"


def test_one_process_alone(monkeypatch):
    """Without accelerate launch nothing is summed, shared or sharded."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.join_processes() is None
    assert (processes.rank(), processes.size(), processes.is_first()) == (0, 1, True)
    items, counts = [1, 2, 3], Counter(a=-1)
    assert processes.my_share(items, None) == items
    assert processes.summed(items) is items and processes.summed(counts) is counts
    assert processes.from_first(lambda: "made") == "made"
    parameter = torch.nn.Parameter(torch.zeros(2))
    processes.sum_gradients([parameter])
    assert parameter.grad is None and not processes.sharded()
    with pytest.raises(BadInput, match="refused"):
        processes.from_first(refuse)


def refuse():
    raise BadInput("refused")


def test_fsdp_hands_the_line_itself_to_the_layers():
    """On a GPU it copies every dict in a model's arguments, and what layers count there is lost."""
    from torch.distributed.utils import _to_kwargs

    from posttrain.packed.lines import lay_out

    line = lay_out([{"ids": [1, 2, 3], "mask": [0, 1, 1]}])
    line.keep()
    assert _to_kwargs((), {"line": line}, torch.device("cpu"), False)[1][0]["line"] is line
