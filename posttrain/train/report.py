"""What SFT rows look like: lengths, duplicates, hedging openers. You will get what you train on."""

from collections import Counter

from posttrain.chat.thoughts import visible

HEDGES = (
    "great question",
    "sure",
    "certainly",
    "of course",
    "i think",
    "i could be wrong",
    "as an ai",
    "absolutely",
    "i'd be happy",
)
SHOWN = 3  # of the openers, the most frequent


def data_report(rows):
    """Two lines on SFT records: lengths and duplicates, and how answers open. Without thoughts."""
    answers = [visible(row["completion"][-1]["content"]).strip() for row in rows]
    words = sorted(len(answer.split()) for answer in answers)
    middle, ninety = words[len(words) // 2], words[int(len(words) * 0.9)]

    prompts = [str(row["prompt"]) for row in rows]
    copies = len(rows) - len(set(zip(prompts, answers)))
    repeated = len(rows) - len(set(prompts))
    empty = 0
    for row, answer in zip(rows, answers):
        calls = row["completion"][-1].get("tool_calls")
        if not answer and not calls:
            empty += 1

    openers = Counter(opening_hedge(answer) for answer in answers)
    hedged = len(rows) - openers.pop(None, 0)
    examples = ", ".join(f"'{hedge}' {count}" for hedge, count in openers.most_common(SHOWN))
    if examples:
        examples = f" ({examples})"
    return [
        f"report   words per answer: median {middle}, 90 % below {ninety}, longest {words[-1]}; "
        f"{copies} exact duplicates, {repeated} repeated prompts, {empty} empty answers",
        f"report   {hedged} answers open with a hedge{examples}",
    ]


def opening_hedge(answer):
    """The hedge that an answer begins with, or None."""
    lower = answer.lower()
    for hedge in HEDGES:
        if lower.startswith(hedge):
            return hedge
    return None
