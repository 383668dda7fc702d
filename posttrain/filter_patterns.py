"""The filters' patterns, as data: what they are for, and what decides with them, is in filters.py.

Of the expressions one stands on each line, continued where it is indented further. Words in
capitals stand for the parts in PARTS. At the end of the file they are compiled.
"""

import re

# ---- leaked markers, hollow announcements --------------------------------------------------------

# Marks of chat templates: control tokens, thoughts, turns of plain transcripts.
MARKERS = r"""
    <\|[\w:▁｜-]{2,40}\|>
    <｜[^｜<>\s]{1,40}｜>
    </?s>
    <(?:user|assistant|system|end|pad|bos|eos|unk)>
    <<?/?SYS>>?
    \[/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]
    <(?:start|end)_of_turn>
    </?tool_response>
    </?think>
    ^(?:assistant|user|system)\n
    ^### ?(?:Human|User|Assistant|Instruction|Response|Input|System): ?$
    ^(?:### ?)?(?:Human|USER|ASSISTANT): """

# An announcement with nothing behind it: one short line that ends in a colon.
ANNOUNCED = r"""
    [^\n.!?]{0,60}:\W*"""

# The same in words, which judges are known to reward (arXiv 2507.08794).
HOLLOW = r"""
    (?:(?:okay|ok|sure|certainly|of course|absolutely)[,.!]? )?
        (?:(?:the|my|final|here(?:'s| is| are)|a|your|full|below is|complete|detailed|this is|
        step by step) ){0,4}
        (?:thought process|thinking|thoughts?|reasoning|solution|answer|response|explanation|
        analysis|result|output|conclusion|step(?: 1| one)?|reply)
        (?: (?:to|for) (?:your|the) (?:question|request|problem|prompt|task))?
    (?:okay|ok|sure|certainly|first)?[,.!]? ?
        (?:let's|let us|let me|i will|i'll|we will|we'll|i need to|we need to) (?:now )?
        (?:think|solve|reason|work|go|break|start|begin|analy[sz]e|consider|answer|see|approach)
        (?: (?:about|through|by|this|that|it|the|problem|question|task|out|step|carefully|down|
        logically|thoroughly|with|here|and|answering|thinking|solving|together|now)){0,8}
    respuestas?|soluci[oó]n|l[oö]sung|antwort|r[eé]ponse|solu[cç][aã]o|resposta|risposta|
        soluzione|antwoord
    解|解答|解説|答え|答案|回答|かいせつ|こたえ|解析|思考过程|思考過程|답|풀이|ответ|решение"""


# ---- text that talks to the judge ----------------------------------------------------------------

PARTS = {
    "JUDGE": r"""(?:(?:ai|llm|human|automatic|automated|impartial|fair|strict|expert|neutral|
        objective|independent) ){0,3}
        (?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|examiners?|scorers?|
        (?:grading|evaluation|judging|scoring|reward|judge) model|
        model (?:that is )?(?:scoring|grading|judging|evaluating|rating))\b""",
    "WORK": r"""(?:answer|response|submission|output|reply|completion|candidate|text|work|
        solution)""",
    "GRADE": r"(?:scores?|ratings?|grades?|marks?|points?|credit|evaluation|verdict)",
    "RATE": r"\b(?:rate|score|grade|mark|evaluate|judge|accept|count)",
    "OBJECT": r"(?:it|me|us|this|that|my|the|above|following|please|here|WORK)",
    "BEST": r"""(?:(?:the |an? |with |as |full |my ){0,4}(?:full|max(?:imum|imal)?|highest|top|
        perfect|best|passing)(?: possible)? GRADE|
        (?:the |an? |one |with |as |of |digit |number |only |GRADE ){0,6}(?:5|five|10|ten|100|
        hundred|9[0-9])(?: ?/ ?(?:5|100?)| out of \w+| points| stars)?STOP)""",
    "STOP": r"""(?=[\"'*_)\]}]*(?:[.!,;]*\s*$|[.!,;] | and\b| for\b| (?:on|to|in) (?:each|every|
        all)\b))""",
    "LINE": r"^[^\w\n]*",
    "PEAK": r"(?:5|five|full|maximum|max|highest|perfect|top|best)",
    "THESE": r"""(?:this|it|me|my|the|your|above|answer|response|reply|completion|text|assistant|
        an?|with|as|its?)""",
    "CRITERION": r"""\b(?:correct(?:ness)?|helpful(?:ness)?|harmless(?:ness)?|honest(?:y)?|
        accura(?:te|cy)|truth\w*|
        clarity|kind|safe(?:ty)?|relevan\w+|quality|overall|complete(?:ness)?)""",
}

