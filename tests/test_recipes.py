"""The recipes of docs/recipes.md, executed as they are written, each on a copy of the tree.

Three kinds of sentences stand above a block of code: "In `FILE`, above `LINE`:" and "In `FILE`,
below `LINE`:" insert it beside the line that begins so; "Save as `FILE`:" makes a file. A console
block has commands behind `$ `; the lines under one must occur in what it prints.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

BLOCK = re.compile(r"([^\n]*)\n\n```(python|console|jsonl|markdown)\n(.*?)```\n", re.DOTALL)
INSERT = re.compile(r"In `([^`]+)`, (above|below) `([^`]+)`:")
SAVE = re.compile(r"Save as `([^`]+)`:")


def recipes(text):
    """{title: [(sentence above, kind of block, block), ...]} of a page, by its second headings."""
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    pages = {}
    for part in parts:
        title, _, body = part.partition("\n")
        pages[title] = BLOCK.findall(body)
    return pages


RECIPES = recipes((ROOT / "docs/recipes.md").read_text(encoding="utf-8"))


def insert(text, side, beginning, block):
    """The text with a block above or below its one line that begins so."""
    lines = text.splitlines(keepends=True)
    places = [n for n, line in enumerate(lines) if line.startswith(beginning)]
    assert len(places) == 1, f"{beginning!r} begins {len(places)} lines"
    place = places[0] + (1 if side == "below" else 0)
    return "".join([*lines[:place], block, *lines[place:]])


def steps(block):
    """[(command, [lines that it must print]), ...] of a console block."""
    commands = []
    for line in block.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif line.strip():
            commands[-1][1].append(line.strip())
    return commands


def run(command, folder):
    """A command of a recipe in a copy of the tree -> what it printed."""
    assert command.startswith("python "), command
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, f"{command}\n{printed[-3000:]}"
    return printed


def test_recipes_are_read():
    page = "# x\n## A\nIn `f.py`, above `X =`:\n\n```python\na = 1\n```\n\nRun:\n\n```console\n$ python f.py\nok\n```\n"
    assert recipes(page) == {
        "A": [
            ("In `f.py`, above `X =`:", "python", "a = 1\n"),
            ("Run:", "console", "$ python f.py\nok\n"),
        ]
    }
    assert insert("X = 1\nY = 2\n", "below", "X =", "Z = 3\n") == "X = 1\nZ = 3\nY = 2\n"
    assert steps("$ python f.py\nok\n\nsure\n") == [("python f.py", ["ok", "sure"])]
    assert RECIPES.keys() >= {"A loss on pairs"}
    written = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").count("\n```\n")
    assert sum(map(len, RECIPES.values())) == written, "every block is read"


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_it_is_written(title, tmp_path):
    skip = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache")
    folder = tmp_path / "copy of the kit"
    shutil.copytree(ROOT, folder, ignore=skip)
    for sentence, kind, block in RECIPES[title]:
        if kind == "console":
            for command, expected in steps(block):
                printed = run(command, folder)
                for line in expected:
                    assert line in printed, f"{command}\nprints no {line!r}:\n{printed[-3000:]}"
        elif found := INSERT.search(sentence):
            path = folder / found[1]
            path.write_text(
                insert(path.read_text(encoding="utf-8"), found[2], found[3], block),
                encoding="utf-8",
            )
        elif found := SAVE.search(sentence):
            (folder / found[1]).write_text(block, encoding="utf-8")
        else:
            raise AssertionError(f"what to do with the block under {sentence!r}?")
