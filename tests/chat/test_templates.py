"""Every chat template that TRL ships, and ten more: what goes in comes out, and is read back as what it was.

    python tests/chat/test_templates.py       prints the table template x case

A cell is "right", "refused" (with the reason: the row would be dropped and counted), or what is wrong.
"""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import make_tokenizer

from posttrain.chat.calls import read_calls
from posttrain.chat.encode import encode, encode_all_turns, prompt_ids
from posttrain.chat.stops import stop_ids
from posttrain.chat.thoughts import split_thought

# Layouts that TRL does not ship, in our own words.
SAMPLES = {
    # Definitions stand in the system message; a `tool` message has a header and no special treatment.
    "phi_4_mini": (
        "{% for m in messages %}{% if m.role == 'system' and m.tools is defined %}"
        "<|system|>{{ m.content }}<|tool|>{{ m.tools }}<|/tool|><|end|>"
        "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
    ),
    # Only three roles are written; what a tool says is left out.
    "phi_4": (
        "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}"
        "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    ),
    # Strict turns, ids of nine characters, the call as a JSON list.
    "mistral_v3": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
        "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "{% for m in turns %}{% if m.role == 'user' %}"
        "[INST] {% if loop.first and system is defined %}{{ system }}\n\n{% endif %}{{ m.content }}[/INST]"
        "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
        "{% if c.id is not defined or c.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
        "{{ ', ' if not loop.last else '' }}{% endfor %}]{{ eos_token }}"
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS] "
        '{"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
        "{% else %}{{ raise_exception('only user, tool and assistant roles') }}{% endif %}{% endfor %}"
    ),
    # The function's name stands in the id alone.
    "kimi_k2": (
        "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}"
        "{% for m in messages %}<|im_{{ 'user' if m.role in ['user', 'tool'] else m.role }}|>{{ m.role }}<|im_middle|>"
        "{% if m.role == 'tool' %}## Return of {{ m.tool_call_id }}\n{% endif %}{{ m.content }}"
        "{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}"
        "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>"
        "{% endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
    ),
    # A thought in every turn, be it empty, and in no prompt.
    "kimi_k2_thinking": (
        "{{ tools | tojson if tools else '' }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>\n"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
        "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Answers between marks, and one more turn is always opened.
    "command_r7b": (
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ messages[0].content if messages[0].role == 'system' }}"
        "{{ tools | tojson if tools else '' }}<|END_OF_TURN_TOKEN|>{% for m in messages %}{% if m.role == 'user' %}"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>{% elif m.role == 'tool' %}"
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>{{ m.content }}<|END_TOOL_RESULT|>"
        "<|END_OF_TURN_TOKEN|>{% elif m.role == 'assistant' %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
        "{% if m.tool_calls %}<|START_ACTION|>[{% for c in m.tool_calls %}"
        '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.function.name }}", '
        '"parameters": {{ c.function.arguments | tojson }}}{{ ", " if not loop.last }}{% endfor %}]<|END_ACTION|>'
        "{% else %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>"
        "{% endif %}{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    ),
    # What follows a result stands in the turn that called; the prompt opens another one all the same.
    "apertus": (
        "{{ tools | tojson if tools else '' }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% if messages[loop.index0 - 1].role != 'tool' %}<|assistant_start|>{% endif %}{{ m.content }}"
        "{% if m.tool_calls %}<|tools_prefix|>[{% for c in m.tool_calls %}"
        '{"{{ c.function.name }}": {{ c.function.arguments | tojson }}}{{ ", " if not loop.last }}'
        "{% endfor %}]<|tools_suffix|>{% else %}<|assistant_end|>{% endif %}"
        "{% elif m.role == 'tool' %}[{{ m.content }}]"
        "{% else %}<|{{ m.role }}_start|>{{ m.content }}<|{{ m.role }}_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant_start|>{% endif %}"
    ),
    # The prompt ends in a line break where turns have a space; calls are not closed.
    "granite_20b": (
        "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ m.role | upper }}: {{ m.content }}"
        "{% for c in m.tool_calls or [] %}<function_call> "
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
        "{% endfor %}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
    ),
}
# The system turn stands in the user's that is the last of all messages: with an answer, nowhere.
SAMPLES["mistral_v3_last"] = SAMPLES["mistral_v3"].replace(
    "loop.first and system", "loop.last and system"
)
# Arguments are joined as they are: as Python prints them, if they are no text.
SAMPLES["phi_4_mini_calls"] = SAMPLES["phi_4_mini"].replace(
    "{{ m.content }}<|end|>{% endif %}{% endfor %}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}<|tool_call|>"
    '[{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments }}}]<|/tool_call|>'
    "{% endfor %}<|end|>{% endif %}{% endfor %}",
)

