"""How models write tool calls: one writer for each format, from the formats' public definitions.

A writer takes calls, [{"name", "arguments"}, ...], and habits (spaces, order, quotes, which template of a
family), and gives the text that a model of the family writes. Families whose chat template TRL ships are rendered
with that template. No reader of the kit stands behind this file: it says what a right reader must read.
"""

import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

from conftest import make_tokenizer

# Any of these ends a turn. A sampler cuts it off; a text that was cut elsewhere may still have it.
CHATML_END = "<|im_end|>"
LLAMA_END = "<|eot_id|>"
DEEPSEEK_END = "<｜end▁of▁sentence｜>"

# Names that Python syntax cannot hold.
PYTHON_NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
PYTHON_KEY = r"(?!(?:from|class|import|in|is|not|and|or|if|None|True|False)$)[A-Za-z_]\w*"
ANY_NAME = r"[\w.-]+"


class Habits(NamedTuple):
    """How a text is laid out where a format leaves it open. The same habits give the same text."""

    prose: str = ""  # what stands before the call
    template: int = 0  # which of the family's templates
    compact: bool = False  # JSON without spaces
    escaped: bool = False  # JSON in pure ASCII
    indented: bool = False  # JSON over several lines
    name_last: bool = False  # "arguments" before "name"
    double_quotes: bool = False  # Python strings as "..." in place of '...'
    variant: bool = False  # the other of two ways that a format has

    def dumps(self, value):
        separators = (",", ":") if self.compact else None
        return json.dumps(
            value,
            ensure_ascii=self.escaped,
            separators=separators,
            indent=2 if self.indented else None,
        )


class Format(NamedTuple):
    """A way of writing calls, with what it cannot express and what belongs to it."""

    write: object  # (calls, habits) -> text
    marker: str  # regular expression of the text's first part that says "this is a call"
    kind: str = "json"  # "json", "python", "gemma" or "tags": how brackets and strings look
    arguments_at: str = r"\{"  # regular expression, after the marker, of what opens the arguments
    templates: tuple = ()  # names of TRL's template files; the template writes the prose too
    parallel: bool = True  # may several calls stand in one answer?
    prose: bool = True  # may text stand before the call?
    ends: tuple = ()  # tokens that end the turn
    optional_end: str = ""  # a closing marker that another format leaves out, or a sampler cuts off
    text_after: bool = True  # is text behind the call surely malformed?
    # What cannot be expressed.
    typed: bool = True  # does a value show its type, so that "5" and 5 differ?
    edges: bool = True  # is whitespace at the edges of a string parameter kept?
    none_is_a_word: bool = (
        False  # null is written as "None", which is a string parameter's text too
    )
    taboo: tuple = ()  # what no string may contain: the format's own tags
    raw_taboo: tuple = ()  # what a string parameter may not contain: it is not escaped
    names: str = ANY_NAME  # regular expression of tool names
    keys: str = ANY_NAME  # regular expression of parameter names
    plain_keys: bool = False  # do nested objects need plain keys?
    tags: tuple = ()  # closing tags


# ---- parts that several writers use --------------------------------------------------------------


def json_call(call, habits, names=("name", "arguments")):
    """A call as a JSON object, by hand so that indented arguments stay in one line with the name."""
    name = f'"{names[0]}": {habits.dumps(call["name"])}'
    arguments = f'"{names[1]}": {habits.dumps(call["arguments"])}'
    parts = [arguments, name] if habits.name_last else [name, arguments]
    return "{" + ", ".join(parts) + "}"


def json_list(calls, habits, names=("name", "arguments")):
    return "[" + ", ".join(json_call(call, habits, names) for call in calls) + "]"


def python_value(value, habits):
    """A value as a Python literal."""
    if isinstance(value, str):
        # Escapes of JSON that stay within one code unit mean the same in Python.
        return json.dumps(value, ensure_ascii=False) if habits.double_quotes else repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(python_value(item, habits) for item in value) + "]"
    if isinstance(value, dict):
        pairs = [f"{python_value(k, habits)}: {python_value(v, habits)}" for k, v in value.items()]
        return "{" + ", ".join(pairs) + "}"
    return repr(value)


