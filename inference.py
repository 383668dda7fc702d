"""Sampling answers and scoring them with a judge: from a local model, or any OpenAI-compatible endpoint.

Local sampling reads each prompt once for all its samples; rows leave the batch when they end, and others may take their
places. Every sample has a random stream of its own: what is drawn depends on its seed, never on the rows beside it.
"""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicLayer

from common import BadInput, render, stop_ids

# ---- sampling from a local model ------------------------------------------------------------------------------


def _padded(rows, pad_id, device, left):
    """Token lists -> (ids, attention) [B, T], padded on the left or right."""
    side, rows = "left" if left else "right", [torch.tensor(row) for row in rows]
    ids, ones = pad_sequence(rows, True, pad_id, side), pad_sequence([torch.ones_like(x) for x in rows], True, 0, side)
    return ids.to(device), ones.to(device)


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, T, d] with room for more columns: a step writes its own, and the last row takes the
    place of one that leaves. A layer of transformers copies everything for either."""

    def __init__(self, layers, T):
        super().__init__()
        self.is_initialized, pairs = True, zip(*((layer.keys, layer.values) for layer in layers))
        self.keys, self.values = (torch.cat([F.pad(x, (0, 0, T - x.shape[2], 0)) for x in same]) for same in pairs)
        self.room = self.keys, self.values

    def update(self, keys, values, *args, **kwargs):
        rows, _, T, _ = self.keys.shape
        if T == self.room[0].shape[2]:
            self.room = [F.pad(x, (0, 0, 0, 32)) for x in (self.keys, self.values)]
        self.keys, self.values = (x[:rows, :, :T + 1] for x in self.room)
        self.keys[:, :, T:], self.values[:, :, T:] = keys, values
        return self.keys, self.values

    def batch_select_indices(self, indices):
        moved = [i for i, j in enumerate(indices) if i != j]
        for x in (self.keys, self.values):
            x[moved] = x[[indices[i] for i in moved]]
        self.keys, self.values = self.keys[:len(indices)], self.values[:len(indices)]


@torch.no_grad()
def sample(model, tokenizer, jobs, max_tokens, slots=None):
    """Answers for jobs [(prompt token ids, [(temperature, seed), ...])] -> [[{"text", "ids", "tokens", "finish"}]].

    Temperature 0 is greedy. `tokens` counts the stop token too; finish is "stop" or "length". A sampled token is the
    one whose cumulative probability first exceeds the sample's next uniform number. slots: so many rows at once, those
    that wait take the places of those that end (a GPU step costs the same for few rows as for many); None: all at once
    (a CPU step costs by the row). With sliding windows or state spaces those that wait start when all rows ended."""
    stops = stop_ids(tokenizer)
    rows = [(j, t, torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist(),
             []) for j, (_, own) in enumerate(jobs) for t, seed in own]  # (job, temperature, uniform numbers, answer)
    waiting, alive, plain, slots = rows, [], False, slots or len(rows)
    cache = position = logits = None
    while waiting or alive:
        free = slots - len(alive)
        if waiting and (not alive or plain and free > slots // 8):  # reading costs a step or more: several at once
            new, waiting = waiting[:free], waiting[free:]
            read = list(dict.fromkeys(row[0] for row in new))  # each prompt once for all its rows
            ids, attention = _padded([jobs[j][0] for j in read], stops[0], model.device, left=True)
            place = attention.cumsum(1).sub(1).clamp(min=0)
            out = model(input_ids=ids, attention_mask=attention, position_ids=place, use_cache=True, logits_to_keep=1)
            expand, old = [read.index(row[0]) for row in new], [cache.layers] if alive else []
            cache, place, first = out.past_key_values, place[expand, -1:], out.logits[:, -1].float()[expand]
            cache.batch_select_indices(expand)
            position, logits = (torch.cat([position, place]), torch.cat([logits, first])) if alive else (place, first)
            alive, T = alive + new, position.max().item() + 1  # T columns: every row ends in the last
            plain = all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)
            cache.layers = [GrowingLayer(same, T) for same in zip(*old, cache.layers)] if plain else cache.layers
        token = logits.max(-1).indices  # the first of equals, as argmax; faster on a CPU
        if any(row[1] for row in alive):
            heat = torch.tensor([[row[1]] for row in alive], device=model.device)
            uniform = torch.tensor([[row[2][len(row[3])]] for row in alive], dtype=torch.float64, device=model.device)
            mass = (logits / heat.where(heat > 0, 1)).softmax(-1).cumsum(-1, dtype=torch.float64)
            drawn = torch.searchsorted(mass, uniform * mass[:, -1:], right=True).clamp(max=mass.shape[1] - 1)
            token = token.where(heat[:, 0] == 0, drawn[:, 0])
        for row, t in zip(alive, token.tolist()):
            row[3].append(t)
        ended = {i for i, row in enumerate(alive) if row[3][-1] in stops or len(row[3]) == max_tokens}
        if ended:  # rows from beyond the new end take the places of those that leave
            last = [i for i in range(len(alive) - len(ended), len(alive)) if i not in ended]
            keep = [last.pop() if i in ended else i for i in range(len(alive) - len(ended))]
            alive, token, position = [alive[i] for i in keep], token[keep], position[keep]
            cache.batch_select_indices(keep)
        if alive:
            T, position = T + 1, position + 1
            attention = (torch.arange(T, device=model.device) >= T - 1 - position).long()
            logits = model(input_ids=token[:, None], attention_mask=attention, position_ids=position,
                           past_key_values=cache, use_cache=True).logits[:, -1].float()
    ends = [(ids[:-1], ids, "stop") if ids[-1] in stops else (ids, ids, "length") for _, _, _, ids in rows]
    results = iter({"text": tokenizer.decode(a), "ids": ids, "tokens": len(ids), "finish": f} for a, ids, f in ends)
    return [[next(results) for _ in own] for _, own in jobs]


def generation_batches(lengths, rows_per_job, batch_rows):
    """Job numbers of each batch: similar prompt lengths together, at most batch_rows answers (one job at least).

    A pure function of the input, so that a continued run forms the batches of an uninterrupted one."""
    batches, rows = [], 0
    for job in sorted(range(len(lengths)), key=lambda j: (lengths[j], j)):
        if not batches or rows + rows_per_job[job] > batch_rows:
            batches, rows = batches + [[]], 0
        batches[-1].append(job)
        rows += rows_per_job[job]
    return batches


# ---- the constitution and the judge's prompt ------------------------------------------------------------------


def read_constitution(path):
    """A Markdown constitution -> {"name", "hash", "criteria": [{"name", "weight", "slices", "veto", "text"}]}.

    Each criterion is `## name (weight W; slices: a, b; veto below N)`, a question, and anchors as lines `0: ...`.
    BadInput names the line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{path}: no such file, or no text in UTF-8; --constitution takes Markdown such as "
                       "data/constitution.md") from None
    name, criteria, heads = path.stem, [], []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("##"):
            head = re.fullmatch(r"## ([\w-]+) *(?:\((.*)\))?", line)
            options = [part.strip() for part in re.split(r";|, (?=slices|veto|weight)", head[2] or "")] if head else []
            criterion = {"name": head[1] if head else "", "weight": 1.0, "slices": None, "veto": None, "text": ""}
            for option in filter(None, options):
                found = re.fullmatch(r"weight (\d+\.?\d*)|slices?: (.+)|veto below (\d\.?\d*)", option)
                if not found:
                    head = None
                    break
                weight, slices, veto = found.groups()
                criterion["weight"] = float(weight) if weight else criterion["weight"]
                if slices:
                    criterion["slices"] = [s.strip() for s in slices.split(",") if s.strip() != "all"] or None
                criterion["veto"] = float(veto) if veto else criterion["veto"]
            if not head or not criterion["weight"] or criterion["name"] in [c["name"] for c in criteria]:
                raise BadInput(f"{path}:{number}: expected a new '## name (weight W > 0; slices: a, b; veto below N)'")
            criteria.append(criterion)
            heads.append(number)
        elif line.startswith("# "):
            name = line[2:].removeprefix("Constitution:").strip()
        elif line and criteria:
            criteria[-1]["text"] += line + "\n"
    for number, criterion in zip(heads or [1], criteria or [{"text": ""}]):
        if not re.search(r"\b0:[\s\S]*\b5:", criterion["text"]):
            raise BadInput(f"{path}:{number}: a criterion ('## name') needs a question and anchors '0: ' to '5: '")
    return {"name": name, "hash": hashlib.sha256(text.encode()).hexdigest()[:12], "criteria": criteria}


