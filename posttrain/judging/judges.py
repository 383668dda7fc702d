"""Judges of every kind: random numbers, a model behind an endpoint, a reward model, a causal model.

A kind is a class with these six, and a line in JUDGE_KINDS:

    takes(name)             is the judge of this name of this kind?
    score(groups)           votes for the answers to many prompts
    compare(pairs)          which of two answers is better; `compares` False: it cannot
    check(prompts, pairs)   BadInput when it cannot read what it will be shown
    forecast(cases, pairs)  tokens that it will read
    texts(case)             what it reads, for people

None loads its model before it scores or compares.
"""

import math
import random
from functools import cached_property, partial

import torch

from common import judge_tokens
from posttrain.chat.template import render
from posttrain.cli import BadInput
from posttrain.generate.endpoint import ask_endpoint
from posttrain.hashing import seed_for
from posttrain.judging.constitution import BEST, overall_score, rubric_for
from posttrain.judging.digits import judge_answers, judge_pairs, load_judge
from posttrain.judging.prompt import (
    PAIR_QUESTION,
    case_of,
    endpoint_message,
    fenced_answer,
    fenced_pairs,
    harmless,
    judge_ids,
    pair_ids,
    request_text,
    reward_ids,
    score_question,
    trusted_ids,
)
from posttrain.judging.verdicts import (
    DIGIT,
    JSON,
    endpoint_pair_question,
    endpoint_question,
    find_way,
    judge_endpoint,
    pair_endpoint,
    pair_requests,
    score_requests,
)
from posttrain.model.family import is_classifier
from posttrain.model.limits import (
    check_format,
    check_length,
    check_tokens,
    length_of,
    must_see_tokens,
    note_tokens_beyond,
    read_limits,
)
from posttrain.model.load import load_model, load_tokenizer
from posttrain.model.names import endpoint_of, is_endpoint

# Headings of texts of which only a part differs from the one before.
SAME_TEXT = "the same text with this at its end"
BETWEEN = "the same text with this between request and question"

SAMPLE = 50  # prompts that stand for all in a local judge's forecast
PAIR_MARKS = len(" A B") * 2  # bytes that the marks of a pair have above those of single answers
MOST = 700  # a difference of rewards whose exponential is still a number


class Judge:
    """A judge of any kind on a written constitution.

        memory = OneInMemory()
        judge = Judge("runs/judge", read_constitution("data/constitution.md"), memory)
        votes = judge.score([[row, row], [row]])        # rows of one prompt in each list
        [{"p": [0.9, 0.7], "tokens": 812}] = judge.compare([(row, other)])

    Its model is loaded when it is first used, and is then the only one in `memory`.
    """

    def __init__(
        self,
        name,
        constitution,
        memory,
        *,
        quantize="auto",
        concurrency=8,
        seed=0,
        kept=None,
        logprobs=None,
    ):
        """name: "random", NAME@URL, or a reward model or causal model (hub name, folder, run).

        concurrency, kept: see ask_endpoint. seed: of "random". logprobs: {judge: did its endpoint
        give log-probabilities when the run began?}, filled here; BadInput if that has changed.
        """
        self.name = name
        self.constitution = constitution
        self.memory = memory
        self.quantize = quantize
        self.concurrency = concurrency
        self.seed = seed
        self.kept = kept
        self.logprobs = {} if logprobs is None else logprobs

    @cached_property
    def kind(self):
        """The class of JUDGE_KINDS that does the work, on this judge."""
        return kind_of(self.name)(self)

    @property
    def compares(self):
        """Can it be asked which of two answers is better?"""
        return self.kind.compares

    def score(self, groups):
        """Votes for the answers to many prompts, one per answer, in their order.

        groups: candidate rows, in a list for each prompt. A vote is {"score", "scores", "sd",
        "mass", "raw", "tokens"}: score is on 0-5, or a reward of no unit where raw; None: the judge
        could not score. The first vote of a prompt counts the tokens read for all of them.
        """
        return self.kind.score(groups)

    def compare(self, pairs):
        """Which of two answers is better: [{"p", "tokens"}, ...] for [(row, row), ...].

        p: [P(the first is better) asked in this order, in the other]; None: no verdict.
        """
        return self.kind.compare(pairs)

    def check(self, prompts, *, pairs=True):
        """BadInput when a model on this machine cannot read these answers: too long for it, tokens
        that it lacks, the number format. It is not loaded. What is poor in it is a warning.

        prompts: candidate rows, in a list for each prompt. pairs: will it be shown pairs, too?
        """
        self.kind.check(prompts, pairs)

    def forecast(self, prompts, pairs):
        """(tokens that it will read, those of the rubric a prompt), without its model.

        prompts: candidate rows, in a list for each prompt. pairs: how many prompts' best and worst
        answers it will be shown in both orders.
        """
        return self.kind.forecast([case_of(rows) for rows in prompts], pairs)

    def texts(self, rows):
        """What it reads of the answers to one prompt: [(heading, text), ...], without its model.

        The first answer with each question, and the first two answers as a pair.
        """
        return self.kind.texts(case_of(rows))


