"""What every stage shares because a mistake in it would be silent: records, chat -> tokens and masks, losses, cost.

Shapes: B = sequences in a pack, T = padded length in tokens, V = vocabulary. `mask` marks the tokens that are trained
on (1 = supervised). `logps` are natural-log probabilities, `ratio` = policy - reference, `reward` = beta * ratio.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import re
import sys
import traceback
import warnings
from pathlib import Path

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
for _name, _value in {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DELAY": "1",
                      "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}.items():
    os.environ.setdefault(_name, _value)  # library noise stays off the user's screen; set before the libraries load

import jinja2
import torch
import torch.nn.functional as F


class BadInput(ValueError):
    """The user can fix this: one line that names file, line, field and remedy. Scripts exit with code 2."""


def parser(doc):
    """An ArgumentParser whose --help is the script's docstring and shows every default."""
    class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action):
            quiet = action.default is None or action.default is False  # 0 == False: a default of 0 is shown
            return action.help if quiet else super()._get_help_string(action)
    return argparse.ArgumentParser(description=doc, formatter_class=Help, allow_abbrev=False)


def at_least(low, kind=int, most=math.inf):
    """argparse type: a finite number from low to most."""
    def number(text):
        value = kind(text)
        if not low <= value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {most}")
        return value
    return number


def run(main, args):
    """Call a stage's main(args) and exit with its code; bad input becomes one line on stderr and exit code 2. A crash
    exits with 70: 1 is a verdict of the gate."""
    try:
        code = main(args)
    except (BadInput, OSError) as error:  # OSError: a folder where a file should be, no permission, a full disk
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = 70
    sys.exit(code)


# ---- records: JSONL in, message lists out --------------------------------------------------------------------

ROLES = {"human": "user", "gpt": "assistant", "observation": "tool",  # ShareGPT's words
         "system": "system", "user": "user", "assistant": "assistant", "tool": "tool", "developer": "system"}


MAX_LINE = 1 << 24  # bytes of a JSONL line: a file without line breaks is refused before it fills the memory


