"""Faults that nobody chose: every small step from a line of source to one that is wrong.

A fault changes one expression or statement. What changes nothing that a test could see is left
alone: docstrings, types, what is printed, raised or shown by --help."""

import ast
import copy
from typing import NamedTuple

from planting import SCOPES, put


class Fault(NamedTuple):
    """One place in a file, and what stands there instead."""

    file: str
    line: int
    function: str  # the innermost, as planting.walk names it
    kind: str  # name of the operator
    number: int  # of the node, in the order of `places`
    before: str
    after: str

    def __str__(self):
        return f"{self.file}:{self.line} {self.function or '-'} [{self.kind}]"


# ---- places ---------------------------------------------------------------------------------

# Calls whose arguments are texts for people.
MESSAGES = {"print", "BadInput", "error", "write", "ArgumentTypeError", "filterwarnings"}
# Keyword arguments that are, that say how something looks, or that Linux or a CPU does not need.
SHOWN = {"help", "metavar", "description", "desc", "leave", "fontsize", "markersize", "figsize"}
SHOWN |= {
    "initial",
    "total",
    "encoding",
    "device",
    "color",
    "linewidth",
    "ha",
    "va",
    "frameon",
    "transparent",
    "dpi",
}
# In the tests of an `if`: what is run as a script, and on Windows.
NOT_HERE = ("__name__", "os.name == 'nt'")
MUCH = 100  # one more of so many is dust: twice as many
# Files whose numbers say where things stand in a figure.
FIGURES = ("posttrain/gating/figures.py", "posttrain/train/curves.py")


def places(tree):
    """[(name of the innermost function, node), ...] of all nodes where a fault would matter."""
    result = []
    collect(tree, "", result)
    return result


def collect(node, function, result):
    for child in children(node):
        result.append((function, child))
        inner = function
        if isinstance(child, SCOPES):
            inner = f"{function}.{child.name}" if function else child.name
        collect(child, inner, result)


def children(node):
    """The nodes directly inside a node that a fault could be in."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not is_for_people(child):
                yield child


def is_for_people(node):
    """Is this a text for a reader or user, or what Python needs to be a program?"""
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Raise | ast.Assert):
        return True
    if isinstance(node, ast.Expr):  # a docstring, or a call that prints
        return isinstance(node.value, ast.Constant) or is_for_people(node.value)
    if isinstance(node, ast.Call):
        return name_of_call(node) in MESSAGES
    if isinstance(node, ast.keyword):
        return node.arg in SHOWN
    if isinstance(node, ast.If | ast.IfExp):
        return any(words in ast.unparse(node.test) for words in NOT_HERE)
    return False


def name_of_call(call):
    """The last word of what is called: "write" of tqdm.write(...)."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


# ---- operators: a node -> texts that could stand in its place -----------------------------------

