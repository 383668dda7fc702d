"""What is watched while a run trains; mixtures by slice; soft labels; packs of several processes."""

import contextlib
import json
import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import adapter_of, log_lines, pair_rows, run_main, same_tensors, sft_rows, write

import dpo
from common import dpo_loss, ipo_loss
from posttrain.chat.encode import encode, prompt_ids
from posttrain.cli import BadInput
from posttrain.model.load import load_policy, load_tokenizer, trained
from posttrain.model.names import resolve_model
from posttrain.packed.reader import teach_lines
from posttrain.processes import share_out
from posttrain.records.layouts import normalise
from posttrain.records.mixture import read_mixture
from posttrain.train import training_run, watch
from posttrain.train.metrics import means, tally
from posttrain.train.order import batches, hold_out
from posttrain.train.packs import cut_packs, idle_copy, pack_logps
from posttrain.train.reference import score_reference
from posttrain.train.watch import repetition, sampled, watched_prompts, watched_steps

SMALL = ["--batch-size", 8, "--lora-r", 2, "--lr", 0.01]


def rows_of(count, make=pair_rows, **more):
    return [row | {"slice": ("a", "b", "c")[n % 3]} | more for n, row in enumerate(make(count))]


@pytest.fixture(scope="module")
def watched(base, tmp_path_factory):
    """A DPO run of 170 pairs, eight of them held out, looked at in every second step."""
    folder = tmp_path_factory.mktemp("watched")
    data = write(folder / "data.jsonl", rows_of(170))
    words = [
        "--model",
        base,
        "--data",
        data,
        "--out",
        folder / "run",
        *SMALL,
        "--max-steps",
        4,
        "--eval-every",
        2,
    ]
    assert run_main("dpo", *words) == 0
    return words, folder / "run"


# ---- held-out rows and what the policy says ------------------------------------------------------------------


def test_held_out_prompts_are_not_trained_on():
    rows = [{"prompt": f"q{n // 2}"} for n in range(400)]
    train, held = hold_out(rows, 0.05, 0)
    assert len(held) == 20 and len(train) + len(held) == 400
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}, (
        "a prompt's answers stay together"
    )
    assert hold_out(rows, 0.05, 0) == (train, held) != hold_out(rows, 0.05, 1)
    assert hold_out(rows[:100], 0.05, 0) == (rows[:100], []), "five rows say nothing"
    assert (
        len(hold_out(rows * 10, 0.5, 0)[1]) == 60 and hold_out(rows, 0, 0)[1] == []
    )  # 20 a prompt
    two = [{"prompt": f"q{n % 2}"} for n in range(200)]
    assert hold_out(two, 0.05, 0) == (two, []), "a prompt of 100 rows is too much for ten"


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (16, 0.5, 8),
        (14, 0.5, 0),
        (160, 0.05, 8),
        (152, 0.05, 8),  # 7.6, rounded
        (140, 0.05, 0),
        (128, 0.5, 64),
        (140, 0.5, 64),
    ],
)
def test_eight_rows_are_held_out_at_least_and_64_at_most(count, share, expected):
    rows = [{"prompt": f"q{n}"} for n in range(count)]
    train, held = hold_out(rows, share, 0)
    assert (len(train), len(held)) == (count - expected, expected)
    assert [row for row in rows if row in held] == held, "both keep the order of the data"


