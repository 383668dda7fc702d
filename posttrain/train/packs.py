"""Packs: the rows that are in memory at once. Sums over a batch never depend on them."""

from posttrain.model.load import autocast
from posttrain.packed.lines import line_tokens
from posttrain.packed.reader import seq_logps


def packs(rows, pack_tokens, rank=0, size=1, padded=False):
    """Rows in groups of at most pack_tokens tokens (one row at least): the longest first, each into the first group
    with room. A prompt counts once for a row's answers; padded: where the model needs padded rows, every answer counts
    as long as the group's longest. Sums over a batch do not depend on the groups.

    Process `rank` of `size` gets its share, as many as every other: copies of the last group, of weight 0, fill up."""
    sized, found = [(line_tokens(row["seqs"]), len(row["seqs"]), row) for row in rows], []
    for tokens, count, row in sorted(sized, key=lambda entry: entry[0], reverse=True):
        longest = max(len(seq["ids"]) for seq in row["seqs"]) if padded else 0
        for pack in found[-32:]:
            tall = max(pack["longest"], longest)
            if (tall * (pack["seqs"] + count) if padded else pack["tokens"] + tokens) <= pack_tokens:
                break
        else:
            pack, tall = {"tokens": 0, "seqs": 0, "rows": []}, longest
            found.append(pack)
        pack.update(tokens=pack["tokens"] + tokens, seqs=pack["seqs"] + count, longest=tall, rows=[*pack["rows"], row])
    found = [pack["rows"] for pack in found]
    idle = [[row | {"weight": 0.0} for row in found[-1]]] * (-len(found) % size) if found else []
    return (found + idle)[rank::size]


def pack_logps(model, pack):
    """Log-probabilities of a pack of rows -> (logps [rows, seqs] float64, tokens [rows, seqs])."""
    with autocast(model):
        logps, tokens, _ = seq_logps(model, [seq for row in pack for seq in row["seqs"]])
    return logps.view(len(pack), -1), tokens.view(len(pack), -1)
