"""The dates, times of day and durations that a text says.

All functions take the reading form of a text (number_words.py), and give (place, meaning) pairs:
where a phrase stands, and all that it may mean.
"""

import re
from fractions import Fraction

from posttrain.verify.number_words import MARKS, MONTHS, alternatives, reading_form

# ---- dates ---------------------------------------------------------------------------------------

MONTH = rf"({'|'.join(MONTHS)})\b\.?"
DAY = r"(\d{1,2})(?:st|nd|rd|th|er|o|\.)?"
OF = r"(?: of| de| del| in)?"
YEAR = r"(\d{4})(?!\d)"
TO = r" ?(?:-|–|to|and|bis|until|through|till|al|au|y) ?(?:the |den |zum |el |le )?"
ALONE = r"(?<!\d)(?<!\d[/.-])"
# A number goes on neither before a phrase nor behind it: "at 7." ends, "at 7.15" goes on.
START = r"(?<!\d)(?<!\d[:.])"
END = r"(?![:.,]?\d)"
# What a name in angle brackets means in the tables of patterns.
PARTS_OF_PATTERNS = {"MONTH": MONTH, "DAY": DAY, "OF": OF, "YEAR": YEAR, "TO": TO, "ALONE": ALONE}
PARTS_OF_PATTERNS |= {"START": START, "END": END}


def compiled(*rows):
    """The rows of a table, (pattern, what its groups are), with the patterns compiled."""
    return [(re.compile(filled(pattern)), groups) for pattern, groups in rows]


def filled(pattern):
    return re.sub(r"<([A-Z_]+)>", lambda match: PARTS_OF_PATTERNS[match[1]], pattern)


# Ways to write a date -> what the groups are: year, month, day. 3/4/2024 has two readings.
DATES = compiled(
    (r"(?<!\d)<YEAR>[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)", ("ymd",)),
    (r"<ALONE>(\d{1,2})[-/.] ?(\d{1,2})[-/.] ?<YEAR>", ("dmy", "mdy")),
    (r"<ALONE>(\d{1,2})[-/.](\d{1,2})[-/.](\d\d)(?![\d/.-]\d|\d)", ("dmy", "mdy")),
    (r"\b<DAY>(?: day)?<OF> <MONTH>(?:,?<OF> <YEAR>)?", ("dmy",)),
    (r"\b<MONTH> (?:the )?<DAY>(?!:?\d)(?:,? <YEAR>)?", ("mdy",)),
)
# A date in a conversation may also lack its year, and one in a call its separators.
LOOSE_DATES = compiled(
    # "3 to 5 May", "May 3-5": the first and the last day; x is the other one.
    (r"\b<DAY><TO><DAY><OF> <MONTH>(?:,?<OF> <YEAR>)?", ("dxmy",)),
    (r"\b<MONTH> <DAY><TO><DAY>(?!:?\d)(?:,? <YEAR>)?", ("mdxy", "mxdy")),
    (r"<ALONE>(\d{1,2})[/](\d{1,2})(?!/?\d)", ("dm", "md")),
    (r"<ALONE>(\d{1,2})\.(\d{1,2})\.(?!\d)", ("dm",)),
)
COMPACT_DATE = compiled(
    (r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)(?=t\d{4}|[^\dt]|$)", ("ymd",)),
)
MONTHS_OF_YEARS = compiled(
    (r"\b<MONTH>(?:,?<OF> <YEAR>)?", "my"),
    (r"<ALONE><YEAR>-(\d\d)(?!-?\d)", "ym"),
    (r"<ALONE>(\d{1,2})/<YEAR>", "my"),
    # The end of a card: "expiring 08/27".
    (
        r"\b(?:exp(?:ir|\b)|valid|gultig|ablauf|vence|caduc|valable)[^\d\n]{0,20}"
        r"(\d\d)/(\d\d)(?!/?\d)",
        "my",
    ),
)
YEAR_ALONE = re.compile(r"(?<!\d)(?<!\d[.,])((?:19|20)\d\d)(?![.,]?\d)")
# Month, day and names of the days that have one.
DAYS_WITH_A_NAME = (
    (1, 1, "new year's day|neujahr|ano nuevo|jour de l'an"),
    (2, 14, "valentine's day|valentinstag|san valentin|saint-valentin"),
    (10, 31, "halloween"),
    (
        12,
        24,
        "christmas eve|heiligabend|heiliger abend|heiligen abend|nochebuena|reveillon de noel",
    ),
    (12, 25, "christmas day|christmas|navidad|noel"),
    (12, 31, "new year's eve|silvester|nochevieja|saint-sylvestre"),
)
HOLIDAYS = {
    reading_form(name): (month, day)
    for month, day, names in DAYS_WITH_A_NAME
    for name in names.split("|")
}
HOLIDAY = re.compile(filled(rf"\b({alternatives(HOLIDAYS)})\b(?:,?<OF> <YEAR>)?"))
# "may" and "march" are other words too: before one of these they are no month.
VERB = re.compile(r"\b(?:may|march) (?:i|you|we|he|she|they|it|not|be|have|also|on|to|the)\b")

