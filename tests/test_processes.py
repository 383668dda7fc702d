"""Several processes: they train as one, and nobody waits for one that refuses."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from architectures import tiny
from conftest import ROOT, ROWS, adapter_of, log_lines, make_tokenizer, run_main, run_script, write

from posttrain import processes
from posttrain.cli import BadInput


def free_port():
    return random.SystemRandom().randrange(20000, 60000)


def launch(config, stage, *words):
    """`accelerate launch` of a stage, two processes on a CPU, by data/accelerate/<config>.yaml."""
    file = ROOT / f"data/accelerate/{config}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file]
    command += ["--main_process_port", free_port(), ROOT / f"{stage}.py", *words]
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def start_two(forker, folder, argv, **more):
    """Two processes with the environment that `accelerate launch` gives them -> their ends."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in ("0", "1"):
        environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank} | more
        environment["PYTHONPATH"] = str(ROOT)
        started.append(forker.start(argv, folder / f"process{rank}", environment=environment))
    return [process.wait() for process in started]


CASES = [("sft", "ddp", "none"), ("dpo", "fsdp", "nf4")]
MORE_CASES = [("dpo", "ddp", "none"), ("kto", "ddp", "none"), ("kto", "fsdp", "none")]


def training_words(base, tmp_path, stage, quantize):
    """A command of three steps in packs of a few rows, without --out."""
    rows = [row | {"slice": "abc"[n % 3]} for n, row in enumerate(ROWS[stage](11))]
    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", rows), "--batch-size", 5]
    words += ["--lora-r", 2, "--lr", 0.01, "--pack-tokens", 70, "--eval-every", 1]
    return [*words, "--quantize", quantize]


@pytest.mark.parametrize(("stage", "config", "quantize"), CASES)
def test_two_processes_train_as_one(base, forker, tmp_path, stage, config, quantize):
    words = training_words(base, tmp_path, stage, quantize)
    argv = [ROOT / f"{stage}.py", *words, "--out", tmp_path / "two/run"]
    fsdp = {"ACCELERATE_USE_FSDP": "true"} if config == "fsdp" else {}
    first, second = start_two(forker, tmp_path, argv, **fsdp)
    assert first.returncode == second.returncode == 0, first.stderr[-2000:] + second.stderr[-2000:]
    assert "result " in first.stdout and not second.stdout
    assert f"{stage}:" not in second.stderr, "no progress bar"
    assert run_script(stage, *words, "--out", tmp_path / "one/run").returncode == 0
    check_two_are_one(tmp_path, config, first.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "config", "quantize"), CASES + MORE_CASES)
