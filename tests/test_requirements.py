"""requirements.txt: what is imported is listed, what is listed is used; what few need is loaded where it is used."""

import ast
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT, sft_rows, text_of, write

from posttrain.cli import run_stage
from posttrain.train import curves

FILES = ("requirements.txt", "requirements-dev.txt")
# Imported, and not listed for a reason.
ELSEWHERE = {"gguf": "bench/endpoint.py installs it beside llama.cpp, in a place of its own"}
SOURCES = [
    *ROOT.glob("*.py"),
    *(
        path
        for name in ("posttrain", "bench", "labs", "data", "tests")
        for path in (ROOT / name).rglob("*.py")
    ),
]
OURS = {path.stem for path in SOURCES} | {"posttrain", "mutants", "tests"}
EXTRAS = ("jsonschema", "referencing", "scipy", "matplotlib", "openai")


def listed(name):
    """{package: comment} of a requirements file."""
    packages = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        package, _, comment = line.partition("#")
        if package.strip() and not package.startswith("-r"):
            packages[re.split("[=<>]", package.strip())[0]] = comment.strip()
    return packages


def third_party(paths):
    """Top names of what files import that is neither ours nor Python's."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - OURS - sys.stdlib_module_names


def test_what_is_imported_is_listed():
    packages = {name for file in FILES for name in listed(file)}
    assert third_party(SOURCES) - ELSEWHERE.keys() <= packages


def test_the_kit_needs_nothing_of_the_tests():
    stages = [path for path in SOURCES if path.parent == ROOT or "posttrain" in path.parts]
    assert third_party(stages) <= listed("requirements.txt").keys()


@pytest.mark.parametrize("file", FILES)
def test_what_is_listed_is_imported_or_has_a_reason(file):
    imported = third_party(SOURCES)
    assert not [
        name for name, comment in listed(file).items() if name not in imported and not comment
    ]


def test_versions_are_exact_and_extras_have_reasons():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    core, extras = text.split("# Extras.")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.match(r"[a-z0-9]+==[\d.]+( |$)", line) for line in lines)
    packages = listed("requirements.txt")
    assert all(f"\n{name}==" in extras and packages[name] for name in EXTRAS)
    assert all(f"\n{name}==" in core for name in packages.keys() - set(EXTRAS))


def test_stages_begin_without_the_extras():
    """What SFT, candidates and DPO import when they begin."""
    code = "import sys, sft, gen_candidates, dpo, kto; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert not {name.split(".")[0] for name in ended.stdout.split()} & set(EXTRAS)


WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in {missing!r} else find(name, path, target)


PathFinder.find_spec = staticmethod(find_others)
sys.argv[0] = {script!r} + ".py"
runpy.run_path({path!r}, run_name="__main__")
"""


def run_without(missing, script, *words):
    """A stage where some libraries are not installed."""
    path = str(ROOT / f"{script}.py")
    code = WITHOUT.format(missing=missing, script=script, path=path)
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_training_and_its_warning_without_extras(base, tmp_path):
    data = write(tmp_path / "sft.jsonl", sft_rows(20))
    words = ["--model", base, "--data", data, "--out", tmp_path / "run", "--max-steps", 1]
    ended = run_without(EXTRAS, "sft", *words)
    assert ended.returncode == 0, ended.stderr
    assert (
        "could not be drawn (it needs matplotlib, which is not installed: pip install"
        in ended.stdout
    )
    assert json.loads((tmp_path / "run/run.json").read_text())["finished"]


def test_an_endpoint_without_its_library_is_one_line(tmp_path):
    data = write(tmp_path / "p.jsonl", [{"prompt": text_of(1, 4)}])
    words = ["--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--data", data]
    ended = run_without(["openai"], "gen_candidates", *words, "--out", tmp_path / "c.jsonl")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    expected = "gen_candidates.py: this needs openai, which is not installed: pip install openai"
    assert ended.stderr.splitlines()[-1] == expected


def test_the_gate_without_its_statistics_is_one_line_and_no_block():
    ended = run_without(["scipy"], "gate", "--power", "--suite", ROOT / "data/gate")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    expected = "gate.py: this needs scipy, which is not installed: pip install scipy"
    assert ended.stderr.splitlines()[-1] == expected


def test_missing_library_of_a_stage(capsys):
    def main(args):
        raise ModuleNotFoundError("No module", name="a_library.part")

    with pytest.raises(SystemExit) as ended:
        run_stage(main, None)
    assert ended.value.code == 2
    assert (
        "this needs a_library, which is not installed: pip install a_library\n"
        in capsys.readouterr().err
    )


def test_a_library_without_a_name_is_a_crash(capsys):
    """There is nothing to install."""

    def main(args):
        raise ModuleNotFoundError("planted")

    with pytest.raises(SystemExit) as ended:
        run_stage(main, None)
    assert ended.value.code == 70 and "ModuleNotFoundError: planted" in capsys.readouterr().err


def test_a_curve_that_cannot_be_drawn_costs_no_run(tmp_path, capsys):
    curves.curves(tmp_path)
    assert "could not be drawn (FileNotFoundError" in capsys.readouterr().out
