"""The judging room's former names, for gate.py and its tests until they use the new ones."""

from posttrain.judging import digits
from posttrain.judging.constitution import read_constitution  # noqa: F401
from posttrain.judging.judges import Judge
from posttrain.judging.prompt import Case
from posttrain.model.memory import OneInMemory


def open_judge(name, constitution, quantize="auto", concurrency=8, *more):
    """A judge as two functions (score, compare)."""
    seed, kept, logprobs = more
    judge = Judge(
        name,
        constitution,
        OneInMemory(),
        quantize=quantize,
        concurrency=concurrency,
        seed=seed,
        kept=kept,
        logprobs=logprobs,
    )
    return judge.score, judge.compare


def judge_pairs(model, tokenizer, constitution, cases):
    """See digits.judge_pairs."""
    return digits.judge_pairs(model, tokenizer, constitution, [Case(*case) for case in cases])