def kind_of(name):
    """The class of JUDGE_KINDS for a judge's name: the first that takes it."""
    return next(kind for kind in JUDGE_KINDS.values() if kind.takes(name))


# ---- votes ---------------------------------------------------------------------------------------


def vote(scores, criteria, tokens):
    """{criterion: {"score", "sd", "mass"}} -> a vote: overall score, spread, lowest mass."""
    weights = {c["name"]: c["weight"] for c in criteria if c["name"] in scores}
    spreads = [score["sd"] for score in scores.values()]
    masses = [score["mass"] for score in scores.values() if score["mass"] is not None]
    sd = None
    if spreads and None not in spreads:
        variance = sum((weight * scores[name]["sd"]) ** 2 for name, weight in weights.items())
        sd = variance**0.5 / sum(weights.values())
    return {
        "score": overall_score(scores, criteria),
        "scores": {name: score["score"] for name, score in scores.items()},
        "sd": sd,
        "mass": min(masses, default=None),
        "raw": False,
        "tokens": tokens,
    }


def votes_of(judged, criteria):
    """Votes for what judge_answers returns; the first of a prompt has its tokens."""
    votes = []
    for answers, tokens in judged:
        for scores in answers:
            votes.append(vote(scores, criteria, tokens))
            tokens = 0
    return votes


# ---- random --------------------------------------------------------------------------------------


class RandomJudge:
    """The control of every experiment: scores at random, by seed, id and candidate number."""

    compares = False

    def __init__(self, judge):
        self.judge = judge
        self.criteria = judge.constitution["criteria"]

    @staticmethod
    def takes(name):
        return name == "random"

    def score(self, groups):
        votes = []
        for rows in groups:
            for row in rows:
                votes.append(vote(self.draw(row), self.criteria, 0))
        return votes

    def draw(self, row):
        """A uniform number for each criterion."""
        dice = random.Random(seed_for(self.judge.seed, row["id"], row["candidate"]))
        scores = {}
        for criterion in self.criteria:
            scores[criterion["name"]] = {"score": BEST * dice.random(), "sd": 1.0, "mass": 1.0}
        return scores

    def compare(self, pairs):
        raise BadInput("--judge random compares no pairs")

    def check(self, prompts, pairs):
        """It reads nothing."""

    def forecast(self, cases, pairs):
        return 0, 0

    def texts(self, case):
        return [("draws its scores and reads nothing", "")]


# ---- an endpoint ---------------------------------------------------------------------------------


