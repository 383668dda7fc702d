"""Training rows: tokenised, counted, some held out.

A training row is {"seqs": [{"ids", "mask", "truncated"}, ...], "weight", "slice", "id", "source", ...}: one sequence
for SFT and KTO, two (chosen, rejected) for DPO.
"""

from collections import Counter

from tqdm import tqdm

from posttrain.chat.stops import stop_ids
from posttrain.cli import BadInput
from posttrain.hashing import seed_for


def prepare(rows, encode_row, tokenizer, max_dropped):
    """encode_row(row) for every row -> training rows; rows that raise ValueError(reason) are counted, printed, dropped.

    BadInput when more than the share max_dropped is lost, or an untruncated answer has no supervised stop token."""
    kept, dropped, stops = [], Counter(), stop_ids(tokenizer)
    rows = [row for row in rows if row["weight"] > 0]
    if not rows:
        raise BadInput("every row has weight 0: nothing to train on")
    for row in tqdm(rows, desc="tokenise", leave=False):
        try:
            kept.append(encode_row(row))
        except ValueError as reason:
            dropped[str(reason)] += 1
    seqs = [seq for row in kept for seq in row["seqs"]]
    truncated = sum(seq["truncated"] for seq in seqs)
    reasons = "; ".join(f"{reason}: {n}" for reason, n in dropped.most_common())
    lost, tokens = len(rows) - len(kept), sum(len(seq["ids"]) for seq in seqs)
    print(f"data     {len(rows)} rows, {len(kept)} kept, {lost} dropped{f' ({reasons})' if lost else ''}, "
          f"{truncated} answers truncated, {tokens:,} tokens, {sum(sum(seq['mask']) for seq in seqs):,} supervised")
    if not kept or lost > max_dropped * len(rows):
        raise BadInput(f"{lost} of {len(rows)} rows would be dropped ({reasons}): mend the data, raise --max-len, or "
                       "allow it with --max-dropped")
    if not all(seq["truncated"] or (seq["mask"][-1] and seq["ids"][-1] in stops) for seq in seqs):
        raise BadInput("an answer has no supervised stop token: the model would not learn to stop (chat template?)")
    return kept


def hold_out(rows, share, seed, most=64):
    """(training rows, held-out rows): whole prompts, drawn by their hash; none if that would be fewer than 8 rows."""
    wanted, prompts, held = min(most, round(share * len(rows))), {}, set()
    for n, row in enumerate(rows):
        prompts.setdefault(seed_for("hold out", seed, row["prompt"]), []).append(n)
    for _, members in sorted(prompts.items()):
        held |= {*members} if len(held) + len(members) <= wanted else set()
    held = held if len(held) >= 8 else set()
    return [row for n, row in enumerate(rows) if n not in held], [row for n, row in enumerate(rows) if n in held]
