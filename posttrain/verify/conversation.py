"""Where a value of a tool call may come from: what a conversation says, in digits or in words.

Numbers and times are read by numbers_said.py and times_said.py, with the words of four languages in
number_words.py. What may mean two things ("3/4/2024", "at 3") counts in both meanings; what a value
states has to be said in full: its day, its hour, each letter of an id.
"""

import re
from fractions import Fraction

from posttrain.verify import numbers_said, times_said
from posttrain.verify.number_words import MARKS, reading_form
from posttrain.verify.numbers_said import UNIT_OF_WORD

# A number in a call, as JSON writes it.
JSON_NUMBER = re.compile(r"[-+]?(\d[\d.,]*(?:e[-+]?\d{1,3})?)")
# The zone of a time, and the T before it, fill the format of a stamp.
ZONE = re.compile(r"(?<=\d\d:\d\d)((?::\d\d)?)(?:\.\d{1,9})? ?(?:z|utc|gmt|[+-]\d\d:?\d\d)\b")
TWO_DIGIT_HOUR = re.compile(r"\d\d:\d\d(?::\d\d)?")
STAMP_T = re.compile(r"(?<=\d)t(?=\d\d)")
DAY_SECONDS = 86_400
LAST_SECONDS = (DAY_SECONDS - 1, DAY_SECONDS - 60)  # the end of a day, 23:59:59 or 23:59
# Signs and units that may stand at a number: "5km" is 5.
UNITS = (
    "km m cm mm mi ft in kg g mg lb lbs oz l ml usd eur gbp h hr hrs min sec gb mb tb kb px mph "
    "kmh kwh st nd rd th °c °f ° $ € £"
).split()
NUMBER_WITH_UNIT = re.compile(rf"[-+$€£]*(\d[\d.,]*)(?:{'|'.join(map(re.escape, UNITS))})?")
LONG_ID = 7  # digits; so many are an id or a phone number, with any separators
MOST_PLACES = 1000  # where a text is looked for inside longer words

# Words in the name or the description of a field -> what its number may be read from.
UNIT_FIELDS = {
    "second": ("seconds", 1),
    "minute": ("seconds", 60),
    "hour": ("seconds", 3600),
    "day": ("seconds", 86_400),
    "night": ("seconds", 86_400),
    "week": ("seconds", 604_800),
    "month": ("months", 1),
    "year": ("months", 12),
}
UNIT_WORDS = {
    "sec": ("second",),
    "min": ("minute",),
    "hr": ("hour",),
    "duration": ("second", "minute", "hour"),
    "length": ("minute", "hour"),
    "timer": ("second", "minute", "hour"),
}
DATE_FIELDS = {"date", "birthday", "day"}
# A relative date ("tomorrow") grants a day or a month that there is, and a year near one that is
# said or of this century. The clock is not asked: a verdict must be the same in a year from now.
POSSIBLE = {"day": range(1, 32), "month": range(1, 13)}
YEARS_FROM_THOSE_SAID = range(-2, 3)
YEARS_OF_USE = range(2000, 2100)
# In these fields "02" is February, or two o'clock. Elsewhere a text of digits is an id.
PADDED_FIELDS = {"year", "month", "day", "date", "time", "hour", "minute", "second"}
ZEROS_AHEAD = re.compile(r"(?<!\d)(?<!\d[.,:/-])0\d+(?![.,:/-]?\d)")
# Fields that hold "7*8+101"; elsewhere a text is one where it has a sign that no id or date has.
EXPRESSION_FIELDS = {"expression", "expr", "formula", "equation", "calculation", "math"}
EXPRESSION = re.compile(r"(?=.*\d ?[*+^×÷])[\d\s.,()*+/^×÷=-]+")
SHARE = re.compile(r"(?<![\d.,/])(\d{1,9})/(\d{1,9})(?![\d.,/])")
SIGNS = re.compile(r"[\s()*+/^×÷=%-]+")
MONTH_AND_DAY = re.compile(r"\d\d-\d\d")
DURATION_FIELDS = {"duration", "length", "timer"}
LENGTH = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")
PRICE_FIELDS = {"amount", "price", "total", "bill", "cost"}  # here "forty-two fifty" is 42.50
COUNT_FIELDS = {"quantity", "qty", "count"}
PERCENT_FIELDS = {"percent", "percentage", "pct"}
ARTICLE = re.compile(r"\b(?:an?|ein\w{0,2}|un[ae]?)\b")
WORD = re.compile(r"[^\s;|()\[\]{}\"']+")
# Fields that count a thing -> words for one: "a child" is {"children": 1}.
NAMES_OF_ONE = {
    "children": "child|kind|nino|nina|hijo|hija|enfant",
    "adults": "adult|erwachsene[rn]?|adulto|adulta|adulte",
    "infants": "infant|baby|bebe",
    "rooms": "(?:[12] )?room|(?:einzel|doppel)?zimmer|habitacion|chambre",
    "bags": "(?:checked )?(?:bag|suitcase)|koffer|gepackstuck|maleta|valise",
    "tickets": "ticket|karte|fahrkarte|entrada|billete?",
}
ONE_OF = {
    field: re.compile(rf"{ARTICLE.pattern} (?:{names})\b") for field, names in NAMES_OF_ONE.items()
}
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def plain_words(text):
    """The words of a text without the marks around them."""
    return [word.strip(MARKS) for word in WORD.findall(text)]