class EndpointJudge:
    """A model behind an OpenAI-compatible server, NAME@URL."""

    compares = True

    def __init__(self, judge):
        name, url = endpoint_of(judge.name)
        self.judge = judge
        self.ask_unkept = partial(ask_endpoint, url, name, concurrency=judge.concurrency)
        self.ask = partial(self.ask_unkept, kept=judge.kept)

    @staticmethod
    def takes(name):
        return is_endpoint(name)

    @cached_property
    def way(self):
        """How the server is asked: see find_way. BadInput if it was asked otherwise before.

        The scores of two ways cannot be compared, so one run has only one of them.
        """
        way = find_way(self.ask_unkept)
        gives = way == DIGIT
        name = self.judge.name
        if self.judge.logprobs.setdefault(name, gives) != gives:
            raise BadInput(
                f"{name} gave {'no ' if gives else ''}log-probabilities when this run began, now "
                "it is the other way round: start that server as it was, or judge all into a new "
                "--out"
            )
        return way

    def score(self, groups):
        cases = [case_of(rows) for rows in groups]
        judged = judge_endpoint(self.ask, self.way, self.judge.constitution, cases)
        return votes_of(judged, self.judge.constitution["criteria"])

    def compare(self, pairs):
        cases = [case_of(rows) for rows in pairs]
        compared = pair_endpoint(self.ask, self.way, self.judge.constitution, cases)
        return [{"p": p, "tokens": tokens} for p, tokens in compared]

    def check(self, prompts, pairs):
        """What is too long for it, its server says."""

    def forecast(self, cases, pairs):
        """4 characters a token, and 20 tokens around each message."""
        constitution = self.judge.constitution
        tokens = 0
        for case in cases:
            tokens += sum(map(request_tokens, score_requests(constitution, case, JSON)))
        several = [case for case in cases if len(case.completions) > 1][:SAMPLE]
        for case in several:
            pair = case._replace(completions=case.completions[:2])
            of_pair = sum(map(request_tokens, pair_requests(constitution, pair, JSON)))
            tokens += round(of_pair * pairs / len(several))
        rubrics = sample_rubrics(constitution, cases)
        return tokens, sum(len(text) for text in rubrics) // 4 // len(rubrics)

    def texts(self, case):
        """The server renders these messages with its model's chat template."""
        constitution = self.judge.constitution
        criteria, _ = rubric_for(constitution, case.slice, case.prompt)
        names = [criterion["name"] for criterion in criteria]
        without = "where the server gives no log-probabilities"

        shown = fenced_answer(case.completions[0])
        question = endpoint_question(names[0], DIGIT)
        whole = endpoint_message(constitution, case, shown, question)["content"]
        texts = [(f"one user message: answer 1, {names[0]}", whole)]
        for name in names[1:]:
            texts.append((f"{name}: {SAME_TEXT}", endpoint_question(name, DIGIT)))
        for name in names:
            texts.append((f"{name}, {without}: {SAME_TEXT}", endpoint_question(name, JSON)))

        if len(case.completions) > 1:
            pair, swapped = fenced_pairs(case._replace(completions=case.completions[:2]))
            question = endpoint_pair_question(DIGIT)
            whole = endpoint_message(constitution, case, pair, question)["content"]
            texts.append(("one user message: answers 1 and 2 as a pair", whole))
            texts.append((f"the pair in the other order: {BETWEEN}", harmless(swapped)))
            texts.append((f"the pair, {without}: {SAME_TEXT}", endpoint_pair_question(JSON)))
        return texts


def request_tokens(request):
    """Tokens of a request: 4 characters each, and 20 around its message."""
    return len(request["messages"][0]["content"]) // 4 + 20


# ---- models on this machine ----------------------------------------------------------------------


