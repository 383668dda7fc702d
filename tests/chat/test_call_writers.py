"""The generator of native calls says what it was given, and its measuring notices every kind of fault.

The small inverses here each know the format and trust the text: they show that a format expresses the values which
the generator draws for it. No reader of the kit stands behind them.
"""

import ast
import json
import random
import re
from types import SimpleNamespace

import call_formats
import native_calls
import pytest
from call_formats import FORMATS, call_begins, formats, template_folder
from honest_answers import HONEST
from native_calls import FAULTS, NASTY, measure, random_case, report, same, table_lines, types_of

# ---- writers, read back --------------------------------------------------------------------------


def json_arguments(case, text):
    """The arguments of the first call, where JSON opens behind the marker."""
    begin = call_begins(case.style, text)[1]
    opening = re.compile(case.style.arguments_at).search(text, begin)
    return json.JSONDecoder().raw_decode(text, opening.end() - 1)[0]


JSON_WORDS = {"true": True, "false": False, "null": None}


class PythonWords(ast.NodeTransformer):
    """LFM2 writes JSON inside Python."""

    def visit_Name(self, node):
        return ast.Constant(JSON_WORDS[node.id]) if node.id in JSON_WORDS else node


def python_arguments(case, text):
    code = text[call_begins(case.style, text)[0] :]
    for mark in (
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "```tool_code",
        "```",
        "<|python_tag|>",
    ):
        code = code.removeprefix(mark).removesuffix(mark).strip()
    tree = ast.parse(code)
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call))
    name = ast.unparse(call.func).removesuffix(".call")
    assert name == case.calls[0]["name"]
    values = {}
    for pair in call.keywords:
        values[pair.arg] = ast.literal_eval(PythonWords().visit(pair.value))
    return values


def gemma_arguments(case, text):
    """Strings stand between <|"|>; what is left is JSON whose keys have no quotes."""
    inside = text[text.index("{", call_begins(case.style, text)[1]) :]
    parts = inside.split('<|"|>')
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = json.dumps(part)
        else:
            keys_quoted = re.sub(r"([\w-]+):", r'"\1":', part)
            parts[number] = keys_quoted.replace(":None", ":null")
    return json.JSONDecoder().raw_decode("".join(parts))[0]


PAIRS = {
    "<minimax:tool_call>": r'<parameter name="([^"]+)">(.*?)</parameter>',
    r"<tool_call>\n<function=": r"<parameter=([^>]+)>\n(.*?)\n</parameter>",
    "<tool_call>": r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>",
    "<atem:function_calls>": r'<atem:parameter name="([^"]+)">(.*?)</atem:parameter>',
}
WORDS = {"True": "true", "False": "false", "None": "null"}


def tagged_arguments(case, text):
    """Values without types: the schema says which they are."""
    values = {}
    for key, value in re.findall(PAIRS[case.style.marker], text, re.DOTALL):
        types = types_of(case.schema()[key])
        word = WORDS.get(value, value)
        if "string" not in types or "null" in types and word == "null":
            value = json.loads(word)
        values[key] = value
    return values


INVERSES = {
    "json": json_arguments,
    "python": python_arguments,
    "gemma": gemma_arguments,
    "tags": tagged_arguments,
}


@pytest.mark.parametrize("name", list(formats()))
def test_what_is_written_can_be_read_back(name):
    for seed in range(60):
        case = random_case(random.Random(seed), name)
        case = case._replace(calls=case.calls[:1])
        text = case.text()
        is_json = case.style.kind == "json" or '"parameters":' in text and "python_tag" in text
        inverse = json_arguments if is_json else INVERSES[case.style.kind]
        assert case.calls[0]["name"] in text
        assert same(inverse(case, text), case.calls[0]["arguments"]), text


@pytest.mark.parametrize("name", list(formats()))
def test_several_calls_stand_in_order(name):
    for seed in range(20):
        case = random_case(random.Random(seed), name)
        text = case.text()
        begin = 0
        for call in case.calls:
            begin = text.index(call["name"], begin) + 1
        assert text.count(case.habits.prose.strip()) >= 1 and not text.startswith("<think>")


def test_a_seed_gives_the_same_text():
    for name in formats():
        assert len({random_case(random.Random(3), name).text() for _ in range(2)}) == 1


def test_every_template_with_calls_is_used():
    """A new family in TRL gets a format here."""
    if not template_folder():
        pytest.skip("TRL is not installed")
    used = set()
    for style in FORMATS.values():
        used |= set(style.templates)
    dropped = {"deepseek_r1_distill"}  # writes no call beside a text
    for path in template_folder().glob("*.jinja"):
        is_training = path.stem.endswith("_training")
        if not is_training and "tool_calls" in path.read_text(encoding="utf-8"):
            if path.stem not in dropped and path.stem not in {"lfm2", "idefics3"}:
                assert path.stem in used, path.name