def test_accelerate_launch_trains_as_one(base, tmp_path, stage, config, quantize):
    words = training_words(base, tmp_path, stage, quantize)
    ended = launch(config, stage, *words, "--out", tmp_path / "two/run")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("result ") == 1
    assert run_script(stage, *words, "--out", tmp_path / "one/run").returncode == 0
    check_two_are_one(tmp_path, config, ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_5"])
def test_experts_and_states_in_two_processes(tmp_path, name, config):
    """Adapters on experts, and layers with states, whose weights lie spread or whole."""
    base = tmp_path / "base"
    tiny(name).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    words = training_words(str(base), tmp_path, "dpo", "none")
    result = launch(config, "dpo", *words, "--out", tmp_path / config)
    assert result.returncode == 0, result.stderr
    run_main("dpo", *words, "--out", tmp_path / "one")
    one, two = adapter_of(tmp_path / "one"), adapter_of(tmp_path / config)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


def check_two_are_one(folder, config, printed):
    """Log and adapter of one process, to rounding; with FSDP each holds half the weights."""
    parts = re.findall(r"fsdp +([\d.]+) of ([\d.]+) MiB", printed)
    assert len(parts) == (config == "fsdp")
    for part, whole in parts:
        assert 2 * float(part) == pytest.approx(float(whole), abs=0.2)
    one, two = log_lines(folder / "one/run"), log_lines(folder / "two/run")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for name in a.keys() - {"slices"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), name
    tensors = adapter_of(folder / "one/run"), adapter_of(folder / "two/run")
    differences = [(tensors[0][name] - tensors[1][name]).abs().max() for name in tensors[0]]
    assert max(differences) < 1e-4  # after steps of 1e-2


def in_two_processes(forker, folder, code):
    """Run Python text in two processes that know each other -> their ends."""
    start = """if 1:
        import atexit, sys, torch, torch.distributed as dist
        from collections import Counter
        from posttrain.cli import BadInput, run_stage
        from posttrain.processes import *
        atexit.register(dist.destroy_process_group)  # as join_processes does
        dist.init_process_group("gloo")
"""
    return start_two(forker, folder, ["-c", start + code])


def test_no_process_waits_for_one_that_refuses(forker, tmp_path):
    """The first alone opens the run record; when it refuses, all do."""
    code = """
        def refuse():
            raise BadInput(f"process {dist.get_rank()} refuses")
        print(from_first(lambda: dist.get_rank() + 5))
        run_stage(lambda args: from_first(refuse), None)"""
    for ended in in_two_processes(forker, tmp_path, code):
        assert ended.returncode == 2 and "process 0 refuses" in ended.stderr
        assert "5\n" in ended.stdout


def test_sums_over_processes(forker, tmp_path):
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
    for number, ended in enumerate(in_two_processes(forker, tmp_path, code)):
        assert ended.returncode == 0, ended.stderr
        sums, place, gradients = ended.stdout.splitlines()[-3:]
        share = [[0, 2, 4], [1, 3, -4]][number]
        assert sums == f"Counter({{'b': 1, 'a': -6.0}}) [0, 7, 1, 7] {share}"
        assert place == f"{number == 0} 2"
        assert gradients == "[[[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]], [1.0]]"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_nothing_holds_on_to_the_group():
    """What is imported later keeps no reference: the group's threads end with it, or they may abort the process as it
    exits. A fresh interpreter, in which nothing is imported yet."""
    code = """if 1:
        from pathlib import Path
        import torch.distributed as dist
        import posttrain.processes
        def threads():
            files = [file for file in Path("/proc/self/task").glob("*/comm") if file.exists()]
            return sum("gloo" in file.read_text() for file in files)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        import peft, transformers
        print(threads() > 0)
        dist.destroy_process_group()
        print(threads())"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, cwd=ROOT
    )
    assert ended.returncode == 0 and ended.stdout.split() == ["True", "0"], ended


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
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert parameter.grad is None and not processes.sharded()
    with pytest.raises(BadInput, match="refused"):
        processes.from_first(refuse)


def test_all_processes_but_the_first_are_quiet(monkeypatch, capfd):
    """They print nothing and draw no bars; what they say of errors is seen."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(processes.tqdm, "__init__", processes.tqdm.__init__)
    processes.be_quiet()
    print("said")
    for _ in processes.tqdm(range(3), mininterval=0, delay=0):
        print("an error", file=sys.stderr)
    sys.stdout.close()
    assert tuple(capfd.readouterr()) == ("", "an error\n" * 3)


def test_processes_that_do_not_find_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    monkeypatch.setattr("accelerate.PartialState", lambda **more: alone)
    with pytest.raises(BadInput, match="do not find each other"):
        processes.join_processes()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes.join_processes() is None


@pytest.mark.parametrize("first", [True, False])
def test_what_a_process_does_when_it_joins(monkeypatch, first):
    """It leaves the others in peace at its end, reads all weights itself, and only one prints."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    both = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    monkeypatch.setattr("accelerate.PartialState", lambda **more: both)
    at_end, quiet = [], []
    monkeypatch.setattr(processes.atexit, "register", at_end.append)
    monkeypatch.setattr(processes, "is_first", lambda: first)
    monkeypatch.setattr(processes, "be_quiet", lambda: quiet.append(1))
    monkeypatch.setattr(processes, "AT_END", at_once := [])
    processes.join_processes()
    assert at_end == [torch.distributed.destroy_process_group] and at_once == [processes.leave]
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false" and len(quiet) == (not first)


def test_a_process_leaves_at_once_with_its_code(tmp_path):
    """What is printed arrives, threads that are left behind do not matter, nor what is done at an ordinary end."""
    code = """if 1:
        import atexit, sys, threading, time
        import torch.distributed as dist
        from posttrain.cli import AT_END, run_stage
        from posttrain.processes import leave
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        threading.Thread(target=time.sleep, args=[99]).start()
        atexit.register(print, "the long way")
        AT_END.append(leave)
        sys.stdout.reconfigure(line_buffering=False)
        def main(args):
            print("done")
            return 3
        run_stage(main, None)"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ended.returncode == 3 and ended.stdout == "done\n", ended


def refuse():
    raise BadInput("refused")


def test_fsdp_hands_the_line_itself_to_the_layers():
    """On a GPU it copies every dict in a model's arguments, and what layers count there is lost."""
    from torch.distributed.utils import _to_kwargs

    from posttrain.packed.lines import lay_out

    line = lay_out([{"ids": [1, 2, 3], "mask": [0, 1, 1]}])
    line.keep()
    assert _to_kwargs((), {"line": line}, torch.device("cpu"), False)[1][0]["line"] is line
