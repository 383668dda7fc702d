"""Filters: what is wrong with an answer whatever it means. A flag is a remark with a name.

One answer by itself (FILTERS):
    empty        nothing but punctuation, or an announcement with nothing behind it ("Solution:")
    truncated    cut off at the longest length
    repetition   half of its runs of four words come again
    markers      leaked chat markers; those of a well-formed tool call are none, where tools are
    injection    speaks to a judge: asks for a score, imitates a verdict
    refusal      refuses, and nothing says whether it should
    over-refusal refuses what it should answer
    language     another language than the request's
    facts        contradicts the evidence at hand
    words        a policy word of its slice
All answers of a run together (RUN_FILTERS):
    same         one answer to many different requests
    length       far shorter or longer than its slice

An answer with a flag of BROKEN is worth nothing, whatever a judge says; the other flags are
remarks. How often each is wrong about honest text was measured: bench/filters.py, bench/RESULTS.md.

How to add one: a function of an Answer that says whether it is hit, and a line in FILTERS:

    def shouts(answer):
        return answer.text.isupper() and len(answer.text) > 20

    "shouts": shouts,

If it decides, its name goes into BROKEN. What no answer shows by itself goes into RUN_FILTERS.
"""

import json
import math
import re
import statistics
import unicodedata
from collections import Counter
from pathlib import Path

from posttrain.chat.calls import read_calls
from posttrain.chat.thoughts import visible
from posttrain.cli import BadInput
from posttrain.filter_patterns import (
    ANNOUNCED,
    ELSEWHERE,
    HOLLOW,
    KEY,
    MARKERS,
    ORDERS,
    SCRIPTS,
    STOP_WORDS,
    VERDICTS,
)
from posttrain.verify.refusals import is_refusal

# Flags whose answers are worth nothing, and in no pair.
BROKEN = {"empty", "truncated", "repetition", "markers", "injection", "same"}

# A run filter says nothing about fewer answers than these.
SAME_LEAST = 5  # requests that get the same answer
SAME_SHARE = 0.05  # of all requests
LENGTH_LEAST = 20  # answers in a slice
LENGTH_FAR = 5.0  # robust deviations from the slice's median

SHORT = 120  # characters: an announcement with nothing behind it is no longer
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


class Answer:
    """A row's answer, with what more than one filter asks about it.

    words: policy words as read_words reads them.
    """

    def __init__(self, row, words):
        turns = [turn["content"] for turn in row.get("prompt") or [] if turn["role"] != "assistant"]
        self.row = row
        self.words = words or {}
        self.text, self.tool_calls = words_and_calls(row)
        self.code_free = without_code(self.text)
        self.refuses = is_refusal(self.text)
        self.request = turns[-1] if turns else ""
        self.conversation = "\n".join(turns).casefold()  # all that the user, system and tools say


def words_and_calls(row):
    """(what a row's answer says, its tool calls or none) of what a person is shown.

    A call that the model wrote in its own format is no text: its marks have leaked nowhere, and its
    words are in no language. Text is, what only tries to be a call, and all where no tools are.
    """
    message = row["completion"][0]
    text = visible(message["content"]).strip()
    tool_calls = message.get("tool_calls")
    if tool_calls or not row.get("tools"):
        return text, tool_calls
    try:
        reading = read_calls(text, row["tools"])
    except ValueError:
        return text, None
    return (reading.prose, reading.calls) if reading.calls else (text, None)


def without_code(text):
    """A text without code and addresses, which are in no language."""
    return CODE.sub(" ", text)


# ---- form ----------------------------------------------------------------------------------------


def is_empty(answer):
    return not answer.tool_calls and says_nothing(answer.text)


def says_nothing(text):
    """Nothing but punctuation and invisible characters, or a bare announcement ("Solution:")."""
    if not any(is_shown(character) for character in text) and text != "{}":
        return True
    if len(text) >= SHORT:
        return False
    bare = " ".join(text.split()).strip("*_#:：.…-> !`")
    return bool(HOLLOW.fullmatch(bare) or ANNOUNCED.fullmatch(text))