def read_jsonl(path, limit=None):
    """[(line number, row), ...] of a JSONL file, of its first `limit` rows when given: the rest is not read. BadInput
    names file:line; NaN and Infinity are refused."""
    path, rows = Path(path), []
    if not path.is_file():
        raise BadInput(f"{path}: {'a folder or device, expected a file' if path.exists() else 'no such file'}")
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise BadInput(f"{path}:{number}: a line of more than {MAX_LINE >> 20} MiB; expected one record a line")
            if not line.strip():
                continue
            if len(rows) == limit:
                break
            try:
                row = json.loads(line.decode("utf-8-sig"))
                json.dumps(row, ensure_ascii=False, allow_nan=False).encode()  # NaN, 1e999, lone surrogates
            except (ValueError, RecursionError) as error:
                why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
                raise BadInput(f"{path}:{number}: not a JSON object on one line ({why})") from None
            if not isinstance(row, dict):
                raise BadInput(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
            rows.append((number, row))
    return rows


def write_jsonl(path, rows):
    """Write a derived file whole, then rename it: a reader never sees half of it."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_whole(path, text):
    """Replace `path` by `text` at once; a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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


def read_records(path, kind, limit=None):
    """Normalised rows of a JSONL file or of hf:name[[:config]:split]; `id` is filled in where absent, and unique."""
    where, rows, seen = str(path), [], set()
    if where.startswith("hf:"):
        raw = [(n, {k: v for k, v in row.items() if v is not None or k in ("label_chosen", "label_rejected")})
               for n, row in enumerate(hub_rows(where[3:]), 1)]
    else:
        raw = read_jsonl(path, limit)
    for number, row in raw[:limit]:
        try:
            row = normalise(row, kind)
        except BadInput as error:
            raise BadInput(f"{where}:{number}: {error}") from None
        # answers to one prompt share its id
        mark = f"{seed_for(row['prompt']):x}"[:10] if kind == "candidates" else number
        row.setdefault("id", f"{Path(where).stem}-{mark}")
        key = (row["id"], row.get("candidate", number)) if kind == "candidates" else row["id"]
        if kind in ("prompts", "candidates") and key in seen:
            raise BadInput(f"{where}:{number}: field 'id': {row['id']!r} occurs twice; ids must be unique")
        seen.add(key)
        rows.append(row)
    if not rows:
        raise BadInput(f"{where}: no records")
    return rows


def hub_rows(name):
    """Rows of NAME[[:CONFIG]:SPLIT], a data set of the hub or a local folder of the library `datasets`."""
    import datasets

    name, _, rest = name.partition(":")
    config, _, split = rest.rpartition(":")
    try:
        if (Path(name) / "state.json").exists() or (Path(name) / "dataset_dict.json").exists():
            data = datasets.load_from_disk(name)
            return data[split or "train"] if isinstance(data, datasets.DatasetDict) else data
        return datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the library raises a dozen kinds: no network, no such name, no such split
        raise BadInput(f"hf:{name}: cannot be loaded ({type(error).__name__}: {str(error)[:160]})") from None


def read_mixture(specs, kind, limit=None, slices=()):
    """Rows of --data FILE[=WEIGHT] ...; row["source"] = (file, slice or "", weight) tells the sampler the mixture: rows
    of one source are drawn `weight` times an epoch. slices: NAME=WEIGHT, multiplied with the file's. BadInput for a
    name that no row has."""
    if not all("=" in spec for spec in slices or ()):
        raise BadInput("--slice-weight: expected SLICE=WEIGHT, for instance tools=2")
    rows, by_slice = [], dict(split_weight(spec, "--slice-weight") for spec in slices or ())
    for number, spec in enumerate(specs):
        path, weight = split_weight(spec)
        for row in read_records(path, kind, limit):
            row = {"weight": 1.0, "slice": "all"} | row
            named = row["slice"] if row["slice"] in by_slice else ""
            rows.append(row | {"source": (number, named, weight * by_slice.get(named, 1.0))})
    unknown = by_slice.keys() - {row["slice"] for row in rows}
    if unknown:
        raise BadInput(f"--slice-weight: no row has the slice {', '.join(sorted(unknown))} (the data has "
                       f"{', '.join(sorted({row['slice'] for row in rows}))})")
    return rows


def split_weight(spec, flag="--data"):
    """"FILE=2" -> ("FILE", 2.0); "FILE" -> ("FILE", 1.0)."""
    path, _, weight = spec.rpartition("=")
    try:
        weight = float(weight) if path else None
    except ValueError:
        weight = None
    if weight is not None and not 0 < weight < math.inf:
        raise BadInput(f"{flag} {spec}: the weight must be a number above 0")
    return (path, weight) if weight is not None else (spec, 1.0)


# ---- run records: what was done, with what, at what cost -----------------------------------------------------

def start_run(out, script, arguments, inputs):
    """Open the record of a run, or continue it. `out` is the output file or folder; `inputs` are paths, hashed.

    Returns the record; record["finished"] says that nothing is left to do. BadInput when `out` was made with other
    arguments or inputs: continuing would mix two runs. A run that never got to its first result starts anew."""
    out = Path(out)
    is_file = out.suffix == ".jsonl"
    path = out.with_suffix(".run.json") if is_file else out / "run.json"
    free = ("out", "plan", "show_mask", "selfcheck", "track", "save_every",
            "tokens_per_second", "answer_len", "price_gen", "price_judge",
            "price_gpu_hour")  # what may change between two halves of a run
    new = {"script": script, "inputs": {path: digest(path) for path in map(str, inputs)},
           "arguments": json.loads(json.dumps({k: v for k, v in arguments.items() if k not in free}))}
    begun = [out] if out.is_file() else [p for p in out.iterdir() if p.name not in (
        "run.json", "run.json.tmp", "ref_logps.jsonl", "log.jsonl", "tracker")] if out.is_dir() else []
    old = read_run(path)
    if old and (begun or old["finished"]):
        for part in new:
            if old.get(part) != new[part]:
                keys = new[part] if isinstance(new[part], dict) else {part: 0}
                changed = [k for k in keys if part == "script" or old[part].get(k) != new[part][k]] or [part]
                raise BadInput(f"{out} was made with other {part} ({', '.join(changed)}): take another --out")
        return old | {"path": str(path)}  # a folder may have been renamed since
    if begun or (path.exists() and not old):
        raise BadInput(f"{out} exists and is not a run of this kit: take another --out")
    import peft
    import transformers

    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
                "peft": peft.__version__}
    record = new | {"path": str(path), "versions": versions, "finished": False, "seconds": 0.0}
    save_run(record)
    return record