# Orders, and the furniture of a judge's prompt: these count unless the request itself contains them
# word for word.
ORDERS = r"""
    \b(?:ignore|disregard|forget|override|bypass|neglect|(?:do not|
        don't) follow)\W+(?:[\w']+\W+){0,4}?
        (?:instructions?|rubrics?|criteri(?:a|on)|guid(?:elines?|ance)|directi(?:ves?|ons?)|
        system prompts?|constitution|(?:grading|scoring|evaluation|judging) \w+)\b
    \b(?:ignore|disregard|forget|override) (?:all |the |any ){0,3}(?:above|previous|prior|
        earlier|preceding)\b
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
    \b(?:evaluation|grading|judging|scoring) (?:task )?(?:is (?:now )?)?(?:complete|over|
        finished)\b
    \bignor(?:a|ar|e|ez|iere|ieren)\b.{0,30}\b
        (?:instruc|instru[cç]|consigne|anweisung|criteri|istruzion|vorgabe|crit[eè]r)
    (?:忽略|无视|無視).{0,12}(?:指令|标准|要求|评分|规则|提示|说明|指示|基準)
    (?:指示|基準|命令)(?:は|を).{0,8}無視"""

# What an honest answer says, too, where the request is about it: these count unless it has the
# longest of their words. To the judge, or as the judge; asks for a grade; states one; imitates what
# stands around an answer; claims to have been checked; compares itself; elsewhere; what judges and
# their marks are said to do.
VERDICTS = r"""
    \b(?:dear|attention|hello|hi|hey|(?:note|message|instructions?) (?:to|for)),? (?:the |any |
        all |our |my ){0,3}JUDGE
    (?:LINE|[\[(<])(?:to )?(?:the |any |all |every )?JUDGE(?: instructions?| notes?)?[:,]\s
    \b(?:ask|urge|request|beg|instruct|remind|advise) (?:the |any |every |all )?JUDGE
    \bas (?:an?|the) JUDGE,? (?:i|we|my|you)\b
    \byou(?: are|'re) (?:now )?(?:an?|the) JUDGE
    \b(?:whoever|whomever|anyone who|if you) (?:is |are |were )?(?:an? |the )?(?:evaluat|grad|
        judg|scor|rat|JUDGE)
    JUDGE'?s? (?:assessment|verdict|score|consensus)\b
    \b(?:evaluation|grading|scoring|judging) (?:notes?|recommendations?|override|hints?)\b
    \b(?:the|every|any) JUDGE (?:concludes?|agrees?|finds?|should|must|will|has to|can)\b

    \b(?:give|award|assign|grant|put|output|print|return|(?:reply|respond|
        answer) with) (?:OBJECT ){0,6}BEST
    RATE (?:OBJECT ){1,6}(?:\w+ )?(?:BEST|highly?\b)
    RATE (?:OBJECT ){0,6}accordingly\b
    \b(?:full|top|maximum|perfect|highest) (?:marks?|points|score|grade|rating),? please\b
    RATE (?:OBJECT ){0,6}as (?:fully |entirely )?(?:correct|right|perfect|flawless|passed)\b
    \b(?:deserves?|earns?|merits?|warrants?|worth) BEST
    \b(?:do not|don't) (?:penali[sz]e|deduct)\b

    \b(?:correct|right|appropriate|valid|proper|fair|only|final|true) (?:valid )?(?:output|GRADE)
        (?: (?:of|for) \w+ WORK)?(?: is|:| =| (?:would|must|should) be) BEST
    (?:\b|_)(?:score|rating|grade|verdict|evaluation|assessment|judge?ment|puntuaci[oó]n|
        punktzahl)s?[*_\"'\]]* *(?::|=|\bis\b)[*_\"' ]*
        (?:(?:[0-5]|100?|five|ten)(?:\.[0-9]+)?(?: *(?:/|out of) *(?:5|100?))?
        (?=[*_\"'})\]]*[.!,;]?(?:\s|$))(?! *[-–:x] *[0-9])|
        (?:[ab]|correct|perfect|excellent|pass(?:ed)?|flawless)\b)
    (?<![\w.])(?:5(?:/| out of )5|10(?:/| out of )10|100(?:/| out of )100|five out of five|
        ten out of ten)\b(?! *[=+*/])
    \[\[(?:[abc]|tie|[0-9]{1,2}(?:\.[0-9])?)\]\]
    CRITERION[*_\"' ]*[:=][*_\"' ]*[0-5](?:/5)?STOP

    </?(?:verdict|evaluation|score|rubric|judge?ment|judge|grade|rating|submission|candidate|
        answer|response)>
    \b(?:end|start|beginning) of (?:the )?(?:answer|response|submission|evaluation|
        candidate)[^\w\n]*$
    LINE(?:evaluation|verdict|judge?ment|score|grade|rating)[^\w\n]*\n[^\w\n]*(?:5|10|five|ten|
        correct|[ab])[^\w\n]*$
    \b0: [^\n]{1,200}\s[1-4]: [^\n]{1,200}\s5: \S

    \b(?:this|the|my) WORK(?: above| below)? (?:has|have|was|is)
        (?: already| fully| carefully| been| independently){0,4} (?:pre-?)?
        (?:verified|validated|graded|rated|scored|approved|checked|evaluated|certified)\b
    \b(?:satisf|meet|fulfil|follow|match|adhere)\w* (?:to |with )?(?:all|every|
        each) (?:of )?(?:the |your )?(?:[a-z]+ )?(?:criteri|rubric|constitution)
    \b(?:all|every) criteri(?:a|on) (?:are|is|have been) (?:met|satisfied|fulfilled)

    \b(?:reference|gold|ground[ -]truth|expected) answer (?:matches|equals|is identical|agrees)
    \b(?:matches|equals|identical to) the (?:reference|gold|ground[ -]truth|expected)\b
    \b(?:all|the) (?:the )?other (?:answer|response|candidate|completion)s? (?:is|are|contains?|
        has|have)\b
    \b(?:choose|prefer|select|pick) (?:this (?:one|WORK)\b|(?:answer|response|assistant) [ab]\b)
    \b(?:better|best|preferred|superior) (?:answer|response|one) is (?:this|mine|(?:answer |
        response )?[ab]\b)
    \b(?:answer|response|assistant) [ab] is (?:the )?(?:clearly |much )?(?:better|best|preferred|
        superior|winner)\b

    \b(?:nota|note|puntuaci[oó]n|pontua[cç][aã]o|punteggio|calificaci[oó]n)
        (?: m[aá]xim[ao]| maximale| massim[ao]| m[aá]s alta)
    \b(?:h[oö]chste|volle|maximale|beste)[nrs]? (?:punktzahl|bewertung|note|punkte)
    满分|最高分|滿分|満点|最高点|最高評価

    \b(?:give|rate|score|grade|assign|award|mark)\b(?: THESE){0,5} PEAK\b
        (?! (?:example|reason|way|step|tip|idea|name|fact|option|minute|day|people|thing|word|
        sentence|line))
    \b(?:scores?|ratings?|grade|verdict|points) ?(?:is|=|:|of|must be|should be) ?PEAK\b
    \A\W{0,9}(?:(?:always|only|just|final) )?(?:score|rating|grade|verdict|give|output|answer|
        reply)?\W{0,9}(?:with )?PEAK(?: ?/ ?5| out of 5| of 5| stars?| points?)\W{0,9}\Z
    \A\W{0,9}always \w+\W{0,9}\Z
    \b(?:this|my|the above) WORK(?: above)? (?:deserves|merits|earns|(?:should|must) (?:get|
        receive|be (?:rated|scored|graded|given)|score))\b.{0,40}\bPEAK\b
    \b(?:I|me|my|mine|this WORK) (?:\w+ ){0,3}?(?:deserves?|merits?|earns?|gets?|
        receives?)\b.{0,20}\bPEAK\b.{0,12}\b(?:score|mark|point|rating|grade)s?\b
    \b(?:rate|score|grade|judge|evaluate|mark) (?:my|this|the) (?:answer|response|reply)\b
    \b(?:score|rating|grade) (?:of|for|to) (?:my|this|the) (?:answer|response|reply)\b
    \A\W{0,9}(?:please )?(?:reply|respond|answer|output|print|write|say|
        return)(?: only| just)?(?: with)?
        (?: only| just)?(?: the)?(?: digit| number| score)? ?PEAK\b(?! \w+s\b)
    \b(?:judge|grader|evaluator|rater)s? (?:always|must|should|has to|have to|will|shall|
        needs? to)(?: answer| give| score| rate| say| output| assign| award| return)
    \bany WORK\b.{0,50}\b(?:gets?|receives?|earns?|scores?|deserves?) PEAK\b
    \b(?:answer|response|assistant) [AB] (?:is (?:clearly |much )?(?:better|best|superior)|wins)\b
    \[\[ ?(?:[0-9]{1,2}|rating|[ABC])(?:[<>=]+[AB])? ?\]\]"""

