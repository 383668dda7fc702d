"""Asks two models what a suite asks, as far as the rule wants to know, and keeps every answer.

Files in the run's folder, each appended batch by batch; a killed run goes on where they end, to the
same bytes:

    answers-ROLE-LABEL.jsonl   sampled answers; LABEL is a look's answers per item, greedy, again
                               or budget
    choices-ROLE.jsonl         what each model holds for the likeliest choice
    judged-LOOK.jsonl          which answers the judge prefers
    borrowed.jsonl             the baseline's answers in earlier gates
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from posttrain.chat.encode import encode
from posttrain.chat.replies import reply_text
from posttrain.cli import BadInput
from posttrain.gating.answers import Answer, answer_of, borrow, read_answers
from posttrain.gating.grades import grade
from posttrain.gating.measures import differences
from posttrain.gating.rule import BASELINE_DRAWS
from posttrain.gating.suite import IN_SLICES, RECORDED, ROLES
from posttrain.generate.local import generation_batches, sample
from posttrain.hashing import seed_for
from posttrain.model.limits import (
    check_length,
    check_tokens,
    length_of,
    must_see_tokens,
    read_limits,
)
from posttrain.model.load import load_merged
from posttrain.packed.lines import prompt_length
from posttrain.packed.reader import reads_lines, seq_logps, teach_lines
from posttrain.records.jsonl import read_jsonl

READ_AT_ONCE = 16  # items whose choices are read, or pairs that are judged, between two savings
TURN_TOKENS = 64  # that a template may write around a choice, at most
AGAIN = 2  # fresh answers of a candidate that fails a canary
WARM = 0.7  # their temperature where the candidate's own is 0


# ---- who is asked, and how -----------------------------------------------------------------------


@dataclass
class Side:
    """One of the two models and what it is asked."""

    name: str  # hub name, model folder or run folder
    tokenizer: object
    temperature: float
    prompts: dict  # {item: the tokens of its prompt}, for the items that models answer
    keys: dict  # {item: answers.key_of it}


@dataclass
class Sampling:
    """How both sides answer."""

    max_tokens: int
    batch_size: int  # answers sampled at once
    seed: int
    quantize: str = "auto"
    think: bool = False  # before they answer


class Draw(NamedTuple):
    """One answer that is to be sampled."""

    sample: int | str  # its name among the answers to the item
    temperature: float
    seed: int


@dataclass
class Job:
    """What a side is still to answer to one item."""

    item: dict
    ids: list  # the tokens of its prompt
    draws: list


@dataclass
class Duel:
    """Two answers to one item, for the judge."""

    item: dict
    sample: int  # of the candidate's
    candidate: Answer
    baseline: Answer


def draws_of(temperatures, k):
    """Answers of each role that count at the look of k; greedy ones are all the same.

    temperatures {role: temperature}.
    """
    candidate = k if temperatures["candidate"] else 1
    baseline = k * BASELINE_DRAWS if temperatures["baseline"] else 1
    return {"candidate": candidate, "baseline": baseline}


# ---- the answers ---------------------------------------------------------------------------------


class AnswerCollector:
    """The answers to a suite so far, and whoever makes more of them.

    Whatever is asked twice is answered once, and one model at a time is in memory.
        answers {role: {item: {sample: Answer}}}
        rows    {slice: [row of items.jsonl, ...]}, of the slices that were looked at
        tokens  read and written, by both models and the judge
    """

    def __init__(self, run, items, sides, sampling, *, check, judge, memory):
        """run: a FileRun. items: of the whole suite. sides {role: Side}; {} when none is asked.

        check(item, text) -> what a verifier says of an answer. judge: has compare(pairs), see
        judging; None without items of type judge. memory: the OneInMemory that the judge has, too.
        """
        self.run = run
        self.items = {item["id"]: item for item in items}
        self.sides = sides
        self.sampling = sampling
        self.check = check
        self.judge = judge
        self.memory = memory
        self.temperatures = dict.fromkeys(ROLES, 0.0)
        self.answers = {role: {} for role in ROLES}
        for role, side in sides.items():
            self.temperatures[role] = side.temperature
            self.answers[role] = {key: {} for key in side.prompts}
        self.rows = {}
        self.tokens = 0
        self._reads_padded = set()  # models that cannot read lines
        # Of sampling alone, for the cost of a request: {role: [answers, seconds]}.
        self.speed = run.record.setdefault("speed", {role: [0, 0.0] for role in ROLES})

    def borrow(self, sampling_key):
        """Take over the baseline's answers of other gates. sampling_key: see answers.lendable."""
        self.run.record["baseline_key"] = sampling_key
        self._keep("baseline", borrow(self.run.folder, sampling_key, self.sides["baseline"].keys))

    # Sampled answers.

    def ask(self, label, items, samples):
        """Make the answers that are missing. label: part of the file's name.

        samples {role: [(sample, temperature), ...]}, for each of the items. Of two models the one
        that is in memory goes first.
        """
        if not items:
            return
        for role in sorted(samples, key=lambda role: self.sides[role].name != self.memory.name):
            jobs = self._jobs(role, items, samples[role])
            if jobs:
                self._sample(role, self.run.folder / f"answers-{role}-{label}.jsonl", jobs)

    def _jobs(self, role, items, samples):
        jobs = []
        for item in items:
            answered = self.answers[role][item["id"]]
            draws = []
            for label, temperature in samples:
                if label not in answered:
                    seed = seed_for(self.sampling.seed, role, item["id"], label)
                    draws.append(Draw(label, temperature, seed))
            if draws:
                jobs.append(Job(item, self.sides[role].prompts[item["id"]], draws))
        return jobs

    def _sample(self, role, path, jobs):
        lengths = [len(job.ids) for job in jobs]
        counts = [len(job.draws) for job in jobs]
        batches = []
        sizes = []
        for numbers in generation_batches(lengths, counts, self.sampling.batch_size):
            batches.append([jobs[number] for number in numbers])
            sizes.append(sum(counts[number] for number in numbers))
        self.run.extend(path, batches, sizes, partial(self._sample_batch, role))
        self._read(role, path, [job.item for job in jobs])
        self.tokens += sum(lengths)

    def _sample_batch(self, role, batch):
        """Lines of the file, for a batch of jobs."""
        model = self._model(role)
        side = self.sides[role]
        began = time.perf_counter()
        questions = []
        for job in batch:
            questions.append((job.ids, [(draw.temperature, draw.seed) for draw in job.draws]))
        answers = sample(model, side.tokenizer, questions, self.sampling.max_tokens)

        lines = []
        for job, answers_of_job in zip(batch, answers):
            for draw, answer in zip(job.draws, answers_of_job):
                line = {"id": job.item["id"], "of": side.keys[job.item["id"]]}
                line |= {"sample": draw.sample, "text": self._text(side, job.item, answer)}
                line |= {"tokens": answer["tokens"], "finish": answer["finish"]}
                if answer["thought_tokens"]:
                    line["thought_tokens"] = answer["thought_tokens"]
                lines.append(line)
        self.speed[role][0] += len(lines)
        self.speed[role][1] += time.perf_counter() - began
        return lines

    def _text(self, side, item, answer):
        """An answer's text as verifiers can read it."""
        tools, think = item.get("tools"), self.sampling.think
        return reply_text(side.tokenizer, item["prompt"], tools, answer["text"], think=think)

    # Multiple choice.

    def choose(self, items):
        """Which choice both models hold for the likeliest, of items that lack it."""
        for role in self.sides:
            left = [item for item in items if "mc" not in self.answers[role][item["id"]]]
            if not left:
                continue
            path = self.run.folder / f"choices-{role}.jsonl"
            batches = in_batches(left)
            sizes = [len(batch) for batch in batches]
            self.run.extend(path, batches, sizes, partial(self._choose_batch, role))
            self._read(role, path, left)

    def _choose_batch(self, role, batch):
        """Lines of the file, for a batch of items."""
        model = self._line_model(role)
        return [self._likeliest_choice(model, self.sides[role], item) for item in batch]

    def _likeliest_choice(self, model, side, item):
        """A line of the file: the choice with the greatest log-likelihood per byte.

        A choice is read as the assistant's answer, without its stop token. Of equals the first.
        """
        rows = choice_rows(side.tokenizer, item)
        with torch.no_grad():
            logps = seq_logps(model, rows)[0].tolist()
        per_byte = []
        for logp, choice in zip(logps, item["choices"]):
            per_byte.append(logp / len(choice.encode()))

        # The prompt is read once for all its choices, which are given without a thought.
        prompt_tokens = prompt_length(rows[0])
        choice_tokens = sum(len(row["ids"]) - prompt_tokens for row in rows)
        line = {"id": item["id"], "of": side.keys[item["id"]], "sample": "mc"}
        line |= {"choice": per_byte.index(max(per_byte)), "logps": per_byte}
        return line | {"tokens": prompt_tokens + choice_tokens}

    # Both answers before a judge.

    def compare(self, k, items):
        """The judge's P(the candidate's answer is better), in both orders, for all that count."""
        duels = self._duels(k, items)
        if not duels:
            return
        self.judge.check([pair_of(duel) for duel in duels])
        path = self.run.folder / f"judged-{k}.jsonl"
        batches = in_batches(duels)
        self.run.extend(path, batches, [len(batch) for batch in batches], self._judge_batch)
        for duel, (_, line) in zip(duels, read_jsonl(path)):
            duel.candidate.p = line["p"]
            self.tokens += line["tokens"]

    def _duels(self, k, items):
        """Pairs that the judge has not seen. Equal texts are a tie, unasked."""
        draws = draws_of(self.temperatures, k)
        duels = []
        for item in items:
            for label in range(draws["candidate"]):
                candidate = self.answers["candidate"][item["id"]][label]
                baseline = self.answers["baseline"][item["id"]][label % draws["baseline"]]
                if candidate.p is None and candidate.text == baseline.text:
                    candidate.p = [0.5, 0.5]
                elif candidate.p is None:
                    duels.append(Duel(item, label, candidate, baseline))
        return duels

    def _judge_batch(self, batch):
        """Lines of the file, for a batch of duels."""
        opinions = self.judge.compare([pair_of(duel) for duel in batch])
        lines = []
        for duel, opinion in zip(batch, opinions):
            line = {"id": duel.item["id"], "sample": duel.sample}
            lines.append(line | {"p": opinion["p"], "tokens": opinion["tokens"]})
        return lines

    # What the rule asks for.

    def look(self, slices, k):
        """The next look: k answers of every item of these slices -> {slice: differences}.

        A slice without a score is left out. Both models have answered what models can answer.
        """
        items = self._items_of(slices)
        self.ask(k, of_type(items, "verify", "judge"), self._samples(k))
        self.choose(of_type(items, "mc"))
        self.compare(k, of_type(items, "judge"))

        scores_of_slices = {}
        for name in slices:
            rows = self.scores([item for item in items if item["slice"] == name], k)
            rows = [row for row in rows if row]
            if rows:  # else those of the look before stay, as the rule keeps its difference
                self.rows[name] = rows
                scores_of_slices[name] = differences(rows)
        return scores_of_slices

    def _items_of(self, slices):
        """Items of these slices with an outcome.

        One that models answer has none if they are not asked: unit tests without a sandbox.
        """
        items = []
        for key, item in self.items.items():
            has_outcome = item["type"] in RECORDED or key in self.answers["baseline"]
            if item["slice"] in slices and item["type"] in IN_SLICES and has_outcome:
                items.append(item)
        return items

    def _samples(self, k):
        """{role: [(sample, temperature), ...]} that count at the look of k."""
        draws = draws_of(self.temperatures, k)
        samples = {}
        for role in ROLES:
            temperature = self.temperatures[role]
            samples[role] = [(number, temperature) for number in range(draws[role])]
        return samples

    def scores(self, items, k):
        """Rows of items.jsonl, from k answers of every item; None where a score is missing."""
        draws = draws_of(self.temperatures, k)
        rows = []
        for item in items:
            answers = {role: self.answers[role].get(item["id"]) for role in ROLES}
            if item["type"] == "verify":
                self._check(item, answers, draws)
            rows.append(grade(item, answers, draws))
        return rows

    def _check(self, item, answers, draws):
        """Ask the verifiers about the answers that count, and about the greedy one."""
        for role in ROLES:
            for label in [*range(draws[role]), "greedy"]:
                answer = answers[role].get(label)
                if answer and answer.verdict is None:
                    answer.verdict = self.check(item, answer.text)

    # What else a gate wants to know.

    def ask_greedily(self, items):
        """One answer at temperature 0 of both models."""
        self.ask("greedy", items, {role: [("greedy", 0.0)] for role in self.sides})

    def canaries(self, items):
        """[{"id", "text": the candidate's, "confirmed", "baseline", "candidate": passes?}, ...].

        They have been asked greedily. One that the candidate alone fails counts as failed when one
        of two fresh answers fails, too: "confirmed" says so, and is None for the others. Those of
        which a check cannot tell are left out, and so have no score.
        """
        passed = {item["id"]: self._passes(item) for item in items}
        items = [item for item in items if None not in passed[item["id"]]]
        broken = [item for item in items if passed[item["id"]] == [True, False]]
        if broken:
            temperature = self.temperatures["candidate"] or WARM
            samples = [(number, temperature) for number in range(AGAIN)]
            self.ask("again", broken, {"candidate": samples})

        reports = []
        for item in items:
            answers = self.answers["candidate"][item["id"]]
            confirmed = None
            if item in broken:
                fresh = [self.check(item, answers[number].text)["ok"] for number in range(AGAIN)]
                if None in fresh and False not in fresh:
                    continue
                confirmed = False in fresh
            report = {"id": item["id"], "text": answers["greedy"].text, "confirmed": confirmed}
            reports.append(report | dict(zip(ROLES, passed[item["id"]])))
        return reports

    def _passes(self, item):
        """Are the greedy answers of [baseline, candidate] right?"""
        texts = [self.answers[role][item["id"]]["greedy"].text for role in ROLES]
        return [self.check(item, text)["ok"] for text in texts]

    def unjudged(self, items, k):
        """Rows of the items that are only counted, from k answers of each."""
        self.ask("budget", items, self._samples(k))
        return self.scores(items, k)

    def all_rows(self):
        """Rows of items.jsonl, slice by slice in the order in which they were looked at."""
        return [row for rows in self.rows.values() for row in rows]

    def time_requests(self, items):
        """{role: [(seconds, tokens), ...]} of greedy answers one by one; kept in the record."""
        if "timed" not in self.run.record:
            self.run.record["timed"] = {role: self._time(role, items) for role in ROLES}
        return self.run.record["timed"]

    def _time(self, role, items):
        """The first is asked once more before, to warm up."""
        model = self._model(role)
        side = self.sides[role]
        timed = []
        for item in [items[0], *items]:
            question = (side.prompts[item["id"]], [(0.0, 0)])
            began = time.perf_counter()
            [[answer]] = sample(model, side.tokenizer, [question], self.sampling.max_tokens)
            timed.append((time.perf_counter() - began, answer["tokens"]))
        return timed[1:]

    # Models and files.

    def _model(self, role):
        """The side's model, alone in memory."""
        name = self.sides[role].name
        return self.memory.get(name, partial(load_merged, name, self.sampling.quantize))

    def _line_model(self, role):
        """The side's model; where it can be taught, it reads a prompt once for several answers."""
        model = self._model(role)
        name = self.sides[role].name
        if not reads_lines(model) and name not in self._reads_padded:
            teach_lines(model)
            if not reads_lines(model):
                self._reads_padded.add(name)
        return model

    def _read(self, role, path, items):
        """Keep what a file has, which answers these items, and count its tokens."""
        keys = {item["id"]: self.sides[role].keys[item["id"]] for item in items}
        lines = read_answers(path, keys)
        self._keep(role, lines)
        self.tokens += sum(line["tokens"] for line in lines)

    def _keep(self, role, lines):
        """Add lines of a file to the answers."""
        for line in lines:
            answer = answer_of(line, self.items[line["id"]])
            self.answers[role][line["id"]][line["sample"]] = answer