SLOT = "\x02judged\x03"


def rubric_for(constitution, row_slice):
    """(criteria that apply to a slice, their text for the judge)."""
    criteria = [c for c in constitution["criteria"] if not c["slices"] or row_slice in c["slices"]]
    return criteria, "".join(f"{c['name']}: {c['text']}" for c in criteria)


def judge_ids(tokenizer, constitution, prompt, completion, row_slice=None, tools=None):
    """(prefix, answer, {criterion: tail}) token ids: all answers to a prompt share the prefix, a tail asks for a digit.

    The judged text is tokenised apart and cut inside what reads as an added token: none becomes a control token."""
    criteria, rubric = rubric_for(constitution, row_slice)
    questions = {c["name"]: f"Score {c['name']} from 0 to 5:" for c in criteria}
    prefix, tails = _frame(tokenizer, rubric, prompt, tools, questions)
    return prefix, _untrusted(tokenizer, f"Answer:\n{transcript(completion)}"), tails


def pair_ids(tokenizer, constitution, prompt, completions, row_slice=None, tools=None):
    """(prefix, [first before second, second before first], tail) token ids of two answers; the tail asks for A or B."""
    rubric, texts = rubric_for(constitution, row_slice)[1], [transcript(completion) for completion in completions]
    prefix, tails = _frame(tokenizer, rubric, prompt, tools, {"better": "Which answer is better, A or B?"})
    orders = [_untrusted(tokenizer, f"A:\n{a}\nB:\n{b}") for a, b in (texts, texts[::-1])]
    return prefix, orders, tails["better"]


