"""The command line: parsers, bad input in one line, exit codes."""

import argparse
import math
import sys
import traceback
from pathlib import Path


class BadInput(ValueError):
    """The user can fix this: one line that names file, line, field and remedy. Scripts exit with code 2."""


def parser(doc):
    """An ArgumentParser whose --help is the script's docstring and shows every default."""
    class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action):
            quiet = action.default is None or action.default is False  # 0 == False: a default of 0 is shown
            return action.help if quiet else super()._get_help_string(action)
    return argparse.ArgumentParser(description=doc, formatter_class=Help, allow_abbrev=False)


def at_least(low, kind=int, most=math.inf):
    """argparse type: a finite number from low to most."""
    def number(text):
        value = kind(text)
        if not low <= value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {most}")
        return value
    return number


def run(main, args):
    """Call a stage's main(args) and exit with its code; bad input becomes one line on stderr and exit code 2. A crash
    exits with 70: 1 is a verdict of the gate."""
    try:
        code = main(args)
    except (BadInput, OSError) as error:  # OSError: a folder where a file should be, no permission, a full disk
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = 70
    sys.exit(code)
