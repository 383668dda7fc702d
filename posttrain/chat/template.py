"""Messages -> the text that a chat template makes of them.

`render` is the only place that calls a template. Templates differ in what they know: tool calls,
tool definitions, system turns, dates, thinking. Where one does not know what the messages hold, a
step of its own rewrites the messages so that all of it reaches the model as text: nothing is
dropped in silence.
"""

import json

import jinja2

from posttrain.cli import BadInput

# For tokenizers without a template. It uses only tokens that exist; every assistant turn ends in
# the end-of-sequence token.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m['role'] | capitalize + ':\n' + m['content'] | trim }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)

# Templates print the date by the variable date_string or the function strftime_now: it never moves.
FIXED_DATE = "26 Jul 2024"
FIXED_STRFTIME = (
    "{% macro strftime_now(format) %}{{ {'%Y-%m-%d': '2024-07-26', '%B %d, %Y': 'July 26, 2024'}"
    ".get(format, '26 Jul 2024') }}{% endmacro %}"
)


def render(tokenizer, messages, tools=None, generation_prompt=False):
    """The text that the tokenizer's chat template makes of messages and tool definitions.

    generation_prompt: end with the opening of an assistant turn, which the model then writes.
    Thinking is switched off where a template can (else judge digits and verifiers would meet
    <think>), and the date is a fixed one: a run that continues tomorrow must see the tokens of
    today. BadInput where the template refuses the messages, or where there are none: an assistant
    turn that opens a conversation answers nothing.
    """
    if not messages:
        raise BadInput("the conversation begins with an assistant turn, which answers nothing")
    template = _template_for(tokenizer, tools)
    if "tool_calls" not in template:
        messages = _write_calls_as_text(messages)
    if tools and "tools" not in template:
        messages = _put_tools_into_system(messages, tools)
        tools = None
    options = _template_options(template)
    try:
        return tokenizer.apply_chat_template(
            messages, tools, add_generation_prompt=generation_prompt, **options
        )
    except (jinja2.TemplateError, TypeError) as refusal:
        reason = str(refusal)[:100]

    # The likely cause is a template without system turns, such as Gemma's. If it is something else,
    # the template refuses again.
    roles = [message["role"] for message in messages[:2]]
    if roles == ["system", "user"]:
        return render(tokenizer, _put_system_into_user(messages), tools, generation_prompt)
    raise BadInput(f"the chat template refuses these messages ({reason})")


def _template_for(tokenizer, tools):
    """The template's source. Of several, each with a name, that for tools if there are any."""
    try:
        return tokenizer.get_chat_template(tools=tools)
    except ValueError as error:
        raise BadInput(f"the tokenizer has no chat template to take ({str(error)[:100]})") from None


def _template_options(template):
    """What every call of a template gets beside the messages."""
    if "strftime_now" in template:
        template = FIXED_STRFTIME + template  # the macro hides the function of the same name
    return {
        "chat_template": template,
        "tokenize": False,
        "enable_thinking": False,
        "date_string": FIXED_DATE,
    }


# ---- what a template does not know -> text -------------------------------------------------------


def _write_calls_as_text(messages):
    """Tool calls as text behind what the assistant said, in the form of Qwen and Hermes.

    If there is a call, every message is reduced to role and content; else all stay as they are.
    """
    if not any("tool_calls" in message for message in messages):
        return messages
    rewritten = []
    for message in messages:
        texts = [message["content"]] if message["content"] else []
        for call in message.get("tool_calls", []):
            function = json.dumps(call["function"], ensure_ascii=False)
            texts.append(f"<tool_call>\n{function}\n</tool_call>")
        rewritten.append({"role": message["role"], "content": "\n".join(texts)})
    return rewritten


def _put_tools_into_system(messages, tools):
    """Tool definitions as text at the end of the system turn; one is added where there is none."""
    lines = ["You may call these functions:"]
    for tool in tools:
        lines.append(json.dumps(tool["function"], ensure_ascii=False))
    text = "\n".join(lines)
    if messages[0]["role"] == "system":
        text = messages[0]["content"] + "\n\n" + text
        messages = messages[1:]
    return [{"role": "system", "content": text}, *messages]


def _put_system_into_user(messages):
    """The system turn's text before that of the user turn behind it."""
    system, user, *rest = messages
    text = f"{system['content']}\n\n{user['content']}"
    return [user | {"content": text}, *rest]
