"""The constitution: what is read of it, and what is refused."""

import pytest
from conftest import ROOT
from judge_samples import GOOD, TEXT

from posttrain.cli import BadInput
from posttrain.judging.constitution import overall_score, read_constitution, rubric_for


@pytest.fixture(scope="module")
def constitution(tmp_path_factory):
    path = tmp_path_factory.mktemp("constitution") / "c.md"
    path.write_text(TEXT)
    return str(path)


def test_read_constitution(constitution):
    read = read_constitution(constitution)
    assert read["name"] == "test" and len(read["hash"]) == 12
    true, kind, safe = read["criteria"]
    assert true == {
        "name": "true",
        "weight": 3.0,
        "slices": ["math", "code"],
        "veto": None,
        "text": "Is it true?\n0: no\n3: mostly\n5: yes\n",
    }
    assert (kind["weight"], kind["slices"], kind["veto"]) == (1.0, None, None)
    assert (safe["weight"], safe["slices"], safe["veto"]) == (1.0, None, 1.5)


@pytest.mark.parametrize("name", ["data/constitution.md", "data/tiny/constitution.md"])
def test_the_constitutions_that_ship(name):
    if not (ROOT / name).exists():
        pytest.skip(f"no {name}")
    read = read_constitution(ROOT / name)
    assert read["criteria"] and all(c["weight"] > 0 for c in read["criteria"])
    assert "# " not in "".join(c["text"] for c in read["criteria"])


def test_another_text_is_another_hash(tmp_path, constitution):
    other = tmp_path / "c.md"
    other.write_text(TEXT.replace("mostly", "nearly"))
    assert read_constitution(other)["hash"] != read_constitution(constitution)["hash"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("## a (weight three)\n" + GOOD, 1),
        ("# t\n\n## a (wieght 3)\n" + GOOD, 3),
        ("## a (weight 3\n" + GOOD, 1),
        ("## two words\n" + GOOD, 1),
        ("## \n", 1),
        ("## a\n" + GOOD + "## a\n" + GOOD, 5),
        ("## a\n" + GOOD + "##b (weight 2)\n" + GOOD, 5),
        ("## a (weight 0)\n" + GOOD, 1),
        ("## a (veto below x)\n" + GOOD, 1),
        ("## a (veto below 7)\n" + GOOD, 1),
        ("## a (weight 2; weight 3)\n" + GOOD, 1),
        ("## a\n" + GOOD + "\n## b\nno anchors\n", 6),
        ("# t\n## a\nq\n5: y\n3: m\n0: n\n", 2),
        ("## a\nq\n0: n\n5: y\n", 1),
        ("## a\nq\n0: n\n3: m\n", 1),
        ("## a\nq\n1: n\n3: m\n5: y\n", 1),
        ("## a\nq\n0: n\n3: m\n4: y\n", 1),
        ("## a\n0: n\n3: m\n5: y\n", 1),
        ("## a\nq\n0: n\n3: m\n3: m\n5: y\n", 1),
        ("# one\n# two\n## a\n" + GOOD, 2),
        ("## a\n" + GOOD + "# late\n", 5),
        ("# only a title\n", 1),
        ("", 1),
    ],
)
def test_a_bad_constitution_names_its_line(tmp_path, text, line):
    path = tmp_path / "c.md"
    path.write_text(text)
    with pytest.raises(BadInput, match=rf"c\.md:{line}: "):
        read_constitution(path)


def test_a_constitution_that_cannot_be_read(tmp_path):
    (tmp_path / "c.md").write_bytes(b"## a\n\xff\xfe\n")
    for path in (tmp_path / "none.md", tmp_path, tmp_path / "c.md"):
        with pytest.raises(BadInput, match=str(path)):
            read_constitution(path)


def test_a_short_constitution_asks_the_questions_alone(tokenizer, constitution):
    read, short = read_constitution(constitution), read_constitution(constitution, short=True)
    assert [c["text"] for c in short["criteria"]] == ["Is it true?\n", "Is it kind?\n", "Safe?\n"]
    assert short["hash"] == read["hash"] + "-short"


def read_text(tmp_path, text):
    path = tmp_path / "c.md"
    path.write_text(text)
    return read_constitution(path)