class LocalJudge:
    """What reward models and causal models share: a tokenizer, and a model alone in memory."""

    compares = True
    writes = True  # is it a language model?

    def __init__(self, judge):
        self.judge = judge
        self.tokenizer = load_tokenizer(judge.name)
        self.is_checked = False
        self.longest_checked = 0  # tokens: what is not longer needs no second warning

    def check(self, prompts, pairs):
        """A token has at least one byte: only texts that may be too long are tokenised for this.

        All are where the tokenizer has tokens that no text may have.
        """
        check_format(self.judge.name, self.judge.quantize)
        limits = read_limits(self.judge.name, writes=self.writes)
        every_text = must_see_tokens(limits, self.tokenizer)
        texts = []
        for rows in prompts:
            case = case_of(rows)
            if every_text or self.most_tokens(case, pairs) > limits.long:
                place = f"id {rows[0]['id']!r}"
                texts += [(place, ids) for ids in self.texts_read(case, pairs)]
        check_tokens(limits, self.tokenizer, texts)
        if not self.is_checked:
            note_tokens_beyond(limits, self.tokenizer)
        self.is_checked = True
        self.check_longest(limits, texts)

    def check_longest(self, limits, texts):
        """check_length of the longest of these texts, unless a longer one was checked before."""
        place, ids = max(texts, key=length_of, default=("", []))
        if len(ids) > self.longest_checked:
            self.longest_checked = len(ids)
            check_length(
                limits,
                len(ids),
                f"{place}: {len(ids)} tokens for the judge",
                "take a judge for longer texts, or leave such rows out",
            )

    @property
    def model(self):
        # A policy of the same name is another object: the judge's model reads trees.
        return self.judge.memory.get(f"judge {self.judge.name}", self.load)

    def forecast(self, cases, pairs):
        """Every so many prompts stand for all."""
        constitution = self.judge.constitution
        sample = sample_of(cases)
        prefixes = []
        lengths = []  # of an answer with all questions
        for case in sample:
            prefix, answers, tails = judge_ids(self.tokenizer, constitution, case)
            questions = sum(len(tail) for tail in tails.values())
            prefixes.append(len(prefix))
            lengths += [len(answer) + questions for answer in answers]
        prefix = sum(prefixes) / len(prefixes)
        answer = sum(lengths) / len(lengths)
        answers = sum(len(case.completions) for case in cases)
        tokens = judge_tokens(len(cases), answers / len(cases), answer, 0, rubric_len=prefix)
        rubrics = sample_rubrics(constitution, cases)
        rubric = sum(len(trusted_ids(self.tokenizer, text)) for text in rubrics) // len(rubrics)
        return round(tokens + pairs * (prefix + 4 * answer)), rubric

    def shown(self, heading, ids):
        """(heading with the numbers of tokens, the tokens as text)."""
        control = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        count = sum(token in control for token in ids)
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return f"{heading}; {len(ids)} tokens, {count} of them control tokens", text


class RewardJudge(LocalJudge):
    """A reward model: a sequence classifier with one output, whose number has no unit."""

    writes = False

    def __init__(self, judge):
        super().__init__(judge)
        self.rewards = {}  # of what was read before

    @staticmethod
    def takes(name):
        return is_classifier(name)

    def load(self):
        return load_model(self.judge.name, self.judge.quantize, classifier=True)

    def forecast(self, cases, pairs):
        """It reads each answer with its prompt, once: no rubric, no question and no pair."""
        sample = sample_of(cases)
        lengths = []
        for case in sample:
            for completion in case.completions:
                lengths.append(len(reward_ids(self.tokenizer, case, completion)))
        answers = sum(len(case.completions) for case in cases)
        return round(answers * sum(lengths) / len(lengths)), 0

    def most_tokens(self, case, pairs):
        """The bytes of its longest text."""
        texts = []
        for completion in case.completions:
            texts.append(render(self.tokenizer, case.prompt + completion, case.tools))
        return max(map(utf8_length, texts))

    def texts_read(self, case, pairs):
        """Token ids of each answer with its prompt."""
        return [reward_ids(self.tokenizer, case, text) for text in case.completions]

    def score(self, groups):
        votes = []
        for rows in groups:
            for row in rows:
                reward, tokens = self.reward(row)
                votes.append(
                    {
                        "score": reward,
                        "scores": {},
                        "sd": None,
                        "mass": None,
                        "raw": True,
                        "tokens": tokens,
                    }
                )
        return votes

    def compare(self, pairs):
        """Bradley and Terry: the logistic function of the difference; the order is none."""
        compared = []
        for first, second in pairs:
            difference = self.reward(second)[0] - self.reward(first)[0]
            p = 1 / (1 + math.exp(min(difference, MOST)))
            compared.append({"p": [p, p], "tokens": 0})
        return compared

    def reward(self, row):
        """(reward, tokens read) of an answer; of the same words it is computed once."""
        key = seed_for(row["prompt"], row["completion"], row.get("tools"))
        if key not in self.rewards:
            ids = reward_ids(self.tokenizer, case_of([row]), row["completion"])
            self.rewards[key] = reward_of(self.model, ids), len(ids)
        return self.rewards[key]

    def texts(self, case):
        ids = reward_ids(self.tokenizer, case, case.completions[0])
        heading = "a reward model reads the conversation, no rubric and no question: answer 1"
        return [self.shown(heading, ids)]