COMPARISONS = {
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
SUMS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
# Functions that may be left out around their first argument.
WRAPPERS = {"abs", "sorted", "round", "int", "float", "list", "set", "max", "min", "reversed"}
# Methods that may be left out behind what they are called on.
TIDIES = {
    "strip",
    "rstrip",
    "lower",
    "detach",
    "clone",
    "float",
    "double",
    "abs",
    "copy",
    "resolve",
}


def with_fields(node, **fields):
    """The text of a node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return ast.unparse(other)


def comparison(node):
    """== to !=, < to <= and to >=, in to not in ..."""
    if not isinstance(node, ast.Compare):
        return []
    texts = []
    for number, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            ops = [*node.ops[:number], other(), *node.ops[number + 1 :]]
            texts.append(with_fields(node, ops=ops))
    return texts


def connective(node):
    """and to or and back, or one of the sides left out."""
    if not isinstance(node, ast.BoolOp):
        return []
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    texts = [with_fields(node, op=other)]
    for number in range(len(node.values)):
        rest = node.values[:number] + node.values[number + 1 :]
        texts.append(with_fields(node, values=rest) if len(rest) > 1 else ast.unparse(rest[0]))
    return texts


def sign(node):
    """`not x`, `-x` and `~x` to x."""
    return [ast.unparse(node.operand)] if isinstance(node, ast.UnaryOp) else []


def arithmetic(node):
    """+ to -, * to / ..., where no text is joined."""
    if not isinstance(node, ast.BinOp) or type(node.op) not in SUMS:
        return []
    if any(is_text(side) for side in (node.left, node.right)):
        return []
    return [with_fields(node, op=SUMS[type(node.op)]())]


def is_text(node):
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def constant(node):
    """True to False; a number one higher (a large one or a float: twice as high), or 0."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool):
        return [repr(not value)]
    if isinstance(value, int):
        more = 2 * value if value > MUCH else value + 1
        return [repr(more)] + (["0"] if value else [])
    if isinstance(value, float) and value:
        return [repr(2 * value), "0.0"]
    return ["1.0"] if isinstance(value, float) else []


def condition(node):
    """The test of an if, a loop or a conditional expression turned round."""
    if not isinstance(node, ast.If | ast.While | ast.IfExp):
        return []
    if isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        return []  # which have operators of their own
    return [with_fields(node, test=ast.UnaryOp(ast.Not(), node.test))]


def branch(node):
    """One side of a conditional expression, always."""
    return [ast.unparse(node.body), ast.unparse(node.orelse)] if isinstance(node, ast.IfExp) else []


def argument(node):
    """A call without one of its keyword arguments, or without the last of several others."""
    if not isinstance(node, ast.Call):
        return []
    texts = []
    for number, keyword in enumerate(node.keywords):
        if keyword.arg not in SHOWN:
            rest = node.keywords[:number] + node.keywords[number + 1 :]
            texts.append(with_fields(node, keywords=rest))
    if len(node.args) > 1 and not any(isinstance(value, ast.Starred) for value in node.args):
        texts.append(with_fields(node, args=node.args[:-1]))
    return texts


def wrapper(node):
    """max(x, 0) or sorted(x) to x; x.strip() to x."""
    if not isinstance(node, ast.Call) or node.keywords:
        return []
    if isinstance(node.func, ast.Attribute) and node.func.attr in TIDIES and not node.args:
        return [ast.unparse(node.func.value)]
    if isinstance(node.func, ast.Name) and node.func.id in WRAPPERS and node.args:
        return [ast.unparse(node.args[0])]
    return []


def bound(node):
    """x[a:b] without a or without b."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
        return []
    texts = []
    for side in ("lower", "upper"):
        if getattr(node.slice, side) is not None:
            rest = copy.copy(node.slice)
            setattr(rest, side, None)
            texts.append(with_fields(node, slice=rest))
    return texts


def every_item(node):
    """A comprehension without its `if`."""
    if not hasattr(node, "generators"):
        return []
    texts = []
    for number, loop in enumerate(node.generators):
        if loop.ifs:
            whole = copy.copy(loop)
            whole.ifs = []
            loops = [*node.generators[:number], whole, *node.generators[number + 1 :]]
            texts.append(with_fields(node, generators=loops))
    return texts


def nothing_returned(node):
    """return x to return None; not of False and 0, which mean the same to most who ask."""
    if not isinstance(node, ast.Return) or node.value is None:
        return []
    is_nothing = isinstance(node.value, ast.Constant) and not node.value.value
    return [] if is_nothing else ["return None"]


def statement(node):
    """Nothing in the place of a call, an update, a jump, or an `if` that refuses or returns."""
    if isinstance(node, ast.If) and not node.orelse:
        return ["pass"]
    if isinstance(node, ast.AugAssign | ast.Continue | ast.Break | ast.Expr | ast.Delete):
        return ["pass"]
    if isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple):
        return ["pass"]  # of an attribute or an item; a name would be missing at once
    return []


OPERATORS = (
    comparison,
    connective,
    sign,
    arithmetic,
    constant,
    condition,
    branch,
    argument,
    wrapper,
    bound,
    every_item,
    nothing_returned,
    statement,
)


# ---- faults -------------------------------------------------------------------------------------


def faults_at(file, source):
    """[[faults of one place], ...] of a file; places without any are left out."""
    groups = []
    for number, (function, node) in enumerate(places(ast.parse(source))):
        group = []
        for operator in OPERATORS:
            if operator is constant and file in FIGURES:
                continue
            for after in operator(node):
                place = (file, node.lineno, function, operator.__name__, number)
                group.append(Fault(*place, ast.unparse(node), after))
        if group:
            groups.append(group)
    return groups


def plant_fault(source, fault):
    """The source with the fault in it, otherwise unchanged; None where it cannot be written."""
    tree = ast.parse(source)
    _, node = places(tree)[fault.number]
    replacement = ast.parse(fault.after).body
    if not isinstance(node, ast.stmt):
        replacement = [replacement[0].value]
    return put(source, tree, [node], replacement, fault.after)
