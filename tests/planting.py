"""How a fault is planted: what stands where, and what to put in its place.

A place is named by its function and by the code that stands there, compared as syntax trees. So
line breaks, quotes, comments and whatever happens in other functions make no difference. A pattern
is written as it could stand on lines of its own: either one expression, wherever it occurs in its
function, or one or more whole statements that follow each other. The parts of an f-string have no
usable place in the file: there the whole f-string is the pattern."""

import ast
import re
import textwrap
from typing import NamedTuple

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Mutant(NamedTuple):
    """One planted fault."""

    file: str
    function: str  # the innermost: "sample", "Handle.__eq__", "budgets.measure"; "" outside of all
    pattern: str  # occurs exactly once there; in a file that is not Python: text that occurs once
    replacement: str
    tests: list  # one of them must fail


def plant(source, mutant):
    """The source with the fault in it, otherwise unchanged; ValueError when it does not fit."""
    if not mutant.file.endswith(".py"):
        check_once(source.count(mutant.pattern), mutant)
        return source.replace(mutant.pattern, mutant.replacement)
    tree = ast.parse(source)
    pattern, replacement = nodes_of(mutant)
    places = find(tree, mutant.function, pattern)
    check_once(len(places), mutant)
    changed = put(source, tree, places[0], replacement, mutant.replacement)
    if changed is None:
        raise ValueError(
            f"{mutant.file}: {mutant.replacement!r} cannot stand for {mutant.pattern!r}"
        )
    return changed


def put(source, tree, nodes, replacement, text):
    """The source with `text` where `nodes` stand; None where that would be other code.

    tree: that of the source; it is changed. nodes: one expression, or statements that follow each
    other. replacement: the nodes that `text` stands for.
    """
    before, after = around(source, nodes)
    # Whatever the text is, it leaves the statements of the file before and behind it alone.
    tops = tree.body
    first = max(n for n, top in enumerate(tops) if top.lineno <= nodes[0].lineno)
    behind = sum(top.lineno > nodes[-1].end_lineno for top in tops)

    around_nodes = ast.Module(tops[first : len(tops) - behind], [])
    expected = shape(Exchange(nodes, replacement).visit(around_nodes))
    for written in ways_to_write(text, nodes):
        changed = before + written + after
        body = parsed(changed).body
        if shape(ast.Module(body[first : len(body) - behind], [])) == expected:
            return changed
    return None


def check_once(count, mutant):
    if count != 1:
        place = f"in function {mutant.function}" if mutant.function else "outside functions"
        raise ValueError(f"{mutant.pattern!r} occurs {count} times {place} of {mutant.file}")


# ---- finding --------------------------------------------------------------------------------


def nodes_of(mutant):
    """Pattern and replacement as lists of nodes: one expression each, or statements."""
    pattern, replacement = parse(mutant.pattern), parse(mutant.replacement)
    if is_expression(pattern) and is_expression(replacement):
        return [pattern[0].value], [replacement[0].value]
    return pattern, replacement


def parse(text):
    return ast.parse(textwrap.dedent(text).strip()).body


def is_expression(statements):
    return len(statements) == 1 and isinstance(statements[0], ast.Expr)


def shape(node):
    """A tree as text without positions: equal for equal code, whether names are read or set."""
    return re.sub(r"ctx=(Load|Store|Del)\(\)", "", ast.dump(node))


def walk(node, within, function=""):
    """(name of the innermost function or class, node) for the nodes below but parts of f-strings.

    within: the name of a function. Others that do not hold it are left out, but for their own node.
    The decorators and arguments of a function belong to it."""
    for child in ast.iter_child_nodes(node):
        yield function, child
        if isinstance(child, SCOPES):
            name = f"{function}.{child.name}" if function else child.name
            if f"{within}.".startswith(f"{name}."):
                yield from walk(child, within, name)
        elif not isinstance(child, ast.JoinedStr):
            yield from walk(child, within, function)


def find(tree, function, pattern):
    """The places in a function where the pattern's nodes stand, each a list of nodes."""
    if isinstance(pattern[0], ast.stmt):
        return find_statements(tree, function, pattern)
    places = []
    for name, node in walk(tree, function):
        if name == function and type(node) is type(pattern[0]) and shape(node) == shape(pattern[0]):
            places.append([node])
    return places


def find_statements(tree, function, pattern):
    pattern_shapes = [shape(node) for node in pattern]
    places = []
    names = {node: name for name, node in walk(tree, function)}
    for block in blocks([tree, *names]):
        if names.get(block[0]) != function:
            continue
        shapes = [shape(node) for node in block]
        for start in range(len(shapes) - len(pattern) + 1):
            end = start + len(pattern)
            if shapes[start:end] == pattern_shapes:
                places.append(block[start:end])
    return places


def blocks(nodes):
    """Every list of statements of these nodes: bodies, else branches and so on."""
    for node in nodes:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield value


# ---- replacing ------------------------------------------------------------------------------


class Exchange(ast.NodeTransformer):
    """Puts other nodes in the place of some that follow each other."""

    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        if node is self.old[0]:
            return self.new if isinstance(node, ast.stmt) else self.new[0]
        if any(node is other for other in self.old):
            return None
        return self.generic_visit(node)


def around(source, nodes):
    """The text before and after nodes. Their columns count bytes."""
    lines = source.encode().splitlines(keepends=True)
    first, last = nodes[0], nodes[-1]
    before = b"".join(lines[: first.lineno - 1]) + lines[first.lineno - 1][: first.col_offset]
    after = lines[last.end_lineno - 1][last.end_col_offset :] + b"".join(lines[last.end_lineno :])
    return before.decode(), after.decode()


def ways_to_write(text, nodes):
    """The ways to write a replacement: statements indented, an expression also in brackets."""
    text = textwrap.dedent(text).strip()
    if isinstance(nodes[0], ast.stmt):
        return [text.replace("\n", "\n" + " " * nodes[0].col_offset)]
    return [text, f"({text})"]


def parsed(source):
    """The tree of a source; one without statements where it has none."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])