def test_a_run_is_scored_on_rows_it_does_not_see(watched, base):
    """eval_loss of the last line = the saved adapter on the held-out rows, from the start."""
    words, out = watched
    lines = log_lines(out)
    assert ["eval_loss" in line for line in lines] == [True, True, False, True]
    assert not any("eval_slices" in line for line in lines), "too few rows for it"
    tokenizer = load_tokenizer(base)
    rows = [dpo.encode_pair(tokenizer, row, 2048) for row in read_mixture([words[3]], "pairs")]
    train, held = hold_out(rows, 0.05, 0)
    assert len(held) == 8
    reference, policy = load_policy(base), load_policy(str(out))
    teach_lines(reference)
    teach_lines(policy)
    score_reference(reference, held, pack_tokens=4096, model_key="test", out=out.parent / "test/x")
    with torch.no_grad():
        sums = dpo.pack_loss(policy, held, "dpo", 0.1)[1]
    assert means(sums)["loss"] == pytest.approx(lines[-1]["eval_loss"], rel=1e-5)
    assert lines[-1]["eval_rewards/margins"] == pytest.approx(
        means(sums)["rewards/margins"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (10, None, {0, 1, 3, 5, 7, 9}),
        (12, None, {0, 2, 5, 8, 11}),  # five a run, at most, and the first
        (7, 3, {0, 2, 5, 6}),
        (1, None, {0}),
        (7, 0, set()),
    ],
)
def test_which_steps_are_watched(steps, every, expected):
    """The first, the last, and every so many."""
    assert watched_steps(steps, every) == expected


def test_repetition_by_hand(monkeypatch):
    """Of the 4-grams of an answer; answers too short to have one do not count in the mean."""
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(0.2)
    assert repetition([7] * 7) == 0.75
    answers = [[7] * 7, [1, 2, 3, 4], [1, 2, 3]]
    monkeypatch.setattr(watch, "draw_answers", lambda *args: answers)
    monkeypatch.setattr(watch, "logps_under", lambda *args: torch.zeros(14))
    policy = torch.nn.Linear(1, 1).eval()
    found = sampled(policy, None, [], [[5]] * 3, seed=0)
    expected = {"sampled_kl": 0, "sampled_tokens": 14 / 3, "sampled_repetition": 0.375}
    assert found == pytest.approx(expected) and policy.training, "it goes on to learn"
    answers[:] = [[1, 2]]
    assert sampled(torch.nn.Linear(1, 1), None, [], [[5]], seed=0)["sampled_repetition"] == 0


def test_answers_are_drawn_from_the_policys_own_distribution(model, monkeypatch):
    """At temperature 1, each prompt with a seed of its own, and the same ones at every look."""
    asked = []

    def sample(model, tokenizer, jobs, max_tokens):
        asked.append(jobs)
        return [[{"ids": [number]}] for number in range(len(jobs))]

    monkeypatch.setattr(watch, "sample", sample)
    for seed in (0, 0, 1):
        answers = watch.draw_answers(model, None, [[5, 6], [7]], seed)
        assert answers == [[0], [1]]
    first, again, other = asked
    assert [prompt for prompt, _ in first] == [[5, 6], [7]]
    temperatures, seeds = zip(*(samples[0] for _, samples in first))
    assert temperatures == (1.0, 1.0) and len(set(seeds)) == 2
    assert first == again and first != other


def test_answers_are_drawn_in_eval_mode_on_a_gpu(monkeypatch):
    """Where layers would be computed anew; on a CPU 4-bit layers would pass no gradient later."""
    monkeypatch.setattr(watch, "autocast", lambda model: contextlib.nullcontext())
    monkeypatch.setattr(watch, "sample", lambda *args: [])
    modes = []
    for kind in ("cpu", "cuda"):
        model = SimpleNamespace(device=torch.device(kind), train=modes.append)
        assert watch.draw_answers(model, None, [], 0) == []
    assert modes == [True, False]


