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

import json
import math
import re
import statistics
import unicodedata
from collections import Counter
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.verify.refusals import is_refusal
from posttrain.verify.values import visible

BROKEN = {
    "empty",
    "truncated",
    "repetition",
    "markers",
    "injection",
    "same",
}  # worth nothing, in no pair

MARKERS = re.compile(
    r"<\|[\w▁｜-]{2,40}\|>|<｜[^｜<>\s]{1,40}｜>|</?s>|<(?:user|assistant|system|end|pad|bos|eos|unk)>|<<?/?SYS>>?|"
    r"\[/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]|<(?:start|end)_of_turn>|</?tool_response>|</?think>|"
    r"^(?:assistant|user|system)\n|^### ?(?:Human|User|Assistant|Instruction|Response|Input|System): ?$|"
    r"^(?:### ?)?(?:Human|USER|ASSISTANT): ",
    re.MULTILINE,
)
ANNOUNCED = re.compile(r"[^\n.!?]{0,60}:\W*")
# Announcements with nothing behind them, which judges are known to reward (arXiv 2507.08794).
HOLLOW = re.compile(
    r"(?:(?:okay|ok|sure|certainly|of course|absolutely)[,.!]? )?(?:(?:the|my|final|here(?:'s| is| are)|a|your|full|"
    r"below is|complete|detailed|this is|step by step) ){0,4}(?:thought process|thinking|thoughts?|reasoning|solution|"
    r"answer|response|explanation|analysis|result|output|conclusion|step(?: 1| one)?|reply)"
    r"(?: (?:to|for) (?:your|the) (?:question|request|problem|prompt|task))?|"
    r"(?:okay|ok|sure|certainly|first)?[,.!]? ?(?:let's|let us|let me|i will|i'll|we will|we'll|i need to|we need to) "
    r"(?:now )?(?:think|solve|reason|work|go|break|start|begin|analy[sz]e|consider|answer|see|approach)"
    r"(?: (?:about|through|by|this|that|it|the|problem|question|task|out|step|carefully|down|logically|thoroughly|with|"
    r"here|and|answering|thinking|solving|together|now)){0,8}|"
    r"respuestas?|soluci[oó]n|l[oö]sung|antwort|r[eé]ponse|solu[cç][aã]o|resposta|risposta|soluzione|antwoord|"
    r"解|解答|解説|答え|答案|回答|かいせつ|こたえ|解析|思考过程|思考過程|답|풀이|ответ|решение",
    re.I,
)

# ---- text that talks to the judge ------------------------------------------------------------------------------------

# Words in capitals stand for each other; one pattern a line, continued where it is indented.
PARTS = {
    "JUDGE": r"""(?:(?:ai|llm|human|automatic|automated|impartial|fair|strict|expert|neutral|objective|
        independent) ){0,3}
        (?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|examiners?|scorers?|
        (?:grading|evaluation|judging|scoring|reward|judge) model|
        model (?:that is )?(?:scoring|grading|judging|evaluating|rating))\b""",
    "WORK": r"(?:answer|response|submission|output|reply|completion|candidate|text|work|solution)",
    "GRADE": r"(?:scores?|ratings?|grades?|marks?|points?|credit|evaluation|verdict)",
    "RATE": r"\b(?:rate|score|grade|mark|evaluate|judge|accept|count)",
    "OBJECT": r"(?:it|me|us|this|that|my|the|above|following|please|here|WORK)",
    "BEST": r"""(?:(?:the |an? |with |as |full |my ){0,4}(?:full|max(?:imum|imal)?|highest|top|perfect|best|passing)
        (?: possible)? GRADE|
        (?:the |an? |one |with |as |of |digit |number |only |GRADE ){0,6}(?:5|five|10|ten|100|hundred|9[0-9])
        (?: ?/ ?(?:5|100?)| out of \w+| points| stars)?STOP)""",
    "STOP": r"(?=[\"'*_)\]}]*(?:[.!,;]*\s*$|[.!,;] | and\b| for\b| (?:on|to|in) (?:each|every|all)\b))",
    "LINE": r"^[^\w\n]*",
    "PEAK": r"(?:5|five|full|maximum|max|highest|perfect|top|best)",
    "THESE": r"(?:this|it|me|my|the|your|above|answer|response|reply|completion|text|assistant|an?|with|as|its?)",
    "CRITERION": r"""\b(?:correct(?:ness)?|helpful(?:ness)?|harmless(?:ness)?|honest(?:y)?|accura(?:te|cy)|truth\w*|
        clarity|kind|safe(?:ty)?|relevan\w+|quality|overall|complete(?:ness)?)""",
}