def test_blanks_mean_nothing(tmp_path):
    """Around names, options, slices and anchors, and lines between them."""
    tight = (
        "# Constitution: x y\n## a-1 (weight 2; slices: b,c; veto below 1.5)\nq?\n0: n 3: m\n5: y\n"
    )
    wide = (
        "\n#   Constitution:   x y  \n\n  ##  a-1  (  weight 2 ;  slices:  b ,  c ;;veto below 1.5 ; )  \n\n"
        "   q?  \n\n\t0: n 3: m\n\n  5: y  \n\n"
    )
    read = read_text(tmp_path, wide)
    assert read["name"] == "x y"
    assert read["criteria"] == read_text(tmp_path, tight)["criteria"]
    assert read["criteria"][0] == {
        "name": "a-1",
        "weight": 2.0,
        "slices": ["b", "c"],
        "veto": 1.5,
        "text": "q?\n0: n 3: m\n5: y\n",
    }


@pytest.mark.parametrize(
    ("options", "weight", "slices", "veto"),
    [
        ("", 1.0, None, None),
        (" ()", 1.0, None, None),
        (" (weight 0.5)", 0.5, None, None),
        (" (weight 2, slices: a, b)", 2.0, ["a", "b"], None),
        (" (slices: a, b, veto below 5)", 1.0, ["a", "b"], 5.0),
        (" (slice: a; weight 3)", 3.0, ["a"], None),
        (" (slices: all)", 1.0, None, None),
        (" (slices: a, all)", 1.0, None, None),
        ("(veto below 0)", 1.0, None, 0.0),
    ],
)
def test_options_of_a_criterion(tmp_path, options, weight, slices, veto):
    [criterion] = read_text(tmp_path, f"## a{options}\n{GOOD}")["criteria"]
    assert (criterion["weight"], criterion["slices"], criterion["veto"]) == (weight, slices, veto)


@pytest.mark.parametrize("options", ["slices: a,,b", "slices: a,", "slices:", "weight -1", "a: b"])
def test_options_that_mean_nothing_are_refused(tmp_path, options):
    with pytest.raises(BadInput, match=r"c\.md:1: "):
        read_text(tmp_path, f"## a ({options})\n{GOOD}")


def test_the_name_of_a_constitution_is_its_title_or_its_file(tmp_path):
    assert read_text(tmp_path, "# Constitution: a b\n## a\n" + GOOD)["name"] == "a b"
    assert read_text(tmp_path, "# a b\n## a\n" + GOOD)["name"] == "a b"
    assert read_text(tmp_path, "# Constitution:\n## a\n" + GOOD)["name"] == "c"
    assert read_text(tmp_path, "## a\n" + GOOD)["name"] == "c"


def test_a_criterion_is_for_its_slices_alone(tmp_path):
    read = read_text(tmp_path, "## a (slices: x)\n" + GOOD + "## b\n" + GOOD)
    for name, expected in (("x", ["a", "b"]), ("y", ["b"]), (None, ["b"])):
        criteria, text = rubric_for(read, name, [])
        assert [criterion["name"] for criterion in criteria] == expected
        assert text.count("q\n0: n") == len(expected)


@pytest.mark.parametrize(
    ("safe", "expected"), [(1.49, 1.0), (1.5, 4.125), (1.51, 4.1275), (None, None)]
)
def test_a_veto_is_met_below_its_number_and_not_at_it(safe, expected):
    criteria = [
        {"name": "true", "weight": 3.0, "veto": None},
        {"name": "safe", "weight": 1.0, "veto": 1.5},
    ]
    scores = {"true": {"score": 5.0}, "safe": {"score": safe}}
    assert overall_score(scores, criteria) == expected


def test_a_veto_never_lifts_a_score():
    criteria = [{"name": "safe", "weight": 1.0, "veto": 1.5}]
    assert overall_score({"safe": {"score": 0.25}}, criteria) == 0.25
    assert overall_score({"safe": {"score": 0.25}}, [criteria[0] | {"veto": 0.0}]) == 0.25
    assert overall_score({"other": {"score": 5.0}}, criteria) is None