@torch.no_grad()
def reward_of(model, ids):
    """The output of a sequence classifier for one row of tokens; alone, so nothing is padded."""
    return model(input_ids=torch.tensor([ids], device=model.device)).logits[0, 0].item()


class DigitJudge(LocalJudge):
    """A causal model whose next token is a digit, or a letter: see digits.py."""

    @staticmethod
    def takes(name):
        return True

    def load(self):
        return load_judge(self.judge.name, self.judge.quantize)

    @cached_property
    def frame_bytes(self):
        """Bytes of the longest question and of what the template writes around a message."""
        message = {"role": "user", "content": PAIR_QUESTION}
        frame = render(self.tokenizer, [message], generation_prompt=True)
        names = [criterion["name"] for criterion in self.judge.constitution["criteria"]]
        questions = [score_question(name) for name in names]
        return utf8_length(frame) + max(map(utf8_length, questions))

    def most_tokens(self, case, pairs):
        """The bytes of its longest text: of a pair, if it is shown pairs, else of one answer."""
        _, rubric = rubric_for(self.judge.constitution, case.slice, case.prompt)
        answers = sorted(utf8_length(fenced_answer(text)) for text in case.completions)
        shown = sum(answers[-2:]) if pairs else answers[-1]
        request = utf8_length(request_text(case.prompt, case.tools))
        return self.frame_bytes + utf8_length(rubric) + request + shown + PAIR_MARKS

    def texts_read(self, case, pairs):
        """Token ids of each answer with each question, and of the longest pair."""
        constitution = self.judge.constitution
        prefix, answers, tails = judge_ids(self.tokenizer, constitution, case)
        texts = []
        for answer in answers:
            texts += [prefix + answer + tail for tail in tails.values()]
        if pairs and len(answers) > 1:
            longest = sorted(range(len(answers)), key=lambda number: len(answers[number]))[-2:]
            pair = case._replace(completions=[case.completions[number] for number in longest])
            prefix, orders, tail = pair_ids(self.tokenizer, constitution, pair)
            texts += [prefix + order + tail for order in orders]
        return texts

    def score(self, groups):
        cases = [case_of(rows) for rows in groups]
        judged = judge_answers(self.model, self.tokenizer, self.judge.constitution, cases)
        return votes_of(judged, self.judge.constitution["criteria"])

    def compare(self, pairs):
        cases = [case_of(rows) for rows in pairs]
        compared = judge_pairs(self.model, self.tokenizer, self.judge.constitution, cases)
        return [{"p": p, "tokens": tokens} for p, tokens in compared]

    def texts(self, case):
        constitution = self.judge.constitution
        prefix, answers, tails = judge_ids(self.tokenizer, constitution, case)
        (first, tail), *others = tails.items()
        texts = [self.shown(f"answer 1, {first}", prefix + answers[0] + tail)]
        for name, tail in others:
            texts.append(self.shown(f"{name}: {SAME_TEXT}", tail))

        if len(answers) > 1:
            pair = case._replace(completions=case.completions[:2])
            prefix, orders, tail = pair_ids(self.tokenizer, constitution, pair)
            texts.append(self.shown("answers 1 and 2 as a pair", prefix + orders[0] + tail))
            texts.append(self.shown(f"the pair in the other order: {BETWEEN}", orders[1]))
        return texts


def utf8_length(text):
    """Bytes of a text, and so the most tokens that it can have."""
    return len(text.encode())


def sample_of(cases):
    """Every so many of the cases, less than twice SAMPLE of them."""
    return cases[:: max(1, len(cases) // SAMPLE)]


def sample_rubrics(constitution, cases):
    """The texts of the rubric for every so many prompts."""
    sample = sample_of(cases)
    return [rubric_for(constitution, case.slice, case.prompt)[1] for case in sample]


# A judge is of the first kind that takes its name. The last takes any name, the one before it any
# model of this machine or the hub: a new kind stands above them.
JUDGE_KINDS = {
    "random": RandomJudge,
    "endpoint": EndpointJudge,
    "reward model": RewardJudge,
    "causal model": DigitJudge,
}
