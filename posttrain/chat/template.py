"""Messages -> the text that a chat template makes of them, with nothing left out.

`render` is the only place that calls a template. Templates differ in what they know: system turns,
tool definitions, tool calls and their results, thoughts, dates. What a template does not know it
often drops without a word. So every template is tried once with messages made for it
(dialect.py), and what it drops is rewritten before it gets it: tool definitions become text of the
system turn, and so on. Where something would vanish all the same, the messages are refused.
"""

import jinja2

from posttrain.chat.dialect import Chat, changes_for, empty_thought, lost_in, rewritten
from posttrain.chat.thoughts import close_thought, with_thought_apart, without_thought
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


def render(tokenizer, messages, tools=None, generation_prompt=False, *, think=False):
    """The text that the tokenizer's chat template makes of messages and tool definitions.

    generation_prompt: end with the opening of an assistant turn, which the model then writes.
    think: may it think before it answers? Without it thinking is switched off where a template
    can, a thought that the template opens is closed again, and thoughts of the messages are left
    out. The date is a fixed one: a run that continues tomorrow must see the tokens of today.

    BadInput where the template refuses the messages or drops a part of them, or where there are
    none: an assistant turn that opens a conversation answers nothing.
    """
    if not messages:
        raise BadInput("the conversation begins with an assistant turn, which answers nothing")
    messages = [with_thought_apart(message) for message in messages]
    if not think:
        messages = [without_thought(message) for message in messages]
    chat = Chat(messages, tools or None)

    write = writer(tokenizer, tools, think)
    changes = changes_for(write)
    try:
        lost = lost_in(chat, changes, write)
        text = write(rewritten(chat, changes), generation_prompt)
    except (jinja2.TemplateError, TypeError) as refusal:
        reason = " ".join(str(refusal).split())[:100]
        raise BadInput(f"the chat template refuses these messages ({reason})") from None
    if lost:
        raise BadInput(f"the chat template drops {' and '.join(lost)}")
    if think or not generation_prompt:
        return text
    return close_thought(text, empty_thought(changes, write, messages[-1]["role"]))


def writer(tokenizer, tools, think):
    """The template of a tokenizer as a function (chat, generation_prompt) -> text."""
    template = _template_for(tokenizer, tools)
    return Writer(tokenizer, template, think)


class Writer:
    """A tokenizer's chat template, called with what every call of it gets."""

    def __init__(self, tokenizer, template, think):
        self.tokenizer = tokenizer
        self.template = template
        # What its behaviour may depend on: whoever remembers something of it uses this key.
        self.key = (template, think)
        if "strftime_now" in template:
            template = FIXED_STRFTIME + template  # the macro hides the function of the same name
        self.options = {
            "chat_template": template,
            "tokenize": False,
            "date_string": FIXED_DATE,
            # The same switch under the names that templates have for it: the first is Qwen's, GLM's
            # and Gemma's, the second that of DeepSeek V3.1 and Granite, the third MiniMind's.
            "enable_thinking": think,
            "thinking": think,
            "open_thinking": think,
        }

    def __call__(self, chat, generation_prompt=False):
        """The text of a Chat."""
        return self.tokenizer.apply_chat_template(
            chat.messages, chat.tools, add_generation_prompt=generation_prompt, **self.options
        )


def _template_for(tokenizer, tools):
    """The template's source. Of several, each with a name, that for tools if there are any."""
    try:
        return tokenizer.get_chat_template(tools=tools)
    except ValueError as error:
        raise BadInput(f"the tokenizer has no chat template to take ({str(error)[:100]})") from None
