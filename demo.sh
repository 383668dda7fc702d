#!/usr/bin/env bash
# The whole loop on the tiny world, on a CPU: the very commands a person types by hand, each echoed before it runs.
# The models are small enough to train here and the truth is known, so every number below can be checked.
# --price-* are made-up prices, to show the cost model at work. Results land in runs/demo; delete it to start over.
set -euo pipefail
cd "$(dirname "$0")"
SEED=${SEED:-0}
R=${R:-runs/demo}
T=data/tiny
say() { printf '\n== %s\n' "$*"; }
try() {
  local code=0
  printf '\n$ %s\n' "$*"
  "$@" 2>>"$R/progress.log" || code=$?
  [ $code -ne 2 ] && [ $code -lt 64 ] || tail -n 3 "$R/progress.log" >&2
  return $code
}
gate() { # BLOCK (1) and NOT ENOUGH DATA (3) are answers, not accidents
  local code=0
  try "$@" || code=$?
  [ $code -eq 0 ] || [ $code -eq 1 ] || [ $code -eq 3 ]
}
mkdir -p "$R"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # models this small only lose time when two cores share them

say "stage A: supervised fine-tuning of the tiny base on 2,400 chatty, slightly wrong examples"
try python sft.py --model $T/base --data $T/sft.jsonl --out "$R/sft" --lr 2e-3 --epochs 2 --seed "$SEED" \
  --tokens-per-second 9000 --price-gpu-hour 0.40

say "step 2: four candidates for each of 900 new prompts"
try python gen_candidates.py --model "$R/sft" --data $T/prompts.jsonl --out "$R/candidates.jsonl" --n 4 \
  --temperatures 1.0 --max-tokens 48 --batch-size 192 --seed "$SEED" --answer-len 28 --tokens-per-second 5000 --price-gen 0.60

say "step 3: verifiers where a program knows the truth, the tiny AI judge elsewhere"
try python judge.py --judge $T/judge --constitution $T/constitution.md --data "$R/candidates.jsonl" --out "$R/judged" \
  --tokens-per-second 12000 --price-judge 0.60

say "stage B: DPO, IPO and KTO against the SFT policy"
try python dpo.py --model "$R/sft" --data "$R/judged/pairs.jsonl" --out "$R/dpo" --lr 5e-4 --seed "$SEED" \
  --tokens-per-second 9000 --price-gpu-hour 0.40
try python dpo.py --model "$R/sft" --data "$R/judged/pairs.jsonl" --out "$R/ipo" --loss ipo --lr 5e-4 --seed "$SEED" \
  --tokens-per-second 9000 --price-gpu-hour 0.40
try python kto.py --model "$R/sft" --data "$R/judged/labels.jsonl" --out "$R/kto" --lr 5e-4 --beta 0.3 --max-steps 80 --seed "$SEED" \
  --tokens-per-second 9000 --price-gpu-hour 0.40

say "step 5: the gate, on held-out prompts: DPO, IPO and KTO against SFT, and SFT against itself"
for policy in dpo ipo kto sft; do
  gate python gate.py --model "$R/$policy" --baseline "$R/sft" --suite $T/gate --out "$R/gate-$policy" --max-tokens 48 \
    --batch-size 256 --seed "$SEED" --answer-len 24 --tokens-per-second 5000 --price-gpu-hour 0.40
done

say "results"
try python bench/table.py "$R"