def python_call(call, habits):
    pairs = [f"{key}={python_value(value, habits)}" for key, value in call["arguments"].items()]
    return f"{call['name']}({', '.join(pairs)})"


def untyped(value):
    """A value between two tags: a string as it is, everything else in JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- writers by hand -----------------------------------------------------------------------------


def mistral_old(calls, habits):
    """[TOOL_CALLS] [{"name", "arguments"}]; newer tokenizers add an "id" of nine characters."""
    space = "" if habits.compact else " "
    if not habits.variant:
        return "[TOOL_CALLS]" + space + json_list(calls, habits)
    objects = []
    for number, call in enumerate(calls):
        objects.append(json_call(call, habits)[:-1] + f', "id": "a1B2c3D4{number}"' + "}")
    return "[TOOL_CALLS]" + space + "[" + ", ".join(objects) + "]"


def mistral_new(calls, habits):
    """[TOOL_CALLS]name[ARGS]{...}, once more for every further call."""
    return "".join(f"[TOOL_CALLS]{c['name']}[ARGS]{habits.dumps(c['arguments'])}" for c in calls)


def phi4_mini(calls, habits):
    return "<|tool_call|>" + json_list(calls, habits) + "<|/tool_call|>"


def granite(calls, habits):
    """Granite 3.0 has a token as marker, 3.1 the plain tag; neither closes."""
    marker = "<tool_call>" if habits.variant else "<|tool_call|>"
    return marker + ("" if habits.compact else " ") + json_list(calls, habits)


def kimi_k2(calls, habits):
    parts = []
    for number, call in enumerate(calls):
        parts.append(f"<|tool_call_begin|>functions.{call['name']}:{number}")
        parts.append(f"<|tool_call_argument_begin|>{habits.dumps(call['arguments'])}")
        parts.append("<|tool_call_end|>")
    space = " " if habits.variant else ""  # decoders put spaces between special tokens
    body = space.join(parts)
    return f"<|tool_calls_section_begin|>{space}{body}{space}<|tool_calls_section_end|>"


def minimax_m2(calls, habits):
    lines = ["<minimax:tool_call>"]
    for call in calls:
        lines.append(f'<invoke name="{call["name"]}">')
        for key, value in call["arguments"].items():
            lines.append(f'<parameter name="{key}">{untyped(value)}</parameter>')
        lines.append("</invoke>")
    lines.append("</minimax:tool_call>")
    return ("" if habits.compact else "\n").join(lines)


def command_r(calls, habits):
    """Command R and R+: a fenced list of {"tool_name", "parameters"} behind "Action:"."""
    actions = [{"tool_name": c["name"], "parameters": c["arguments"]} for c in calls]
    text = json.dumps(actions, indent=4, ensure_ascii=habits.escaped)
    return f"Action:{'' if habits.compact else ' '}```json\n{text}\n```"


def internlm(calls, habits):
    call = json_call(calls[0], habits, ("name", "parameters"))
    return f"<|action_start|><|plugin|>{call}<|action_end|>"


def hermes(calls, habits):
    """Hermes 2 Pro puts "arguments" first; line breaks inside the tags are usual, not promised."""
    line = "" if habits.compact else "\n"
    blocks = [f"<tool_call>{line}{json_call(c, habits)}{line}</tool_call>" for c in calls]
    return "\n".join(blocks)


def qwen3_coder(calls, habits):
    """The template of Qwen3-Coder: JSON for what is no string, so true and null in lower case."""
    blocks = []
    for call in calls:
        lines = ["<tool_call>", f"<function={call['name']}>"]
        for key, value in call["arguments"].items():
            lines += [f"<parameter={key}>", untyped(value), "</parameter>"]
        lines += ["</function>", "</tool_call>"]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def functionary(calls, habits):
    """Functionary 3.1, and what Llama 3.1 calls custom tools."""
    return "".join(
        f"<function={c['name']}>{habits.dumps(c['arguments'])}</function>" for c in calls
    )


def llama3_json(calls, habits):
    return json_call(calls[0], habits._replace(name_last=False), ("name", "parameters"))


def llama3_python_tag(calls, habits):
    """<|python_tag|>tool.call(x=1), or the JSON of before behind the same token."""
    call = calls[0]
    if habits.variant:
        return "<|python_tag|>" + llama3_json(calls, habits)
    habits = habits._replace(double_quotes=True)
    text = python_call({"name": f"{call['name']}.call", "arguments": call["arguments"]}, habits)
    return "<|python_tag|>" + text


def pythonic(calls, habits):
    """Llama 4, Llama 3.2 and the Berkeley leaderboard: a list of calls and nothing else."""
    return "[" + ", ".join(python_call(call, habits) for call in calls) + "]"


def gemma3_tool_code(calls, habits):
    return "```tool_code\n" + "\n".join(python_call(call, habits) for call in calls) + "\n```"


def xlam(calls, habits):
    return json_list(calls, habits._replace(name_last=False))


def xlam_object(calls, habits):
    return '{"tool_calls": ' + xlam(calls, habits) + "}"


def hunyuan_a13b(calls, habits):
    """What stands behind the thought, without the <answer> around it."""
    line = "" if habits.compact else "\n"
    return f"<tool_calls>{line}{json_list(calls, habits)}{line}</tool_calls>"


def minicpm3(calls, habits):
    lines = [python_call(call, habits) for call in calls]
    return "\n".join(["<|tool_call_start|>", "```python", *lines, "```", "<|tool_call_end|>"])


def solar_open(calls, habits):
    """What stands behind the thought; each call has an id of random letters."""
    parts = ["<|tool_calls|>"]
    for number, call in enumerate(calls):
        parts.append(f"<|tool_call:begin|>a1b2c3d4e{number}<|tool_call:name|>{call['name']}")
        parts.append(f"<|tool_call:args|>{habits.dumps(call['arguments'])}<|tool_call:end|>")
    return "".join(parts)


def react(calls, habits):
    arguments = habits.dumps(calls[0]["arguments"])
    return f"\nAction: {calls[0]['name']}\nAction Input: {arguments}"


def json_fence(calls, habits):
    """What models write without a format of their own: one object, or a list of several."""
    habits = habits._replace(name_last=False)
    text = json_call(calls[0], habits) if len(calls) == 1 else json_list(calls, habits)
    return f"```json\n{text}\n```"


def deepseek_v31(calls, habits):
    blocks = []
    for call in calls:
        arguments = habits.dumps(call["arguments"])
        name = call["name"]
        blocks.append(f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>")
    return "<｜tool▁calls▁begin｜>" + "".join(blocks) + "<｜tool▁calls▁end｜>"


def gpt_oss_channel(calls, habits):
    """The recipient in the channel; what the user may read before it is a message of its own."""
    preamble = ""
    if habits.prose:
        preamble = (
            f"<|channel|>commentary<|message|>{habits.prose.strip()}<|end|><|start|>assistant"
        )
    constrain = "" if habits.variant else " <|constrain|>json"
    head = f"<|channel|>commentary to=functions.{calls[0]['name']}{constrain}<|message|>"
    return preamble + head + habits.dumps(calls[0]["arguments"])


def glm_one_line(calls, habits):
    """GLM 4.7 writes the tags of GLM 4.5 without line breaks."""
    blocks = []
    for call in calls:
        pairs = ""
        for key, value in call["arguments"].items():
            pairs += f"<arg_key>{key}</arg_key><arg_value>{untyped(value)}</arg_value>"
        blocks.append(f"<tool_call>{call['name']}{pairs}</tool_call>")
    return "".join(blocks)


# ---- writers that render TRL's templates ---------------------------------------------------------


@functools.cache
def template_folder():
    """TRL's folder of chat templates; None where TRL is not installed. TRL itself is not imported."""
    trl = importlib.util.find_spec("trl")
    return Path(trl.origin).parent / "chat_templates" if trl else None