def _frame(tokenizer, rubric, prompt, tools, questions):
    """What stands before the answers (rubric, tools on offer, request) and, for each question, what stands after."""
    prefix, tails = [], {}
    for name, question in questions.items():
        text = f"{rubric}\n{SLOT}\n{question}"
        head, tail = render(tokenizer, [{"role": "user", "content": text}], generation_prompt=True).split(SLOT)
        prefix = tokenizer(head, add_special_tokens=False).input_ids
        tails[name] = tokenizer(tail, add_special_tokens=False).input_ids
    return prefix + _untrusted(tokenizer, request_text(prompt, tools)), tails


def _untrusted(tokenizer, text):
    """Token ids of a text from outside: split_special_tokens alone would let <think> and <tool_call> through, which are
    added tokens and not "special"."""
    added = "|".join(re.escape(token) for token in tokenizer.get_added_vocab())
    cuts = [found.start() + 1 for found in re.finditer(f"(?={added})", text)] if added else []
    return [i for start, end in zip([0, *cuts], [*cuts, None])
            for i in tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=True).input_ids]


def request_text(prompt, tools):
    """The tools on offer, if any, and the request, as a judge reads them."""
    offered = f"Tools: {', '.join(map(signature, tools))}\n" if tools else ""
    return f"{offered}Request:\n{transcript(prompt)}\n"


def signature(tool):
    """A tool definition in short: "book_table(city: string, people: integer)"; an enum's values stand for its type."""
    fields = (tool["function"].get("parameters") or {}).get("properties", {})
    fields = {name: field if isinstance(field, dict) else {} for name, field in fields.items()}
    types = {name: "|".join(map(str, field.get("enum", [field.get("type", "any")]))) for name, field in fields.items()}
    return f"{tool['function']['name']}({', '.join(f'{name}: {kind}' for name, kind in types.items())})"


def transcript(messages):
    """Message lists as plain text for a judge: the role is named where more than one speaks."""
    texts = ["\n".join(filter(None, [m["content"], *(json.dumps(c["function"], ensure_ascii=False)
                                                     for c in m.get("tool_calls", []))])) for m in messages]
    return texts[0] if len(texts) == 1 else "\n".join(f"[{m['role']}] {text}" for m, text in zip(messages, texts))


# ---- scores from digit logits ---------------------------------------------------------------------------------


