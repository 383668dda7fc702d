#!/usr/bin/env bash
# The whole loop on the tiny world, on a CPU: the very commands a person types by hand, each echoed before it runs (two
# at a time, as two cores allow). The models are small enough to train here and the truth is known, so every number
# below can be checked. --price-* are made-up prices, to show the cost model at work.
# Results land in $R (runs/demo); delete it to start over. Other knobs, for bench/seeds.py: SEED; SUITE, the gate's
# prompts; SFT, the data of stage A; LABELS = judge (the demo), rules (a program says right or wrong in every slice; the
# judge ranks among the right) or random (control).
set -euo pipefail
cd "$(dirname "$0")"
SEED=${SEED:-0} R=${R:-runs/demo} SUITE=${SUITE:-data/tiny/gate} SFT=${SFT:-data/tiny/sft.jsonl} LABELS=${LABELS:-judge}
T=data/tiny
say() { printf '\n== %s\n' "$*"; }
run() {
  printf '\n$ %s\n' "$*"
  "$@" 2>>"$R/progress.log"
}
try() {
  run "$@" || { tail -n 3 "$R/progress.log" >&2 && exit 1; }
}
gate() { # NAME and words for gate.py; BLOCK (1) and NOT ENOUGH DATA (3) are answers, not accidents
  local code=0 out=$R/gate-$1
  shift
  run python gate.py "$@" --out $out $GATE || code=$?
  [ $code -ne 2 ] && [ $code -le 3 ] && [ -e $out/report.json ] || { tail -n 3 "$R/progress.log" >&2 && exit 1; }
}
together() { # every argument is a command; two run at a time, and each one's output is shown whole, in this order
  local number=0 pids=() command
  for command in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
    ($command) >"$R/output.$number" 2>&1 &
    pids+=($!) number=$((number + 1))
  done
  for number in "${!pids[@]}"; do
    wait "${pids[$number]}" || { cat "$R/output.$number"; kill $(jobs -rp) 2>/dev/null; exit 1; }
    cat "$R/output.$number"
  done
}
TRAIN="--seed $SEED --tokens-per-second 7000 --price-gpu-hour 0.40"
SAMPLE="--n 4 --temperatures 1.0 --max-tokens 48 --batch-size 192 --seed $SEED"
SAMPLE="$SAMPLE --answer-len 26 --tokens-per-second 7000 --price-gen 0.60"
GATE="--suite $SUITE --greedy --max-tokens 48 --batch-size 256 --seed $SEED"
GATE="$GATE --answer-len 22 --tokens-per-second 6000 --price-gpu-hour 0.40"
case $LABELS in # P stands before the names of what other labels made
  judge) P= JUDGE="--judge $T/judge --no-verify unsafe benign context german long" ;;
  rules) P=rules- JUDGE="--judge $T/judge" ;;
  random) P=random- JUDGE="--judge random" ;;
  *) echo "LABELS: judge, rules or random" >&2 && exit 2 ;;
esac
mkdir -p "$R"
if command -v flock >/dev/null; then # a killed demo may have left a job at work
  exec 9>"$R/lock"
  flock -n 9 || { echo "demo.sh: another run is at work in $R" >&2 && exit 2; }
fi

say "stage A: supervised fine-tuning of the tiny base on 2,400 chatty, slightly wrong examples"
export OMP_NUM_THREADS=2
try python sft.py --model $T/base --data $SFT --out $R/sft --lr 2e-3 --epochs 2 $TRAIN
export OMP_NUM_THREADS=1 # from here on two run at a time, and models this small lose time on two cores each

labels() { # MODEL ROUND: candidates of a policy, and what a program and the judge say of them
  try python gen_candidates.py --model $1 --data $T/prompts.jsonl --out $R/candidates$2.jsonl $SAMPLE
  try python judge.py --data $R/candidates$2.jsonl --out $R/${P}judged$2 --constitution $T/constitution.md \
    --min-margin 0.5 --seed $SEED --tokens-per-second 12000 --price-judge 0.60 $JUDGE
}
taught() {
  gate base --model $R/sft --baseline $T/base
}
say "step 2: four candidates for each of 896 new prompts; step 3: labels; beside them, what SFT taught the base"
if [ $LABELS = judge ]; then together taught "labels $R/sft 1"; else labels $R/sft 1; fi

kto() {
  try python kto.py --model $R/sft --data $R/${P}judged1/labels.jsonl --out $R/${P}kto --lr 5e-4 --beta 0.3 \
    --max-steps 80 $TRAIN
}
dpo() {
  try python dpo.py --model $R/sft --data $R/${P}judged1/pairs.jsonl --out $R/${P}dpo --lr 5e-4 $TRAIN
}
ipo() {
  try python dpo.py --model $R/sft --data $R/${P}judged1/pairs.jsonl --out $R/${P}ipo --loss ipo --lr 8e-4 $TRAIN
}
helpful() { # no pair about harmful requests
  grep -v '"slice": "unsafe"' $R/${P}judged1/pairs.jsonl >$R/${P}judged1/helpful.jsonl
  try python dpo.py --model $R/sft --data $R/${P}judged1/helpful.jsonl --out $R/${P}helpful --lr 5e-4 --epochs 2 $TRAIN
}
against_sft() {
  gate $1 --model $R/$1 --baseline $R/sft
}
say "stage B: DPO, IPO and KTO against the SFT policy; DPO on helpfulness alone; the gate: SFT against itself"
if [ $LABELS = random ]; then work="dpo"; else work="kto dpo ipo helpful"; fi
together "against_sft sft" $work # the longest first

round_two() { # post-training is a loop: the DPO policy answers, is judged and trained once more
  labels $R/dpo 2
  try python dpo.py --model $R/dpo --data $R/judged2/pairs.jsonl --out $R/dpo2 --lr 5e-4 $TRAIN
  against_sft dpo2
}
cooler() { # a control: is it learning, or only sharpening?
  gate cool --model $R/sft --model-temperature 0.3 --baseline $R/sft
}
say "step 5: the gate, on held-out prompts"
case $LABELS in
  judge) together round_two cooler "against_sft dpo" "against_sft ipo" "against_sft kto" "against_sft helpful" ;;
  rules) together "against_sft ${P}dpo" "against_sft ${P}ipo" "against_sft ${P}kto" "against_sft ${P}helpful" ;;
  random) against_sft ${P}dpo ;;
esac

if [ $LABELS = judge ]; then
  say "how often is this gate wrong? the rule on redrawn answers of SFT: unchanged, and with drops planted"
  try python gate.py --selftest --out $R/gate-sft
fi
say "results"
try python bench/table.py $R