@functools.cache
def template_text(name):
    return (template_folder() / f"{name}.jinja").read_text(encoding="utf-8")


TOKENIZER = functools.cache(make_tokenizer)


def rendered(name, calls, prose=None, arguments_as_text=False):
    """A conversation that ends in these calls, as a template writes it."""
    tool_calls = []
    for call in calls:
        arguments = call["arguments"]
        if arguments_as_text:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": call["name"], "arguments": arguments}
        tool_calls.append({"type": "function", "function": function})
    messages = [
        {"role": "user", "content": "Please do it."},
        {"role": "assistant", "content": prose, "tool_calls": tool_calls},
    ]
    return TOKENIZER().apply_chat_template(
        messages, chat_template=template_text(name), tokenize=False
    )


class FromTemplates:
    """A writer: what a family's templates put between the start of the answer and the end of the turn.

    start: what the answer begins behind; the last one counts, so thoughts before it fall away.
    ends: what is cut off at the end, in this order.
    """

    def __init__(self, templates, start, ends, *, arguments_as_text=False, prose_by_hand=False):
        self.templates = templates
        self.start = start
        self.ends = ends
        self.arguments_as_text = arguments_as_text
        self.prose_by_hand = prose_by_hand  # the template puts it behind the call, the model before

    def __call__(self, calls, habits):
        name = self.templates[habits.template % len(self.templates)]
        prose = "" if self.prose_by_hand else habits.prose
        text = rendered(name, calls, prose, self.arguments_as_text)
        before, start, answer = text.rpartition(self.start)
        assert start, f"{name}: no {self.start!r} in {text!r}"
        for end in self.ends:
            answer = answer.removesuffix(end)
        return habits.prose + answer if self.prose_by_hand else answer


