"""The house rules that a program can check: who imports whom, flags that are read, commands that parse, lines."""

import argparse
import ast
import importlib
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys

import density
import pytest
from conftest import ROOT

TRAINERS = ("sft", "dpo", "kto")
NO_STAGES = ("common", "demo")
STAGES = tuple(sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in NO_STAGES))
SHARED = sorted((ROOT / "posttrain").rglob("*.py"))
SOURCES = [
    *(ROOT / f"{name}.py" for name in NO_STAGES),
    *(ROOT / f"{name}.py" for name in STAGES),
    *SHARED,
]

# The rooms from the ground up. A room uses those before it, never one behind it.
ROOMS = (
    "common",
    "cli",
    "hashing",
    "records",
    "chat",
    "processes",
    "run",
    "model",
    "packed",
    "generate",
    "train",
    "verify",
    "filter_patterns",
    "filters",
    "judging",
    "gating",
)


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path):
    """The room that a file belongs to: "common", "cli", "records" ...; "" for a stage and posttrain/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = parts[1] if parts[0] == "posttrain" else parts[0]
    return name if name in ROOMS else ""


def imported(path):
    """Names of the rooms and stages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(path)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            top, *rest = module.split(".")
            found.add(rest[0] if top == "posttrain" and rest else top)
    return found


def short(path):
    """A path as test names show it."""
    return str(path.relative_to(ROOT))


def test_the_house_is_complete():
    assert set(STAGES) >= {"sft", "gen_candidates", "judge", "dpo", "kto", "gate"}
    rooms = {room_of(path) for path in SHARED} - {""}
    assert rooms == set(ROOMS) - {"common"}, "every room has its place in ROOMS"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_room_uses_only_those_below_it(path):
    name = room_of(path)
    allowed = set(ROOMS[: ROOMS.index(name) + 1] if name else ROOMS)
    assert imported(path) & {*ROOMS, *STAGES} <= allowed, (
        "arrows go down, and no stage uses a stage"
    )


def test_common_needs_torch_alone():
    assert imported(ROOT / "common.py") - sys.stdlib_module_names == {"torch"}


def test_git_ignores_no_source_file():
    """A pattern such as runs/ without a leading slash would keep a whole room out of the repository."""
    ended = subprocess.run(
        ["git", "check-ignore", *map(short, SOURCES)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode in (1, 128) and not ended.stdout, (
        "1: none is ignored; 128: this copy is no repository"
    )


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("bench/*.py"), *ROOT.glob("data/make/*.py")]), ids=lambda p: p.name
)
def test_benches_import_what_there_is(path):
    """Nothing runs the long benches here: the names they take from the house must exist all the same."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            "common",
            "posttrain",
            *STAGES,
        ):
            room = importlib.import_module(node.module)
            for alias in node.names:
                is_file = (
                    importlib.util.find_spec(f"{node.module}.{alias.name}")
                    if hasattr(room, "__path__")
                    else None
                )
                assert hasattr(room, alias.name) or is_file, f"{path.name}:{node.lineno}"


def argument_names(function):
    arguments = function.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


@pytest.mark.parametrize("path", SHARED, ids=short)
def test_the_rooms_know_no_args(path):
    """A script's command line stays in the script; TrainingRun keeps it for run.json."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.Lambda) and "args" in argument_names(node):
            allowed = {"cli.py": "run_stage", "training_run.py": "__init__"}.get(path.name)
            assert getattr(node, "name", "") == allowed, f"{short(path)}:{node.lineno}"


def attributes_of_args(source):
    """Names that a file reads of `args`, be it args.NAME or self.args.NAME."""
    names = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            if "args" in (getattr(owner, "id", ""), getattr(owner, "attr", "")):
                names.add(node.attr)
    return names


def flags_of(source):
    """Flags that a file adds to a parser, as attributes of args."""
    names = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.args[0].value
            if isinstance(name, str) and re.fullmatch(r"--[a-z-]+", name):
                names.add(name.removeprefix("--").replace("-", "_"))
    return names