# The end-of-sequence token of each family, by the start of its name.
END_TOKENS = {
    "apertus": "<|assistant_end|>",
    "command": "<|END_OF_TURN_TOKEN|>",
    "granite": "<|endoftext|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma4": "<turn|>",
    "gemma": "<end_of_turn>",
    "glm": "<|endoftext|>",
    "gptoss": "<|return|>",
    "idefics": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>",
    "llama3": "<|eot_id|>",
    "llava": "</s>",
    "mistral": "</s>",
    "muse": "<|eot|>",
    "phi_4_mini": "<|end|>",
    "phi3": "<|endoftext|>",
}
# Tokens that templates write: <|x|>, <｜x｜>, <|x>, <x|>, <x_y>, [X].
TOKENS = re.compile(
    r"<\|[\w/]+\|>|<｜[\w▁]+｜>|<\|[a-z_]+>|<[a-z_]+\|>|</?(?:think|tool_call|start_of_turn|end_of_turn|"
    r"end_of_utterance)>|\[/?[A-Z_]+\]"
)


def templates():
    """{name: text} of all templates."""
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    return texts | SAMPLES


def tokenizer_for(name, template):
    """A small tokenizer that has the tokens of a template."""
    end = "<|im_end|>"
    for start, token in END_TOKENS.items():
        if name.startswith(start):
            end = token
            break
    tokenizer = make_tokenizer()
    names = sorted({*TOKENS.findall(template), end})
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.eos_token = end
    tokenizer.bos_token = "<|begin|>"
    tokenizer.chat_template = template
    return tokenizer


# ---- the cases ------------------------------------------------------------------------------------------------------

PROPERTIES = {
    "harbour": {"type": "string", "description": "NAMEOFPORT"},
    "days": {"type": "integer"},
    "flag": {"type": "boolean"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_tide",
            "description": "TIDELEVEL",
            "parameters": {"type": "object", "properties": PROPERTIES, "required": ["harbour"]},
        },
    }
]
ARGUMENTS = {"harbour": "Husum Nord 7", "days": 3, "flag": True}
CALL = {"name": "get_tide", "arguments": ARGUMENTS}
OTHER_CALL = {"name": "get_tide", "arguments": {"harbour": "Emden"}}
SYSTEM = {"role": "system", "content": "BEBRIEF"}
USER = {"role": "user", "content": "HOWHIGH"}
SECOND = {"role": "user", "content": "ANDNOW"}
RESULT = {"role": "tool", "tool_call_id": "call_1", "name": "get_tide", "content": "LEVEL 3.4"}


def answer(text="It is high.", **more):
    return {"role": "assistant", "content": text, **more}


def calling(*calls, text=""):
    wrapped = []
    for number, call in enumerate(calls, 1):
        wrapped.append({"id": f"call_{number}", "type": "function", "function": call})
    return answer(text, tool_calls=wrapped)


class Wrong(Exception):
    """What is wrong in a cell."""


def need(condition, what):
    if not condition:
        raise Wrong(what)


def trained_texts(tokenizer, row):
    """The supervised stretches of a row, each without its stop token."""
    texts = []
    stretch = []
    for token, mark in zip(row["ids"] + [None], row["mask"] + [0]):
        if mark:
            stretch.append(token)
        elif stretch:
            need(stretch[-1] in stop_ids(tokenizer), "no stop token at the end")
            need(not {*stretch[:-1]} & {*stop_ids(tokenizer)}, "a stop token within")
            texts.append(tokenizer.decode(stretch[:-1]))
            stretch = []
    return texts


