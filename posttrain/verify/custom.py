"""Checks from a file of the user's own: --verifiers my_checks.py, without touching the kit.

The file is Python. Each function in it checks the field of its name, in every row that has the
field:

    def regex(text, value):             # or (text, value, row), with row the whole record
        return re.search(value, text) is not None

text is what the answer shows, value what the row has in the field. True is right, False is wrong,
None is "cannot tell". Names that begin with _ and imported names are no checks. data/my_checks.py
is a whole such file.

The functions run in this process, without a sandbox and without a time limit: what they are handed
is a copy, but the text is a model's and may be anything (a pattern such as (a+)+$ can take for
ever on it). A function that raises, or returns anything but True, False and None, stops the run.
None would hide the mistake, and False would count it against the model.
"""

import ast
import copy
import inspect
import sys
import types
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.verify.checks import CHECKS, Check
from posttrain.verify.values import Verdict

EXAMPLE = "def regex(text, value): return bool or None"
SIGNATURES = (["text", "value"], ["text", "value", "row"])
MODULE = "__verifiers__"

# Fields that records have for something else, in any stage, and the other keys of a verdict.
RESERVED = frozenset(
    """
    id prompt messages conversations response slice tools entry_point evidence weight source
    completion answers candidate generator family temperature system seed tokens read finish
    chosen rejected score_chosen score_rejected margin p label scores
    score judged sd mass verify flags judge constitution judge_tokens both_orders votes contaminated
    type choices winner cluster baseline models budget limit hard min_n
    ok why facts
    """.split()
)


def read_checks(path=None):
    """CHECKS, and with a path the checks of that Python file behind them.

    BadInput names the file, where it can the line, and the remedy.
    """
    if path is None:
        return CHECKS
    path = Path(path)
    source = read_source(path)
    module = load(path, source)
    checks = {}
    for name, function in functions_of(module, imported_names(path, source)).items():
        refuse_taken(path, name)
        takes_row = has_row(path, name, function)
        checks[name] = Check(UserCheck(path, name, function, takes_row))
    if not checks:
        raise BadInput(
            f"{path}: no check in it; expected functions named after fields, such as {EXAMPLE} "
            "(names that begin with _ and imported names are none)"
        )
    return CHECKS | checks


def refuse_unused(checks, rows):
    """Print how many rows have the field of each check beside the kit's: is one misspelt?

    BadInput when no row has any. checks: as of read_checks.
    """
    counts = {}
    for name in checks.keys() - CHECKS.keys():
        counts[name] = sum(name in row for row in rows)
    if counts and not any(counts.values()):
        raise BadInput(
            f"--verifiers: no row has a field that it checks ({', '.join(sorted(counts))}); name "
            "the fields of the rows as the functions, or leave --verifiers out"
        )
    for name, count in sorted(counts.items()):
        print(f"verify   {name}: in {count} of {len(rows)} rows")


# ---- the file ------------------------------------------------------------------------------------


def read_source(path):
    if not path.is_file():
        why = "a folder or device" if path.exists() else "no such file"
        raise BadInput(f"{path}: {why}; --verifiers takes a Python file like data/my_checks.py")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: no text in UTF-8; save it as that") from None


def load(path, source):
    """The module that a source makes. It is compiled anew each time: no stale bytecode."""
    try:
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:  # a ValueError: null bytes
        line = getattr(error, "lineno", None) or 1
        why = getattr(error, "msg", None) or error
        raise BadInput(f"{path}:{line}: not Python ({why}); mend this line") from None
    module = types.ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module  # dataclasses look their module up
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        where = f"{path}:{line_in(path, error)}"
        remedy = "install or mend what it needs"
        raise BadInput(f"{where}: it cannot be loaded ({short(error)}); {remedy}") from None
    return module


def imported_names(path, source):
    """Names that the import statements of a file bind."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                names.add((alias.asname or alias.name).partition(".")[0])
            if "*" in names:
                raise BadInput(
                    f"{path}:{node.lineno}: `import *` hides which names are checks; import them "
                    "by name"
                )
    return names


def functions_of(module, imported):
    """{name: function} of a module, in its order: without classes, imported and hidden names."""
    functions = {}
    for name, value in vars(module).items():
        is_from_here = name not in imported or getattr(value, "__module__", "") == MODULE
        if is_from_here and not name.startswith("_") and is_function(value):
            functions[name] = value
    return functions


def is_function(value):
    """Also one behind a decorator, such as functools.lru_cache."""
    return callable(value) and not isinstance(value, type)


def refuse_taken(path, name):
    """BadInput for a name under which records have something else."""
    taken = ""
    if name in CHECKS:
        taken = "the kit has a check"
    elif name in RESERVED:
        taken = "records have something else"
    if taken:
        raise BadInput(f"{path}: {name}(): under this name {taken}; rename it")


def has_row(path, name, function):
    """Does a function take `row` beside text and value? BadInput when it takes anything else."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        parameters = []
    names = [parameter.name for parameter in parameters]
    is_plain = all(parameter.kind == parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if names not in SIGNATURES or not is_plain or is_async or inspect.isgeneratorfunction(function):
        raise BadInput(
            f"{path}: {name}(): expected def {name}(text, value) or def {name}(text, value, row), "
            "with just these names; begin the name of a helper with _"
        )
    return "row" in names


# ---- the check -----------------------------------------------------------------------------------


class UserCheck:
    """A function of the user's as the verdict of a field."""

    def __init__(self, path, name, function, takes_row):
        self.path = path
        self.name = name
        self.function = function
        self.takes_row = takes_row

    def __call__(self, answer, value):
        """The function's Verdict; BadInput names row and line when there is none."""
        row = copy.deepcopy(answer.row)  # the function may do to it what it likes
        more = [row] if self.takes_row else []
        try:
            result = self.function(answer.text, row[self.name], *more)
        except (Exception, SystemExit) as error:
            where = f"{self.path}:{line_in(self.path, error)}: {self.name}()"
            raise BadInput(
                f"{where} raised {short(error)} on {row_name(answer.row)}; mend it, or let it "
                "return None where it cannot tell"
            ) from None
        if result is not None and not isinstance(result, bool):
            raise BadInput(
                f"{self.path}: {self.name}() returned {type(result).__name__} {str(result)[:40]!r} "
                f"on {row_name(answer.row)}; expected True, False or None (bool(...) makes one)"
            )
        return Verdict(result)


def row_name(row):
    return f"the row with id {row['id']!r}" if "id" in row else "a row without id"


def short(error):
    """The kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {str(error)[:100]}".strip(": ")


def line_in(path, error):
    """The innermost line of a file that an error came through; 1 when it came through none."""
    line = 1
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