def after_thoughts(writer, thoughts):
    """The same writer without the empty thoughts that a template puts before the answer."""

    def write(calls, habits):
        return writer(calls, habits).removeprefix(thoughts)

    return write


QWEN_JSON = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl")
QWEN_TAGS = ("qwen3_5_nothink", "qwen3_5_think")
QWEN_NEW_TAGS = ("qwen3_6", "qwen3_8")
NEMOTRON = ("nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "nemotron_3_5_lightning")
GEMMA4 = ("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "diffusion_gemma")
LFM2 = ("lfm2_2_5", "lfm2_2_5_v2")
LFM2_ESCAPED = ("lfm2_v2", "lfm2_2_5_vl")
LLAMA3 = ("llama3_1", "llama3_2")

CHATML_ENDS = ("\n", CHATML_END)
CHATML_START = "<|im_start|>assistant\n"
GEMMA4_ENDS = ("\n", "<turn|>", "<|tool_response>")
QWEN_THOUGHTS = "<think>\n\n</think>\n\n"

# ---- the table -----------------------------------------------------------------------------------

KEYED = r'"(?:arguments|parameters)":\s*\{'
QWEN_CLOSING = ("</parameter>", "</function>", "</tool_call>")
QWEN_OWN = (*QWEN_CLOSING, "<parameter=", "<function=", "<tool_call>")
GLM_CLOSING = ("</arg_key>", "</arg_value>", "</tool_call>")
GLM_OWN = (*GLM_CLOSING, "<arg_key>", "<arg_value>", "<tool_call>")

# What the four formats with tags around untyped values have in common. Their templates write strings as they are,
# and the programs that read them do not agree on whitespace at the edges: it is left out.
QWEN_TAGGED = Format(
    write=qwen3_coder,
    marker=r"<tool_call>\n<function=",
    kind="tags",
    ends=(CHATML_END,),
    typed=False,
    edges=False,
    taboo=QWEN_OWN,
    tags=QWEN_CLOSING,
)
GLM_TAGGED = Format(
    write=glm_one_line,
    marker="<tool_call>",
    kind="tags",
    ends=("<|observation|>", "<|user|>"),
    typed=False,
    edges=False,
    taboo=GLM_OWN,
    tags=GLM_CLOSING,
)
PYTHON_CODE = Format(
    write=pythonic,
    marker=r"\[[\w.]+\(",
    kind="python",
    arguments_at=r"",
    names=PYTHON_NAME,
    keys=PYTHON_KEY,
)
LFM2_LIST = PYTHON_CODE._replace(
    write=FromTemplates(LFM2_ESCAPED, CHATML_START, CHATML_ENDS),
    templates=LFM2_ESCAPED,
    marker=r"<\|tool_call_start\|>",
    arguments_at=r"\(",
    ends=(CHATML_END,),
    text_after=False,  # it says behind the calls what it does
)

FORMATS = {
    "Mistral, list": Format(mistral_old, r"\[TOOL_CALLS\]", arguments_at=KEYED, ends=("</s>",)),
    "Mistral, [ARGS]": Format(mistral_new, r"\[TOOL_CALLS\]", ends=("</s>",)),
    "Phi-4-mini": Format(
        phi4_mini,
        r"<\|tool_call\|>",
        arguments_at=KEYED,
        ends=("<|end|>", "<|endoftext|>"),
        optional_end="<|/tool_call|>",  # without it, the text is Granite's
    ),
    "Granite 3": Format(
        granite, r"<\|?tool_call\|?>", arguments_at=KEYED, ends=("<|end_of_text|>",)
    ),
    "Kimi K2": Format(kimi_k2, r"<\|tool_calls_section_begin\|>", ends=(CHATML_END,)),
    "MiniMax M2": Format(
        minimax_m2,
        "<minimax:tool_call>",
        kind="tags",
        ends=("[e~[",),
        typed=False,
        edges=False,
        taboo=("</parameter>", "</invoke>", "</minimax:tool_call>", "<parameter name=", "<invoke "),
        tags=("</parameter>", "</invoke>", "</minimax:tool_call>"),
    ),
    "Command R": Format(
        command_r, '"tool_name":', arguments_at=KEYED, ends=("<|END_OF_TURN_TOKEN|>",)
    ),
    "InternLM": Format(
        internlm,
        r"<\|action_start\|><\|plugin\|>",
        arguments_at=KEYED,
        parallel=False,
        ends=(CHATML_END,),
        optional_end="<|action_end|>",  # its samplers stop at this token too
    ),
    "Hermes": Format(hermes, "<tool_call>", arguments_at=KEYED, ends=(CHATML_END,)),
    "Qwen 2.5 and 3": Format(
        after_thoughts(FromTemplates(QWEN_JSON, CHATML_START, CHATML_ENDS), QWEN_THOUGHTS),
        "<tool_call>",
        arguments_at=KEYED,
        templates=QWEN_JSON,
        ends=(CHATML_END,),
    ),
    "Qwen3-Coder": QWEN_TAGGED,
    "Qwen 3.5": QWEN_TAGGED._replace(
        write=after_thoughts(FromTemplates(QWEN_TAGS, CHATML_START, CHATML_ENDS), QWEN_THOUGHTS),
        templates=QWEN_TAGS,
        none_is_a_word=True,
    ),
    "Qwen 3.6 and 3.8": QWEN_TAGGED._replace(
        write=after_thoughts(
            FromTemplates(QWEN_NEW_TAGS, CHATML_START, CHATML_ENDS), QWEN_THOUGHTS
        ),
        templates=QWEN_NEW_TAGS,
    ),
    "Nemotron 3": QWEN_TAGGED._replace(
        write=after_thoughts(FromTemplates(NEMOTRON, CHATML_START, CHATML_ENDS), "<think></think>"),
        templates=NEMOTRON,
        none_is_a_word=True,
    ),
    "Functionary": Format(functionary, "<function=", ends=(LLAMA_END, "<|eom_id|>")),
    "Llama 3, JSON": Format(
        FromTemplates(LLAMA3, "<|start_header_id|>assistant<|end_header_id|>\n\n", (LLAMA_END,)),
        '"name":',
        arguments_at=KEYED,
        templates=LLAMA3,
        parallel=False,
        prose=False,
        ends=(LLAMA_END, "<|eom_id|>"),
    ),
    "Llama 3, python tag": Format(
        llama3_python_tag,
        r"<\|python_tag\|>",
        kind="python",
        arguments_at=r"\(|" + KEYED,
        parallel=False,
        prose=False,
        ends=("<|eom_id|>", LLAMA_END),
        # Its own template writes key="text" without escapes.
        raw_taboo=('"', "\\", "\n", "\t", "\r"),
        names=r"[A-Za-z_]\w*",
        keys=PYTHON_KEY,
    ),
    "Llama 4, list of calls": PYTHON_CODE._replace(
        prose=False, ends=("<|eot|>", LLAMA_END), text_after=False
    ),
    "Gemma 3, tool_code": PYTHON_CODE._replace(
        write=gemma3_tool_code,
        marker="```tool_code\n",
        arguments_at=r"\(",
        ends=("<end_of_turn>",),
    ),
    "Gemma 4": Format(
        FromTemplates(GEMMA4, "<|turn>model\n", GEMMA4_ENDS, prose_by_hand=True),
        r"<\|tool_call>",
        kind="gemma",
        templates=GEMMA4,
        ends=("<|tool_response>", "<turn|>"),
        taboo=('<|"|>',),
        plain_keys=True,  # keys stand without quotes
    ),
    "xLAM, list": Format(
        xlam, '"name":', arguments_at=KEYED, prose=False, ends=(LLAMA_END, CHATML_END)
    ),
    "xLAM, object": Format(
        xlam_object, '"tool_calls":', arguments_at=KEYED, prose=False, ends=(CHATML_END,)
    ),
    "Hunyuan A13B": Format(
        hunyuan_a13b,
        "<tool_calls>",
        arguments_at=KEYED,
        optional_end="</tool_calls>",
        ends=("<|eos|>",),
    ),
    "MiniCPM3": LFM2_LIST._replace(write=minicpm3, templates=()),
    "Solar Open": Format(solar_open, r"<\|tool_calls\|>", ends=("<|calls|>",)),
    "ReAct": Format(react, "Action: ", parallel=False, ends=(CHATML_END,)),
    "DeepSeek V3": Format(
        FromTemplates(("deepseekv3",), "<｜Assistant｜>", (DEEPSEEK_END,), arguments_as_text=True),
        "<｜tool▁calls▁begin｜>",
        templates=("deepseekv3",),
        ends=(DEEPSEEK_END,),
    ),
    "DeepSeek V3.1": Format(deepseek_v31, "<｜tool▁calls▁begin｜>", ends=(DEEPSEEK_END,)),
    "gpt-oss, role": Format(
        FromTemplates(("gptoss",), "<|start|>assistant", ("<|call|>",)),
        " to=functions.",
        templates=("gptoss",),
        parallel=False,
        prose=False,  # the template takes it for thoughts
        ends=("<|call|>",),
    ),
    "gpt-oss, channel": Format(
        gpt_oss_channel,
        r"<\|channel\|>commentary to=functions\.",
        parallel=False,
        ends=("<|call|>",),
    ),
    "JSON fence": Format(json_fence, '"name":', arguments_at=KEYED, ends=(CHATML_END,)),
    "GLM 4.5": GLM_TAGGED._replace(
        write=after_thoughts(FromTemplates(("glm4moe",), "<|assistant|>", ()), "\n<think></think>"),
        templates=("glm4moe",),
    ),
    "GLM 4.7, one line": GLM_TAGGED,
    "LFM2": LFM2_LIST,
    "LFM2.5": LFM2_LIST._replace(
        write=FromTemplates(LFM2, CHATML_START, CHATML_ENDS),
        templates=LFM2,
        raw_taboo=("'", "\\", "\n", "\r"),  # a string stands between single quotes, unescaped
    ),
    "Muse Glimmer": Format(
        FromTemplates(
            ("muse_glimmer",), "<|message|>Please do it.<|eot|><|start|>assistant", ("<|eot|>",)
        ),
        "<atem:function_calls>",
        kind="tags",
        templates=("muse_glimmer",),
        prose=False,
        ends=("<|eot|>",),
        typed=False,
        edges=True,  # its system prompt says that spaces of strings are not stripped
        taboo=("</atem:", "<atem:"),
        tags=("</atem:parameter>", "</atem:invoke>", "</atem:function_calls>"),
    ),
}


def formats():
    """The formats that can be written here: those of templates need TRL's folder."""
    return {n: f for n, f in FORMATS.items() if not f.templates or template_folder()}


def written(style, calls, habits):
    """What a model of this format says: prose, if any, and the calls."""
    text = style.write(calls, habits)
    by_itself = style.templates or style.write is gpt_oss_channel
    return text if by_itself else habits.prose + text


def call_begins(style, text):
    """Where the marker begins and ends, behind the prose."""
    marker = re.search(style.marker, text)
    return marker.start(), marker.end()