def checked(tokenizer, prompt, message, tools, think, *, shows):
    """Encode a row, check what holds for all of them -> the text that is trained on."""
    row = encode(tokenizer, prompt, [message], tools, think=think)
    thinks = think and bool(message.get("reasoning_content"))
    before = prompt_ids(tokenizer, prompt, tools, think=thinks)
    need(row["ids"][: len(before)] == before, "the prompt is not that of generation")
    need(row["mask"].index(1) == len(before), "the mask does not begin behind the prompt")
    need(all(row["mask"][len(before) :]), "the answer is not supervised whole")
    text = tokenizer.decode(before)
    for mark in shows:
        need(mark in text, f"{mark} has vanished")
    [trained] = trained_texts(tokenizer, row)
    return trained


def speaks(tokenizer, prompt, *, message=None, tools=None, think=False, shows=("HOWHIGH",)):
    """A row whose answer is text: that text alone is trained on."""
    message = message or answer()
    trained = checked(tokenizer, prompt, message, tools, think, shows=shows)
    parts = split_thought(trained)
    need(parts.visible.strip() == message["content"], f"trained on {parts.visible!r}")
    thought = message.get("reasoning_content", "") if think else ""
    need(parts.thought == thought, f"the thought is {parts.thought!r}")
    need(thought or "think" not in trained, "an empty thought is trained on")


def calls(tokenizer, message, *, think=False):
    """A row whose answer calls tools: the trained text is read as these calls."""
    shows = ("HOWHIGH", "get_tide", "TIDELEVEL", "harbour")
    trained = checked(tokenizer, [USER], message, TOOLS, think, shows=shows)
    parts = split_thought(trained)
    reading = read_calls(parts.visible, TOOLS)
    need(reading.calls == [call["function"] for call in message["tool_calls"]], str(reading.calls))
    # gpt-oss writes what is said before a call as a thought.
    need(message["content"] in (reading.prose, parts.thought), f"said {reading.prose!r}")


def plain(tokenizer):
    speaks(tokenizer, [USER])


def system(tokenizer):
    speaks(tokenizer, [SYSTEM, USER], shows=("BEBRIEF", "HOWHIGH"))


def several_turns(tokenizer):
    speaks(tokenizer, [USER, answer("Low."), SECOND], shows=("HOWHIGH", "Low.", "ANDNOW"))


def all_turns(tokenizer):
    """Whatever stands before a turn is what generation would see."""
    rows = encode_all_turns(tokenizer, [USER, answer("Low."), SECOND, answer()])
    texts = []
    for row in rows:
        texts += trained_texts(tokenizer, row)
    shown = [split_thought(text).visible.strip() for text in texts]
    need(shown == ["Low.", "It is high."], str(shown))
    read = [tokenizer.decode(row["ids"]) for row in rows]
    for prompt in ([USER], [USER, answer("Low."), SECOND]):
        text = tokenizer.decode(prompt_ids(tokenizer, prompt))
        need(any(row.startswith(text) for row in read), "a prompt is another")


def definition(tokenizer):
    shows = ("HOWHIGH", "get_tide", "TIDELEVEL", "harbour")
    speaks(tokenizer, [USER], tools=TOOLS, shows=shows)
    speaks(tokenizer, [SYSTEM, USER], tools=TOOLS, shows=(*shows, "BEBRIEF"))


def call(tokenizer):
    calls(tokenizer, calling(CALL))


def two_calls(tokenizer):
    calls(tokenizer, calling(CALL, OTHER_CALL))


def prose_and_call(tokenizer):
    calls(tokenizer, calling(CALL, text="I look it up."))


def result(tokenizer):
    shows = ("HOWHIGH", "get_tide", "Husum Nord 7", "LEVEL 3.4")
    bare = {"role": "tool", "content": "LEVEL 3.4"}
    for message in (RESULT, bare):
        speaks(tokenizer, [USER, calling(CALL), message], tools=TOOLS, shows=shows)


def call_and_result(tokenizer):
    """Both turns of a conversation with a tool are trained on, and the tool's own is not."""
    messages = [USER, calling(CALL), RESULT, answer()]
    texts = []
    for row in encode_all_turns(tokenizer, messages, TOOLS):
        texts += trained_texts(tokenizer, row)
    need(len(texts) == 2, f"{len(texts)} turns")
    need(read_calls(split_thought(texts[0]).visible, TOOLS).calls == [CALL], texts[0])
    need(split_thought(texts[1]).visible.strip() == "It is high.", texts[1])