@torch.no_grad()
def tree_logits(model, prefix, answers, tails, pad_id):
    """Next-token logits after prefix + answer + tail for every answer and tail -> [answers, tails, V] float32.

    Keys and values of the prefix are computed once for all answers, those of an answer once for all tails."""
    device, n = model.device, len(prefix)
    start = model(input_ids=torch.tensor([prefix], device=device), use_cache=True, logits_to_keep=1)
    cache = start.past_key_values
    cache.batch_repeat_interleave(len(answers))
    ids, mask = _padded(answers, pad_id, device, left=False)
    attention = torch.cat([mask.new_ones(len(answers), n), mask], 1)
    position = n + torch.arange(ids.shape[1], device=device).expand_as(ids)
    model(input_ids=ids, attention_mask=attention, position_ids=position, past_key_values=cache, use_cache=True,
          logits_to_keep=1)
    cache.batch_repeat_interleave(len(tails))
    ends = (n + mask.sum(1)).repeat_interleave(len(tails))
    ids, mask = _padded(tails * len(answers), pad_id, device, left=False)
    attention = torch.cat([attention.repeat_interleave(len(tails), 0), mask], 1)
    position = ends[:, None] + torch.arange(ids.shape[1], device=device)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=position, past_key_values=cache,
                   use_cache=True, logits_to_keep=mask.sum(1, keepdim=True) - 1).logits
    logits = logits[torch.arange(len(ids)), mask.sum(1) - 1] if logits.shape[1] > 1 else logits[:, 0]
    return logits.float().view(len(answers), len(tails), -1)


def choice_ids(tokenizer, choices="012345"):
    """[[token ids that read as the choice], ...] for each character: plain, or with a leading space where one token."""
    found = []
    for choice in choices:
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (choice, " " + choice)]
        tail = tokenizer(":" + choice, add_special_tokens=False).input_ids[-1:]  # SentencePiece: inside a text
        singles = {tuple(i) for i in ids + [tail] if len(i) == 1 and tokenizer.decode(i).strip() == choice}
        found.append(sorted(i[0] for i in singles))
    if not all(found):
        raise BadInput(f"this judge's tokenizer has no single token for each of {choices}; take another or an endpoint")
    return found


def digit_score(logits, digits, min_mass=0.5):
    """{"score", "sd", "mass"} from next-token logits [V]: the expected digit, its spread, and the probability of all
    valid digits before normalising. A mass below min_mass: the judge did not answer, score and sd are None."""
    probabilities = logits.double().softmax(-1)
    p = torch.stack([probabilities[ids].sum() for ids in digits])
    mass, values = p.sum().item(), torch.arange(len(digits), dtype=torch.float64, device=p.device)
    if not mass >= min_mass:
        return {"score": None, "sd": None, "mass": mass}
    mean = (p * values).sum() / mass
    return {"score": mean.item(), "sd": ((p * (values - mean) ** 2).sum() / mass).sqrt().item(), "mass": mass}


def judge_answers(model, tokenizer, constitution, prompt, completions, row_slice=None, tools=None):
    """Digit scores of every answer to one prompt -> ([{criterion: {"score", "sd", "mass"}}, ...], tokens read)."""
    parts = [judge_ids(tokenizer, constitution, prompt, completion, row_slice, tools) for completion in completions]
    prefix, tails, answers = parts[0][0], parts[0][2], [answer for _, answer, _ in parts]
    if not tails:
        return [{} for _ in completions], 0
    logits = tree_logits(model, prefix, answers, list(tails.values()), stop_ids(tokenizer)[0])
    digits = choice_ids(tokenizer)
    tokens = len(prefix) + sum(map(len, answers)) + len(answers) * sum(map(len, tails.values()))
    scores = [{name: digit_score(row[t], digits) for t, name in enumerate(tails)} for row in logits]
    return scores, tokens


def judge_pair(model, tokenizer, constitution, prompt, completions, row_slice=None, tools=None, min_mass=0.5):
    """([probability that the first of two answers is better: asked in this order, in the other], tokens read); None for
    an order whose letters hold less than min_mass. Many judges prefer a place: ask both ways."""
    prefix, orders, tail = pair_ids(tokenizer, constitution, prompt, completions, row_slice, tools)
    logits = tree_logits(model, prefix, orders, [tail], stop_ids(tokenizer)[0])[:, 0]
    probabilities, letters = logits.double().softmax(-1), choice_ids(tokenizer, "AB")
    mass = torch.stack([probabilities[:, ids].sum(-1) for ids in letters], 1)  # [2 orders, 2 letters]
    first = [None if order.sum() < min_mass else (order[at] / order.sum()).item() for at, order in enumerate(mass)]
    return first, len(prefix) + sum(map(len, orders)) + 2 * len(tail)