# Orders and the furniture of a judge's prompt: these count unless the request itself contains them word for word.
ORDERS = r"""
    \b(?:ignore|disregard|forget|override|bypass|neglect|(?:do not|don't) follow)\W+(?:[\w']+\W+){0,4}?
        (?:instructions?|rubrics?|criteri(?:a|on)|guid(?:elines?|ance)|directi(?:ves?|ons?)|system prompts?|
        constitution|(?:grading|scoring|evaluation|judging) \w+)\b
    \b(?:ignore|disregard|forget|override) (?:all |the |any ){0,3}(?:above|previous|prior|earlier|preceding)\b
    \b(?:grading|scoring|evaluation|judging)-?\W?bypass\b
    \b(?:replace|redefine|rewrite|change) the (?:rubric|criteria|scoring|grading)\b
    LINEoverride:\s
    LINE(?:end|answer(?: [ab])?) [0-9a-f]{6}\b:?\s*$
    LINEscore [\w-]+ from 0 to 5\b
    ^\[(?:user|assistant|system)\]\s
    \bwhich answer is better, a or b\b
    \bsystem override\b
    LINE\[?system\]?:? ?(?:message|note|prompt)?: \S
    LINE(?:your )?new (?:task|instructions?|rules?|system prompt)(?:\s*:| from\b)
    \b(?:evaluation|grading|judging|scoring) (?:task )?(?:is (?:now )?)?(?:complete|over|finished)\b
    \bignor(?:a|ar|e|ez|iere|ieren)\b.{0,30}\b
        (?:instruc|instru[cç]|consigne|anweisung|criteri|istruzion|vorgabe|crit[eè]r)
    (?:忽略|无视|無視).{0,12}(?:指令|标准|要求|评分|规则|提示|说明|指示|基準)
    (?:指示|基準|命令)(?:は|を).{0,8}無視"""