def read_run(path):
    """The run record at `path`; {} when there is none of ours."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return record if record["script"] and isinstance(record["finished"], bool) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save_run(record, **measured):
    """Store what is known so far. Called after each batch, so that seconds and tokens survive a kill."""
    record.update(measured)
    write_whole(record["path"], json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def runs_beside(out):
    """Finished run records next to `out`, oldest first; each knows its folder or file as record["path"]."""
    beside = Path(out).parent
    paths = sorted([*beside.glob("*.run.json"), *beside.glob("*/run.json")], key=lambda p: (p.stat().st_mtime, p))
    return [record | {"path": str(path)} for path, record in zip(paths, map(read_run, paths)) if record.get("finished")]


def continue_lines(path, sizes):
    """Cut a killed run's output after its last complete batch -> number of batches done. sizes: lines of each batch."""
    path = Path(path)
    ends = [found.end() for found in re.finditer(b"\n", path.read_bytes())] if path.exists() else []
    done, lines = 0, 0
    while done < len(sizes) and lines + sizes[done] <= len(ends):
        lines, done = lines + sizes[done], done + 1
    if path.exists():
        os.truncate(path, ends[lines - 1] if lines else 0)
    return done


def append_lines(path, rows):
    """Append rows to a JSONL file. A kill inside leaves a torn line, which continue_lines cuts."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def digest(path):
    """Short sha256 of a file or folder, hf:folder[:split] included (files above 64 MiB by size and 64 KiB of each MiB).
    A hub name stands for itself."""
    name = str(path).removeprefix("hf:")
    path, total = Path(name if Path(name).exists() else name.partition(":")[0]), hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files if path.exists() else []:
        size = file.stat().st_size
        with open(file, "rb") as f:
            total.update(f"{file.relative_to(path) if path.is_dir() else ''}|{size}|".encode())
            for at in range(0, size, 1 << 20):
                f.seek(at)
                total.update(f.read(1 << 20 if size <= 1 << 26 else 1 << 16))
    return total.hexdigest()[:16] if path.exists() else name


def seed_for(*parts):
    """A 63-bit seed that depends on all parts and on nothing else (Python's hash() changes between processes)."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


# ---- chat -> tokens and masks --------------------------------------------------------------------------------

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


def stop_ids(tokenizer):
    """Token ids that end an assistant turn: the first special token the template puts after the text, and eos."""
    text = render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Xq7"}])
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    after = [i for i in tokenizer(text.rpartition("Xq7")[2], add_special_tokens=False).input_ids if i in special][:1]
    stops = after + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    if not stops:
        raise BadInput("the tokenizer has no end-of-sequence token: the model could never learn to stop")
    return list(dict.fromkeys(stops))


def prompt_ids(tokenizer, prompt, tools=None):
    """What the model sees before it answers: used alike in training, generation and judging."""
    return tokenizer(render(tokenizer, prompt, tools, True), add_special_tokens=False).input_ids


def encode(tokenizer, prompt, completion, tools=None, max_len=None, all_turns=False):
    """Tokens and mask of a conversation. Returns {"ids", "mask", "truncated"}; raises ValueError(reason) for a bad row.

    Supervised are the tokens of the answer up to and including its stop token; with all_turns those of every assistant
    turn. The prompt's tokens are those generation would use: no token crosses the seam. Truncation keeps the start."""
    messages, stops, text, ids, mask = prompt + completion, stop_ids(tokenizer), "", [], []
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and (all_turns or i == len(messages) - 1)]
    for turn in turns:
        if not (messages[turn]["content"].strip() or messages[turn].get("tool_calls")):
            raise ValueError("empty answer")
        head, full = render(tokenizer, messages[:turn], tools, True), render(tokenizer, messages[:turn + 1], tools)
        if not (head.startswith(text) and full.startswith(head)):
            raise ValueError("the chat template's prompt is not a prefix of the conversation")
        ids = _extend(tokenizer, ids, text, head)
        mask += [0] * (len(ids) - len(mask))
        whole = _extend(tokenizer, ids, head, full)
        ends = [i for i in range(len(ids), len(whole)) if whole[i] in stops]
        if len(ends) > 1 and tokenizer.decode([i for i in whole[ends[0]:] if i not in stops]).strip():
            raise ValueError("a stop token inside the answer")
        if not ends:  # the template closes the turn with plain text only
            whole, ends, full = whole + stops[:1], [len(whole)], full + tokenizer.convert_ids_to_tokens(stops[0])
        ids, stop = whole[:ends[0] + 1], tokenizer.convert_ids_to_tokens(whole[ends[0]])
        mask += [1] * (len(ids) - len(mask))
        text = full[:full.rindex(stop) + len(stop)]  # what follows is tokenised with the next turn, as in generation
    truncated = max_len is not None and len(ids) > max_len
    ids, mask = ids[:max_len], mask[:max_len]
    if not any(mask):
        raise ValueError("nothing of the answer is left within --max-len")
    return {"ids": ids, "mask": mask, "truncated": truncated}