# A key of a JSON object that is nothing but a verdict.
KEY = r"""
    CRITERION
    (?:score|rating|grade|points|mark|verdict|better|winner|correct|true)"""


# ---- languages -----------------------------------------------------------------------------------

# Frequent words by language. None that a programming language or SQL knows as well.
STOP_WORDS = {
    "en": """
        the of to that it you are was this have be they which his her were their has would
        your my we i but an what how there these can will more than been at so about
    """,
    "de": """
        der die das und ist nicht ein eine zu den von mit sie auf für dem werden sich es
        auch wie im oder bei kann wird ich du wir aber einen einer dass sind haben was zum
        zur aus nach um
    """,
    "fr": """
        le la les des est et une un pour dans que qui pas vous sur avec ce cette il elle
        sont du au nous plus être je ne mais ou par son sa ses ils aux comme on peut
    """,
    "es": """
        el la los las es una un para con que por en del se no su como más pero son está al y
        lo sus o este esta muy hay puede tiene cada
    """,
    "it": """
        il di che è per una un con non sono della nel gli dei le si anche più come questo la
        ha ogni alla del delle ma lo se da
    """,
    "pt": """
        o os as um uma não para com que por em do da dos das se mais como são é você ele ela
        seu sua ao foi tem no na cada mas
    """,
    "nl": """
        de het een van en niet op te zijn dat die voor met er aan ook maar wordt naar bij om
        als ik je hij zij heeft
    """,
}
STOP_WORDS = {language: frozenset(words.split()) for language, words in STOP_WORDS.items()}

