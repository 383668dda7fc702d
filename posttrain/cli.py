"""The command line: parsers that teach, the trainers' flags, bad input as one line."""

import argparse
import contextlib
import math
import sys
import traceback
from pathlib import Path

# Functions that a stage calls with its exit code at its very end, such as processes.leave.
AT_END = []


class BadInput(ValueError):
    """The user can fix this: one line that names file, line, field and remedy. Exit code 2."""


@contextlib.contextmanager
def at(place):
    """Whatever is refused inside is refused with its place, such as file:line."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


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

    number.accepts = (kind.__name__, low, most)  # so that two scripts' flags can be compared
    return number


def training_flags(p, lr, unit):
    """Add the flags that all trainers share, in groups as --help shows them.

    lr: the default peak learning rate. unit: what a batch holds. Returns the group "the method",
    for the flags that a trainer alone has.
    """
    file_flags(p.add_argument_group("files"))
    method = p.add_argument_group("the method")
    think = "on: train on thoughts and answers; off: on answers alone"
    method.add_argument("--think", choices=["off", "on"], default="off", help=think)
    adapter_flags(p.add_argument_group("the adapter"))
    optimisation_flags(p.add_argument_group("optimisation"), lr, unit)
    watch_flags(p.add_argument_group("what is watched"))
    forecast_flags(p.add_argument_group("look before you pay"))
    return method


def file_flags(group):
    add = group.add_argument
    data = "JSONL files or hf:name[:split]"
    slices = "draw rows of a slice W times, like =WEIGHT"
    dropped = "largest share of unusable rows"
    end = "what is cut beyond --max-len: right = the end, left = the prompt's start"
    share = at_least(0, float, 1)
    add("--model", required=True, help="hub name, model folder or run folder to start from")
    add("--data", required=True, nargs="+", metavar="FILE[=WEIGHT]", help=data)
    add("--out", required=True, help="run folder to write")
    add("--slice-weight", nargs="+", metavar="SLICE=W", help=slices)
    add("--limit", type=at_least(1), help="only the first rows of each file")
    add("--max-dropped", type=share, default=0.05, help=dropped)
    add("--max-len", type=at_least(8), default=2048, help="tokens per conversation")
    add("--truncate", choices=["left", "right"], default="right", help=end)


def adapter_flags(group):
    add = group.add_argument
    quantize = ["auto", "nf4", "none"]
    add("--lora-r", type=at_least(1), help="rank (default 16, or that of the run continued)")
    add("--lora-alpha", type=at_least(1), help="scale (default 2 x rank)")
    add("--quantize", choices=quantize, default="auto", help="auto = nf4 on a GPU")


def optimisation_flags(group, lr, unit):
    add = group.add_argument
    rate = "peak learning rate; tiny models want 5 to 25 times the default"
    share = at_least(0, float, 1)
    add("--lr", type=at_least(0, float), default=lr, help=rate)
    add("--warmup", type=share, default=0.1, help="share of steps with rising rate")
    add("--epochs", type=at_least(1), default=1, help="passes over the data")
    add("--max-steps", type=at_least(1), help="stop after so many steps")
    add("--batch-size", type=at_least(1), default=16, help=f"{unit} per optimiser step")
    add("--pack-tokens", type=at_least(1), default=4096, help="tokens in memory at once")
    add("--seed", type=int, default=0, help="order of the rows and initial adapter")
    add("--save-every", type=at_least(1), default=50, help="steps between checkpoints")


def watch_flags(group):
    add = group.add_argument
    half = at_least(0, float, 0.5)
    every = "steps between evaluations (default: five a run; 0 = none)"
    nats = at_least(0, float)
    check = "check gradients, packs and reference before step 1"
    track = "also log to accelerate's tracker: tensorboard, wandb, trackio ..."
    add("--holdout", type=half, default=0.05, help="share of prompts only scored (<= 64 rows)")
    add("--eval-every", type=at_least(0), help=every)
    add("--max-kl", type=nats, help="stop when answers are further (nats) from the start")
    add("--selfcheck", action="store_true", help=check)
    add("--track", help=track)


def forecast_flags(group):
    add = group.add_argument
    mask = "print rows, trained parts in ⟦ ⟧, and exit"
    plan = "print tokens, time, memory, cost; load no model; exit"
    speed = "for the forecast (default: an earlier run)"
    price = at_least(0, float)
    add("--show-mask", action="store_true", help=mask)
    add("--plan", action="store_true", help=plan)
    add("--tokens-per-second", type=at_least(1e-9, float), help=speed)
    add("--price-gpu-hour", type=price, default=0.0, help="price of the machine per hour")


def parse_training(p, argv):
    """Parse a trainer's command line; refuse flags that cannot go together."""
    args = p.parse_args(argv)
    if args.max_kl is not None and args.eval_every == 0:
        p.error("--max-kl is looked at in evaluations: --eval-every must be above 0")
    return args


def missing_library(error):
    """The library that a ModuleNotFoundError has missed, and how to install it; else None.

    Libraries that few need are imported where they are used.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    library = error.name.split(".")[0]
    return f"{library}, which is not installed: pip install {library}"


def run_stage(main, args):
    """Call a stage's main(args) and exit with its code.

    Bad input becomes one line on stderr and exit code 2; so does an OSError (a folder where a file
    should be, no permission, a full disk) and a library that is not installed. A crash exits with
    70, as 1 is a verdict of the gate.
    """
    script = Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        # A console that lacks a character (Windows in cp1252, a C locale) gets its number instead.
        stream.reconfigure(errors="backslashreplace")
    try:
        code = main(args)
    except (BadInput, OSError) as error:
        print(f"{script}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues", file=sys.stderr)
        code = 130
    except Exception as error:
        library = missing_library(error)
        if library:
            print(f"{script}: this needs {library}", file=sys.stderr)
            code = 2
        else:
            traceback.print_exc()
            code = 70
    for end in AT_END:
        end(code)
    sys.exit(code)