def test_the_sampled_kl_is_the_kl(base):
    """Against the exact KL of every step along the same answers, from both full distributions."""
    tokenizer, policy = load_tokenizer(base), load_policy(base, lora_r=4)
    teach_lines(policy)
    start = [p.detach().clone() for p in trained(policy)]
    prompts = [
        prompt_ids(tokenizer, [{"role": "user", "content": f"{n} the cat"}]) for n in range(60)
    ]
    assert sampled(policy, tokenizer, start, prompts[:4], seed=0)["sampled_kl"] == pytest.approx(
        0, abs=1e-9
    )
    generator = torch.Generator().manual_seed(3)
    for parameter in trained(policy):
        parameter.data += 0.06 * torch.randn(parameter.shape, generator=generator)
    moved = [p.detach().clone() for p in trained(policy)]
    answers, real = [], watch.sample
    watch.sample = lambda *given: answers.extend(real(*given)) or answers
    try:
        found = sampled(policy, tokenizer, start, prompts, seed=0)
    finally:
        watch.sample = real
    assert all(torch.equal(p, value) for p, value in zip(trained(policy), moved)), (
        "the policy is back"
    )
    exact = 0.0
    for prompt, [answer] in zip(prompts, answers):
        ids, logs = torch.tensor([prompt + answer["ids"]]), []
        for values in (moved, start):
            for parameter, value in zip(trained(policy), values):
                parameter.data.copy_(value)
            with torch.no_grad():
                logs.append(
                    policy(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                )
        exact += (logs[0].exp() * (logs[0] - logs[1])).sum().item()
    assert exact / 60 > 0.5 and found["sampled_kl"] == pytest.approx(exact / 60, rel=0.15)
    assert found["sampled_tokens"] == sum(len(a["ids"]) for (a,) in answers) / 60


def test_max_kl_stops_a_run_and_keeps_its_adapter(base, tmp_path, monkeypatch, capsys):
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "data.jsonl", rows_of(60)),
        *SMALL,
        "--eval-every",
        1,
    ]
    assert run_main("dpo", *words, "--out", tmp_path / "run", "--max-kl", 1e-6) == 0
    lines, record = log_lines(tmp_path / "run"), json.loads((tmp_path / "run/run.json").read_text())
    assert len(lines) < 8 and lines[-1]["sampled_kl"] > 1e-6 and record["finished"]
    assert record["stopped"].startswith("sampled_kl") and "--max-kl" in capsys.readouterr().out
    assert resolve_model(str(tmp_path / "run"))[1] and adapter_of(tmp_path / "run")
    assert all(line["sampled_kl"] <= 1e-6 for line in lines[:-1])

    def die(*args):
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
    ):  # killed between its end and its adapter
        patch.setattr(training_run, "save_adapter", die)
        run_main("dpo", *words, "--out", tmp_path / "again", "--max-kl", 1e-6)
    assert run_main("dpo", *words, "--out", tmp_path / "again", "--max-kl", 1e-6) == 0
    assert same_tensors(adapter_of(tmp_path / "run"), adapter_of(tmp_path / "again"))
    assert log_lines(tmp_path / "again") == lines


def test_the_limit_itself_is_not_passed():
    assert training_run.too_far({"sampled_kl": 0.5}, 0.5) is None
    assert training_run.too_far({"sampled_kl": 0.5001}, 0.5) == "sampled_kl 0.5001 > 0.5"
    assert (
        training_run.too_far({"sampled_kl": 9.0}, None) is None
        and training_run.too_far({}, 0.0) is None
    )


def test_a_renamed_folder_is_continued_where_it_is(base, tmp_path, monkeypatch):
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", sft_rows(9)),
        *SMALL,
        "--save-every",
        1,
    ]

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_run, "save_adapter", die)
        run_main("sft", *words, "--out", tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert run_main("sft", *words, "--out", tmp_path / "two") == 0
    assert (
        json.loads((tmp_path / "two/run.json").read_text())["finished"]
        and not (tmp_path / "one").exists()
    )


def test_a_damaged_checkpoint_is_named(base, tmp_path):
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", sft_rows(9)),
        *SMALL,
        "--out",
        tmp_path / "run",
    ]
    assert run_main("sft", *words) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(record | {"finished": False}))
    for content in (b"", b"text", b"PK\x03\x04 torn"):
        (tmp_path / "run/checkpoint.pt").write_bytes(content)
        with pytest.raises(BadInput, match="checkpoint.pt is damaged"):
            run_main("sft", *words)