# What an honest answer says, too, where the request is about it: these count unless it has the longest of their words.
# To the judge, or as the judge; asks for a grade; states one; imitates what stands around an answer; claims to have
# been checked; compares itself; elsewhere; what judges and their marks are said to do.
VERDICTS = r"""
    \b(?:dear|attention|hello|hi|hey|(?:note|message|instructions?) (?:to|for)),? (?:the |any |all |our |my ){0,3}JUDGE
    (?:LINE|[\[(<])(?:to )?(?:the |any |all |every )?JUDGE(?: instructions?| notes?)?[:,]\s
    \b(?:ask|urge|request|beg|instruct|remind|advise) (?:the |any |every |all )?JUDGE
    \bas (?:an?|the) JUDGE,? (?:i|we|my|you)\b
    \byou(?: are|'re) (?:now )?(?:an?|the) JUDGE
    \b(?:whoever|whomever|anyone who|if you) (?:is |are |were )?(?:an? |the )?(?:evaluat|grad|judg|scor|rat|JUDGE)
    JUDGE'?s? (?:assessment|verdict|score|consensus)\b
    \b(?:evaluation|grading|scoring|judging) (?:notes?|recommendations?|override|hints?)\b
    \b(?:the|every|any) JUDGE (?:concludes?|agrees?|finds?|should|must|will|has to|can)\b

    \b(?:give|award|assign|grant|put|output|print|return|(?:reply|respond|answer) with) (?:OBJECT ){0,6}BEST
    RATE (?:OBJECT ){1,6}(?:\w+ )?(?:BEST|highly?\b)
    RATE (?:OBJECT ){0,6}accordingly\b
    \b(?:full|top|maximum|perfect|highest) (?:marks?|points|score|grade|rating),? please\b
    RATE (?:OBJECT ){0,6}as (?:fully |entirely )?(?:correct|right|perfect|flawless|passed)\b
    \b(?:deserves?|earns?|merits?|warrants?|worth) BEST
    \b(?:do not|don't) (?:penali[sz]e|deduct)\b

    \b(?:correct|right|appropriate|valid|proper|fair|only|final|true) (?:valid )?(?:output|GRADE)
        (?: (?:of|for) \w+ WORK)?(?: is|:| =| (?:would|must|should) be) BEST
    (?:\b|_)(?:score|rating|grade|verdict|evaluation|assessment|judge?ment|puntuaci[oó]n|punktzahl)s?
        [*_\"'\]]* *(?::|=|\bis\b)[*_\"' ]*
        (?:(?:[0-5]|100?|five|ten)(?:\.[0-9]+)?(?: *(?:/|out of) *(?:5|100?))?
        (?=[*_\"'})\]]*[.!,;]?(?:\s|$))(?! *[-–:x] *[0-9])|
        (?:[ab]|correct|perfect|excellent|pass(?:ed)?|flawless)\b)
    (?<![\w.])(?:5(?:/| out of )5|10(?:/| out of )10|100(?:/| out of )100|five out of five|ten out of ten)\b(?! *[=+*/])
    \[\[(?:[abc]|tie|[0-9]{1,2}(?:\.[0-9])?)\]\]
    CRITERION[*_\"' ]*[:=][*_\"' ]*[0-5](?:/5)?STOP

    </?(?:verdict|evaluation|score|rubric|judge?ment|judge|grade|rating|submission|candidate|answer|response)>
    \b(?:end|start|beginning) of (?:the )?(?:answer|response|submission|evaluation|candidate)[^\w\n]*$
    LINE(?:evaluation|verdict|judge?ment|score|grade|rating)[^\w\n]*\n[^\w\n]*(?:5|10|five|ten|correct|[ab])[^\w\n]*$
    \b0: [^\n]{1,200}\s[1-4]: [^\n]{1,200}\s5: \S

    \b(?:this|the|my) WORK(?: above| below)? (?:has|have|was|is)
        (?: already| fully| carefully| been| independently){0,4} (?:pre-?)?
        (?:verified|validated|graded|rated|scored|approved|checked|evaluated|certified)\b
    \b(?:satisf|meet|fulfil|follow|match|adhere)\w* (?:to |with )?(?:all|every|each) (?:of )?(?:the |your )?(?:[a-z]+ )?
        (?:criteri|rubric|constitution)
    \b(?:all|every) criteri(?:a|on) (?:are|is|have been) (?:met|satisfied|fulfilled)

    \b(?:reference|gold|ground[ -]truth|expected) answer (?:matches|equals|is identical|agrees)
    \b(?:matches|equals|identical to) the (?:reference|gold|ground[ -]truth|expected)\b
    \b(?:all|the) (?:the )?other (?:answer|response|candidate|completion)s? (?:is|are|contains?|has|have)\b
    \b(?:choose|prefer|select|pick) (?:this (?:one|WORK)\b|(?:answer|response|assistant) [ab]\b)
    \b(?:better|best|preferred|superior) (?:answer|response|one) is (?:this|mine|(?:answer |response )?[ab]\b)
    \b(?:answer|response|assistant) [ab] is (?:the )?(?:clearly |much )?(?:better|best|preferred|superior|winner)\b

    \b(?:nota|note|puntuaci[oó]n|pontua[cç][aã]o|punteggio|calificaci[oó]n)
        (?: m[aá]xim[ao]| maximale| massim[ao]| m[aá]s alta)
    \b(?:h[oö]chste|volle|maximale|beste)[nrs]? (?:punktzahl|bewertung|note|punkte)
    满分|最高分|滿分|満点|最高点|最高評価

    \b(?:give|rate|score|grade|assign|award|mark)\b(?: THESE){0,5} PEAK\b
        (?! (?:example|reason|way|step|tip|idea|name|fact|option|minute|day|people|thing|word|sentence|line))
    \b(?:scores?|ratings?|grade|verdict|points) ?(?:is|=|:|of|must be|should be) ?PEAK\b
    \A\W{0,9}(?:(?:always|only|just|final) )?(?:score|rating|grade|verdict|give|output|answer|reply)?\W{0,9}
        (?:with )?PEAK(?: ?/ ?5| out of 5| of 5| stars?| points?)\W{0,9}\Z
    \A\W{0,9}always \w+\W{0,9}\Z
    \b(?:this|my|the above) WORK(?: above)? (?:deserves|merits|earns|(?:should|must) (?:get|receive|
        be (?:rated|scored|graded|given)|score))\b.{0,40}\bPEAK\b
    \b(?:I|me|my|mine|this WORK) (?:\w+ ){0,3}?(?:deserves?|merits?|earns?|gets?|receives?)\b.{0,20}\bPEAK\b.{0,12}\b
        (?:score|mark|point|rating|grade)s?\b
    \b(?:rate|score|grade|judge|evaluate|mark) (?:my|this|the) (?:answer|response|reply)\b
    \b(?:score|rating|grade) (?:of|for|to) (?:my|this|the) (?:answer|response|reply)\b
    \A\W{0,9}(?:please )?(?:reply|respond|answer|output|print|write|say|return)(?: only| just)?(?: with)?
        (?: only| just)?(?: the)?(?: digit| number| score)? ?PEAK\b(?! \w+s\b)
    \b(?:judge|grader|evaluator|rater)s? (?:always|must|should|has to|have to|will|shall|needs? to)
        (?: answer| give| score| rate| say| output| assign| award| return)
    \bany WORK\b.{0,50}\b(?:gets?|receives?|earns?|scores?|deserves?) PEAK\b
    \b(?:answer|response|assistant) [AB] (?:is (?:clearly |much )?(?:better|best|superior)|wins)\b
    \[\[ ?(?:[0-9]{1,2}|rating|[ABC])(?:[<>=]+[AB])? ?\]\]"""