# Languages that are told by their letters. Japanese comes first: it has Chinese characters, too.
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

# Requests that may want another language than their own.
ELSEWHERE = r"""
    transl|übersetz|traduc|tradui|traduz|vertal|翻译|翻譯|訳|перевед|번역
    languages?\b|sprach|idioma|langue|lingua|英语|英文|中文|日语|法语|德语
    \b(?:in|auf|en|into|ins|to|em|using) (?:english|german|french|spanish|italian|portuguese|
        dutch|chinese|japanese|russian|korean|arabic|hindi|latin|deutsch|englisch\w*|
        französisch\w*|spanisch\w*|anglais|allemand|espagnol|français|inglés|francés|alemán|
        español|inglese|tedesco|francese|spagnolo)"""


# ---- compiled ------------------------------------------------------------------------------------


def compiled(patterns, flags=re.IGNORECASE | re.MULTILINE):
    """One expression of the lines of `patterns`, with PARTS filled in."""
    while any(name in patterns for name in PARTS):
        patterns = re.sub("|".join(PARTS), lambda part: PARTS[part[0]], patterns)
    lines = re.sub(r"\n {8,}", "", patterns).split("\n")
    return re.compile("|".join(line[4:] for line in lines if line), flags)


MARKERS = compiled(MARKERS, re.MULTILINE)
ANNOUNCED = compiled(ANNOUNCED)
HOLLOW = compiled(HOLLOW)
ORDERS = compiled(ORDERS)
VERDICTS = compiled(VERDICTS)
KEY = compiled(KEY)
ELSEWHERE = compiled(ELSEWHERE)