def thought(tokenizer):
    message = answer(reasoning_content="Let me see.")
    speaks(tokenizer, [USER], message=message, think=True)
    speaks(tokenizer, [USER], message=message, think=False)
    speaks(tokenizer, [USER], message=answer(), think=True)


def result_and_thought(tokenizer):
    message = answer(reasoning_content="Let me see.")
    shows = ("HOWHIGH", "LEVEL 3.4")
    prompt = [USER, calling(CALL), RESULT]
    speaks(tokenizer, prompt, message=message, tools=TOOLS, think=True, shows=shows)


def thought_and_call(tokenizer):
    message = calling(CALL) | {"reasoning_content": "Let me see."}
    calls(tokenizer, message, think=True)
    calls(tokenizer, message, think=False)


CASES = {
    "plain": plain,
    "system": system,
    "several turns": several_turns,
    "all turns": all_turns,
    "tool definition": definition,
    "tool call": call,
    "two calls": two_calls,
    "prose and call": prose_and_call,
    "tool result": result,
    "call and result": call_and_result,
    "thought": thought,
    "thought and call": thought_and_call,
    "result and thought": result_and_thought,
}


def outcome(name, template, case):
    """ "right", "refused: REASON", or "WRONG: WHAT"."""
    tokenizer = tokenizer_for(name, template)
    try:
        CASES[case](tokenizer)
    except Wrong as wrong:
        return f"WRONG: {wrong}"
    except ValueError as reason:
        return f"refused: {reason}"
    return "right"


# What a template cannot express, by the start of its name and case: the reason that is given.
BESIDE = "the chat template drops the text of the role assistant beside a tool call"
HEADER = "the chat template's prompt does not open the assistant's turn"
REFUSED = {
    (
        "diffusion_gemma",
        "prose and call",
    ): "the chat template drops the order of text and tool call",
    ("diffusion_gemma", "tool result"): HEADER,
    ("diffusion_gemma", "call and result"): HEADER,
    ("diffusion_gemma", "result and thought"): HEADER,
    ("gemma4", "prose and call"): "the chat template drops the order of text and tool call",
    ("gptoss", "two calls"): (
        "the chat template drops the name of a called tool and the arguments of a tool call"
    ),
    ("llama3_1", "two calls"): (
        "the chat template refuses these messages (This model only supports single tool-calls at once!)"
    ),
    ("llama3_1", "prose and call"): BESIDE,
    ("llama3_2", "two calls"): (
        "the chat template refuses these messages (This model only supports single tool-calls at once!)"
    ),
    ("llama3_2", "prose and call"): BESIDE,
    ("muse_glimmer", "prose and call"): BESIDE,
    ("mistral_v3", "prose and call"): BESIDE,
    ("command_r7b", "prose and call"): BESIDE,
}


@pytest.mark.parametrize(("name", "template"), templates().items(), ids=templates())
def test_what_goes_in_comes_out(name, template):
    cells = {}
    expected = {}
    for case in CASES:
        cells[case] = outcome(name, template, case)
        expected[case] = "right"
        for (start, refused_case), reason in REFUSED.items():
            if name.startswith(start) and refused_case == case:
                expected[case] = f"refused: {reason}"
    assert cells == expected


def test_all_templates_are_there():
    """TRL 1.16 ships 72 files; at least nine in ten cells are right, and no reason is given for nothing."""
    assert len(templates()) >= 72 + len(SAMPLES)
    cells = len(templates()) * len(CASES)
    refused = 0
    for name in templates():
        for start, _ in REFUSED:
            refused += name.startswith(start)
    assert refused < 0.1 * cells


def print_table():
    """The table for bench/RESULTS.md, and the reasons of what is refused."""
    reasons = {}
    rows = 0
    right = 0
    print("| template | " + " | ".join(CASES) + " |")
    print("|---" * (len(CASES) + 1) + "|")
    for name, template in templates().items():
        cells = []
        for case in CASES:
            cell = outcome(name, template, case)
            rows += 1
            right += cell == "right"
            if cell == "right":
                cells.append("✓")
            else:
                number = reasons.setdefault(cell, len(reasons) + 1)
                cells.append(f"{cell.split(':')[0]} {number}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()
    for reason, number in reasons.items():
        print(f"{number}. {reason}")
    print(f"\n{right} of {rows} cells right")


if __name__ == "__main__":
    print_table()
