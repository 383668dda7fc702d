"""Sampling answers from a local model.

Each prompt is read once for all its samples. Rows leave the batch when they end, and others may
take their places. Every sample has a random stream of its own: what is drawn depends on its seed,
never on the rows beside it.

B = rows in the batch, V = vocabulary.
"""

from dataclasses import dataclass, field

import torch

from posttrain.chat.stops import stop_ids
from posttrain.chat.thoughts import opened_thought, visible, without_thought_marks
from posttrain.generate.reading import reading_of
from posttrain.processes import same_everywhere

PROMPT_END = 16  # tokens of a prompt that show whether it opens a thought


@dataclass
class Row:
    """One sample: which job's prompt it answers, how it is drawn, and its tokens so far."""

    job: int
    temperature: float
    uniform: list  # numbers in [0, 1), one for each token that may come
    ids: list = field(default_factory=list)


@torch.no_grad()
def sample(model, tokenizer, jobs, max_tokens, *, slots=None):
    """Answers for jobs [(prompt token ids, [(temperature, seed), ...]), ...].

    Returns for each job a list with one {"text", "ids", "tokens", "thought_tokens", "finish"} per
    sample. `tokens` counts the stop token and the thought too; `text` is without the stop token,
    and begins with the mark of a thought where the prompt has opened one; finish is "stop" or
    "length" (max_tokens).
    Temperature 0 is greedy. A sampled token is the one whose cumulative probability first exceeds
    the sample's next uniform number.

    slots: so many rows at once; those that wait take the places of those that end (a GPU step
    costs the same for few rows as for many). None: all at once (a CPU step costs by the row). With
    sliding windows or state spaces those that wait start when all rows have ended.
    """
    stops = stop_ids(tokenizer)
    prompts = [prompt for prompt, _ in jobs]
    rows = []
    for job, (_, samples) in enumerate(jobs):
        for temperature, seed in samples:
            rows.append(Row(job, temperature, uniform_numbers(seed, max_tokens)))

    slots = slots or len(rows)
    waiting = rows
    batch = Batch(model, pad_id=stops[0])
    while waiting or batch.rows:
        # Fill places that are free. Reading costs a step or more, so it waits for several of them.
        free = slots - len(batch.rows)
        worth_reading = not batch.rows or (batch.can_grow and free > slots // 8)
        if waiting and worth_reading:
            batch.admit(waiting[:free], prompts)
            waiting = waiting[free:]

        # Write one token of each row, and let rows leave that have ended.
        tokens = batch.draw()
        ended = set()
        for i, row in enumerate(batch.rows):
            if row.ids[-1] in stops or len(row.ids) == max_tokens:
                ended.add(i)
        if ended:
            tokens = batch.remove(ended, tokens)

        if batch.rows:
            batch.read(tokens)

    openings = [opened_thought(tokenizer.decode(prompt[-PROMPT_END:])) for prompt in prompts]
    answers = [[] for _ in jobs]
    for row in rows:
        answers[row.job].append(answer_of(row, tokenizer, stops, openings[row.job]))
    return answers


class Batch:
    """The rows that are being written, and what the model has read of them (reading.py)."""

    def __init__(self, model, pad_id):
        self.rows = []
        self.text = reading_of(model)(model, pad_id)
        self.logits = None  # [B, V] float32, of the tokens to come

    @property
    def can_grow(self):
        """May rows join while others are being written?"""
        return self.text.can_grow

    def admit(self, rows, prompts):
        """Read the prompts of new rows, and put these rows below those that are in the batch.

        prompts: the token ids of each job. A prompt is read once, however many rows answer it.
        """
        jobs = list(dict.fromkeys(row.job for row in rows))
        prompt_of_row = [jobs.index(row.job) for row in rows]
        logits = self.text.admit([prompts[job] for job in jobs], prompt_of_row)
        if self.rows:
            logits = torch.cat([self.logits, logits])
        self.rows = self.rows + rows
        self.logits = same_everywhere(logits)

    def draw(self):
        """The next token of each row, [B]; it is also appended to the row's ids."""
        tokens = next_tokens(self.rows, self.logits)
        for row, token in zip(self.rows, tokens.tolist()):
            row.ids.append(token)
        return tokens

    def remove(self, ended, tokens):
        """Let the rows with numbers in the set `ended` leave -> the tokens of those that stay."""
        keep = rows_that_stay(len(self.rows), ended)
        self.rows = [self.rows[i] for i in keep]
        self.text.keep_rows(keep)
        return tokens[keep]

    def read(self, tokens):
        """Let the model read one more token of each row, [B]: the logits are those of the next."""
        self.logits = same_everywhere(self.text.read(tokens))


def uniform_numbers(seed, count):
    """The random stream of one sample: so many numbers in [0, 1), float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def next_tokens(rows, logits):
    """The next token of each row, [B], from logits [B, V]: the likeliest at temperature 0.

    Else a random one by inverting the distribution: the probabilities, softmax(logits /
    temperature), are laid end to end, and the row's next uniform number falls into one of them.
    """
    likeliest = logits.max(-1).indices  # the first of equals, as argmax; faster on a CPU
    if not any(row.temperature for row in rows):
        return likeliest

    device = logits.device
    temperature = torch.tensor([[row.temperature] for row in rows], device=device)  # [B, 1]
    uniform = [[row.uniform[len(row.ids)]] for row in rows]
    uniform = torch.tensor(uniform, dtype=torch.float64, device=device)  # [B, 1]

    divisor = temperature.where(temperature > 0, 1)  # greedy rows are computed too, and not used
    mass = (logits / divisor).softmax(-1).cumsum(-1, dtype=torch.float64)  # [B, V]
    total = mass[:, -1:]  # 1 but for rounding
    drawn = torch.searchsorted(mass, uniform * total, right=True)
    drawn = drawn.clamp(max=mass.shape[1] - 1)  # rounding must not lead beyond the vocabulary
    return likeliest.where(temperature[:, 0] == 0, drawn[:, 0])


def rows_that_stay(count, ended):
    """Which of `count` rows stands in each place when those in the set `ended` have left.

    A row from behind the new end takes the place of one that leaves, the last row first. All others
    stay where they are, so that little is copied.
    """
    size = count - len(ended)
    movers = [i for i in range(size, count) if i not in ended]
    keep = []
    for place in range(size):
        if place in ended:
            keep.append(movers.pop())
        else:
            keep.append(place)
    return keep


def answer_of(row, tokenizer, stops, opening):
    """An ended row as sample returns it. opening: the mark of a thought that its prompt opens."""
    stopped = row.ids[-1] in stops
    ids = row.ids[:-1] if stopped else row.ids
    # The token that stands for what the vocabulary lacks is no text: nobody has written "<unk>".
    text = opening + tokenizer.decode([token for token in ids if token != tokenizer.unk_token_id])

    thought_tokens = 0
    rest = without_thought_marks(text).visible
    if rest != text:
        shown_tokens = len(tokenizer(visible(text), add_special_tokens=False).input_ids)
        thought_tokens = max(0, len(ids) - shown_tokens)
    return {
        "text": text,
        "ids": row.ids,
        "tokens": len(row.ids),
        "thought_tokens": thought_tokens,
        "finish": "stop" if stopped else "length",
    }


def generation_batches(lengths, rows_per_job, batch_rows):
    """Job numbers of each batch: similar prompt lengths together, at most batch_rows answers.

    A job with more answers than that is a batch of its own. A pure function of the input, so that a
    continued run forms the batches of an uninterrupted one.
    """
    batches = []
    rows = batch_rows  # in the last batch: before the first there is no room in any
    for job in sorted(range(len(lengths)), key=lambda job: (lengths[job], job)):
        if rows + rows_per_job[job] > batch_rows:
            batches.append([])
            rows = 0
        batches[-1].append(job)
        rows += rows_per_job[job]
    return batches
