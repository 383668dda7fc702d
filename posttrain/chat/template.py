"""Messages -> the text that a chat template makes of them."""

import json

import jinja2

from posttrain.cli import BadInput

FIXED_DATE = ("{% macro strftime_now(format) %}{{ {'%Y-%m-%d': '2024-07-26', '%B %d, %Y': 'July 26, 2024'}"
              ".get(format, '26 Jul 2024') }}{% endmacro %}")


# For tokenizers without a template. Only existing tokens; every assistant turn ends in the end-of-sequence token.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m['role'] | capitalize + ':\n' + m['content'] | trim }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}")


def render(tokenizer, messages, tools=None, generation_prompt=False):
    """The text a chat template makes. Templates that ignore tools get them as text: nothing is dropped in silence.

    Thinking is switched off where a template can (else judge digits and verifiers would meet <think>), and templates
    that print the date get a fixed one: a run continued tomorrow must see the tokens of today."""
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else str(tokenizer.chat_template)
    if "tool_calls" not in template and any("tool_calls" in m for m in messages):
        calls = [[f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
                  for call in m.get("tool_calls", [])] for m in messages]
        messages = [{"role": m["role"], "content": "\n".join([m["content"]] * bool(m["content"]) + texts)}
                    for m, texts in zip(messages, calls)]
    if tools and "tools" not in template:
        text = "\n".join(["You may call these functions:",
                          *(json.dumps(t["function"], ensure_ascii=False) for t in tools)])
        system = messages[0]["content"] + "\n\n" if messages[0]["role"] == "system" else ""
        messages = [{"role": "system", "content": system + text}] + messages[bool(system):]
        tools = None
    options = {"tokenize": False, "add_generation_prompt": generation_prompt, "enable_thinking": False,
               "date_string": "26 Jul 2024"}
    if "strftime_now" in template:
        options["chat_template"] = FIXED_DATE + template
    try:
        return tokenizer.apply_chat_template(messages, tools, **options)
    except (jinja2.TemplateError, TypeError) as error:
        if messages[0]["role"] == "system" and len(messages) > 1 and messages[1]["role"] == "user":  # Gemma knows none
            joined = messages[1] | {"content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            return render(tokenizer, [joined, *messages[2:]], tools, generation_prompt)
        raise BadInput(f"the chat template refuses these messages ({str(error)[:100]})") from None