@pytest.mark.parametrize("name", (*STAGES, "demo"))
def test_every_flag_is_read(name):
    """Each flag of parse_args is read as args.flag somewhere, and nothing else is."""
    source = tree(ROOT / f"{name}.py")
    flags, read = flags_of(source), attributes_of_args(source)
    if name in TRAINERS:
        flags |= flags_of(tree(ROOT / "posttrain/cli.py"))
        read |= attributes_of_args(tree(ROOT / "posttrain/train/training_run.py"))
        read |= attributes_of_args(tree(ROOT / "posttrain/cli.py"))
    assert flags and flags <= read, f"parsed and never read: {flags - read}"
    assert read <= flags, f"read and never parsed: {read - flags}"


# ---- how it reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_file_is_not_dense(path):
    """Figures that formatting does not change; `python tests/density.py` prints them."""
    source = tree(path)
    measured = density.density(source)
    assert measured.statements < 20 or measured.per_statement() <= 8.5, measured
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [n for n, line in enumerate(lines, 1) if len(line) > 100] == []
    assert density.long_functions(source) == []
    assert density.clever(source) == []


def test_the_house_is_not_dense():
    measured = density.total([density.density(tree(path)) for path in SOURCES])
    assert measured.per_statement() <= 7.2, measured
    assert 1000 * measured.heavy <= 10 * measured.statements, measured
    assert 1000 * measured.crowded <= 4 * measured.statements, measured


def test_density_by_hand():
    source = "a = [x for x in y]\nb = [[z for z in x] for x in y]\nif a:\n    c = 1 if a else 2 if b else 3\n"
    measured = density.density(ast.parse(source))
    assert (measured.statements, measured.crowded, measured.heavy) == (4, 1, 0)
    assert density.clever(ast.parse(source)) == ["4: a conditional expression inside another"]
    flat = "def f(a, b, c, d, e, f, g, h, i):\n    one = (a > b) * 2\n    return lambda x=1: x\n"
    assert [line.partition(": ")[2] for line in density.clever(ast.parse(flat))] == [
        "f has 9 arguments",
        "f takes 9 by position",
        "the name 'one' does not say what it is",
        "arithmetic on a comparison",
        "a lambda with default arguments",
    ]
    assert density.own_expressions(ast.parse("if a + b:\n    c + d\n").body[0]) == 3


def update_of(name):
    """The text of a trainer's update, from its comment to the end of the loop."""
    text = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    begin = text.index("        # The update: ")
    return text[begin : text.index("    run.finish(")]


def test_the_update_is_the_same_text_in_all_trainers():
    """Backward, optimiser step, log, save: whoever mends one mends all."""
    texts = {update_of(name) for name in TRAINERS}
    assert len(texts) == 1 and "backward()" in texts.pop()


@pytest.mark.parametrize("name", TRAINERS)
def test_trainers_know_nothing_of_processes_and_padding(name):
    words = {node.id for node in ast.walk(tree(ROOT / f"{name}.py")) if isinstance(node, ast.Name)}
    assert not words & {"rank", "size", "padded", "world_size"}


def is_record(node):
    """Is this class a NamedTuple or a dataclass?"""
    names = {getattr(part, "id", "") for part in (*node.bases, *node.decorator_list)}
    return bool(names & {"NamedTuple", "dataclass"})


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_its_parts_in_order(name):
    source = tree(ROOT / f"{name}.py")
    functions = [node.name for node in source.body if isinstance(node, ast.FunctionDef)]
    assert functions[0] == "parse_args" and functions[-1] == "main"
    assert ast.unparse(source.body[-1]).startswith("if __name__ == '__main__':")
    lines = (ast.get_docstring(source) or "").splitlines()
    assert 8 <= len(lines) <= 25 and any(line.startswith("    python ") for line in lines)
    classes = [node for node in ast.walk(source) if isinstance(node, ast.ClassDef)]
    assert all(map(is_record, classes)), "a stage is functions, and records that they hand on"


def flags_by_parser(name, monkeypatch):
    """{flag: what it accepts} of a stage, as its parser has them."""

    class Parsed(Exception):
        pass

    def stop(parser, *words):
        raise Parsed(parser)

    with monkeypatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        importlib.import_module(name).parse_args([])
    flags = {}
    for action in caught.value.args[0]._actions:
        accepts = getattr(action.type, "accepts", action.type)
        choices = action.choices and tuple(action.choices)
        flags[action.option_strings[-1]] = (accepts, choices, type(action))
    return flags