def letters_and_digits(text):
    return re.sub(r"[\W_]", "", text)


class Letters:
    """Letters and digits of a text without what stands between them."""

    def __init__(self, text):
        self.letters = letters_and_digits(text)
        self.starts = set()  # places where a word begins
        place = 0
        for word in re.findall(r"[^\W_]+", text):
            self.starts.add(place)
            place += len(word)
        self.starts.add(place)

    def has(self, value):
        """Do the letters of a value stand here from the border of a word to the border of one?"""
        letters = letters_and_digits(value)
        place = self.letters.find(letters)
        for _ in range(MOST_PLACES):
            if place < 0 or not letters:
                return False
            if self.is_border(place) and self.is_border(place + len(letters)):
                return True
            place = self.letters.find(letters, place + 1)
        return False

    def is_border(self, place):
        """A word begins here, a number in it, or a sign of a script without spaces."""
        if place in self.starts:
            return True
        before, behind = self.letters[place - 1], self.letters[place]
        return before.isdigit() != behind.isdigit() or not (before.islower() or before.isdigit())


class Conversation:
    """What a conversation says, in the forms in which values are looked for."""

    def __init__(self, text):
        self.text = text.casefold()
        self.form = reading_form(text)
        self.words = {*plain_words(self.text)}
        self.letters = Letters(self.text)
        self.letters_of_form = Letters(self.form)
        self.numbers = numbers_said.numbers_said(self.form)
        self.endless = [number for number in self.numbers if numbers_said.has_no_end(number)]
        self.spoken_prices = numbers_said.spoken_prices(self.form)
        self.measures = numbers_said.measures_said(self.form)
        self.ranges = numbers_said.ranges_said(self.form)
        self.dates = self.dates_said()
        self.months = {month for _, month in times_said.months_of(self.form)}
        self.months |= {(year, month) for year, month, _ in self.dates}
        self.clocks = self.clocks_said()
        self.durations = {length for _, length in times_said.duration_phrases(self.form)}
        self.any_date = bool(times_said.RELATIVE.search(self.form))
        self.near_years = self.years_that_may_be_meant()
        self.any_time = bool(times_said.RELATIVE_TIME.search(self.form))

    def dates_said(self):
        """Dates; one without a year only where it is not said with its year elsewhere."""
        patterns = times_said.DATES + times_said.LOOSE_DATES + times_said.COMPACT_DATE
        dates = set()
        for _, readings in times_said.date_phrases(self.form, patterns):
            dates |= readings
        dates |= {date for _, date in times_said.holidays_of(self.form)}
        with_year = {(month, day) for year, month, day in dates if year}
        return {date for date in dates if date[0] or date[1:] not in with_year}

    def years_that_may_be_meant(self):
        years = {year + shift for year in self.years_said() for shift in YEARS_FROM_THOSE_SAID}
        return years | {*YEARS_OF_USE}

    def years_said(self):
        years = {year for year, _, _ in self.dates} | {year for year, _ in self.months}
        return years - {None} | {int(year) for year in times_said.YEAR_ALONE.findall(self.form)}

    def clocks_said(self):
        """Times of day in seconds, with and without the seconds that are said."""
        form = STAMP_T.sub(" ", ZONE.sub(r"\1", self.form))
        dates = times_said.date_phrases(form, times_said.DATES[:3])
        form = without(form, [match.span() for match, _ in dates])
        clocks = set()
        for _, seconds in [*times_said.clock_phrases(form), *times_said.bare_hours(form)]:
            clocks |= seconds
        return clocks | {second - second % 60 for second in clocks}

    # ---- a value ----

    def says(self, value, field=""):
        """Does a value (a text in small letters) come from here, or has it no digit?

        field: name and description of the field that it stands in.
        """
        if not re.search(r"\d", value):
            return True
        number = JSON_NUMBER.fullmatch(value)
        if number and value.count(".") <= 1:
            words = words_of_field(field)
            return self.says_number(number[1], words) or self.says_compact_date(value)
        is_expression = words_of_field(field) & EXPRESSION_FIELDS or EXPRESSION.fullmatch(value)
        if is_expression and self.says_numbers_between_signs(value):
            return True
        if words_of_field(field) & DURATION_FIELDS and self.lasts_so_long(value):
            return True
        if MONTH_AND_DAY.fullmatch(value) and words_of_field(field) & DATE_FIELDS:
            date = times_said.date_of(value.split("-"), "md")
            return date is not None and self.says_date(date)
        return not number and self.has_letters(value) or self.says_phrases(value)

    def keeps_zeros(self, value, field=""):
        """Has a text of digits the zeros ahead that are said? "0042" is not 42; True for others."""
        if not value.isdecimal() or words_of_field(field) & PADDED_FIELDS:
            return True
        if value.startswith("0") and len(value) > 1:
            return self.letters.has(value) or self.letters_of_form.has(value)
        with_zeros = {number.lstrip("0") for number in ZEROS_AHEAD.findall(self.form)}
        return value not in with_zeros or value in re.findall(r"\d+", self.form)

    def says_numbers_between_signs(self, value):
        """Is each number of "7*8+101" said? A share may be written out: 15 % as 15/100."""
        form = reading_form(value)
        if "%" in self.form or "percent" in self.form:
            form = re.sub(r"/100(?!\d)", "", form)
        for upper, lower in SHARE.findall(form):
            share = Fraction(int(upper), int(lower) or 1)
            if share.denominator > 1 and share in self.numbers:
                form = re.sub(rf"(?<!\d){upper}/{lower}(?!\d)", "", form)
        return all(self.says_word(word) for word in SIGNS.split(form) if re.search(r"\d", word))

    def lasts_so_long(self, value):
        """Is "1:30" or "01:30:00" a duration that is said?"""
        match = LENGTH.fullmatch(value)
        seconds = times_said.seconds_of(match.groups()) if match else 0
        return ("seconds", seconds) in self.durations

    def says_compact_date(self, value):
        """Is 20240503 a date that is said?"""
        for _, readings in times_said.date_phrases(value, times_said.COMPACT_DATE):
            return any(self.says_date(date) for date in readings)
        return False

    def has_letters(self, value):
        """Does a value stand here letter by letter? Few digits alone may stand anywhere."""
        letters = letters_and_digits(value)
        if letters.isdigit() and len(letters) < LONG_ID:
            return False
        return self.letters.has(value) or self.letters_of_form.has(value)

    def says_number(self, value, field):
        """Is a number said? value: as JSON writes it, without its sign."""
        digits, _, exponent = value.partition("e")
        digits = digits.strip(".,")
        if len(digits) > numbers_said.LONGEST:
            return self.letters.has(digits)
        if self.is_long_id(digits) or self.is_word_with_zeros(digits):
            return True
        factor = Fraction(f"1e{exponent or 0}")
        values = {number * factor for number in numbers_said.plain_readings(digits)}
        if values & self.numbers:
            return True
        if "," in digits:
            return numbers_said.listed(digits) <= self.numbers
        if digits.count(".") > 1:
            return self.has_digits(digits)
        if not exponent and self.is_share(digits):
            return True
        return any(self.follows_from_field(number, field) for number in values)

    def has_digits(self, digits):
        """Do the parts of a version or an address stand here in this order?"""
        return bool(re.search(rf"(?<![\d.]){re.escape(digits)}(?!\d)", self.text))

    def is_long_id(self, digits):
        return digits.isdigit() and len(digits) >= LONG_ID and self.letters.has(digits)

    def is_word_with_zeros(self, digits):
        """Is "040004" said as one word, "04-00-04"?"""
        return digits.startswith("0") and digits in map(letters_and_digits, self.words)

    def is_share(self, digits):
        """Is a number 1/3, or the like, rounded?"""
        return any(numbers_said.is_rounded(digits, number) for number in self.endless)

    def follows_from_field(self, number, field):
        """Is a number said in another way, which the name of its field tells?

        {"month": 2} for February, {"minutes": 90} for an hour and a half, {"percent": 50} for half.
        """
        if self.is_part_of_time(number, field):
            return True
        if field & PERCENT_FIELDS and number / 100 in self.numbers:
            return True
        if field & PRICE_FIELDS and number in self.spoken_prices:
            return True
        if field & COUNT_FIELDS and number == 1 and ARTICLE.search(self.form):
            return True
        if number == 1 and any(ONE_OF[word].search(self.form) for word in field & ONE_OF.keys()):
            return True
        if any(self.measures_so_much(number, word) for word in field & UNIT_OF_WORD.keys()):
            return True
        return any(self.lasts(number, unit) for unit in field & UNIT_FIELDS.keys())

    def is_part_of_time(self, number, field):
        """Is a number the month, the year, the hour or the minute of a date or a time?"""
        if "month" in field and any(number == month for _, month in self.months):
            return True
        if "year" in field and any(number == year for year, _ in self.months):
            return True
        if self.any_date and self.may_be_part_of_date(number, field):
            return True
        hours = {second // 3600 for second in self.clocks}
        if "hour" in field and number in hours | {hour % 12 or 12 for hour in hours}:
            return True
        return "minute" in field and number in {second // 60 % 60 for second in self.clocks}

    def may_be_part_of_date(self, number, field):
        """Is a number a day, a month or a year of the calendar? "days" are counted: not these."""
        for part, numbers in (POSSIBLE | {"year": self.near_years}).items():
            if part in field and f"{part}s" not in field and number in numbers:
                return True
        return False

    def measures_so_much(self, number, word):
        """Is a number of units a length, a weight, a volume or a price that is said?"""
        kind, size = UNIT_OF_WORD[word]
        return (kind, number * size) in self.measures

    def lasts(self, number, unit):
        """Is a number of units a duration that is said?"""
        dimension, size = UNIT_FIELDS[unit]
        return (dimension, number * size) in self.durations

    # ---- a text with digits ----

    def says_phrases(self, value):
        """Are the dates, times, durations, numbers and ids in a text all said?"""
        form = STAMP_T.sub(" ", ZONE.sub(r"\1", reading_form(value)))
        rest = self.without_lengths(form)
        with_dates = self.without_dates(rest)
        if with_dates is None:
            return False
        with_clocks = self.without_clocks(with_dates, with_dates != rest)
        if with_clocks is None:
            return False
        rest = self.without_numbers(with_clocks)
        if rest is None:
            return False
        return all(self.says_word(word) for word in plain_words(rest) if re.search(r"\d", word))

    def without_lengths(self, form):
        """A text without the durations that are said; the others are left to their numbers."""
        spans = []
        for span, length in times_said.duration_phrases(form):
            if length in self.durations:
                spans.append(span)
        return without(form, spans)

    def without_dates(self, form):
        """A text without its dates; None where one is not said."""
        matches = [*times_said.date_phrases(form, times_said.DATES + times_said.COMPACT_DATE)]
        for _, readings in matches:
            if not any(self.says_date(date) for date in readings):
                return None
        form = without(form, [match.span() for match, _ in matches])
        matches = [*times_said.months_of(form)]
        for _, (year, month) in matches:
            is_said = {(year, month), (None, month)} & self.months
            if year and not is_said and not self.may_be_meant(year):
                return None
        return without(form, [match.span() for match, (year, _) in matches if year])

    def says_date(self, date):
        """Is a date said, with its year or without one, or may it follow from "tomorrow"?"""
        year, month, day = date
        if self.may_be_meant(year):
            return True
        if year is None:
            return any(date_said[1:] == (month, day) for date_said in self.dates)
        return bool({date, (None, month, day)} & self.dates)

    def may_be_meant(self, year):
        """May a date of this year (None for any) follow from one like "tomorrow"?"""
        return self.any_date and (year is None or year in self.near_years)

    def without_clocks(self, form, has_date):
        """A text without its times of day; None where one is not said.

        Behind a date midnight and the end of a day only fill the format.
        """
        spans = []
        for match, seconds in times_said.clock_phrases(form, times_said.CLOCKS_IN_DIGITS):
            if TWO_DIGIT_HOUR.fullmatch(match[0]):
                seconds = {min(seconds)}  # 10:30 is no time in the evening
            is_filler = has_date and seconds & {0, *LAST_SECONDS}
            if not (is_filler or self.any_time or seconds & self.clocks):
                return None
            spans.append(match.span())
        return without(form, spans)

    def without_numbers(self, form):
        """A text without the numbers and ranges that are said; None where "5 %" is not."""
        spans = []
        for match in numbers_said.RANGE.finditer(form):
            if match.groups() in self.ranges:
                spans.append(match.span())
        for match in numbers_said.PHRASE.finditer(form):
            if not stands_alone(match, form):
                continue
            if numbers_said.phrase_values(match, in_call=True) & self.numbers:
                spans.append(match.span())
            elif numbers_said.means_another(match):
                return None
        return without(form, spans)

    def says_word(self, word):
        """Is a word with a digit in it a number that is said, or said letter by letter?"""
        number = JSON_NUMBER.fullmatch(word)
        if number:
            return self.says_number(number[1], set())
        with_unit = NUMBER_WITH_UNIT.fullmatch(word)
        if with_unit and self.says_number(with_unit[1], set()):
            return True
        return self.has_letters(word) or word in self.words


def stands_alone(match, text):
    """Does a match begin and end with a word of its own?"""
    before = text[max(0, match.start() - 1) : match.start()]
    behind = text[match.end() : match.end() + 1]
    return not before.strip(" ($€£") and not behind.strip(' ,.;!?)]}"”»€$')


def without(text, spans):
    """A text with blanks for some of its parts."""
    pieces = []
    place = 0
    for start, end in sorted(spans):
        pieces += [text[place:start], " " * (end - max(start, place))]
        place = max(place, end)
    return "".join([*pieces, text[place:]])


def words_of_field(field):
    """The words of a field's name and description that say what its number is."""
    words = set(re.findall(r"[a-z]+", CAMEL.sub(" ", field).casefold()))
    words |= {word.removesuffix("s") for word in words}
    for word in words & UNIT_WORDS.keys():
        words |= {*UNIT_WORDS[word]}
    return words