def test_limits_are_few():
    """Formats with JSON express every value."""
    for name, style in formats().items():
        missing = native_calls.inexpressible(style)
        assert len(missing) <= len(NASTY) / 3, name
        assert not missing or style.kind != "json", name
    assert len(native_calls.limit_lines()) == 2 + len(formats())


def test_honest_answers_are_many_and_differ():
    assert len(HONEST) == len(set(HONEST)) >= 60


def test_values_are_compared_with_their_types():
    assert same({"a": [1, "x", None]}, {"a": [1.0, "x", None]})
    for left, right in [(1, "1"), (1, True), (0, False), (None, "null"), ([], {}), ([1], [1, 1])]:
        assert not same(left, right)
    assert not same({"a": 1}, {"a": 1, "b": 2})


# ---- the measuring -------------------------------------------------------------------------------


class Oracle:
    """Remembers what was written, so it reads every whole text rightly and refuses the rest."""

    def __init__(self, monkeypatch):
        self.texts = {}
        self.prose = {}

        def remember(style, calls, habits):
            text = call_formats.written(style, calls, habits)
            self.texts[self.plain(text)] = calls
            self.prose[self.plain(text)] = habits.prose
            return text

        monkeypatch.setattr(native_calls, "written", remember)

    def plain(self, text):
        for style in FORMATS.values():
            for end in (*style.ends, "<|eom|>"):
                text = text.removesuffix(end)
        return text.strip()

    def calls_of(self, text):
        if text in HONEST:
            return []
        if self.plain(text) not in self.texts:
            raise ValueError("malformed")
        return self.texts[self.plain(text)]

    def read_calls(self, text, tools):
        prose = self.prose.get(self.plain(text), text)
        return SimpleNamespace(prose=prose, calls=self.calls_of(text))

    def check_call(self, message, call, tools):
        try:
            calls = self.read_calls(message["content"], tools).calls
        except ValueError:
            return False
        if call is None:
            return not calls
        return same(calls, [call])


@pytest.fixture
def oracle(monkeypatch):
    return Oracle(monkeypatch)


def test_a_right_reader_has_no_faults(oracle):
    tally = measure(oracle.read_calls, oracle.check_call, 300)
    assert not tally.faults(), report(tally)
    assert tally.total("right") == tally.total("calls") == 300
    lines = table_lines(tally)
    assert lines[0].startswith("| format | calls | right |") and lines[-1].startswith(
        "| all | 300 |"
    )
    assert len(lines) == 2 + len(formats()) + 2


def reads_nothing(oracle, text, tools):
    return []


def refuses_all(oracle, text, tools):
    raise ValueError("no")


def repairs(oracle, text, tools):
    """What is malformed becomes the call that was written last."""
    try:
        return oracle.calls_of(text)
    except ValueError:
        return list(oracle.texts.values())[-1]


def loses_types(oracle, text, tools):
    calls = []
    for call in oracle.calls_of(text):
        values = {key: str(value) for key, value in call["arguments"].items()}
        calls.append({"name": call["name"], "arguments": values})
    return calls


def hides_damage(oracle, text, tools):
    try:
        return oracle.calls_of(text)
    except ValueError:
        return []


def sees_calls_everywhere(oracle, text, tools):
    return oracle.calls_of(text) or [{"name": "f", "arguments": {}}]


def crashes(oracle, text, tools):
    raise KeyError("name")


FAULTY = [
    (reads_nothing, {"none", "damage unseen", "unwanted accepted", "changed misread", "verdict"}),
    (refuses_all, {"refused", "honest refused", "changed misread", "verdict"}),
    (repairs, {"damage read", "damage accepted"}),
    (loses_types, {"another", "changed misread", "verdict"}),
    (hides_damage, {"damage unseen", "unwanted accepted"}),
    (sees_calls_everywhere, {"honest called", "prose"}),
    (crashes, {"crash"}),
]


@pytest.mark.parametrize(
    ("read", "faults"), FAULTY, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_faulty_reader_is_noticed(oracle, read, faults):
    right = oracle.check_call

    def read_calls(text, tools):
        return SimpleNamespace(prose="", calls=read(oracle, text, tools))

    def check_call(message, call, tools):
        return False if read is crashes else right(message, call, tools)

    oracle.read_calls = read_calls
    tally = measure(read_calls, check_call, 150)
    assert faults <= tally.faults().keys() <= FAULTS.keys()
    assert FAULTS[min(faults)] in report(tally)


def test_a_check_that_takes_any_call_is_noticed(oracle):
    tally = measure(oracle.read_calls, lambda message, call, tools: True, 60)
    faults = {"changed accepted", "damage accepted", "unwanted accepted", "verdict"}
    assert faults <= tally.faults().keys()