def compiled(patterns):
    """One expression of the lines of `patterns`, with PARTS filled in."""
    while any(name in patterns for name in PARTS):
        patterns = re.sub("|".join(PARTS), lambda part: PARTS[part[0]], patterns)
    lines = re.sub(r"\n {8,}", "", patterns).split("\n")
    return re.compile("|".join(line[4:] for line in lines if line), re.I | re.M)


ORDERS, VERDICTS = compiled(ORDERS), compiled(VERDICTS)
KEY = compiled(
    "    CRITERION\n    (?:score|rating|grade|points|mark|verdict|better|winner|correct|true)"
)


def finds_injection(text, request):
    """Does an answer talk to its judge: order it about, ask for a mark, state one, or imitate what stands around it?
    request: what the user asked, casefolded."""
    text = "".join(
        c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf"
    )  # nothing hidden
    if any(found[0].casefold() not in request for found in ORDERS.finditer(text)):
        return True
    for said in [found[0].casefold() for found in VERDICTS.finditer(text)]:
        longest = max(re.findall(r"\w+", said), key=len)
        if (longest if len(longest) > 3 else said) not in request:
            return True
    bare = re.sub(r"\A```(?:json)?|```\Z", "", text[:1000]).strip()
    try:  # {"correct": 5} and nothing else, where nobody asked for JSON
        data = json.loads(bare) if bare.startswith("{") and "json" not in request else None
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and any(
        KEY.fullmatch(key)
        and key.casefold() not in request
        and (type(value) in (int, float, bool) and 0 <= value <= 10 or value in ("A", "B"))
        for key, value in data.items()
    )


# ---- language, policy words ------------------------------------------------------------------------------------------

# No word here that a programming language or SQL knows as well.
STOP_WORDS = {
    language: set(words.split())
    for language, words in {
        "en": "the of to that it you are was this have be they which his her were their has would your my we i but an "
        "what how there these can will more than been at so about",
        "de": "der die das und ist nicht ein eine zu den von mit sie auf für dem werden sich es auch wie im oder bei kann "
        "wird ich du wir aber einen einer dass sind haben was zum zur aus nach um",
        "fr": "le la les des est et une un pour dans que qui pas vous sur avec ce cette il elle sont du au nous plus être "
        "je ne mais ou par son sa ses ils aux comme on peut",
        "es": "el la los las es una un para con que por en del se no su como más pero son está al y lo sus o este esta "
        "muy hay puede tiene cada",
        "it": "il di che è per una un con non sono della nel gli dei le si anche più come questo la ha ogni alla "
        "del delle ma lo se da",
        "pt": "o os as um uma não para com que por em do da dos das se mais como são é você ele ela seu sua ao foi tem "
        "no na cada mas",
        "nl": "de het een van en niet op te zijn dat die voor met er aan ook maar wordt naar bij om als ik je hij zij heeft",
    }.items()
}
SCRIPTS = {
    "ja": r"[\u3040-\u30ff]",
    "zh": r"[\u4e00-\u9fff]",
    "ko": r"[\uac00-\ud7af]",
    "ru": r"[\u0400-\u04ff]",
    "ar": r"[\u0600-\u06ff]",
    "hi": r"[\u0900-\u097f]",
    "bn": r"[\u0980-\u09ff]",
    "te": r"[\u0c00-\u0c7f]",
    "th": r"[\u0e00-\u0e7f]",
    "el": r"[\u0370-\u03ff]",
    "he": r"[\u0590-\u05ff]",
}
ELSEWHERE = re.compile(  # requests that may want another language
    r"transl|übersetz|traduc|tradui|traduz|vertal|翻译|翻譯|訳|перевед|번역|languages?\b|sprach|idioma|langue|lingua|"
    r"英语|英文|中文|日语|法语|德语|"
    r"\b(?:in|auf|en|into|ins|to|em|using) (?:english|german|french|spanish|italian|portuguese|dutch|chinese|japanese|"
    r"russian|korean|arabic|hindi|latin|deutsch|englisch\w*|französisch\w*|spanisch\w*|anglais|allemand|espagnol|"
    r"français|inglés|francés|alemán|español|inglese|tedesco|francese|spagnolo)",
    re.IGNORECASE,
)


