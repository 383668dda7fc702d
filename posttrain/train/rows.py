"""Training rows: records whose answers are tokens and masks.

A training row is a record with "seqs": [{"ids", "mask", "truncated", "prompt_cut"}, ...] beside its
"weight", "slice", "id" and "source": one sequence for SFT and KTO, two (chosen, rejected) for DPO.
"""

from collections import Counter

from tqdm import tqdm

from posttrain.chat.calls import read_calls
from posttrain.chat.encode import show_mask
from posttrain.chat.stops import stop_ids
from posttrain.chat.thoughts import visible, with_thought_apart
from posttrain.cli import BadInput
from posttrain.model.limits import check_tokens, ends_of_answers, note_tokens_beyond, read_limits
from posttrain.packed.lines import line_tokens

SHOWN = 3  # rows of each file, by --show-mask


def prepare(rows, encode_row, tokenizer, max_dropped, *, think=False, readers=()):
    """encode_row(row) of every record -> training rows.

    Records that raise ValueError(reason) are counted by reason, printed and dropped. BadInput when
    more than the share max_dropped is lost, or when an answer that was not truncated has no
    supervised stop token: the model would not learn to stop. think: does encode_row train on
    thoughts? What becomes of them is said in a line. readers: the models that will read the rows
    (None for one that is not there): BadInput when a token is not in the embedding of one.
    """
    rows = [row for row in rows if row["weight"] > 0]
    if not rows:
        raise BadInput("every row has weight 0: nothing to train on")
    stops = stop_ids(tokenizer)
    kept = []
    dropped = Counter()
    for row in tqdm(rows, desc="tokenise", leave=False):
        try:
            kept.append(encode_row(row))
        except ValueError as reason:
            dropped[str(reason)] += 1

    seqs = sequences(kept)
    reasons = "; ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
    print(data_line(rows, kept, seqs, reasons))
    thinking = sum(has_thought(row) for row in rows)
    if thinking:
        print(thoughts_line(thinking, len(rows), think))
    unread = unread_calls(kept, tokenizer)
    if unread:
        print(
            f"note     the template writes tool calls of {unread} answers in a form that verifiers "
            "do not read (posttrain/chat/calls.py has the forms that they do)"
        )
    lost = len(rows) - len(kept)
    if not kept or lost > max_dropped * len(rows):
        raise BadInput(
            f"{lost} of {len(rows)} rows would be dropped ({reasons}): mend the data, raise "
            "--max-len, or allow it with --max-dropped"
        )
    check_row_tokens(kept, tokenizer, [name for name in readers if name])
    for seq in seqs:
        learns_to_stop = seq["mask"][-1] == 1 and seq["ids"][-1] in stops
        if not seq["truncated"] and not learns_to_stop:
            raise BadInput(
                "an answer has no supervised stop token: the model would not learn to stop "
                "(chat template?)"
            )
    return kept


def check_row_tokens(rows, tokenizer, names):
    """BadInput when the embedding of a model lacks a token of these rows. names: the models."""
    texts = [ends_of_answers(tokenizer)]
    for row in rows:
        place = f"id {row.get('id')!r}"
        texts += [(place, seq["ids"]) for seq in row["seqs"]]
    for name in names:
        limits = read_limits(name)
        check_tokens(limits, tokenizer, texts)
        note_tokens_beyond(limits, tokenizer)


def data_line(rows, kept, seqs, reasons):
    """One line: what was kept and dropped, and how many tokens there are."""
    lost = len(rows) - len(kept)
    why = f" ({reasons})" if lost else ""
    truncated = sum(seq["truncated"] for seq in seqs)
    prompts_cut = sum(any(seq.get("prompt_cut") for seq in row["seqs"]) for row in kept)
    cut = f", {prompts_cut} prompts cut" if prompts_cut else ""
    tokens = sum(len(seq["ids"]) for seq in seqs)
    supervised = sum(sum(seq["mask"]) for seq in seqs)
    return (
        f"data     {len(rows)} rows, {len(kept)} kept, {lost} dropped{why}, "
        f"{truncated} answers truncated{cut}, {tokens:,} tokens, {supervised:,} supervised"
    )


def has_thought(row):
    """Does an answer of this record come with a thought?"""
    for field in answer_fields(row):
        for message in row[field]:
            if with_thought_apart(message).get("reasoning_content"):
                return True
    return False


def answer_fields(row):
    """The fields with the answers of a record that is trained on.

    A row that KTO has made of a pair has one of its answers, and the pair as well.
    """
    if "completion" in row:
        return ["completion"]
    return [field for field in ("chosen", "rejected") if field in row]


def thoughts_line(thinking, count, think):
    """One line: how many rows think, and whether that is trained on."""
    used = (
        "trained on" if think else "left out, the answers alone are trained on (--think on: both)"
    )
    return f"thoughts {thinking} of {count} rows have thoughts: {used}"


def unread_calls(rows, tokenizer):
    """How many answers call tools in a way that is not read back as these calls."""
    unread = 0
    for row in rows:
        for message, seq in answers_of(row):
            calls = [call["function"] for call in message.get("tool_calls", [])]
            if calls and not seq["truncated"]:
                unread += calls_trained_on(seq, row.get("tools"), tokenizer) != calls
    return unread


def answers_of(row):
    """(message, its sequence) of each answer; of several turns the last."""
    answers = [row[field][-1] for field in answer_fields(row)]
    return list(zip(answers, row["seqs"][-len(answers) :]))


def calls_trained_on(seq, tools, tokenizer):
    """The calls of a sequence's last supervised stretch as verifiers read them, or None."""
    start = len(seq["ids"])
    while start and seq["mask"][start - 1]:
        start -= 1
    text = tokenizer.decode(seq["ids"][start:-1])  # without the stop token
    try:
        return read_calls(visible(text), tools).calls
    except ValueError:
        return None


def masked_texts(rows, tokenizer):
    """The first rows of every file as text, what is trained on between ⟦ and ⟧."""
    shown = Counter()
    texts = []
    for row in rows:
        file = row["source"].file
        shown[file] += 1
        if shown[file] > SHOWN:
            continue
        for seq in row["seqs"]:
            label = f"{row['label']}: " if "label" in row else ""
            texts.append(label + show_mask(tokenizer, seq))
    return "\n---\n".join(texts)


def sequences(rows):
    """All sequences of these rows."""
    seqs = []
    for row in rows:
        seqs += row["seqs"]
    return seqs


def row_lengths(rows, steps):
    """Tokens of each row of each step; the answers of a row share their prompt."""
    lengths = [line_tokens(row["seqs"]) for row in rows]
    return [[lengths[number] for number in step] for step in steps]


def tokens_with_shared_prompts(rows):
    """Tokens of all sequences where every prompt is read once: what a reference reads, about."""
    return line_tokens(sequences(rows))


def batch_weight(rows):
    """The weight of a batch, which its summed loss is divided by."""
    return sum(row["weight"] for row in rows)