PERIOD = r"(?:day|week|weekend|month|year|quarter|spring|summer|autumn|fall|winter|season|night"
PERIOD += (
    rf"|morning|afternoon|evening|{'|'.join(MONTHS)}|(?:mon|tues|wednes|thurs|fri|satur|sun)day)"
)
WEEKDAYS = (
    "montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag lunes martes miercoles "
    "jueves viernes sabado domingo lundi mardi mercredi jeudi vendredi samedi dimanche"
)
# Where a conversation says this, any date may follow from it.
RELATIVE = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|"
    rf"(?:next|last|this|past|coming|following|current|upcoming) (?:\S+ ){{0,2}}{PERIOD}s?|"
    r"in (?:the next )?(?:an?|\d\S*|half an?|a few|several|a couple of) (?:day|week|month|year)|"
    r"(?:day|week|month|year) (?:from now|ago|later)|"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|"
    r"heute|morgen|ubermorgen|gestern|jetzt|(?:nachst|kommend|letzt|dies)e[nrsm]? \S+|"
    r"hoy|ayer|ahora|(?:proxim|pasad|est)[oae] \S+|manana|"
    r"aujourd'hui|demain|hier|maintenant|(?:prochaine?|derniere?)|"
    rf"{'|'.join(WEEKDAYS.split())})\b"
)


def date_phrases(text, patterns=DATES):
    """(match, dates) of the dates in a text; a date is (year or None, month, day)."""
    for pattern, ways in patterns:
        for match in pattern.finditer(text):
            dates = {date_of(match.groups(), way) for way in ways} - {None}
            if dates:
                yield match, dates


def date_of(groups, way):
    """(year or None, month, day); None for a month 13 or a day 32. way: what the groups are."""
    part = dict(zip(way, groups))
    month = MONTHS.get(part["m"]) or int(part["m"])
    day = int(part["d"])
    is_date = 1 <= month <= 12 and 1 <= day <= 31
    return (year_of(part.get("y")), month, day) if is_date else None


def months_of(text):
    """(match, (year or None, month)) of the months in a text, those of dates left out."""
    for pattern, way in MONTHS_OF_YEARS:
        for match in pattern.finditer(text):
            if VERB.match(text, match.start()):
                continue
            part = dict(zip(way, match.groups()))
            month = MONTHS.get(part["m"]) or int(part["m"])
            if 1 <= month <= 12:
                yield match, (year_of(part["y"]), month)


def year_of(digits):
    """The year in digits, "27" and "2027" alike; None for none."""
    year = int(digits or 0)
    if digits and len(digits) == 2:
        year += 2000
    return year or None


def holidays_of(text):
    """(match, date) of the days that have a name, like Christmas Eve."""
    for match in HOLIDAY.finditer(text.replace("’", "'")):
        month, day = HOLIDAYS[match[1]]
        yield match, (year_of(match[2]), month, day)


# ---- times of day, in seconds since midnight -----------------------------------------------------

