"""The house rules that a program can check: who imports whom, flags that are read, commands that parse, lines."""

import argparse
import ast
import importlib
import itertools
import re
import shlex

import pytest
from conftest import ROOT, run_script

FLOOR = ("common", "packed", "models", "training", "watch", "inference", "scoring", "inside", "sandbox", "grounding",
         "verify", "filters", "suite", "decision", "answers", "lineage", "report")
STAGES = tuple(sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in FLOOR))
SOURCES = [ROOT / f"{name}.py" for name in FLOOR + STAGES]
MAY_USE = {"common": set(), "packed": {"common"}, "models": {"common", "packed"}, "inference": {"common"},
           "training": {"common", "packed", "models"}, "inside": set(), "sandbox": {"common", "inside"},
           "grounding": set(), "verify": {"common", "grounding", "sandbox"}, "filters": {"common", "verify"},
           "report": set(),
           "suite": {"common", "verify"},
           "decision": set(), "answers": {"common", "packed", "inference", "verify"}, "lineage": {"common", "models"},
           "scoring": {"common", "packed", "models", "inference"},
           "watch": {"common", "packed", "models", "training", "inference"}}


def tree(name):
    return ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))


def imported(name):
    """Names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_the_house_is_complete():
    assert set(STAGES) >= {"sft", "gen_candidates", "judge", "dpo", "kto", "gate"}


@pytest.mark.parametrize("name", FLOOR + STAGES)
def test_no_stage_imports_a_stage(name):
    used = imported(name) & {*FLOOR, *STAGES}
    assert used <= MAY_USE.get(name, set(FLOOR)), "a stage uses the ground floor, the ground floor what lies below"


@pytest.mark.parametrize("path", sorted([*ROOT.glob("bench/*.py"), *ROOT.glob("data/*.py")]), ids=lambda p: p.name)
def test_benches_import_what_there_is(path):
    """Nothing runs the long benches here: the names they take from the house must exist all the same."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in (*FLOOR, *STAGES):
            house = importlib.import_module(node.module)
            assert all(hasattr(house, alias.name) for alias in node.names), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("name", FLOOR)
def test_the_ground_floor_knows_no_args(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.Lambda) and getattr(node, "name",
                                                                      "") != "run":  # run(main, args) starts it
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert "args" not in names, f"{name}.py:{node.lineno}"


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")),
                                  *sorted((ROOT / "bench").glob("*.py")),
                                  *sorted((ROOT / "data").glob("*.py"))], ids=lambda path: path.name)
def test_lines_have_at_most_120_characters(path):
    long = [n for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120]
    assert not long, f"{path.name}: lines {long}"


@pytest.mark.parametrize("name", STAGES)
def test_every_flag_is_read(name):
    """Each flag of parse_args occurs as args.flag outside the line that declares it."""
    source, flags = tree(name), set()
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            flags.add(node.args[0].value.removeprefix("--").replace("-", "_"))
    read = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            and isinstance(node.value, ast.Name) and node.value.id == "args"}
    assert flags and flags <= read, f"parsed and never read: {flags - read}"
    assert read <= flags, f"read and never parsed: {read - flags}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_its_parts_in_order(name):
    source = tree(name)
    functions = [node.name for node in source.body if isinstance(node, ast.FunctionDef)]
    assert functions[0] == "parse_args" and functions[-1] == "main"
    assert ast.unparse(source.body[-1]).startswith("if __name__ == '__main__':")
    lines = (ast.get_docstring(source) or "").splitlines()
    assert 8 <= len(lines) <= 25 and any(line.startswith("    python ") for line in lines)
    classes = [node.name for node in ast.walk(source) if isinstance(node, ast.ClassDef)]
    assert not classes, "a stage is functions"


def test_same_flag_same_meaning():
    """A flag that several scripts have takes the same type of value in each."""
    kinds = {}
    for name in STAGES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                given = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in ("type", "action", "choices")}
                kinds.setdefault(node.args[0].value, set()).add(tuple(sorted(given.items())))
    assert not {flag: kind for flag, kind in kinds.items() if len(kind) > 1}


# ---- commands that people copy -------------------------------------------------------------------------------


def commands(text):
    """Commands `python X.py ...` of a text, as words: continued lines joined, plain shell variables filled in."""
    values = {"1": "a", "2": "1"}  # of a shell function

    def filled(part):
        return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), part)

    for name, default, quoted, plain in re.findall(
            r"(?:^|\s)(\w+)=(?:\$\{\w+:-([^}]*)\}|\"([^\"]*)\"|([\w./-]*))(?=\s)", text):
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
    found = [ROOT / name for name in ("README.md", "Makefile", "demo.sh") if (ROOT / name).exists()]
    found += sorted((ROOT / ".ci").glob("*")) + sorted(ROOT.glob("*/README.md"))
    for path in found:
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
    for path in [*SOURCES, *sorted((ROOT / "bench").glob("*.py")), *sorted((ROOT / "data").glob("*.py"))]:
        yield path.relative_to(ROOT), ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


COMMANDS = [(str(where), words) for where, text in documents() for words in commands(text)]


def test_commands_are_found():
    text = "x\nR=runs/a\n`python a.py --b $R` and\n    python c.py --d \\\\\n     --e 'f g'\ntry python h.py $Q\n"
    assert [*commands(text)] == [["a.py", "--b", "runs/a"], ["c.py", "--d", "--e", "f g"]]
    counts = {where: len(list(group)) for where, group in itertools.groupby(COMMANDS, key=lambda pair: pair[0])}
    assert {f"{name}.py" for name in STAGES} <= counts.keys() and counts.get("demo.sh", 6) >= 6
    assert counts.get("README.md", 5) >= 5


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
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
    made_later = ("data/tiny/judge",)  # learned by data/make_tiny.py
    for word in words[1:]:
        path = word.split("=")[0]
        if path.startswith("data/") and not path.startswith(made_later):
            assert (ROOT / path).exists(), f"{where}: {path}"


def test_help_works_in_a_process_of_its_own():
    ended = run_script("gate", "--help")
    assert ended.returncode == 0 and not ended.stderr
    assert "--baseline" in ended.stdout and "(default: hobby)" in " ".join(ended.stdout.split())


@pytest.mark.parametrize("name", STAGES)
def test_help_shows_docstring_and_defaults(name, capsys):
    stage = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        stage.parse_args(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and " ".join(stage.__doc__.split()) in printed and "(default: 0)" in printed
    assert "(default: None)" not in printed and "(default: False)" not in printed


def test_readme_is_short():
    path = ROOT / "README.md"
    if not path.exists():
        pytest.skip("no README yet")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 200
