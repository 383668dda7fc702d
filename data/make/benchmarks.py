"""Public benchmarks as suites of the gate.

Reads   FILE in the layout of its makers: JSONL, the CSV of MMLU, or hf:NAME[[:CONFIG]:SPLIT] through `datasets`.
Writes  a suite, one item a line (suite.py says what an item is).

    python data/make/benchmarks.py gsm8k hf:openai/gsm8k:main:test --out runs/suite/gsm8k.jsonl --limit 200
    python data/make/benchmarks.py mmlu hf:cais/mmlu:all:test --out runs/suite/mmlu.jsonl --by subject --limit 20
    python data/make/benchmarks.py mgsm mgsm.jsonl --out runs/suite/mgsm.jsonl

    gsm8k      type math: the last number of the answer is compared
    mgsm       the same, a slice for each language; a question and its translations are one cluster
    mmlu       type mc (arc and hellaswag, too): the choices' texts are scored; --letters: they are shown in the
               prompt, and their letters are scored
    humaneval  type code: run with --run-code
    ifeval     type format: only prompts all of whose instructions verify.py decides as IFEval's own checkers do

What to look at: the line that it prints says how many rows were left out, and why.
"""

import csv
import re
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent)]
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.gating.suite import at, suite_item
from posttrain.records.files import hub_rows
from posttrain.records.jsonl import read_jsonl, write_jsonl
from posttrain.verify.answers import NUMBER
from posttrain.verify.values import need

END = "\n\nEnd your answer with the result, a number in the digits 0-9."


def parse_args(argv=None):
    p = parser(__doc__)
    p.add_argument(
        "layout",
        help="whose layout FILE has",
        choices=("gsm8k", "mgsm", "mmlu", "arc", "hellaswag", "humaneval", "ifeval"),
    )
    p.add_argument("file", help="JSONL, CSV or hf:NAME[[:CONFIG]:SPLIT]")
    p.add_argument("--out", required=True, help="suite to write, *.jsonl")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each slice")
    p.add_argument(
        "--letters",
        action="store_true",
        help="multiple choice: show the choices, score their letters",
    )
    p.add_argument(
        "--by", help="field whose values become the slices, as subject in MMLU (default: one slice)"
    )
    return p.parse_args(argv)


def read_rows(file):
    """[(row number, row)] of a file or hf: name. The CSV of MMLU has no header: question, choices, letter."""
    if not file.endswith(".csv"):
        return enumerate(hub_rows(file[3:]), 1) if file.startswith("hf:") else read_jsonl(file)
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            return [
                (
                    number,
                    {
                        "question": cells[0],
                        "choices": cells[1:-1],
                        "answer": cells[-1],
                        "subject": Path(file).stem.rsplit("_", 1)[0],
                    },
                )  # law_test.csv
                for number, cells in enumerate(csv.reader(lines), 1)
            ]
    except (UnicodeDecodeError, csv.Error, IndexError) as error:
        raise BadInput(f"{file}: not MMLU's CSV in UTF-8 ({str(error)[:100]})") from None


def text(row, *names):
    """The first of the fields that is there, which must be a text."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    need(isinstance(value, str) and value.strip(), names[0], "a text", value)
    return value


def sums(row):
    """GSM8K, MGSM: the result is the answer, or what follows its ####."""
    numeric = row.get("answer_number")
    answer = (
        str(numeric) if numeric is not None else text(row, "answer").rpartition("####")[2].strip()
    )
    need(NUMBER.fullmatch(answer), "answer", "a number, alone or after ####", answer)
    return {"type": "math", "prompt": text(row, "question") + END, "answer": answer}


def choice(row, letters):
    """MMLU, ARC, HellaSwag: the answer is an index, its digits, or a label. A text: why the item is left out."""
    choices, answer = (
        row.get("choices", row.get("endings")),
        row.get("answer", row.get("answerKey", row.get("label"))),
    )
    labels, choices = (
        (choices.get("label"), choices.get("text"))
        if isinstance(choices, dict)
        else (None, choices)
    )
    need(
        isinstance(choices, list)
        and 2 <= len(choices) <= 10
        and all(isinstance(c, str) and c for c in choices),
        "choices",
        "2 to 10 texts",
        choices,
    )
    question, names, digits = (
        text(row, "question", "ctx"),
        [*"ABCDEFGHIJ"[: len(choices)]],
        "0123456789"[: len(choices)],
    )
    known = next(
        (one for one in (labels, [*digits], names) if isinstance(one, list) and str(answer) in one),
        None,
    )
    need(known and len(known) == len(choices), "answer", "index or label of a choice", answer)
    if letters:
        shown = "".join(f"\n{name}. {one}" for name, one in zip(names, choices))
        question, choices = f"{question}{shown}\nAnswer with the letter only.", names
    return (
        "two choices are the same"
        if len({one.strip() for one in choices}) < len(choices)
        else {
            "type": "mc",
            "prompt": question,
            "choices": choices,
            "answer": known.index(str(answer)),
        }
    )