def is_shown(character):
    """Neither control character, mark nor punctuation, apart from the marks of code and maths."""
    return unicodedata.category(character)[0] not in "CZPM" and character not in "`^"


def is_truncated(answer):
    return answer.row.get("finish") == "length"


def is_repetitive(answer):
    """Are fewer than half of the runs of four words different, in all or in the last 60 words?

    Where nearly no spaces are, characters stand for words, and runs have twelve.
    """
    words = answer.text.split()
    size = 4
    if 20 * len(words) < len(answer.text):
        words = [character for character in answer.text if character.isalnum()]
        size = 12
    runs = runs_of(words, size)
    return mostly_repeats(runs) or mostly_repeats(runs[-60:])


def runs_of(words, size):
    """Every `size` words that follow each other, as tuples."""
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def mostly_repeats(runs):
    return len(runs) >= 8 and len(set(runs)) < 0.5 * len(runs)


def has_markers(answer):
    """Chat markers outside code that the request does not have."""
    marks = [match[0].casefold().strip() for match in MARKERS.finditer(answer.code_free)]
    return any(mark not in answer.conversation for mark in marks)


# ---- text that talks to the judge ----------------------------------------------------------------


def has_injection(answer):
    return finds_injection(answer.text, answer.conversation)


def finds_injection(text, request):
    """Does an answer talk to its judge?

    Order it about, ask for a mark, state one, or imitate what stands around an answer.
    request: what the user asked, casefolded; what it speaks of is no injection.
    """
    text = unhidden(text)
    if any(match[0].casefold() not in request for match in ORDERS.finditer(text)):
        return True
    phrases = [match[0].casefold() for match in VERDICTS.finditer(text)]
    if any(telling_word(phrase) not in request for phrase in phrases):
        return True
    return "json" not in request and is_json_verdict(text, request)


def unhidden(text):
    """A text in the plain form of its letters, without invisible characters."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def telling_word(phrase):
    """The longest word of a phrase; all of it when that has no more than three letters."""
    longest = max(re.findall(r"\w+", phrase), key=len)
    return longest if len(longest) > 3 else phrase


def is_json_verdict(text, request):
    """Is a text {"correct": 5} and nothing else? JSON that is torn or no JSON is none."""
    bare = re.sub(r"\A```(?:json)?|```\Z", "", text[:1000]).strip()
    if not bare.startswith("{"):
        return False
    try:
        data = json.loads(bare)
    except (ValueError, RecursionError):
        return False
    for key, value in data.items():
        if KEY.fullmatch(key) and key.casefold() not in request and is_mark(value):
            return True
    return False


def is_mark(value):
    """What a judge's JSON says of an answer: 0 to 10, true, false, or which of two is better."""
    if type(value) in (int, float, bool):
        return 0 <= value <= 10
    return value in ("A", "B")


# ---- refusals, facts, policy words ---------------------------------------------------------------


def refuses_unasked(answer):
    return answer.refuses and answer.row.get("expected") is None


def refuses_too_much(answer):
    return answer.refuses and answer.row.get("expected") == "comply"


def contradicts_facts(answer):
    facts = (answer.row.get("verify") or {}).get("facts") or {}
    return bool(facts.get("contradict"))


def has_policy_words(answer):
    """Words of its slice, or of the list for all slices."""
    patterns = []
    for name in ("all", answer.row.get("slice", "all")):
        patterns += answer.words.get(name, [])
    return any(pattern.search(answer.text) for pattern in patterns)