HALF_DAY = 12 * 3600
HALVES = {"a": 0, "p": HALF_DAY}
MINUTES_OF_WORDS = {"half": 30, "quarter": 15}
FEW = r"(half|quarter|\d{1,2})(?: minutes?)?"
HOUR = rf"(\d{{1,2}}){END}"
# Parts of the day -> is it the half before noon? At night it depends on the hour.
PARTS_OF_DAY = {"morning": "a", "manana": "a", "afternoon": "p", "apres-midi": "p", "evening": "p"}
PARTS_OF_DAY |= {"tonight": "p", "night": "n", "lunch": "p", "dinner": "p", "fruh": "a"}
PARTS = "|".join(PARTS_OF_DAY)
PART_BEHIND = re.compile(
    r"(?: ?o'?clock| uhr)?,? ?"
    r"(?:in the |at |this |tomorrow |today |de la |por la |du |de l['’]|am |"
    rf"in der |heute |morgen )?({PARTS})\b"
)
PART_AHEAD = PART_BEHIND.pattern.replace(f"({PARTS})", f"(?:{PARTS})")
PARTS_OF_PATTERNS |= {"FEW": FEW, "HOUR": HOUR, "PART_AHEAD": PART_AHEAD}
# Ways to say a time -> what the groups are: hour, minute, second, a or p of am and pm, minutes to
# the hour (-), past it (+), and to half an hour before it (halb acht is 7:30).
CLOCKS = compiled(
    (
        r"<START>(\d{1,2})(?:[:.h ](\d\d))?(?::(\d\d))?(?:\.\d+)? ?([ap])\.?m\b",
        "hmsp",
    ),
    (r"<START>(\d{1,2}):(\d\d)(?::(\d\d))?(?!:?\d| ?[ap]\.?m\b)", "hms"),
    (
        r"<START>(\d{1,2}) ?(?:uhr|heure|h)(?: ?(\d\d))?(?!\w)(?! (?:and|moins)\b)",
        "hm",
    ),
    (
        r"<START>(\d{1,2})(?::(\d\d))?"
        r"(?= ?(?:-|–|to|and|until|till|or) ?\d{1,2}(?::\d\d)? ?([ap])\.?m\b)",
        "hmp",
    ),
    (r"(?<!\d)([01]\d|2[0-3])([0-5]\d) hour\b", "hm"),
    (r"<START>(\d{1,2})\.(\d\d) ?uhr\b", "hm"),
    (r"<START>(\d{1,2}) ([0-5]\d)(?=<PART_AHEAD>)", "hm"),
    (r"<START><FEW> (?:past|after|nach) <HOUR>", "+h"),
    (r"\b(half) <HOUR>", "+h"),  # British: "half seven" is 7:30
    (r"<START><FEW> (?:to|before|till|of|vor) <HOUR>", "-h"),
    (r"\b(?:3 quarter|dreiviertel) <HOUR>", "3h"),
    (r"\b(?:<FEW> (vor|nach) )?halb <HOUR>", "~vh"),
    (r"<START>(\d{1,2}) (?:heure )?and (half|quarter)\b", "h+"),
    (r"\blas? (\d{1,2}) and <FEW>(?!:?\d)", "h+"),
    (r"\b(\d{1,2}) (?:heure )?(?:menos|moins) (?:le )?<FEW>\b", "h-"),
    (
        r"\b(?:at|by|around|about|until|till|from|to|um|gegen|vers|las|for|it|say|hour:|time:)"
        r" (\d{1,2}) ([0-5]\d)\b",
        "hm",
    ),
)
CLOCKS_IN_DIGITS = CLOCKS[:3]
WORDS_FOR_CLOCKS = {"noon": HALF_DAY, "midnight": 0}
CLOCK_WORD = re.compile(
    rf"\b(?:{FEW} (past|after|nach|to|before|of|vor) )?(noon|midnight)( and half)?\b"
)
# A number is an hour behind one of the first words, unless what is counted follows ("at 3 shops"):
# the text goes on with one of the second.
BEFORE_AN_HOUR = (
    "at by around about until till til from to before after between and um gegen bis von ab las "
    "vers it say"
).split()
BEHIND_AN_HOUR = (
    "o'clock oclock sharp today tonight tomorrow on in for to until till or please this next with "
    "every the works at de am bis morgen heute monday tuesday wednesday thursday friday saturday "
    "sunday"
).split()
# "Set my alarm for 7": for an alarm these words are followed by an hour too.
ALARM = r"\b(?:alarm|alarma|wake|wecker|weck|despert\w*|despiert\w*|reveil\w*)\b[^\d.;!?\n]{0,30}"
ALARM += r"\b(?:for|on|auf|fur|para|a|pour) "
MARK = f"[\\n{re.escape(MARKS)}]"
BARE_HOUR = re.compile(
    r"(?<!\d)(?<!\d[:.,/-])(\d{1,2})"
    rf"(?= ?(?:-|–|to|until|till|bis) ?\d{{1,2}}(?![:.,/-]?\d) ?(?:$|{MARK}))|"  # 9 to 5
    rf"(?:\b(?:{'|'.join(BEFORE_AN_HOUR)}) |{ALARM}|-)"
    r"(\d{1,2})(?![\d:.,/%]\d|\d|%| ?(?:[ap]\.?m|uhr|heure|h)\b)"
    rf"(?= ?(?:$|{MARK}"
    rf"|(?:and(?! half| quarter)|{'|'.join(BEHIND_AN_HOUR)})\b))"
    r"|(?<![\d$€£])(?<!\d[:.,/-])\b(\d{1,2}) ?(?:o'?clock|sharp|ish|tonight|tomorrow)\b"
    rf"|(?<![\d$€£])(?<!\d[:.,/-])\b(\d{{1,2}})(?={PART_AHEAD})"
    r"|^[^\w\n]{0,5}(\d{1,2})[^\w\n]{0,5}$",  # a turn that says nothing else
    re.MULTILINE,
)
PART_BEFORE = re.compile(
    rf"({'|'.join(PARTS_OF_DAY)})(?:,? (?:at|um|a las|a la|a|around|about|by|gegen|vers))? ?$"
)
# Where a conversation says this, any time may follow from it.
RELATIVE_TIME = re.compile(
    r"\b(?:now|asap|immediately|right away|jetzt|sofort|ahora|maintenant|"
    r"(?:in|dans|en) (?:\S+ ){1,5}(?:minute|hour|heure|second)|"
    r"(?:minute|hour)s? (?:from now|later|earlier|before|after|ahead|prior))\b"
)