def program(row):
    """HumanEval: the prompt is the head of a function, the test is def check(candidate)."""
    ask = "Write this Python function in full, with its imports, in one code block:"
    return {
        "type": "code",
        "prompt": f"{ask}\n\n```python\n{text(row, 'prompt')}```",
        "tests": [text(row, "test")],
        "entry_point": text(row, "entry_point"),
    }


def constraints(instruction, given):
    """One instruction of IFEval (arXiv 2311.07911) as constraints with the same verdict on every text (but that ß
    counts as ss); None: there are none. Its keywords are regular expressions, and its checker draws another letter for
    one outside a-z: only plain words and such letters are taken."""
    name, number = (
        instruction.partition(":")[2],
        given.get("let_frequency") or given.get("frequency"),
    )
    words = (
        given.get("keywords")
        or given.get("forbidden_words")
        or [given.get("keyword") or given.get("letter") or ""]
    )
    plain = all(
        re.fullmatch(r"[A-Za-z]" if name == "letter_frequency" else r"\w+", word) for word in words
    )
    if name in ("frequency", "letter_frequency") and plain:
        bound = {"at least": {"min": number}, "less than": {"max": number - 1}}
        bound = bound[given.get("let_relation") or given["relation"]]
        return [{"type": "letters", "value": {"text": words[0]} | bound}]
    return {
        "no_comma": [{"type": "not_contains", "value": ","}],
        "quotation": [
            {"type": "starts_with", "value": '"'},
            {"type": "ends_with", "value": '"'},
            {"type": "letters", "value": {"text": '"', "min": 2}},
        ],
        "existence": plain and [{"type": "contains", "value": word} for word in words],
        "forbidden_words": plain
        and [{"type": "occurs", "value": {"text": word, "max": 0}} for word in words],
    }.get(name)


def instructions(row):
    """IFEval: a prompt with its instructions. A text: the one for which the item is left out."""
    names, given = row.get("instruction_id_list"), row.get("kwargs")
    need(
        isinstance(names, list) and names and all(isinstance(one, str) and one for one in names),
        "instruction_id_list",
        "a list of names",
        names,
    )
    need(
        isinstance(given, list)
        and len(given) == len(names)
        and all(isinstance(one, dict) for one in given),
        "kwargs",
        "an object for each instruction",
        given,
    )
    try:
        made = [constraints(*pair) for pair in zip(names, given)]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"field 'kwargs': expected what {', '.join(names)[:200]} need ({error})"
        ) from None
    return next((name for name, one in zip(names, made) if not one), None) or {
        "type": "format",
        "prompt": text(row, "prompt"),
        "constraints": sum(made, []),
    }


def main(args):
    items, left_out, seen, by = (
        [],
        Counter(),
        Counter(),
        "lang" if args.layout == "mgsm" else args.by,
    )
    for number, row in read_rows(args.file):
        with at(f"{args.file}:{number}"):
            name = f"{args.layout}-{text(row, by)}" if by else args.layout
            seen[name] += 1
            if args.limit and seen[name] > args.limit:
                continue
            made = (
                sums(row)
                if args.layout in ("gsm8k", "mgsm")
                else program(row)
                if args.layout == "humaneval"
                else instructions(row)
                if args.layout == "ifeval"
                else choice(row, args.letters)
            )
            if isinstance(made, str):
                left_out[made] += 1
                continue
            made = {"id": f"{args.layout}-{number}", "slice": name} | made
            made |= {"cluster": f"mgsm-{seen[name]}"} if args.layout == "mgsm" else {}
            suite_item(made, name, number)
        items.append(made)
    if not items:
        raise BadInput(f"{args.file}: no row became an item ({dict(left_out)})")
    write_jsonl(args.out, items)
    reasons = "".join(f"; {n} left out: {why}" for why, n in left_out.most_common())
    print(
        f"{args.out}: {len(items)} items in {len({item['slice'] for item in items})} slices{reasons}"
    )
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
