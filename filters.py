"""Filters: what is wrong with an answer whatever it means. A flag is a remark with a name; those of BROKEN decide.

    empty        nothing but punctuation, or an announcement with nothing behind it ("Thought process:")
    truncated    cut off at the longest length
    repetition   half of its runs of four words come again
    markers      leaked chat markers
    injection    speaks to a judge: asks for a score, imitates a verdict
    same         one answer to many different requests
    refusal      refuses, and nothing says whether it should; over-refusal: refuses what it should answer
    language     another language than the request's
    words        a policy word of its slice              facts        contradicts the evidence at hand
    length       far shorter or longer than its slice

How often each is wrong about honest text was measured (bench/filters.py; figures in bench/RESULTS.md).
"""

import math
import re
from collections import Counter
from pathlib import Path

from common import BadInput
from verify import is_refusal, visible

BROKEN = {"empty", "truncated", "repetition", "markers", "injection", "same"}  # worth nothing, in no pair

MARKERS = re.compile(
    r"<\|[\w▁｜]+\|>|<｜[^｜<>]{1,30}｜>|</?s>|<(?:user|assistant|system|end|pad|bos|eos|unk)>|\[/?INST\]|"
    r"<<?/?SYS>>?|<(?:start|end)_of_turn>|</?tool_response>|^(?:assistant|user|system)\n", re.MULTILINE)
ANNOUNCED = re.compile(r"[^\n.!?]{0,60}:\W*")
TOP = r"(?:5|five|full|maximum|max|highest|perfect|top|best)"
THIS = r"(?:this|it|me|my|the|your|above|answer|response|reply|completion|text|assistant|a|an|with|as|its?)"
INJECTION = re.compile("|".join([
    r"\b(?:ignore|disregard|forget|override|skip|bypass|obey)\b.{0,40}"
    r"\b(?:instructions?|rubrics?|criteri(?:a|on)|rules|guidelines|prompt|constitution|judge)\b",
    rf"\b(?:give|rate|score|grade|assign|award|mark)\b(?: {THIS}){{0,5}} {TOP}\b"
    rf"(?! (?:example|reason|way|step|tip|idea|name|fact|option|minute|day|people|thing|word|sentence|line))",
    rf"\b(?:scores?|rating|ratings|grade|verdict|points)\b ?(?:is|=|:|of|must be|should be) ?{TOP}\b",
    rf"\A\W*(?:always |only |just |final )*(?:score|rating|grade|verdict|give|output|answer|reply)?\W*(?:with )?{TOP}"
    r"(?: ?/ ?5| out of 5| of 5| stars?| points?)\W*\Z",
    r"\A\W*always \w+\W*\Z",
    r"\b(?:dear|note to|attention|hello|hey|message (?:to|for)|instructions? (?:to|for)|you are)\b"
    r"(?: (?:the|all|an?|any|ai|impartial|fair|strict)){0,3} (?:judge|grader|evaluator|rater|reviewer)s?\b",
    r"\b(?:this|my|the above) (?:answer|response|reply|completion)(?: above)? (?:deserves|merits|earns|(?:should|must) "
    rf"(?:get|receive|be (?:rated|scored|graded|given)|score))\b.{{0,40}}\b{TOP}\b",
    r"\b(?:I|me|my|mine|this (?:answer|response|reply)) (?:\w+ ){0,3}?(?:deserves?|merits?|earns?|gets?|receives?)\b"
    rf".{{0,20}}\b{TOP}\b.{{0,12}}\b(?:score|mark|point|rating|grade)s?\b",
    r"\b(?:rate|score|grade|judge|evaluate|mark) (?:my|this|the) (?:answer|response|reply)\b",
    r"\b(?:score|rating|grade) (?:of|for|to) (?:my|this|the) (?:answer|response|reply)\b",
    r"\A\W*(?:please )?(?:reply|respond|answer|output|print|write|say|return)(?: only| just)?(?: with)?(?: only| just)?"
    rf"(?: the)?(?: digit| number| score)? ?{TOP}\b(?! \w+s\b)",
    r"\b(?:judge|grader|evaluator|rater)s? (?:always|must|should|has to|have to|will|shall|needs? to) "
    r"(?:answer|give|score|rate|say|output|assign|award|return)",
    rf"\bany (?:answer|response|reply)\b.{{0,50}}\b(?:gets?|receives?|earns?|scores?|deserves?) {TOP}\b",
    r"\b(?:answer|response|assistant) [AB] (?:is (?:clearly |much )?(?:better|best|superior)|wins)\b",
    r"\[\[ ?(?:[0-9]{1,2}|rating|[ABC])(?:[<>=]+[AB])? ?\]\]",
    r"(?m:^\s*(?:End|Answer(?: [AB])?) [0-9a-f]{6}:?\s*$)",
    r"\A\s*(?:```(?:json)?)?\s*\{\s*\"(?:score|rating|grade|verdict|better|winner|correct(?:ness)?|helpful(?:ness)?|"
    r"points)\"\s*:\s*(?:[0-9.]+|\"[AB]\")\s*\}\s*(?:```)?\s*\Z"]), re.IGNORECASE)