# ---- multiple choice -----------------------------------------------------------------------------


def choice_rows(tokenizer, item):
    """[{"ids", "mask"}, ...] of an item's choices, each as an answer without its stop token."""
    rows = []
    for choice in item["choices"]:
        answer = [{"role": "assistant", "content": choice}]
        try:
            row = encode(tokenizer, item["prompt"], answer, item.get("tools"))
        except ValueError as error:
            raise BadInput(f"id {item['id']!r}: a choice cannot be scored: {error}") from None
        rows.append({"ids": row["ids"][:-1], "mask": row["mask"][:-1]})
    return rows


def check_choices(name, tokenizer, items, prompts):
    """BadInput when a model cannot read the choices of an item, before it is loaded.

    prompts {item: token ids}. A token has at least one byte: only choices that may be too long are
    tokenised for this, or all where the tokenizer has tokens that no text may have.
    """
    limits = read_limits(name)
    every_choice = must_see_tokens(limits, tokenizer)
    texts = []
    for item in items:
        longest = max(len(choice.encode()) for choice in item["choices"])
        most_tokens = len(prompts[item["id"]]) + longest + TURN_TOKENS
        if every_choice or most_tokens > limits.long:
            place = f"id {item['id']!r}"
            texts += [(place, row["ids"]) for row in choice_rows(tokenizer, item)]
    check_tokens(limits, tokenizer, texts)
    if texts:
        place, ids = max(texts, key=length_of)
        text = f"{place}: {len(ids)} tokens of prompt and choice"
        check_length(limits, len(ids), text, "leave such items out")


# ---- lists ---------------------------------------------------------------------------------------


def evenly(items, count):
    """So many of the items, evenly spread."""
    return [items[number * len(items) // count] for number in range(count)]


def of_type(items, *names):
    """The items of these types."""
    return [item for item in items if item["type"] in names]


def in_batches(values):
    """A list in pieces of READ_AT_ONCE."""
    return [values[i : i + READ_AT_ONCE] for i in range(0, len(values), READ_AT_ONCE)]


def pair_of(duel):
    """Two rows as a judge gets them: the candidate's, then the baseline's."""
    rows = []
    for number, answer in enumerate([duel.candidate, duel.baseline]):
        row = {
            "id": duel.item["id"],
            "candidate": number,  # of the answer, in judging's words
            "prompt": duel.item["prompt"],
            "slice": duel.item["slice"],
            "completion": [{"role": "assistant", "content": answer.text}],
        }
        if "tools" in duel.item:
            row["tools"] = duel.item["tools"]
        rows.append(row)
    return tuple(rows)
