"""What a judge reads, as text and as tokens.

    rubric            the criteria of the constitution that apply, in an order of the prompt's own
    Tools: ...        signatures of the tools on offer, if there are any
    Request: ...      the prompt
    Answer 1a2b3c:    the answer between two marks that depend on it, so that it cannot close them
    End 1a2b3c
    Score NAME from 0 to 5:          one such question for each criterion

Request and answer come from outside. For a local judge they are tokenised apart, so that nothing in
them becomes a control token; for an endpoint, whose server renders the template, whatever reads
like one is broken by a space.
"""

import json
import re
from typing import NamedTuple

from posttrain.chat.dialect import results_in_order
from posttrain.chat.template import render
from posttrain.chat.thoughts import visible
from posttrain.hashing import seed_for
from posttrain.judging.constitution import rubric_for

SLOT = "\x02judged\x03"  # stands in a rendered template where the judged text goes
PAIR_QUESTION = "Which answer is better, A or B?"


class Case(NamedTuple):
    """Answers to one prompt that are judged: all that a judge may see of them."""

    prompt: list  # messages
    completions: list  # each a list of messages
    slice: str | None = None
    tools: list | None = None


def case_of(rows):
    """The Case of candidate rows that answer the same prompt."""
    completions = [row["completion"] for row in rows]
    return Case(rows[0]["prompt"], completions, rows[0].get("slice"), rows[0].get("tools"))


def score_question(name):
    """What a judge is asked about a criterion; the next token is its digit."""
    return f"Score {name} from 0 to 5:"


# ---- texts ---------------------------------------------------------------------------------------


def fenced(name, text):
    """A judged text between two marks that depend on it: it cannot contain its own mark."""
    mark = f"{seed_for(text):x}"[-6:]
    return f"{name} {mark}:\n{text}\nEnd {mark}\n"


def fenced_answer(completion):
    """One answer as a judge reads it."""
    return fenced("Answer", transcript(completion))


def fenced_pairs(case):
    """Two answers as a judge reads them, in both orders: the first as A, then the first as B."""
    first, second = (transcript(completion) for completion in case.completions)
    return [
        fenced("Answer A", first) + fenced("Answer B", second),
        fenced("Answer A", second) + fenced("Answer B", first),
    ]


def request_text(prompt, tools):
    """The tools on offer, if any, and the request, as a judge reads them."""
    request = f"Request:\n{transcript(prompt)}\n"
    if not tools:
        return request
    signatures = ", ".join(signature(tool) for tool in tools)
    return f"Tools: {signatures}\n{request}"


def signature(tool):
    """A tool definition in short: "book_table(city: string, people: integer)".

    The values of an enum stand for its type.
    """
    function = tool["function"]
    parameters = function.get("parameters") or {}
    arguments = []
    for name, field in parameters.get("properties", {}).items():
        if not isinstance(field, dict):  # JSON Schema allows `true`
            field = {}
        types = field.get("enum", [field.get("type", "any")])
        arguments.append(f"{name}: {'|'.join(str(kind) for kind in types)}")
    return f"{function['name']}({', '.join(arguments)})"


def transcript(messages):
    """Message lists as plain text; the role is named where more than one speaks.

    Results of tools stand in the order of their calls, which is all that says whose they are.
    """
    messages = results_in_order(messages)
    texts = [_message_text(message) for message in messages]
    if len(texts) == 1:
        return texts[0]
    roles = [message["role"] for message in messages]
    return "\n".join(f"[{role}] {text}" for role, text in zip(roles, texts))


def _message_text(message):
    """A message's words, without a thought, and its tool calls, a line of JSON each."""
    calls = message.get("tool_calls", [])
    functions = [json.dumps(call["function"], ensure_ascii=False) for call in calls]
    words = visible(message["content"]) if message["role"] == "assistant" else message["content"]
    return "\n".join(part for part in [words, *functions] if part)


# ---- tokens for a local judge --------------------------------------------------------------------


