"""The layouts that people have -> message lists under TRL's column names."""

import json
import math

from posttrain.cli import BadInput

ROLES = {"human": "user", "gpt": "assistant", "observation": "tool",  # ShareGPT's words
         "system": "system", "user": "user", "assistant": "assistant", "tool": "tool", "developer": "system"}


def as_messages(value, role, field):
    """A string, one message or a list of messages -> message list with OpenAI roles. BadInput names `field`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise BadInput(f"field '{field}': expected a string or a non-empty list of messages")
    messages = []
    for message in value:
        who, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        calls = message.get("tool_calls") or None
        if who == "function_call":
            who, content, calls = "assistant", "", [_tool_call(content, field)]
        elif calls:
            calls = [_tool_call(call, field) for call in (calls if isinstance(calls, list) else [calls])]
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(who, str) or who not in ROLES:
            raise BadInput(f"field '{field}': role {str(who)[:40]!r}; expected system, user, assistant or tool")
        if not isinstance(content, str) and not (content is None and calls):
            raise BadInput(f"field '{field}': the content of a message must be text, got {type(content).__name__}")
        kept = {key: message[key] for key in ("name", "tool_call_id") if isinstance(message.get(key), str)}
        kept |= {"tool_calls": calls} if calls else {}
        messages.append({"role": ROLES[who], "content": content or ""} | kept)
    return messages


def _tool_call(call, field):
    """{"name", "arguments"} in any of its wrappings -> OpenAI's {"type", "function"}."""
    try:
        call = json.loads(call) if isinstance(call, str) else call
        name = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        call = call.get("function", call)
        arguments = call.get("arguments", {})
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(call["name"], str) or not isinstance(arguments, dict):
            raise ValueError
        return name | {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise BadInput(f"field '{field}': a tool call must be {{\"name\": text, \"arguments\": object}}") from None


def _tools(value):
    """Tool definitions (list, or its JSON as text, as ShareGPT has it) in OpenAI's form; none -> None."""
    try:
        value = json.loads(value or "[]") if isinstance(value, str) else value
        tools = [t if "function" in t else {"type": "function", "function": t} for t in value or []]
        if not all(isinstance(t["function"]["name"], str) for t in tools):
            raise ValueError
        return tools or None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput("field 'tools': expected a list of function definitions with a name") from None


def normalise(row, kind):
    """One record in any accepted layout -> message lists under TRL's column names; other fields are carried through.

    kind: "prompts", "sft", "candidates", "pairs" or "labels". BadInput names the field and what was expected."""
    row = dict(row)
    kind = "pairs" if kind == "labels" and "chosen" in row else kind
    if "response" in row:
        row["completion"] = row.pop("response")
    conversation = row.pop("messages", row.pop("conversations", None))
    if conversation is not None and (row.get("prompt") is None or (kind == "sft" and row.get("completion") is None)):
        conversation = as_messages(conversation, "user", "messages")
        if isinstance(row.get("system"), str) and row["system"] and conversation[0]["role"] != "system":
            conversation.insert(0, {"role": "system", "content": row.pop("system")})  # ShareGPT keeps it apart
        if conversation[-1]["role"] == "assistant" and kind != "pairs" and row.get("completion") is None:
            row["completion"] = [conversation.pop()]  # a field the kind "prompts" has no use for
        row["prompt"] = conversation or None
    fields = {"prompts": (), "pairs": ("chosen", "rejected")}.get(kind, ("completion",))
    for field in fields:
        if row.get(field) is None:
            raise BadInput(f"field '{field}' is missing")
        row[field] = as_messages(row[field], "assistant", field)
    if kind == "pairs" and row.get("prompt") is None and row["chosen"][:-1] == row["rejected"][:-1]:
        row["prompt"] = row["chosen"][:-1] or None  # both answers were given as whole conversations
    if row.get("prompt") is None:
        raise BadInput("field 'prompt' is missing (a string, or messages up to the user's last turn)")
    row["prompt"] = as_messages(row["prompt"], "user", "prompt")
    if row["prompt"][-1]["role"] not in ("user", "tool"):
        raise BadInput("field 'prompt': the last message must be a user or tool turn")
    for field in fields:  # a conversation that repeats the prompt: keep the answer
        if len(row[field]) > 1 and row[field][:-1] == row["prompt"]:
            row[field] = row[field][-1:]
        if len(row[field]) != 1 or row[field][0]["role"] != "assistant":
            raise BadInput(f"field '{field}': expected one assistant message after the prompt")
    row["id"] = str(row["id"]) if isinstance(row.get("id"), (str, int)) else row.get("id")
    for field, types, expected in (
            ("id", str, "a string"), ("slice", str, "a string"), ("label", bool, "true or false"),
            ("scores", dict, "{criterion: 0-5}"), ("weight", (int, float), "a number >= 0"),
            ("candidate", int, "a number >= 0"), ("tokens", int, "a number >= 0"),
            ("p", (int, float), "a number from 0 to 1")):
        value = row.get(field)
        if value is None:
            row.pop(field, None)
        elif not isinstance(value, types) or (
                expected.startswith("a number") and (isinstance(value, bool) or not 0 <= value < math.inf)) or (
                expected.endswith("to 1") and value > 1):
            raise BadInput(f"field '{field}': expected {expected}, got {str(value)[:40]!r}")
    for field in ("label_chosen", "label_rejected"):  # null = leave it out, so it stays
        if row.get(field) is not None and not isinstance(row[field], bool):
            raise BadInput(f"field '{field}': expected true, false or null, got {str(row[field])[:40]!r}")
    scores = row.get("scores", {}).values() if kind == "labels" else ()
    if not all(score is None or (isinstance(score, (int, float)) and 0 <= score <= 5) for score in scores):
        raise BadInput("field 'scores': every score must be a number from 0 to 5, or null")
    if kind == "labels" and "label" not in row and "scores" not in row:
        raise BadInput("field 'label' is missing (true or false; or 'scores' {criterion: 0-5})")
    if "tools" in row:
        row["tools"] = _tools(row["tools"])
    return row
