"""What the stages share, by trade; each room uses only those before it.

cli, hashing    bad input in one line, parsers; hashes and seeds
records/        JSONL files and the layouts that people have -> message lists
chat/           messages -> text -> tokens and masks; tool calls in answers, read back
processes       several processes that train as one
run/            run folders: records, forecasts, where a model comes from
model/          loading, QLoRA, memory
packed/         lines of packed tokens: a prompt is read once for all its answers
generate/       answers from a local model or an endpoint
train/          what the trainers share beside their loop: order, packs, reference, TrainingRun
verify/         answers, calls, code, constraints: right or wrong
filters         flags on answers that are broken; their patterns in filter_patterns
judging/        what a judge is shown, and what it says
gating/         the release gate: suites, answers, the rule, the report

Copy a stage, common.py and this folder: nothing is installed.
"""

import logging
import os
import warnings

# Library noise stays off the user's screen. This runs before any library is loaded.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
# peft looks for the ranks of experts among its modules alone, and says that it ignores them. It
# does not. And it says that it has found out how GPT-2 keeps its matrices.
warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DELAY": "1",
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)