def judge_ids(tokenizer, constitution, case):
    """(prefix, answers, {criterion: tail}): token ids, in pieces.

    prefix + answer + tail is one row that the judge reads, for each answer and criterion; its next
    token is the digit. All rows share the prefix.
    """
    criteria, rubric = rubric_for(constitution, case.slice, case.prompt)
    questions = {c["name"]: score_question(c["name"]) for c in criteria}
    prefix, tails = _frame(tokenizer, rubric, case, questions)
    answers = [untrusted_ids(tokenizer, fenced_answer(text)) for text in case.completions]
    return prefix, answers, tails


def pair_ids(tokenizer, constitution, case):
    """(prefix, [answers in this order, in the other], tail) of two answers: token ids, in pieces.

    The token next to prefix + answers + tail is the letter of the better answer, A or B.
    """
    _, rubric = rubric_for(constitution, case.slice, case.prompt)
    prefix, tails = _frame(tokenizer, rubric, case, {"better": PAIR_QUESTION})
    orders = [untrusted_ids(tokenizer, text) for text in fenced_pairs(case)]
    return prefix, orders, tails["better"]


def _frame(tokenizer, rubric, case, questions):
    """Token ids of what stands before the answers, and, for each question, of what stands after.

    Before: the template's opening, rubric, tools on offer and request. After: the question and the
    template's opening of the judge's turn.
    """
    prefix = []
    tails = {}
    for name, question in questions.items():
        message = {"role": "user", "content": f"{rubric}{SLOT}{question}"}
        head, tail = render(tokenizer, [message], generation_prompt=True).split(SLOT)
        prefix = trusted_ids(tokenizer, head)  # the same for every question
        tails[name] = trusted_ids(tokenizer, tail)
    return prefix + untrusted_ids(tokenizer, request_text(case.prompt, case.tools)), tails


def reward_ids(tokenizer, case, completion):
    """Token ids of a conversation for a reward model: the template's, the answer's tokenised apart.

    A reward model reads no rubric and no question.
    """
    answer = completion[0] | {"content": SLOT}
    text = render(tokenizer, case.prompt + [answer], case.tools)
    head, _, tail = text.rpartition(SLOT)
    judged = untrusted_ids(tokenizer, visible(completion[0]["content"]))
    return trusted_ids(tokenizer, head) + judged + trusted_ids(tokenizer, tail)


def trusted_ids(tokenizer, text):
    """Token ids of our own text, in which control tokens are meant."""
    return tokenizer(text, add_special_tokens=False).input_ids


def untrusted_ids(tokenizer, text):
    """Token ids of a text from outside, none of them a control token.

    split_special_tokens alone would let <think> and <tool_call> through, which are added tokens and
    not "special": the text is cut behind the first character of whatever reads like one.
    """
    added = "|".join(re.escape(token) for token in tokenizer.get_added_vocab())
    cuts = [match.start() + 1 for match in re.finditer(f"(?={added})", text)] if added else []
    ids = []
    for start, end in zip([0, *cuts], [*cuts, None]):
        piece = tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=True)
        ids += piece.input_ids
    return ids


# ---- messages for an endpoint --------------------------------------------------------------------

# What chat templates of servers may take for a control token; a space is put behind its first sign.
MARKERS = re.compile(
    r"<(?=\||｜|<?/?SYS|/?(?:s|think|tools|toolcall|reponame|filename|bos|eos|pad|unk|mask|sep|cls"
    r"|sop|eop|end|user|assistant|system|tool|image|audio|video|seed:\w+|\w*_\w*)>|/?\w+\|>)|"
    r"\[(?=/?(?:INST|CLS|SEP|PAD|UNK|MASK|[gs]MASK|BOS|EOS|IMG\w*|THINK|ARGS|CALL_ID|\w*TOOL\w*"
    r"|SYSTEM_PROMPT|PREFIX|MIDDLE|SUFFIX)\]|\|)|\](?=~)",
    re.IGNORECASE,
)


def harmless(text):
    """A text without control markers that a server's chat template could take for its own."""
    return MARKERS.sub(lambda match: match[0] + " ", text)


def endpoint_message(constitution, case, shown, question):
    """The user message of a chat request: rubric, request, judged text and question.

    shown: the judged text between its marks.
    """
    _, rubric = rubric_for(constitution, case.slice, case.prompt)
    request = harmless(request_text(case.prompt, case.tools))
    return {"role": "user", "content": f"{rubric}{request}{harmless(shown)}{question}"}