def _extend(tokenizer, ids, text, longer):
    """Token ids of `longer`, which starts with `text` (= ids): tokenised as one unless a token would cross the seam."""
    joint = tokenizer(longer, add_special_tokens=False).input_ids
    return joint if joint[:len(ids)] == ids else ids + tokenizer(longer[len(text):], add_special_tokens=False).input_ids


def show_mask(tokenizer, row):
    """The row as text: what is trained on stands between ⟦ and ⟧."""
    parts, open_ = [], False
    for token, m in zip(row["ids"] + [None], row["mask"] + [0]):
        if bool(m) != open_:
            parts.append("⟧" if open_ else "⟦")
            open_ = bool(m)
        parts.append("" if token is None else tokenizer.decode([token]))
    return "".join(parts)


# ---- log-probabilities and losses ----------------------------------------------------------------------------

def completion_logps(model, rows, pad_id=0, by_token=False):
    """Summed log-probability of the supervised tokens of each row -> (logps [B] float64, tokens [B] long); by_token:
    those of the single tokens, row after row.

    rows: [{"ids", "mask"}, ...], padded on the right here; padding is known by length, never by its id. The one place
    with the one-token shift: the logits at t-1 score the token at t. Only supervised positions reach the head."""
    device, T = model.device, max(len(row["ids"]) for row in rows)
    ids = torch.tensor([row["ids"] + [pad_id] * (T - len(row["ids"])) for row in rows], device=device)  # [B, T]
    mask = torch.tensor([row["mask"] + [0] * (T - len(row["mask"])) for row in rows], device=device).bool()
    attention = torch.tensor([[1] * len(row["ids"]) + [0] * (T - len(row["ids"])) for row in rows], device=device)
    keep = torch.zeros_like(mask)
    keep[:, :-1] = mask[:, 1:]
    logits = model(input_ids=ids, attention_mask=attention, logits_to_keep=keep, use_cache=False).logits
    logits = (logits[keep] if logits.dim() == 3 else logits).float()  # [supervised tokens, V]
    targets = ids[:, 1:][mask[:, 1:]]
    token_logps = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    if by_token:
        return token_logps
    logps = torch.zeros(len(rows), dtype=torch.float64, device=device)
    return logps.index_add(0, keep.nonzero()[:, 0], token_logps.double()), keep.sum(1)


