"""How dense code is, in numbers that formatting does not change. `python tests/density.py` prints a table.

nodes     AST statements and expressions for each statement; nanochat has 6.6, minimind 6.8
heavy     of 1,000 statements, those with more than 30 expressions of their own
crowded   of 1,000 statements, comprehensions with two `for` or with another one inside
"""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Called by a library, in its way.
FOREIGN = {"attend", "forward", "backward"}
VAGUE = {"found", "one", "own", "some", "known", "said", "asked", "wanted", "given"}


class Density(NamedTuple):
    statements: int
    nodes: int
    heavy: int
    crowded: int

    def per_statement(self):
        return self.nodes / max(1, self.statements)

    def __str__(self):
        per_thousand = 1000 / max(1, self.statements)
        return (
            f"{self.statements} statements, {self.per_statement():.1f} nodes each, of 1,000 "
            f"{self.heavy * per_thousand:.0f} heavy, {self.crowded * per_thousand:.0f} crowded"
        )


def parse(path):
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def statements(node):
    """All statements inside a node, nested ones included, itself not."""
    return [inner for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node]


def own_expressions(statement):
    """Expressions of a statement, without those of the statements inside it."""
    count = 0
    todo = list(ast.iter_child_nodes(statement))
    while todo:
        node = todo.pop()
        if not isinstance(node, ast.stmt):
            if isinstance(node, ast.expr):
                count += 1
            todo.extend(ast.iter_child_nodes(node))
    return count


def is_crowded(node):
    """A comprehension with two loops, or with a comprehension inside."""
    if not isinstance(node, COMPREHENSIONS):
        return False
    inner = [x for x in ast.walk(node) if isinstance(x, COMPREHENSIONS)]
    return len(node.generators) > 1 or len(inner) > 1


def density(tree):
    """The figures of one file."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr)]
    all_statements = statements(tree)
    heavy = sum(own_expressions(statement) > 30 for statement in all_statements)
    crowded = sum(is_crowded(node) for node in nodes)
    return Density(len(all_statements), len(nodes), heavy, crowded)


def total(densities):
    """The figures of several files together."""
    return Density(*(sum(column) for column in zip(*densities)))


def long_functions(tree, limit=50):
    """["name: statements", ...] of functions with more than `limit` statements; parsers may be long."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and not node.name.startswith(
            ("parse_args", "training_flags")
        ):
            count = len(statements(node))
            if count > limit:
                lines.append(f"{node.name}: {count} statements")
    return lines


def clever(tree):
    """["line: what", ...] of expressions that a reader has to unfold, and of names that say nothing."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            branches = [node.body, node.orelse, node.test]
            if any(
                isinstance(inner, ast.IfExp) for branch in branches for inner in ast.walk(branch)
            ):
                lines.append(f"{node.lineno}: a conditional expression inside another")
        elif isinstance(node, ast.Lambda) and (node.args.defaults or node.args.kw_defaults):
            lines.append(f"{node.lineno}: a lambda with default arguments")
        elif is_arithmetic_on_tests(node):
            lines.append(f"{node.lineno}: arithmetic on a comparison")
        elif isinstance(node, FUNCTIONS):
            lines += crowded_signature(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
            lines.append(f"{node.lineno}: the name {node.id!r} does not say what it is")
    return lines


def is_arithmetic_on_tests(node):
    """A sum or product with a comparison as a number; & and | of comparisons are tensor logic."""
    if not isinstance(node, ast.BinOp) or isinstance(node.op, ast.BitAnd | ast.BitOr):
        return False
    return is_test(node.left) or is_test(node.right)


def is_test(node):
    """A comparison or `not`: used as a number it makes a riddle."""
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    return isinstance(node, ast.Compare)


def crowded_signature(function):
    """At most eight arguments, and those beyond four by keyword only."""
    arguments = function.args
    positional = [
        a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "ctx")
    ]
    count = len(positional) + len(arguments.kwonlyargs)
    lines = []
    if count > 8:
        lines.append(f"{function.lineno}: {function.name} has {count} arguments")
    if len(positional) > 4 and function.name not in FOREIGN:
        lines.append(f"{function.lineno}: {function.name} takes {len(positional)} by position")
    return lines


def main(paths):
    densities = []
    for path in paths or [*Path(".").glob("*.py"), *Path("posttrain").rglob("*.py")]:
        tree = parse(path)
        densities.append(density(tree))
        print(f"{path}: {densities[-1]}")
        for line in [*long_functions(tree), *clever(tree)]:
            print(f"    {line}")
    print(f"all: {total(densities)}")


if __name__ == "__main__":
    main(sys.argv[1:])
