"""README.md and docs/: short, true about where things are, without dead links."""

import ast
import re

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACE = re.compile(r"`([\w/]+\.py): (\w+)`")


def text_of_page(path):
    return path.read_text(encoding="utf-8")


def places():
    """(file, name) of every entry in the recipes' table of what is where."""
    _, _, rest = text_of_page(ROOT / "docs/recipes.md").partition("| what | where |")
    table, _, _ = rest.partition("\n\n")
    return PLACE.findall(table)


def names_of(path):
    """Names that a file binds at its top: functions, classes, values."""
    names = set()
    for node in ast.parse(text_of_page(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


@pytest.mark.parametrize(("file", "name"), places())
def test_what_the_readme_points_to_is_there(file, name):
    assert name in names_of(ROOT / file)


def test_the_table_names_what_readers_look_for():
    words = text_of_page(ROOT / "docs/recipes.md").partition("| what | where |")[2]
    assert len(places()) >= 12
    for word in ("mask", "shift", "schedule", "LoRA", "before step 1", "judge reads", "score"):
        assert word in words
    for word in ("pair", "slice's verdict", "price"):
        assert word in words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of_page(path)):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_pages_name_exist(path):
    """Scripts and folders in code spans; what a run makes (runs/...) comes later."""
    text = text_of_page(path)
    for name in re.findall(r"`((?:bench|labs|data|docs|tests|posttrain)/[\w/.-]+)`", text):
        made_there = f"Save as `{name}`" in text
        assert made_there or (ROOT / name).exists(), name


def test_the_readme_is_for_the_first_minutes():
    lines = text_of_page(ROOT / "README.md").splitlines()
    assert len(lines) <= 160
    assert all(len(line) <= 130 for line in lines if not line.startswith(("    python", "|")))
    assert any("make demo" in line for line in lines[:35]), (
        "the two commands are on the first screen"
    )