def clock_phrases(text, patterns=CLOCKS):
    """(match, times) of the times of day in a text, each in all its readings."""
    for pattern, way in patterns:
        for match in pattern.finditer(text):
            times = times_of(match, way, text)
            if times:
                yield match, times
    for match in CLOCK_WORD.finditer(text):
        few, side, word, half = match.groups()
        minutes = 30 if half else minutes_of_words(few)
        if side in ("to", "before", "of", "vor"):
            minutes = -minutes
        yield match, {(WORDS_FOR_CLOCKS[word] + 60 * minutes) % (2 * HALF_DAY)}


def bare_hours(text):
    """(match, times) of numbers that stand where an hour may stand: "at 3"."""
    for match in BARE_HOUR.finditer(text):
        hour = int(match[match.lastindex])
        if hour <= 12:
            yield match, halves_of_day(3600 * hour, match, text)


def times_of(match, way, text):
    """The readings of a match of CLOCKS, in seconds; none where it is no time."""
    part = dict(zip(way, match.groups()))
    hour = int(part.get("h") or match[1])
    minute = int(part.get("m") or 0)
    second = int(part.get("s") or 0)
    if hour > 24 or minute > 59 or second > 59:
        return set()
    shift = shift_of(part, way)
    if shift is None:
        return set()
    time = (3600 * hour + 60 * (minute + shift) + second) % (2 * HALF_DAY)
    if part.get("p"):
        return {time % HALF_DAY + HALVES[part["p"]]} if hour <= 12 else set()
    if 1 <= hour <= 12 and not match[0].startswith("0"):
        return halves_of_day(time, match, text)
    return {time}


def shift_of(part, way):
    """Minutes that "quarter past", "20 to" and "halb" move an hour by; None for no such phrase."""
    if way == "3h":
        return -15
    if way == "~vh":
        few = minutes_of_words(part["~"])
        return few - 30 if part["v"] == "nach" else -few - 30
    for sign, factor in (("+", 1), ("-", -1)):
        if sign in part:
            few = minutes_of_words(part[sign])
            is_usual = few in (15, 30) or few in (5, 10, 20, 25) and int(part["h"]) <= 12
            return factor * few if is_usual else None
    return 0


def minutes_of_words(word):
    return MINUTES_OF_WORDS.get(word) or int(word or 0)


def halves_of_day(time, match, text):
    """A time on a twelve-hour clock in both halves of the day, or in the one that is said."""
    early = time % HALF_DAY
    behind = PART_BEHIND.match(text, match.end())
    before = PART_BEFORE.search(text[max(0, match.start() - 25) : number_start(match)])
    part = behind or before
    half = PARTS_OF_DAY[part[1]] if part else ""
    if not half and time >= HALF_DAY and ":" in match[0]:
        return {time}  # 12:30
    if half == "n":
        half = "p" if early >= 6 * 3600 else "a"
    return {"a": {early}, "p": {early + HALF_DAY}, "": {early, early + HALF_DAY}}[half]


def number_start(match):
    """Where the digits of a match begin."""
    return match.start() + re.search(r"\d", match[0]).start()


# ---- durations -----------------------------------------------------------------------------------

SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "heure": 3600,
    "h": 3600,
    "day": 86400,
    "week": 604800,
}
MONTH_COUNTS = {"month": 1, "year": 12}
UNIT = rf"({'|'.join([*SECONDS, *MONTH_COUNTS])})"
AMOUNT = (
    r"(?:(\d+(?:[.,]\d+)?)(?: (?:and )?(?:a |1 )?(half|quarter|\d/\d{1,2}))?"
    r"|(half|(?:3 )?quarter)"
    r"|(?:an?|one|next|this|the|per|last|past|coming|every|each|une?|una|eine[rnm]?|la|le|el)\b"
    r"|(?=(?:hour|day|week|month|year) and half))"  # "hora y media"
)
DURATION = re.compile(
    rf"\b{AMOUNT}(?: of)?(?: an?| de| d'une| d['’]| einer)?[ -]?{UNIT}\b"
    r"(?: and (?:an? )?(half|quarter)\b)?"
)
HOURS_AND_MINUTES = re.compile(
    r"(?<!\w)(?<!\d\.)(\d{1,3})(?:h| hour | heure )(?:and )?(\d\d)()(?!\w)"
)
ONE_HOUR = re.compile(r"\b(?:an?|eine|una|une) (?=hour )")

SHORT_DURATION = re.compile(
    r"(?<![\w.])(?:(\d{1,3})d)?(?: ?(\d{1,4})h)?(?: ?(\d{1,4})m(?:in)?)?(?: ?(\d{1,5})s)?(?!\w)"
)
ISO_DURATION = re.compile(
    r"\bp(?:(\d{1,4})d)?(?:t(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s)?)?\b"
)
# Words for a day, and for days, near now: a forecast for tomorrow is one of {"days": 1}.
DAYS_OF_WORDS = {
    1: "today tonight tomorrow yesterday heute morgen gestern hoy manana ayer demain hier",
    2: "weekend wochenende ubermorgen",
}
DAY_WORDS = {word: days for days, words in DAYS_OF_WORDS.items() for word in words.split()}
DAY_WORD = re.compile(rf"\b({'|'.join(DAY_WORDS)})\b")
BETWEEN = re.compile(r",? (?:and )?|-")


def duration_phrases(text):
    """((start, end), (dimension, amount)) of the durations in a text.

    The dimension is "seconds" or "months". "1 hour and 20 minutes" is one duration.
    """
    start = 0
    last = None
    total = None
    for match in DURATION.finditer(text):
        dimension, amount = duration_of(match)
        if last and total[0] == dimension and BETWEEN.fullmatch(text, last, match.start()):
            total = (dimension, total[1] + amount)
        else:
            if total:
                yield (start, last), total
            start = match.start()
            total = (dimension, amount)
        last = match.end()
    if total:
        yield (start, last), total
    for match in DAY_WORD.finditer(text):
        yield match.span(), ("seconds", Fraction(SECONDS["day"] * DAY_WORDS[match[1]]))
    text = ONE_HOUR.sub(lambda match: "1 ".rjust(len(match[0])), text)
    for pattern in (SHORT_DURATION, HOURS_AND_MINUTES, ISO_DURATION):
        for match in pattern.finditer(text):
            if any(match.groups()):
                yield match.span(), ("seconds", Fraction(seconds_of(match.groups())))


def duration_of(match):
    """(dimension, amount) of a match of DURATION."""
    number, more, part, unit, behind = match.groups()
    amount = Fraction(number.replace(",", ".")) if number and len(number) < 20 else Fraction(1)
    if part:
        amount = Fraction(3, 4) if part.startswith("3") else share(part)
    amount += share(more) + share(behind)
    if number and more == "quarter" and number == "3":
        amount = Fraction(3, 4)
    if unit in SECONDS:
        return "seconds", amount * SECONDS[unit]
    return "months", amount * MONTH_COUNTS[unit]


def share(word):
    """The value of "half", "quarter", "1/3", or of nothing."""
    shares = {None: Fraction(0), "half": Fraction(1, 2), "quarter": Fraction(1, 4)}
    if word in shares:
        return shares[word]
    upper, lower = word.split("/")
    return Fraction(int(upper), max(int(lower), 1))


def seconds_of(groups):
    """Seconds of ([days,] hours, minutes, seconds) in digits or None."""
    numbers = [int(group or 0) for group in groups]
    sizes = (86400, 3600, 60, 1)[-len(numbers) :]
    return sum([number * size for number, size in zip(numbers, sizes)])
