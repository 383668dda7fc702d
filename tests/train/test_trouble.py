"""Signs of trouble: what they need to show, and that each is printed once."""

import math

from conftest import pair_rows, run_main, write

from posttrain.train.trouble import Trouble


def trouble(history, beta=None, **more):
    """The signs that show after the lines of a whole log, the oldest first."""
    log = Trouble(beta, **more)
    for line in history:
        log.add(line, quiet=True)
    return log.signs()


def chosen(value, rejected, tokens=10.0):
    return {
        "step": 1,
        "rewards/chosen": value,
        "rewards/rejected": rejected,
        "tokens/chosen": tokens,
    }


def test_signs_of_trouble():
    """Chosen answers 0.1 nats a token below the reference: a warning, with the cause."""
    fine = [chosen(0.5, -0.5)] * 8
    assert trouble(fine, 0.1) == {} == trouble([chosen(-0.1, -0.9)] * 7, 0.1)
    assert trouble([chosen(-0.04, -0.9)] * 8, 0.1) == {}  # 0.04 nats a token
    sinks = trouble([chosen(-0.1, -0.9)] * 8, 0.1)["chosen"]
    assert (
        "0.10 nats a token" in sinks and "margin still grows" in sinks and "--nll-weight" in sinks
    )
    assert "too large" in trouble([chosen(-0.1, -0.05)] * 8, 0.1)["chosen"]

    def said(tokens, repetition):
        return {"step": 1, "sampled_tokens": tokens, "sampled_repetition": repetition}

    assert trouble([said(20, 0.0), said(33, 0.05)], 0.1) == {}
    assert {*trouble([said(20, 0.0), said(35, 0.2)], 0.1)} == {"length", "repetition"}
    still = [{"step": 1, "grad_norm": 0.3, "rewards/chosen": 0.0, "rewards/rejected": 0.0}] * 3
    assert {*trouble(still, 0.1)} == {"still"} and trouble(still) == {} == trouble(still[:2], 0.1)
    for side in ("chosen", "rejected"):
        assert trouble([*still[:2], still[2] | {f"rewards/{side}": -1e-6}], 0.1) == {}
    assert "nothing is being trained" in trouble([{"step": 1, "grad_norm": 0.0}])["gradient"]
    held = [{"step": 1, "eval_loss": loss} for loss in (0.7, 0.6, 0.5, 0.55)]
    assert trouble(held) == {} and "memorised" in trouble([*held, held[0]])["held out"]


def test_signs_at_their_edges():
    """Just beyond its limit each sign shows; just before it, it does not."""

    def sampled(tokens, repetition):
        return {"step": 1, "sampled_tokens": tokens, "sampled_repetition": repetition}

    def held_out(loss):
        return [{"step": 1, "eval_loss": value} for value in (1.0, 2.0, loss, loss)]

    first = sampled(20.0, 0.25)
    for just_before, just_beyond, beta in (
        ([chosen(-0.0499, -0.9)] * 8, [chosen(-0.0501, -0.9)] * 8, 0.1),
        ([first, sampled(33.9, 0.25)], [first, sampled(34.1, 0.25)], 0.1),  # 1.5 x 20 + 4
        ([first, sampled(20.0, 0.349)], [first, sampled(20.0, 0.351)], 0.1),
        (held_out(1.0509), held_out(1.0511), None),  # 1.05 x 1 + 0.001
    ):
        assert trouble(just_before, beta) == {}
        assert len(trouble(just_beyond, beta)) == 1


def test_only_the_recent_steps_count():
    """A run that sank and recovered is fine; half a window says nothing."""
    sunk, recovered = [chosen(-0.1, -0.9)] * 8, [chosen(0.5, -0.9)] * 8
    assert "chosen" in trouble(sunk, 0.1) and trouble(sunk + recovered, 0.1) == {}
    assert trouble([chosen(math.nan, 0.0)] * 8, 0.1) == {}


def test_the_first_and_the_last_answers_count():
    """Answers are compared with the first ones drawn, whatever lies between."""
    first, longer, back = [
        {"sampled_tokens": tokens, "sampled_repetition": 0.0} for tokens in (20, 60, 22)
    ]
    other = {"rewards/chosen": 0.1}  # a step without answers
    assert "length" in trouble([first, longer], 0.1)
    assert "length" in trouble([first, other, other, longer, other], 0.1)
    assert trouble([first, longer, other, back], 0.1) == {}
    assert "length" in trouble([first, longer]), "also without a reference"
    assert trouble([first, longer], learns_length=True) == {}, "SFT may teach longer answers"


def test_the_held_out_loss_by_hand():
    held = [{"eval_loss": loss} for loss in (0.5, 0.7, 0.7, 0.8)]
    assert "(0.5000 -> 0.8000)" in trouble(held)["held out"]
    assert trouble(held[:3]) == {}, "too few to tell"
    assert trouble([*held, {"eval_loss": 0.52}]) == {}, "the last but one may be an accident"


def test_a_sign_is_printed_once(capsys):
    log = Trouble()
    for step in (1, 2, 3):
        log.add({"step": step, "grad_norm": 0.0})
    assert (
        capsys.readouterr().out
        == "WARNING  step 1: the adapter's gradient is zero: nothing is being trained\n"
    )


def test_after_a_resume_the_first_line_tells_what_the_old_ones_show(capsys):
    """Lines of before are read in silence; what they show is printed with the next line."""
    held = [{"step": step, "eval_loss": loss} for step, loss in enumerate((0.5, 0.6, 0.7, 0.8), 1)]
    whole, resumed = Trouble(), Trouble()
    for line in held:
        whole.add(line)
        resumed.add(line, quiet=True)
    printed = capsys.readouterr().out
    assert (
        printed.startswith("WARNING  step 4: the held-out loss rises") and printed.count("\n") == 1
    )
    for log in (whole, resumed):
        log.add({"step": 5, "grad_norm": 0.3})
    printed = capsys.readouterr().out
    assert (
        printed.startswith("WARNING  step 5: the held-out loss rises") and printed.count("\n") == 1
    )


def test_a_long_log_is_not_kept():
    log = Trouble(0.1)
    for step in range(1, 1001):
        log.add(
            chosen(0.5, -0.5)
            | {"step": step, "eval_loss": 0.5, "sampled_tokens": 9, "sampled_repetition": 0.0}
        )
    kept = [value for value in vars(log).values() if hasattr(value, "__len__")]
    assert max(map(len, kept)) <= 8 and log.signs() == {}


def test_a_run_that_sinks_its_chosen_answers_says_so_once(base, tmp_path, capsys):
    """Pairs whose answers nearly agree, a large step: both sink: a case for the warning."""
    rows = [row | {"rejected": row["chosen"] + " house"} for row in pair_rows(8)]
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--out",
        tmp_path / "run",
    ]
    assert (
        run_main("dpo", *words, "--batch-size", 8, "--lr", 0.05, "--epochs", 25, "--beta", 0.1) == 0
    )
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("the chosen answers have lost") == 1