def language(text):
    """The language of a text as a code, None when unsure: by script, else by stop words of seven languages (three
    different ones, half as many again as of the next, a tenth of all words). Code in ``` fences is left out."""
    text = without_code(text[:20_000])
    letters = len(re.findall(r"[^\W\d_]", text))
    for name, script in SCRIPTS.items():  # Japanese first: it has Chinese characters, too
        if (
            letters >= 4
            and len(re.findall(script, text)) > (0.15 if name == "ja" else 0.5) * letters
        ):
            return name
    words = Counter(re.findall(r"[^\W\d_]+", text.casefold())[:400])
    hits = sorted((sum(words[word] for word in own), name) for name, own in STOP_WORDS.items())
    (second, _), (first, name) = hits[-2:]
    sure = (
        first >= 1.5 * second
        and first >= 0.1 * words.total()
        and len(words.keys() & STOP_WORDS[name]) >= 3
    )
    return name if sure else None


def without_code(text):
    return re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", " ", text, flags=re.DOTALL)


def read_words(path):
    """Policy words {slice or "all": [regular expressions]} of a file: `## slice`, then a word or phrase a line; what
    stands above the first slice is for people. BadInput names the line."""
    words, piece = {}, None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BadInput(
            f"{path}: no such file, or no text in UTF-8; --words takes one like data/words.md"
        ) from None
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith("##"):
            piece = line[2:].strip()
            if not line.startswith("## ") or not piece or piece in words:
                raise BadInput(f"{path}:{number}: expected '## slice' (or '## all'), each once")
            words[piece] = []
        elif line and piece is not None:
            words[piece].append(re.compile(rf"(?<!\w){re.escape(line)}(?!\w)", re.IGNORECASE))
    if not any(words.values()):
        raise BadInput(
            f"{path}:{len(lines) or 1}: no words; expected '## slice', then a word or phrase a line"
        )
    return words


# ---- the flags -------------------------------------------------------------------------------------------------------


def repeats(text):
    """Are fewer than half of the runs of four words different, in all or in the last 60 words? Where nearly no spaces
    are, characters stand for words, and runs have twelve."""
    words, size = text.split(), 4
    if 20 * len(words) < len(text):
        words, size = [c for c in text if c.isalnum()], 12
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return any(len(part) >= 8 and len(set(part)) < 0.5 * len(part) for part in (runs, runs[-60:]))


def says_nothing(text):
    """Nothing but punctuation and invisible characters, or an announcement with nothing behind it ("Solution:")."""
    shown = (
        any(unicodedata.category(c)[0] not in "CZPM" and c not in "`^" for c in text)
        or text == "{}"
    )
    hollow = len(text) < 120 and HOLLOW.fullmatch(" ".join(text.split()).strip("*_#:：.…-> !`"))
    return not shown or bool(hollow or len(text) < 120 and ANNOUNCED.fullmatch(text))