def dpo_loss(ratio_chosen, ratio_rejected, beta, label_smoothing=0.0):
    """DPO per pair (arXiv 2305.18290, eq. 7). ln 2 at zero ratios. [B], [B] -> [B]

    label_smoothing (number or [B]): probability that the label is wrong; the expected loss (conservative DPO)."""
    margin = beta * (ratio_chosen - ratio_rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(ratio_chosen, ratio_rejected, beta, label_smoothing=0.0):
    """IPO per pair (Identity preference optimisation, arXiv 2310.12036, eq. 17): (difference - 1/(2 beta))^2.

    1/(4 beta^2) at zero ratios. The ratios are per-token means (--ipo-length mean, as TRL) or sums (--ipo-length sum);
    the caller divides. beta is the paper's tau: higher keeps the policy closer to the reference. label_smoothing as in
    dpo_loss. [B] -> [B]"""
    margin, target = ratio_chosen - ratio_rejected, 1 / (2 * beta)
    return (1 - label_smoothing) * (margin - target) ** 2 + label_smoothing * (margin + target) ** 2


def kto_loss(ratio, label, kl, beta):
    """KTO per answer (arXiv 2402.01306, eq. 7), before weights: 0.5 at zero ratio and KL. [B], [B] bool, scalar -> [B]

    Desirable: 1 - sigmoid(beta (ratio - kl)). Undesirable: 1 - sigmoid(beta (kl - ratio)). kl: see kto_kl."""
    return 1 - torch.sigmoid(beta * torch.where(label, ratio - kl, kl - ratio))


def kto_kl(ratio):
    """KTO's reference point z0: the mean ratio of mismatched answers, never below 0, without gradient. [B] -> scalar"""
    return ratio.detach().mean().clamp(min=0)


# ---- cost: data is P prompts x N candidates x T tokens, paid twice (generation and judging) ------------------

def generation_tokens(prompts, n, answer_len, prompt_len):
    """(tokens read, tokens written) for N answers to each of P prompts; each prompt is read once for its N answers."""
    return prompts * prompt_len, prompts * n * answer_len


def judge_tokens(prompts, n, answer_len, prompt_len, rubric_len):
    """Tokens a judge reads: P x (rubric + prompt + N x T) when rubric and prompt are shared by the N candidates."""
    return prompts * (rubric_len + prompt_len + n * answer_len)


def money(tokens=0, price_per_million=0.0, seconds=0.0, price_gpu_hour=0.0):
    """Cost in the currency of the prices: per million tokens, plus per GPU-hour."""
    return tokens * price_per_million / 1e6 + seconds * price_gpu_hour / 3600


def forecast(out, script, tokens, tokens_per_second=None, price_per_million=0.0, price_gpu_hour=0.0, model=None):
    """{"tokens", "seconds", "cost"} of a stage before it runs. Without a given speed that of the newest finished run of
    the same script and model beside `out` is taken; with none there, seconds are None: unknown is not zero."""
    if not tokens_per_second:
        speeds = [r["tokens"] / r["seconds"] for r in runs_beside(out)
                  if r["script"] == script and r.get("seconds") and r.get("tokens")
                  and model in (None, *(r.get("arguments", {}).get(key) for key in ("model", "judge")))]
        tokens_per_second = speeds[-1] if speeds else None
    seconds = tokens / tokens_per_second if tokens_per_second else None
    cost = money(tokens, price_per_million, seconds or 0.0, price_gpu_hour)
    return {"tokens": tokens, "seconds": seconds, "cost": None if seconds is None and price_gpu_hour else cost}


def cost_line(record):
    """One line for the terminal from a forecast or a measurement {"tokens", "seconds", "cost"}."""
    seconds = "time unknown (--tokens-per-second)" if record["seconds"] is None else f"{record['seconds']:.0f} s"
    cost = "unknown" if record["cost"] is None else f"{record['cost']:.4f}"
    return f"{record['tokens']:,.0f} tokens, {seconds}, cost {cost}"