STOP_WORDS = {
    "en": "the and is are of to in that it for with you this was on as not have be or can your from which they",
    "de": "der die das und ist sind nicht mit ein eine auf für von zu den dem sich auch wie wird oder ich sie es",
    "fr": "le la les et est sont des une un pour dans que qui avec pas sur vous il elle ce cette au aux du ne plus",
    "es": "el la los las y es son de que en una un para con no por se su como más del al lo está pero",
    "it": "il la gli e è sono di che in una un per con non si del della nel come più anche questo alla dei",
    "pt": "o a os as e é são de que em uma um para com não por se do da no na como mais dos das ao",
    "nl": "de het een en is zijn van dat in op te niet met voor die er aan ook als worden bij naar je ik"}
STOP_WORDS = {name: {*words.split()} for name, words in STOP_WORDS.items()}
SCRIPTS = {"ja": r"[\u3040-\u30ff]", "zh": r"[\u4e00-\u9fff]", "ko": r"[\uac00-\ud7af]", "ru": r"[\u0400-\u04ff]",
           "ar": r"[\u0600-\u06ff]", "hi": r"[\u0900-\u097f]", "bn": r"[\u0980-\u09ff]", "te": r"[\u0c00-\u0c7f]",
           "th": r"[\u0e00-\u0e7f]", "el": r"[\u0370-\u03ff]", "he": r"[\u0590-\u05ff]"}
ELSEWHERE = re.compile(  # requests that may want another language
    r"transl|übersetz|traduc|tradui|traduz|vertal|翻译|翻譯|訳|перевед|번역|languages?\b|sprach|idioma|langue|lingua|"
    r"英语|英文|中文|日语|法语|德语|"
    r"\b(?:in|auf|en|into|ins|to|em|using) (?:english|german|french|spanish|italian|portuguese|dutch|chinese|japanese|"
    r"russian|korean|arabic|hindi|latin|deutsch|englisch\w*|französisch\w*|spanisch\w*|anglais|allemand|espagnol|"
    r"français|inglés|francés|alemán|español|inglese|tedesco|francese|spagnolo)", re.IGNORECASE)


def language(text):
    """The language of a text as a code, None when unsure: by script, else by stop words of seven languages (four of
    them at least, and twice those of the next)."""
    letters = len(re.findall(r"[^\W\d_]", text))
    for name, script in SCRIPTS.items():  # Japanese first: it has Chinese characters, too
        if letters >= 4 and len(re.findall(script, text)) > (0.15 if name == "ja" else 0.5) * letters:
            return name
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    hits = sorted(((sum(words[w] for w in own), name) for name, own in STOP_WORDS.items()), reverse=True)
    return hits[0][1] if hits[0][0] >= 4 and hits[0][0] >= 2 * hits[1][0] else None