def test_same_flag_same_meaning(monkeypatch):
    """A flag that several scripts have takes the same values in each; but the end of a prompt, where the answer
    begins, is never cut, so what writes answers takes --truncate left alone."""
    meanings = {}
    for name in (*STAGES, "demo"):
        flags = flags_by_parser(name, monkeypatch)
        if name in ("gen_candidates", "gate"):
            assert flags.pop("--truncate")[1] == ("left",)
        for flag, meaning in flags.items():
            meanings.setdefault(flag, set()).add(meaning)
    assert len(meanings) > 50
    assert not {flag: kinds for flag, kinds in meanings.items() if len(kinds) > 1}


# ---- commands that people copy -------------------------------------------------------------------------------


def commands(text):
    """Commands `python X.py ...` of a text, as words: continued lines joined, plain shell variables filled in."""
    values = {"1": "a", "2": "1"}  # of a shell function

    def filled(part):
        return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), part)

    for name, default, quoted, plain in re.findall(
        r"(?:^|\s)(\w+)=(?:\$\{\w+:-([^}]*)\}|\"([^\"]*)\"|([\w./-]*))(?=\s)", text
    ):
        values[name] = filled(default or quoted or plain)
    for line in re.sub(r"\\+\n\s*", " ", text).splitlines():
        found = re.search(r"(?:^|[\s`(])(?:python3?|\$\(PY\)) ((?:\w+/)*\w+\.py)( [^`]*)?", line)
        if not found:
            continue
        words = filled(found[0].strip(" `("))
        if "$" in words.replace("$(PY)", "") or "..." in words:
            continue  # a variable that only the shell knows, or no whole command
        yield shlex.split(words.split(" |")[0].split(" #")[0])[1:]


def documents():
    found = [ROOT / name for name in ("README.md", "Makefile") if (ROOT / name).exists()]
    found += sorted((ROOT / ".ci").glob("*")) + sorted(ROOT.glob("*/README.md"))
    # The recipes are executed, each on a copy of the tree.
    found += sorted(set(ROOT.glob("docs/*.md")) - {ROOT / "docs/recipes.md"})
    for path in found:
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
    for path in [
        *SOURCES,
        *sorted((ROOT / "bench").glob("*.py")),
        *sorted((ROOT / "data" / "make").glob("*.py")),
        *sorted((ROOT / "labs").glob("*.py")),
    ]:
        yield (
            path.relative_to(ROOT),
            ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "",
        )


COMMANDS = [(str(where), words) for where, text in documents() for words in commands(text)]


def test_commands_are_found():
    text = "x\nR=runs/a\n`python a.py --b $R` and\n    python c.py --d \\\\\n     --e 'f g'\ntry python h.py $Q\n"
    assert [*commands(text)] == [["a.py", "--b", "runs/a"], ["c.py", "--d", "--e", "f g"]]
    counts = {
        where: len(list(group))
        for where, group in itertools.groupby(COMMANDS, key=lambda pair: pair[0])
    }
    assert {f"{name}.py" for name in (*STAGES, "demo")} <= counts.keys()
    assert counts.get("README.md", 5) >= 5


@pytest.mark.parametrize(
    ("where", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_commands_parse(where, words, capsys):
    """Every printed command is one that the script takes, and its data files that ship exist."""
    script = ROOT / words[0]
    assert script.is_file(), f"{where}: {words[0]}"
    if script.parent == ROOT:
        stage = importlib.import_module(script.stem)
        try:
            args = stage.parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{where}: {shlex.join(words)}: {capsys.readouterr().err}")
        assert isinstance(args, argparse.Namespace)
    made_later = ("data/tiny/judge",)  # learned by data/make/make_tiny.py
    for word in words[1:]:
        path = word.split("=")[0]
        if path.startswith("data/") and not path.startswith(made_later):
            assert (ROOT / path).exists(), f"{where}: {path}"


def test_help_works_in_a_process_of_its_own():
    command = [sys.executable, ROOT / "gate.py", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr
    assert "--baseline" in ended.stdout and "(default: hobby)" in " ".join(ended.stdout.split())


@pytest.mark.parametrize("name", (*STAGES, "demo"))
def test_help_shows_docstring_and_defaults(name, capsys):
    stage = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        stage.parse_args(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        ended.value.code == 0
        and " ".join(stage.__doc__.split()) in printed
        and "(default: 0)" in printed
    )
    assert "(default: None)" not in printed and "(default: False)" not in printed