@pytest.mark.parametrize("name", ["nonsense", "wandb"])  # not known, not installed
def test_a_tracker_that_is_not_there_is_refused(base, tmp_path, name):
    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", sft_rows(9)), *SMALL]
    with pytest.raises(BadInput, match=f"--track {name}"):
        run_main("sft", *words, "--out", tmp_path / "run", "--track", name)


# ---- mixtures, slices, labels --------------------------------------------------------------------------------


def test_a_slice_has_its_weight_and_its_own_numbers(base, tmp_path):
    data = write(tmp_path / "data.jsonl", rows_of(24))
    rows = read_mixture([f"{data}=2"], "pairs", slices=["b=0.5"])
    steps = batches(rows, 10, 1, 0)
    drawn = [rows[n]["slice"] for step in steps for n in step]
    assert {name: drawn.count(name) for name in "abc"} == {"a": 16, "b": 8, "c": 16}
    assert all(abs(sum(rows[n]["slice"] == "b" for n in step) - 2) <= 1 for step in steps)
    with pytest.raises(BadInput, match="no row has the slice d .*a, b, c"):
        read_mixture([data], "pairs", slices=["d=2"])
    assert (
        run_main(
            "dpo",
            "--model",
            base,
            "--data",
            data,
            "--out",
            tmp_path / "run",
            *SMALL,
            "--slice-weight",
            "b=2",
        )
        == 0
    )
    for line in log_lines(tmp_path / "run"):
        assert line["slices"].keys() == {"a", "b", "c"}
        parts = line["slices"].values()
        assert (
            min(p["loss"] for p in parts) - 1e-9
            <= line["loss"]
            <= max(p["loss"] for p in parts) + 1e-9
        )


def test_a_mixture_that_would_do_nothing_is_refused(tmp_path):
    data = write(tmp_path / "data.jsonl", rows_of(24))
    with pytest.raises(BadInput, match="expected SLICE=WEIGHT"):
        read_mixture([data], "pairs", slices=["b"])
    with pytest.raises(BadInput, match="slice b: 8 rows at weight 0.05 are less than one a pass"):
        batches(read_mixture([data], "pairs", slices=["b=0.05"]), 10, 1, 0)


def test_means_by_slice_by_hand():
    pack = [{"slice": "a"}, {"slice": "b"}, {"slice": "b"}]
    sums = tally(
        pack,
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([1.0, 3.0, 1.0]),
        {"x": torch.tensor([1.0, math.nan, 5.0])},
    )
    found = means(sums)
    assert found["loss"] == pytest.approx((1 + 6 + 4) / 5) and found["x"] == 3.0
    assert found["slices"] == {"a": {"loss": 1.0, "x": 1.0}, "b": {"loss": 2.5, "x": 5.0}}
    assert "slices" not in means(tally(pack[1:], torch.ones(2), torch.ones(2), {}))


def test_soft_labels_are_the_expected_loss(tokenizer, model):
    """A row of p = 0.8 loses what 0.8 of its pair and 0.2 of the turned pair lose, as with a smoothing of 0.2."""
    teach_lines(model.requires_grad_(False))
    row = {"weight": 1.0} | normalise(pair_rows(1)[0] | {"p": 0.8}, "pairs")
    row["seqs"] = [
        encode(tokenizer, row["prompt"], row[side]) | {"ref": ref}
        for side, ref in (("chosen", -25.0), ("rejected", -31.0))
    ]
    with torch.no_grad():
        logps, tokens = pack_logps(model, [row])
        ratio = logps - torch.tensor([[-25.0, -31.0]])
        for loss, function, parts in (("dpo", dpo_loss, ratio), ("ipo", ipo_loss, ratio / tokens)):
            one, other = parts.unbind(1)
            expected = 0.8 * function(one, other, 0.3) + 0.2 * function(other, one, 0.3)
            found = dpo.pack_loss(model, [row], loss, 0.3, soft_labels=True)[0]
            assert found.item() == pytest.approx(expected.item(), rel=1e-6)
            assert dpo.pack_loss(model, [row], loss, 0.3, label_smoothing=0.2)[
                0
            ].item() == pytest.approx(expected.item(), rel=1e-6)
            assert found.item() != pytest.approx(
                dpo.pack_loss(model, [row], loss, 0.3)[0].item(), rel=1e-2
            )
        with_nll = dpo.pack_loss(model, [row], "dpo", 0.3, nll_weight=0.7)[0]
        plain = dpo.pack_loss(model, [row], "dpo", 0.3)[0]
    assert (with_nll - plain).item() == pytest.approx(
        -0.7 * (logps[0, 0] / tokens[0, 0]).item(), rel=1e-6
    )
    with pytest.raises(BadInput, match="'p': expected a number from 0 to 1"):
        normalise(pair_rows(1)[0] | {"p": 1.2}, "pairs")


