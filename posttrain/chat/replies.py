"""What a model wrote -> the message that it is.

A reply is kept so that training meets the text that was sampled. Its thought stands apart from what
is shown. Tool calls stay in the text, which is where most templates write them, too; where a
template would write that text otherwise (the channels of gpt-oss, for instance), they are kept in
`tool_calls`.
"""

from posttrain.chat.calls import read_calls
from posttrain.chat.encode import turn_texts
from posttrain.chat.thoughts import split_thought


def reply_message(text, thought=""):
    """The assistant message of a text, with its thought apart. thought: one that came by itself."""
    parts = split_thought(text)
    message = {"role": "assistant", "content": parts.visible}
    thoughts = [part for part in (thought, parts.thought) if part]
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    return message


def reply_to(tokenizer, prompt, tools, text):
    """The message of a text that was sampled behind a prompt; see above.

    text: without its stop token, and with the mark of a thought that the prompt has opened.
    """
    message = reply_message(text)
    try:
        reading = read_calls(message["content"], tools)
    except ValueError:
        return message  # a call that is not well-formed is a text
    if not reading.calls or _is_written_alike(tokenizer, prompt, tools, message):
        return message
    calls = [{"type": "function", "function": call} for call in reading.calls]
    return message | {"content": reading.prose, "tool_calls": calls}


def _is_written_alike(tokenizer, prompt, tools, message):
    """Does the template write the content of a message as it stands, and nothing else?"""
    content = message["content"]
    plain = {"role": "assistant", "content": content}
    try:
        prompt_text, turn_text = turn_texts(tokenizer, [*prompt, plain], tools)
    except ValueError:
        return False
    return turn_text[len(prompt_text) :].strip().startswith(content.strip())