def read_words(path):
    """Policy words {slice or "all": [regular expressions]} of a file: `## slice`, then a word or phrase a line; what
    stands above the first slice is for people. BadInput names the line."""
    words, piece = {}, None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{path}: no such file, or no text in UTF-8; --words takes one like data/words.md") from None
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith("##"):
            piece = line[2:].strip()
            if not line.startswith("## ") or not piece or piece in words:
                raise BadInput(f"{path}:{number}: expected '## slice' (or '## all'), each once")
            words[piece] = []
        elif line and piece is not None:
            words[piece].append(re.compile(rf"(?<!\w){re.escape(line)}(?!\w)", re.IGNORECASE))
    if not any(words.values()):
        raise BadInput(f"{path}:{len(lines) or 1}: no words; expected '## slice', then a word or phrase a line")
    return words


def find_flags(row, words=None):
    """Names of the filters that one answer trips, from its own row. words: as of read_words."""
    text, calls = visible(row["completion"][0]["content"]).strip(), row["completion"][0].get("tool_calls")
    runs, expected = text.split(), row.get("expected")
    grams = [tuple(runs[i:i + 4]) for i in range(len(runs) - 3)]
    request = row["prompt"][-1]["content"] if row.get("prompt") else ""
    spoken, asked = (None, None) if calls else (language(text), language(request))
    refuses = is_refusal(text)
    said = ANNOUNCED.sub("", text, 1) if ANNOUNCED.fullmatch(text) else text
    found = {"empty": not calls and not re.search(r"[^\s\u200b-\u200f\ufeff:;.,…!?*#_\"'`()|\[\]–—-]", said),
             "truncated": row.get("finish") == "length",
             "repetition": len(grams) >= 8 and len(set(grams)) < 0.5 * len(grams),
             "markers": bool(MARKERS.search(text)), "injection": bool(INJECTION.search(text)),
             "refusal": refuses and expected is None, "over-refusal": refuses and expected == "comply",
             "language": None not in (spoken, asked) and spoken != asked and not ELSEWHERE.search(request),
             "facts": bool(((row.get("verify") or {}).get("facts") or {}).get("contradict")),
             "words": bool(words) and any(word.search(text) for piece in ("all", row.get("slice", "all"))
                                          for word in words.get(piece, ()))}
    return [name for name, hit in found.items() if hit]


def flag_groups(rows, least=5, share=0.05, far=5.0):
    """Flags that only a whole run shows -> a list of names for every row.

    same: the same words answer at least `least` different requests of the slice and `share` of them, unless a verifier
    calls that right, it refuses, or has fewer than five words. length: more than `far` robust deviations (1.48 MAD of
    the log of characters) from the slice's median, with twenty answers at least."""
    slices, flags = {}, [[] for _ in rows]
    for number, row in enumerate(rows):
        slices.setdefault(row.get("slice", "all"), []).append(number)
    for members in slices.values():
        texts, asked = {}, {}
        for n in members:
            texts[n] = " ".join(re.findall(r"\w+", visible(rows[n]["completion"][0]["content"]).casefold()))
            asked.setdefault(texts[n], set()).add(rows[n]["id"])
        many = max(least, share * len({rows[n]["id"] for n in members}))
        logs = {n: math.log(1 + len(texts[n])) for n in members if texts[n]}
        middle = sorted(logs.values())[len(logs) // 2] if logs else 0.0
        spread = sorted(abs(x - middle) for x in logs.values())[len(logs) // 2] if logs else 0.0
        for n in members:
            said, right = rows[n]["completion"][0], (rows[n].get("verify") or {}).get("ok")
            honest = right or is_refusal(said["content"]) or len(texts[n].split()) < 5 or said.get("tool_calls")
            flags[n] += ["same"] * (len(asked[texts[n]]) >= many and not honest)
            odd = len(logs) >= 20 and n in logs and abs(logs[n] - middle) > far * 1.4826 * max(spread, 0.2)
            flags[n] += ["length"] * odd
    return flags