def test_soft_labels_leave_no_room_for_smoothing(base, tmp_path, capsys):
    """Each row's p says already how likely its label is wrong."""
    words = ["--model", base, "--data", "d.jsonl", "--out", "x", "--soft-labels"]
    with pytest.raises(SystemExit):
        dpo.parse_args([*words, "--label-smoothing", "0.1"])
    assert "leave --label-smoothing out" in capsys.readouterr().err
    assert dpo.parse_args([*words, "--label-smoothing", "0"]).soft_labels


def test_soft_labels_need_a_probability_in_every_row(base, tmp_path):
    data = write(
        tmp_path / "d.jsonl", [row | {"p": 0.9} for row in pair_rows(3)] + [pair_rows(4)[3]]
    )
    with pytest.raises(BadInput, match="--soft-labels: 1 of 4 pairs have no 'p'"):
        run_main("dpo", "--model", base, "--data", data, "--out", tmp_path / "run", "--soft-labels")


# ---- prompts and packs ---------------------------------------------------------------------------------------


def test_prompts_that_leave_room_for_an_answer(base):
    policy = load_policy(base)
    policy.config.max_position_embeddings = 12 + watch.SAMPLE_TOKENS
    rows = [
        {"seqs": [{"ids": [5] * length + [6], "mask": [0] * length + [1]}]}
        for length in (12, 13, 5)
    ]
    assert (
        list(map(len, watched_prompts(rows, policy))) == [12, 5]
        and watched_prompts(rows[1:2], policy) == []
    )
    with pytest.raises(BadInput, match="--max-kl"):
        watched_prompts(rows[1:2], policy, 1.0)


def test_sixteen_different_prompts_are_watched():
    """The first ones; of a model whose positions have no end, too."""
    model = SimpleNamespace(config=transformers.MambaConfig())
    rows = [{"seqs": [{"ids": [5, n // 2, 6], "mask": [0, 0, 1]}]} for n in range(40)]
    assert watched_prompts(rows, model, 1.0) == [[5, n] for n in range(16)]


def test_every_process_reads_as_many_packs():
    rows = [
        {"id": n, "weight": 2.0, "seqs": [{"ids": [n] * 10, "mask": [0] * 5 + [1] * 5}]}
        for n in range(7)
    ]
    for size in (1, 2, 3, 16):
        shares = [share_out(cut_packs(rows, 20), idle_copy, rank, size) for rank in range(size)]
        assert {len(share) for share in shares} == {math.ceil(4 / size)}
        read = [row for share in shares for pack in share for row in pack]
        assert sorted(row["id"] for row in read if row["weight"]) == [*range(7)]
    copies = share_out(cut_packs(rows, 20), idle_copy, 1, 3)[1]
    sums = tally(copies, torch.ones(1), torch.zeros(1), {"x": torch.ones(1)})
    assert [row["weight"] for row in copies] == [0.0] and not sums
    assert share_out([], idle_copy, 1, 2) == []
