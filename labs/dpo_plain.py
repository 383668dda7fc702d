"""DPO, the plain way: what dpo.py computes, on one screen after the other. Read this one first.

Reads   pairs.jsonl: prompt, chosen, rejected.
Writes  a run folder with the LoRA adapter and the tokenizer, which --model reads everywhere.

    python labs/dpo_plain.py --model data/tiny/base --data data/pairs.jsonl --out runs/plain

Every answer is read as a padded row, the whole batch is in memory at once, and a run that is killed
starts again. What dpo.py adds: packs without padding, a cached reference, checkpoints and exact
resume, held-out rows, warnings, mixtures, several processes, other losses. A test holds loss and
gradient of a batch to those of dpo.py.
"""

import random
import sys
from pathlib import Path

import torch
from tqdm import trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import completion_logps, dpo_loss
from posttrain.chat.encode import encode
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.model.load import load_policy, load_tokenizer, trained
from posttrain.records.files import read_records


def parse_args(argv=None):
    p = parser(__doc__)
    p.add_argument("--model", required=True, help="hub name, model folder or run folder")
    p.add_argument("--data", required=True, help="JSONL file of pairs")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument("--beta", type=at_least(1e-6, float), default=0.1, help="higher stays closer")
    p.add_argument("--lr", type=at_least(0, float), default=2e-5, help="learning rate")
    p.add_argument("--epochs", type=at_least(1), default=1, help="passes over the data")
    p.add_argument("--batch-size", type=at_least(1), default=8, help="pairs per step")
    p.add_argument("--max-len", type=at_least(8), default=2048, help="tokens of an answer's row")
    p.add_argument("--seed", type=int, default=0, help="order of the pairs and initial adapter")
    return p.parse_args(argv)


# ---- the method ----------------------------------------------------------------------------------


def read_pairs(path, tokenizer, max_len):
    """[(chosen, rejected), ...]: each side is {"ids": tokens, "mask": 1 where they are trained}."""
    pairs = []
    for row in read_records(path, "pairs"):
        sides = []
        for side in ("chosen", "rejected"):
            try:
                seq = encode(tokenizer, row["prompt"], row[side], row.get("tools"), max_len=max_len)
            except ValueError as reason:
                raise BadInput(f"{path}: id {row['id']!r}, {side}: {reason}") from None
            sides.append(seq)
        pairs.append(tuple(sides))
    return pairs


def logps_of(model, pairs):
    """Log-probabilities of both answers of each pair -> (chosen [B], rejected [B])."""
    chosen, _ = completion_logps(model, [chosen for chosen, _ in pairs])
    rejected, _ = completion_logps(model, [rejected for _, rejected in pairs])
    return chosen, rejected


def batch_loss(model, pairs, reference, beta):
    """The mean DPO loss of a batch. reference: (chosen [B], rejected [B]) before step 1."""
    chosen, rejected = logps_of(model, pairs)
    ref_chosen, ref_rejected = reference
    return dpo_loss(chosen - ref_chosen, rejected - ref_rejected, beta).mean()


# ---- the run -------------------------------------------------------------------------------------


def main(args):
    tokenizer = load_tokenizer(args.model)
    pairs = read_pairs(args.data, tokenizer, args.max_len)
    model = load_policy(args.model, seed=args.seed)
    optimizer = torch.optim.AdamW(trained(model), lr=args.lr, weight_decay=0.0)

    # The reference is the model before step 1: its log-probabilities are numbers from here on.
    reference = []
    with torch.no_grad():
        for start in trange(0, len(pairs), args.batch_size, desc="reference", leave=False):
            chosen, rejected = logps_of(model, pairs[start : start + args.batch_size])
            reference += list(zip(chosen.tolist(), rejected.tolist()))

    rng = random.Random(args.seed)
    for epoch in range(args.epochs):
        order = list(range(len(pairs)))
        rng.shuffle(order)
        for start in trange(0, len(order), args.batch_size, desc=f"epoch {epoch + 1}"):
            numbers = order[start : start + args.batch_size]
            batch = [pairs[n] for n in numbers]
            values = torch.tensor([reference[n] for n in numbers], dtype=torch.float64)  # [B, 2]
            values = values.to(model.device)
            loss = batch_loss(model, batch, (values[:, 0], values[:, 1]), args.beta)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained(model), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if start == 0:
                print(f"epoch {epoch + 1}  loss {loss.item():.4f} (ln 2 = 0.6931 at the start)")

    model.save_pretrained(args.out, save_embedding_layers=False)
    tokenizer.save_pretrained(args.out)
    print(f"result   {len(pairs)} pairs, last loss {loss.item():.4f} -> {args.out}")
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