def overall_score(scores, criteria):
    """A judge's scores {criterion: {"score"}} as one number 0-5: the weighted mean, at most 1 when a veto is hit. None
    when any criterion has no score: then the judge has no opinion."""
    used = [c for c in criteria if c["name"] in scores]
    values = [scores[c["name"]]["score"] for c in used]
    if not values or None in values:
        return None
    mean = sum(c["weight"] * v for c, v in zip(used, values)) / sum(c["weight"] for c in used)
    return min(mean, 1.0) if any(c["veto"] and v < c["veto"] for c, v in zip(used, values)) else mean


# ---- OpenAI-compatible endpoints ------------------------------------------------------------------------------


def ask_endpoint(url, model, requests):
    """Chat completions for requests [{"messages", "temperature", "max_tokens", "seed"}, ...], in order, side by side.

    Returns [{"text", "tokens", "read", "finish"}]. The key comes from OPENAI_API_KEY. The client retries with back-off;
    when the server stays away BadInput says so, and what was written before is kept."""
    import openai  # a second to load: only where it is used

    client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=4, timeout=300)

    def one(request):
        reply = client.chat.completions.create(model=model, **request)
        choice, usage = reply.choices[0], reply.usage
        calls = [f'{{"name": {json.dumps(c.function.name)}, "arguments": {c.function.arguments}}}'
                 for c in choice.message.tool_calls or []]
        return {"text": "\n".join(filter(None, [choice.message.content or "", *calls])),
                "tokens": usage.completion_tokens if usage else 0, "read": usage.prompt_tokens if usage else 0,
                "finish": "length" if choice.finish_reason == "length" else "stop"}

    try:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, requests))
    except (openai.OpenAIError, ValueError, IndexError, TypeError, AttributeError) as error:  # the last: no such reply
        raise BadInput(f"endpoint {url}: {type(error).__name__}: {str(error)[:160]}; what is written is kept, run "
                       "again to continue") from None


def parse_score(text, criterion):
    """The judge's verdict: the reply is one JSON object, exactly {criterion: 0..5}, at most in a ``` fence. None for
    anything else: "not {...}" or two objects must not become a number that the judge did not mean."""
    found = re.fullmatch(r"\s*(?:```(?:json)?\s)?\s*(\{[^{}]*\})\s*(?:```)?\s*", text)
    try:
        [(name, value)] = json.loads(found[1], object_pairs_hook=list)
    except (ValueError, TypeError):
        return None
    return float(value) if name == criterion and type(value) in (int, float) and 0 <= value <= 5 else None


def endpoint_requests(constitution, prompt, completions, row_slice=None, tools=None, seed=0):
    """The chat requests that score answers through an endpoint: one per answer and criterion, in this order."""
    criteria, rubric = rubric_for(constitution, row_slice)
    return [{"messages": [{"role": "user", "content": (
        f"{rubric}\n{request_text(prompt, tools)}\nAnswer:\n{transcript(completion)}\n\n"
        f'Score {c["name"]} from 0 to 5. Reply with one JSON object: {{"{c["name"]}": number}}')}],
        "temperature": 0.0, "max_tokens": 60, "seed": seed} for completion in completions for c in criteria]


def judge_endpoint(url, model, constitution, prompt, completions, row_slice=None, tools=None):
    """As judge_answers, by strict JSON from an endpoint: one retry, then None. -> (scores, tokens read and written)."""
    names = [c["name"] for c in rubric_for(constitution, row_slice)[0]]
    scores, tokens = {}, 0
    for attempt in range(2):
        requests = endpoint_requests(constitution, prompt, completions, row_slice, tools, attempt)
        open_ = [k for k in range(len(requests)) if scores.get(k) is None]
        for k, reply in zip(open_, ask_endpoint(url, model, [requests[k] for k in open_]) if open_ else []):
            scores[k] = parse_score(reply["text"], names[k % len(names)])
            tokens += reply["tokens"] + reply["read"]
    flat = [{"score": scores[k], "sd": None if scores[k] is None else 0.5, "mass": None} for k in sorted(scores)]
    return [dict(zip(names, flat[i * len(names):(i + 1) * len(names)])) for i in range(len(completions))], tokens