def read_words(path):
    """Policy words of a file, {slice or "all": [regular expressions]}.

    `## slice`, then a word or phrase a line; what stands above the first slice is for people.
    BadInput names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BadInput(
            f"{path}: no such file, or no text in UTF-8; --words takes one like data/words.md"
        ) from None
    words, name = {}, None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if line.startswith("##"):
            name = line[2:].strip()
            if not line.startswith("## ") or name in words:
                raise BadInput(f"{path}:{number}: expected '## slice' (or '## all'), each once")
            words[name] = []
        elif line and name is not None:
            pattern = rf"(?<!\w){re.escape(line)}(?!\w)"
            words[name].append(re.compile(pattern, re.IGNORECASE))
    if not any(words.values()):
        raise BadInput(
            f"{path}:{len(lines) or 1}: no words; expected '## slice', then a word or phrase a line"
        )
    return words


# ---- language ------------------------------------------------------------------------------------


def is_in_another_language(answer):
    """The whole answer, or its second half; where the request may want that, nothing is said."""
    if answer.tool_calls or ELSEWHERE.search(answer.request):
        return False
    expected = language(answer.request)
    if expected is None:
        return False
    half = len(answer.code_free) // 2
    spoken = {language(answer.code_free), language(answer.code_free[half:])}
    return bool(spoken - {expected, None})


def language(text):
    """The language of a text as a code, None when unsure. Code in ``` fences is left out."""
    text = without_code(text[:20_000])
    return language_of_script(text) or language_of_words(text)


def language_of_script(text):
    """The language whose letters make up half of a text (kana: a seventh); None without one."""
    if text.isascii():
        return None
    letters = len(re.findall(r"[^\W\d_]", text))
    if letters < 4:
        return None
    for name, script in SCRIPTS.items():
        least = 0.15 if name == "ja" else 0.5
        if len(re.findall(script, text)) > least * letters:
            return name
    return None


def language_of_words(text):
    """The language with the most stop words among a text's first 400 words; None when unsure.

    Sure: three different ones, half as many again as of the next language, a tenth of all words.
    """
    words = Counter(re.findall(r"[^\W\d_]+", text.casefold())[:400])
    hits = []
    for name, stop_words in STOP_WORDS.items():
        hits.append((sum(words[word] for word in words.keys() & stop_words), name))
    (second, _), (first, name) = sorted(hits)[-2:]
    is_clear = first >= 1.5 * second
    is_frequent = first >= 0.1 * words.total()
    is_varied = len(words.keys() & STOP_WORDS[name]) >= 3
    return name if is_clear and is_frequent and is_varied else None


# ---- filters of a whole run ----------------------------------------------------------------------


def same_answers(rows, texts, places_of_slice):
    """Places of answers that are no answers to their requests: see same_in_group.

    Looked for in every slice, and over all slices.
    """
    groups = list(places_of_slice.values())
    if len(groups) > 1:
        groups.append(list(range(len(rows))))
    places = set()
    for group in groups:
        group_rows = [rows[place] for place in group]
        group_texts = [texts[place] for place in group]
        places.update(group[number] for number in same_in_group(group_rows, group_texts))
    return places


def same_in_group(rows, texts):
    """Numbers of answers that five requests, and 5 % of them all, get alike.

    Alike: the same words, or a template: twenty words and more, of whose runs of four every second
    one recurs as often (of its first 100 words). Spared: what a verifier calls right, refusals,
    tool calls, up to five words ("yes", "B", "unknown") where half of the others have no more than
    ten, and what the requests explain.
    """
    words = [opening_words(text) for text in texts]
    requests = [request_words(row) for row in rows]
    flagged = []
    for members in alike(rows, words):
        inside = set(members)
        others = [number for number in range(len(rows)) if number not in inside]
        if is_explained(members, others, requests):
            continue
        lengths = [len(words[number]) for number in others]
        others_are_brief = not others or statistics.median(lengths) <= 10
        for number in members:
            is_brief = others_are_brief and len(words[number]) <= 5
            if not is_brief and not may_recur(rows[number], texts[number]):
                flagged.append(number)
    return flagged


def opening_words(text):
    """The first hundred words of a text in small letters; without any, what stands there."""
    return re.findall(r"\w+", text.casefold())[:100] or text.split()


def request_words(row):
    """The words of a request, by their first five letters."""
    if not row.get("prompt"):
        return set()
    text = row["prompt"][-1]["content"].casefold()
    return {word[:5] for word in re.findall(r"\w+", text)}


def alike(rows, words):
    """Lists of the numbers of answers that are alike, from the words of each."""
    whole = [hash(tuple(answer)) for answer in words]
    runs = [run_hashes(answer) for answer in words]
    keys_of_prompt = {}
    for row, key, answer_runs in zip(rows, whole, runs):
        keys_of_prompt.setdefault(row["id"], set()).update(answer_runs | {key})
    often = max(SAME_LEAST, SAME_SHARE * len(keys_of_prompt))
    count = Counter()  # how many prompts get a whole answer, or a run
    for keys in keys_of_prompt.values():
        count.update(keys)

    groups = {}
    for number, (key, answer_runs) in enumerate(zip(whole, runs)):
        frequent = [run for run in answer_runs if count[run] >= often]
        if count[key] >= often:
            groups.setdefault(key, []).append(number)
        elif len(answer_runs) >= 10 and len(frequent) >= 0.5 * len(answer_runs):
            # Of runs that are as frequent the last in the alphabet, so that every process agrees.
            run = max(runs_of(words[number], 4), key=lambda run: (count[hash(run)], run))
            groups.setdefault(hash(run), []).append(number)
    return list(groups.values())


def run_hashes(words):
    """Hashes of the runs of four words of an answer; none when it has fewer than twenty words."""
    return {hash(run) for run in runs_of(words, 4)} if len(words) >= 20 else set()


def is_explained(members, others, requests):
    """Do the requests explain why these answers are alike ("thanks" and "You're welcome")?

    Yes when a word stands in four of five of their requests and in one of ten of the others.
    """
    if not others:
        return False
    inside = Counter(word for number in members for word in requests[number])
    for word, count in inside.items():
        if count >= 0.8 * len(members):
            outside = sum(word in requests[number] for number in others)
            if outside <= 0.1 * len(others):
                return True
    return False


def may_recur(row, text):
    """Is this an answer that many requests can get: right, a refusal, or a tool call?"""
    is_right = (row.get("verify") or {}).get("ok")
    return bool(is_right or is_refusal(text) or words_and_calls(row)[1])


def odd_lengths(rows, texts, places_of_slice):
    """Places of answers whose length is far from the median of their slice.

    Far: LENGTH_FAR robust deviations (1.48 times the median one) of the logarithm of characters.
    Empty answers do not count.
    """
    odd = set()
    for places in places_of_slice.values():
        logs = {place: math.log(1 + len(texts[place])) for place in places if texts[place]}
        if len(logs) < LENGTH_LEAST:
            continue
        middle = statistics.median_high(logs.values())
        spread = statistics.median_high(abs(value - middle) for value in logs.values())
        limit = LENGTH_FAR * 1.4826 * max(spread, 0.2)
        odd.update(place for place, value in logs.items() if abs(value - middle) > limit)
    return odd


# ---- the tables ----------------------------------------------------------------------------------

# {flag: is this answer hit?}, in the order in which flags are written.
FILTERS = {
    "empty": is_empty,
    "truncated": is_truncated,
    "repetition": is_repetitive,
    "markers": has_markers,
    "injection": has_injection,
    "refusal": refuses_unasked,
    "over-refusal": refuses_too_much,
    "language": is_in_another_language,
    "facts": contradicts_facts,
    "words": has_policy_words,
}

# {flag: places of the answers that are hit}, from the rows, the texts that they show, and
# {slice: places of its rows}.
RUN_FILTERS = {
    "same": same_answers,
    "length": odd_lengths,
}


def find_flags(row, words=None):
    """Names of the filters that one answer trips by itself. words: as of read_words."""
    answer = Answer(row, words)
    return [name for name, is_hit in FILTERS.items() if is_hit(answer)]


def flag_groups(rows):
    """Flags that only a whole run shows: a list of names for every row."""
    texts = [words_and_calls(row)[0] for row in rows]
    places_of_slice = {}
    for place, row in enumerate(rows):
        places_of_slice.setdefault(row.get("slice", "all"), []).append(place)

    flags = [[] for _ in rows]
    for name, find in RUN_FILTERS.items():
        for place in find(rows, texts, places_of_slice):
            flags[place].append(name)
    return flags