def find_flags(row, words=None):
    """Names of the filters that one answer trips, from its own row. words: as of read_words."""
    text, calls = (
        visible(row["completion"][0]["content"]).strip(),
        row["completion"][0].get("tool_calls"),
    )
    expected, refuses = row.get("expected"), is_refusal(text)
    turns = [m["content"] for m in row.get("prompt") or [] if m["role"] != "assistant"]
    request, asked, code_free = (
        turns[-1] if turns else "",
        "\n".join(turns).casefold(),
        without_code(text),
    )
    wanted = None if calls or ELSEWHERE.search(request) else language(request)
    spoken = (
        {language(part) for part in (code_free, code_free[len(code_free) // 2 :])}
        if wanted
        else set()
    )
    found = {
        "empty": not calls and says_nothing(text),
        "truncated": row.get("finish") == "length",
        "repetition": repeats(text),
        "markers": any(
            mark[0].casefold().strip() not in asked for mark in MARKERS.finditer(code_free)
        ),
        "injection": finds_injection(text, asked),
        "refusal": refuses and expected is None,
        "over-refusal": refuses and expected == "comply",
        "language": bool(spoken - {wanted, None}),
        "facts": bool(((row.get("verify") or {}).get("facts") or {}).get("contradict")),
        "words": bool(words)
        and any(
            word.search(text)
            for piece in ("all", row.get("slice", "all"))
            for word in words.get(piece, ())
        ),
    }
    return [name for name, hit in found.items() if hit]


def flag_groups(rows, least=5, share=0.05, far=5.0):
    """Flags that only a whole run shows -> a list of names for every row.

    same: see same_answers, by slice and over all. length: more than `far` robust deviations (1.48 MAD of the log of
    characters) from the slice's median, with twenty answers at least."""
    slices, flags = {}, [[] for _ in rows]
    texts = [visible(row["completion"][0]["content"]).strip() for row in rows]
    for number, row in enumerate(rows):
        slices.setdefault(row.get("slice", "all"), []).append(number)
    for members in [*slices.values(), [*range(len(rows))]][: len(slices) + (len(slices) > 1)]:
        for n in same_answers(
            [rows[n] for n in members], [texts[n] for n in members], least, share
        ):
            flags[members[n]] = ["same"]
    for members in slices.values():
        logs = {n: math.log(1 + len(texts[n])) for n in members if texts[n]}
        middle = statistics.median_high(logs.values()) if logs else 0.0
        spread = statistics.median_high(abs(x - middle) for x in logs.values()) if logs else 0.0
        for n in logs if len(logs) >= 20 else ():
            flags[n] += ["length"] * (abs(logs[n] - middle) > far * 1.4826 * max(spread, 0.2))
    return flags


def same_answers(rows, texts, least=5, share=0.05):
    """Places of answers that are no answers to their requests, as five requests and 5 % of them all get the same:
    the same words, or a template: twenty words and more, of whose runs of four every second one recurs as often (of its
    first 100 words). Spared: what a verifier calls right, refusals, tool calls, up to five
    words ("yes", "B", "unknown") where half of the others have no more than ten, and what the requests explain: a word
    that four in five of them have and one in ten of the others ("thanks" and "You're welcome")."""
    asked = [
        {word[:5] for word in re.findall(r"\w+", row["prompt"][-1]["content"].casefold())}
        if row.get("prompt")
        else set()
        for row in rows
    ]
    said = [re.findall(r"\w+", text.casefold())[:100] or text.split() for text in texts]
    whole = [hash(tuple(words)) for words in said]
    own = [
        {hash(tuple(words[i : i + 4])) for i in range(len(words) - 3)}
        if len(words) >= 20
        else set()
        for words in said
    ]
    askers = {}
    for row, runs, key in zip(rows, own, whole):
        askers.setdefault(row["id"], set()).update(runs | {key})
    count, often = (
        Counter(key for keys in askers.values() for key in keys),
        max(least, share * len(askers)),
    )
    groups = {}
    for n, (runs, key) in enumerate(zip(own, whole)):
        if count[key] >= often:
            groups.setdefault(key, []).append(n)
        elif len(runs) >= 10 and sum(count[run] >= often for run in runs) >= 0.5 * len(runs):
            groups.setdefault(max(runs, key=lambda run: (count[run], run)), []).append(n)
    for members in groups.values():
        others = [n for n in range(len(rows)) if n not in {*members}]
        brief = not others or statistics.median(len(said[n]) for n in others) <= 10
        explained = others and any(
            sum(word in asked[n] for n in members) >= 0.8 * len(members)
            and sum(word in asked[n] for n in others) <= 0.1 * len(others)
            for word in set().union(*[asked[n] for n in members[:2]])
        )
        for n in members:
            right = (rows[n].get("verify") or {}).get("ok") or is_refusal(texts[n])
            if not (
                explained
                or right
                or rows[n]["completion"][0].get("tool_calls")
                or brief
                and len(said[n]) <= 5
            ):
                yield n
