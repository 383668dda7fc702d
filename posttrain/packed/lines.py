"""Lines of packed tokens: a prompt is read once for all its answers, and nothing is padded.

A pack is one line of tokens: each prompt with its first answer behind it, then its further answers,
each of which sees its prompt and itself only. Two prompts, the first with two answers, as a line of
7 tokens:

    place      0  1  2  3  4  5  6
    token      5  6  7  8  9  4  3      [5 6] -> [7 8],  [5 6] -> [9],  [4] -> [3]
    position   0  1  2  3  2  0  1      of each token in its own sequence
    segment    0  0  0  0  1  2  2      segment 1 sees places 0 and 1, then itself

A tree of rows is a line, too (trees.py): whatever rows have in common at their start stands there
once.

T = tokens of the line, S = supervised tokens, H = hidden size, V = vocabulary. The padded path of
common.py stays the yardstick: teach_lines (reader.py) compares the two on every model before lines
are used.
"""

from typing import NamedTuple

import torch


class Segment(NamedTuple):
    """Tokens start:end of a line. They see the places of the ranges `seen`, then their own past.

    Every range (first, last) in `seen` begins where an earlier segment begins, of this line or of
    the line that was read before it."""

    seen: list
    start: int
    end: int


class Line:
    """A line of tokens, and what the layers of a model note on it while they read it.

    It is neither a dict nor a dataclass on purpose: of those FSDP may hand a copy to the model, and
    what the layers note would be lost."""

    def __init__(self, *, ids, positions, segments, source):
        self.ids = ids  # [T] token ids
        self.positions = positions  # [T] position of each token in its own sequence
        self.segments = segments  # a list of Segment, which follow each other without a gap
        self.source = source  # [S] the place whose hidden state predicts target[s]
        self.target = None  # [S] token ids; a tree has none: its rows ask for logits
        self.row = None  # [S] number of the sequence that target[s] belongs to
        self.prompts = {}  # prompt (a tuple of ids): the place where it begins
        self.past = None  # what a line that was read before has kept; the segments see it

        # How to read it, and what the layers note while they do.
        self.varlen = False  # one call of a kernel for all segments
        self.kept = None  # {layer: (keys, values)}, without gradient; None: nothing is kept
        self.masks = {}  # attention masks that further layers use again
        self.gather = None  # likewise the places that the kernel for all segments reads
        self.window_layers = set()  # numbers of the layers that attend to a window

    def keep(self):
        """Let the layers keep keys and values, for a line of other answers to the same prompts."""
        self.kept = {}


class LineBuilder:
    """Collects the tokens of a line in plain lists."""

    def __init__(self):
        self.ids = []
        self.positions = []
        self.segments = []
        self.source = []
        self.target = []
        self.row = []

    def add_segment(self, tokens, first_position, seen):
        """Put tokens at the end of the line; their positions count up from first_position."""
        start = len(self.ids)
        self.ids += tokens
        self.positions += range(first_position, first_position + len(tokens))
        self.segments.append(Segment(seen, start, len(self.ids)))

    def line(self, device):
        """The line as tensors, without targets."""
        return Line(
            ids=torch.tensor(self.ids, device=device),
            positions=torch.tensor(self.positions, device=device),
            segments=self.segments,
            source=torch.tensor(self.source, device=device),
        )


def prompt_length(seq):
    """Number of tokens before the first supervised one; at least 1: nothing predicts the first."""
    if 1 in seq["mask"][1:]:
        return seq["mask"].index(1, 1)
    return len(seq["ids"])


def prompt_of(seq):
    """The tokens before the first supervised one, as a key."""
    return tuple(seq["ids"][: prompt_length(seq)])


def lay_out(seqs, device="cpu", memory=None):
    """Sequences [{"ids", "mask"}] -> a Line; those with the same prompt share it.

    memory: a line that was read before and kept its keys and values. Then its prompts are not read
    again, but for the last token of each, which predicts the first token of an answer."""
    members = {}  # prompt: numbers of its sequences
    for number, seq in enumerate(seqs):
        members.setdefault(prompt_of(seq), []).append(number)

    builder, prompts = LineBuilder(), {}
    for prompt, numbers in members.items():
        prompts[prompt] = len(builder.ids) if memory is None else memory.prompts[prompt]
        for number in numbers:
            # How much of its prompt has been read before: with a memory all but the last token;
            # without one nothing for the first answer, everything for the others.
            if memory is not None:
                already_read = len(prompt) - 1
            elif number == numbers[0]:
                already_read = 0
            else:
                already_read = len(prompt)
            add_sequence(
                builder,
                seqs[number],
                number,
                prompt_begin=prompts[prompt],
                already_read=already_read,
            )

    line = builder.line(device)
    line.target = torch.tensor(builder.target, device=device)
    line.row = torch.tensor(builder.row, device=device)
    line.prompts = prompts
    line.past = None if memory is None else memory.kept
    return line


def add_sequence(builder, seq, number, *, prompt_begin, already_read):
    """Put sequence `number` at the end of the line, without what has been read of its prompt.

    already_read: so many tokens of the prompt. They stand at prompt_begin and behind it."""
    ids, cut = seq["ids"], prompt_length(seq)
    shift = len(builder.ids) - already_read  # token t of this sequence stands at shift + t
    seen = [(prompt_begin, prompt_begin + already_read)] if already_read else []
    builder.add_segment(ids[already_read:], already_read, seen)

    # The one-token shift: the place of token t - 1 predicts token t.
    scored = [t for t in range(cut, len(ids)) if seq["mask"][t]]
    source = [shift + t - 1 for t in scored]
    if already_read == cut and scored[:1] == [cut]:
        source[0] = prompt_begin + cut - 1  # the prompt's last token stands in another segment
    builder.source += source
    builder.target += [ids[t] for t in scored]
    builder.row += [number] * len(scored)


def line_tokens(seqs):
    """Number of tokens that sequences take on a line."""
    if len(seqs) == 1:
        return len(seqs[0]["ids"])  # the prompt, and what is behind it
    prompts = {prompt_of(seq) for seq in seqs}
    answers = sum(len(seq["ids"]) - prompt_length(seq) for seq in seqs)
    return sum(len(prompt) for prompt in prompts) + answers
