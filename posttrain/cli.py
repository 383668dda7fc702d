"""The command line: parsers that teach, the trainers' flags, bad input as one line."""

import argparse
import math
import sys
import traceback
from pathlib import Path


class BadInput(ValueError):
    """The user can fix this: one line that names file, line, field and remedy. Exit code 2."""


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and behind each flag its default if that says something."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:  # 0 == False, but a 0 is shown
            return action.help
        return super()._get_help_string(action)


def parser(doc):
    """An ArgumentParser whose --help is the script's docstring and shows every default."""
    return argparse.ArgumentParser(description=doc, formatter_class=Help, allow_abbrev=False)


def at_least(low, kind=int, most=math.inf):
    """argparse type: a finite number from low to most."""

    def number(text):
        value = kind(text)
        if not low <= value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {most}")
        return value

    return number


def training_flags(p, lr, unit):
    """Add the flags that all trainers share. lr: default peak rate; unit: what a batch holds."""
    add = p.add_argument
    # files
    add("--model", required=True, help="hub name, model folder or run folder to start from")
    add(
        "--data",
        required=True,
        nargs="+",
        metavar="FILE[=WEIGHT]",
        help="JSONL files or hf:name[:split]",
    )
    add("--out", required=True, help="run folder to write")
    add(
        "--slice-weight",
        nargs="+",
        metavar="SLICE=W",
        help="draw rows of a slice W times, like =WEIGHT",
    )
    add("--limit", type=at_least(1), help="only the first rows of each file")
    add(
        "--max-dropped",
        type=at_least(0, float, 1),
        default=0.05,
        help="largest share of unusable rows",
    )
    add(
        "--max-len",
        type=at_least(8),
        default=2048,
        help="tokens per conversation; the start is kept",
    )
    # the model
    add(
        "--lora-r", type=at_least(1), help="adapter rank (default 16, or that of the run continued)"
    )
    add("--lora-alpha", type=at_least(1), help="adapter scale (default 2 x rank)")
    quantize = ["auto", "nf4", "none"]
    add("--quantize", choices=quantize, default="auto", help="auto = nf4 on a GPU")
    # optimisation
    add("--lr", type=at_least(0, float), default=lr, help="peak learning rate")
    add(
        "--warmup",
        type=at_least(0, float, 1),
        default=0.1,
        help="share of steps with rising rate",
    )
    add("--epochs", type=at_least(1), default=1, help="passes over the data")
    add("--max-steps", type=at_least(1), help="stop after so many steps")
    add("--batch-size", type=at_least(1), default=16, help=f"{unit} per optimiser step")
    add("--pack-tokens", type=at_least(1), default=4096, help="tokens in memory at once")
    add("--seed", type=int, default=0, help="order of the rows and initial adapter")
    add("--save-every", type=at_least(1), default=50, help="steps between checkpoints")
    # what is watched
    add(
        "--holdout",
        type=at_least(0, float, 0.5),
        default=0.05,
        help="share of prompts only scored (<= 64)",
    )
    add(
        "--eval-every",
        type=at_least(0),
        help="steps between evaluations (default: five a run; 0 = none)",
    )
    add(
        "--max-kl",
        type=at_least(0, float),
        help="stop when answers are further (nats) from the start",
    )
    add(
        "--selfcheck",
        action="store_true",
        help="check gradients, packs and reference before step 1",
    )
    add("--track", help="also log to accelerate's tracker: tensorboard, wandb, trackio ...")
    # look before you pay
    add("--show-mask", action="store_true", help="print rows, trained parts in ⟦ ⟧, and exit")
    add(
        "--plan",
        action="store_true",
        help="print tokens, time, memory, cost; load no model; exit",
    )
    add(
        "--tokens-per-second",
        type=at_least(1e-9, float),
        help="for the forecast (default: an earlier run)",
    )
    add(
        "--price-gpu-hour",
        type=at_least(0, float),
        default=0.0,
        help="price of the machine per hour",
    )


def parse_training(p, argv):
    """Parse a trainer's command line; refuse flags that cannot go together."""
    args = p.parse_args(argv)
    if args.max_kl is not None and args.eval_every == 0:
        p.error("--max-kl is looked at in evaluations: --eval-every must be above 0")
    return args


def run_stage(main, args):
    """Call a stage's main(args) and exit with its code.

    Bad input becomes one line on stderr and exit code 2; so does an OSError (a folder where a file
    should be, no permission, a full disk). A crash exits with 70, as 1 is a verdict of the gate.
    """
    try:
        code = main(args)
    except (BadInput, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = 70
    sys.exit(code)
