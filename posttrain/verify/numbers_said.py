"""The numbers that a text says, in digits or in words, as exact values.

All functions take the reading form of a text (number_words.py), where numbers are in digits.
"""

import re
from fractions import Fraction

from posttrain.verify.number_words import DOZENS, FRACTION_WORDS, HUNDREDS, SCALES, alternatives

# What may stand behind a number -> what it is multiplied by.
FACTORS = {word: Fraction(scale) for word, scale in SCALES.items()}
FACTORS |= {word: Fraction(100) for word in HUNDREDS - {"cent", "cents"}}
FACTORS |= {word: Fraction(12) for word in DOZENS}
FACTORS |= {"k": Fraction(1000), "tsd": Fraction(1000), "m": Fraction(10**6), "mn": Fraction(10**6)}
FACTORS |= {"grand": Fraction(1000)}
FACTORS |= {"mio": Fraction(10**6), "bn": Fraction(10**9), "mrd": Fraction(10**9)}
FACTORS |= {"%": Fraction(1, 100), "percent": Fraction(1, 100)}
# "5k" may be 5 of something, "5 %" is said as 5; "5 million" is not 5.
KEEP_THE_NUMBER = {"k", "m", "%", "percent", "million", "thousand"}

# Units: what they measure, how many of the smallest unit they are, and words for them.
UNITS = (
    ("length", 1, "mm millimeter millimetre milimetro millimeters millimetres milimetros"),
    ("length", 10, "cm centimeter centimetre zentimeter centimetro centimeters centimetres"),
    ("length", 1000, "m meter metre metro meters metres metern metros"),
    (
        "length",
        10**6,
        "km kilometer kilometre kilometro kilometers kilometres kilometern kilometros",
    ),
    ("weight", 1, "mg milligram milligramm miligramo milligramme milligrams miligramos"),
    ("weight", 1000, "g gram gramm gramo gramme grams gramos grammes"),
    ("weight", 10**6, "kg kilo kilogram kilogramm kilogramo kilogramme kilos kilograms kilogramos"),
    ("weight", 10**9, "ton tonne tonelada tonnen tons tonnes toneladas"),
    ("volume", 1, "ml milliliter millilitre mililitro milliliters millilitres mililitros"),
    ("volume", 10, "cl centiliter centilitre zentiliter centilitro centilitres"),
    ("volume", 1000, "l liter litre litro liters litres litern litros"),
    ("money", 1, "cent cents ct pence centimo centimos centime centimes"),
    ("money", 100, "$ € £ euro euros eur dollar dollars dolar dolares usd pound pounds gbp"),
)
UNIT_OF_WORD = {word: (kind, size) for kind, size, words in UNITS for word in words.split()}
DIGITS = r"\d+(?:[.,]\d+)*"
FRACTION_WORD = alternatives(FRACTION_WORDS)
SCALE = alternatives(FACTORS)
SCALE_WORDS = [word for word, factor in FACTORS.items() if factor > 1 and len(word) > 1]
SCALE_WORDS.remove("grand")  # without a number it is a grand hotel
PHRASE = re.compile(
    rf"(?P<number>{DIGITS})(?P<exponent>e[-+]?\d{{1,3}}(?!\w))?"
    r"(?: ?/ ?(?P<below>\d{1,9})(?!/?\d)"  # 3/4
    r"| (?P<upper>\d{1,9})/(?P<lower>\d{1,9})(?!/?\d)"  # 2 1/2
    r"| (?P<parts>\d{1,3})ths\b"  # 2 thirds
    r"| (?:point|komma|coma|virgule|punto) (?P<decimals>\d(?: \d)*)\b"
    r"|(?: and| con| with)? (?:an? |one |1 |ein |eine |un |une |una )?(?P<three>3 )?"
    rf"(?P<more>{FRACTION_WORD})\b"
    r")?"
    rf"(?:[ -]?(?P<scale>{SCALE})(?!\w)(?: (?:and )?(?P<rest>\d{{1,6}})(?![.,]?\d))?)?"
    rf"|\b(?P<part>{FRACTION_WORD})(?: (?:of )?(?:an? |eine |un |une )?(?P<part_scale>{SCALE}))?\b"
    rf"|\b(?P<bare>{alternatives(SCALE_WORDS)})\b"
    rf"(?: (?P<bare_rest>\d{{1,6}})(?![.,]?\d)| and (?:an? )?(?P<bare_more>{FRACTION_WORD})\b)?"
)
SINGLE_PART = re.compile(r"\b(?:an?|1|one|ein|eine|un|une|the) (\d{1,3})ths?\b")
COMMA_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
POINT_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?")
# "a litre and a half", "2 cups and a half".
WITH_HALF = re.compile(
    rf"\b(\d{{1,9}}|an?|ein\w{{0,2}}|un[ae]?|(?=kilo|litro|metro)) ?([^\W\d_]+)"
    rf" and (?:an? )?({FRACTION_WORD})\b"
)
SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:[ '’]\d{3}){1,5}(?!\d)")
SINGLE_DIGITS = re.compile(r"(?<!\d)\d(?:[ -](?:\d|oh)){2,}(?!\w)")  # "9 oh 2"
SPOKEN_YEAR = re.compile(r"(?<!\d)(1[3-9]|20) (\d\d)(?!\d)")
# What is bounded here is so that hostile text is read in linear time.
SHORT_DIGITS = r"\d{1,12}(?:[.,]\d{1,12}){0,3}"
RANGE = re.compile(
    rf"(?<!\d)(?<!\d[.,])({SHORT_DIGITS})"
    rf" ?(?:-|–|—|to|and|bis|a|or|oder|ou|o) ?({SHORT_DIGITS})(?!\d)"
)
UNIT_WORD = alternatives(map(re.escape, UNIT_OF_WORD))
UNIT_BEHIND = re.compile(rf"(?: of)?(?: an?| de| d['’])?[ -]?({UNIT_WORD})(?!\w)")
BIG_MONEY = alternatives(
    [re.escape(word) for word, unit in UNIT_OF_WORD.items() if unit == ("money", 100)]
)
PRICE = re.compile(rf"(?<!\d)(?<!\d[.,])(\d{{1,9}}) ?({BIG_MONEY})(?: and)? (\d\d)(?![.,:]?\d|\w)")
SPOKEN_PRICE = re.compile(r"(?<!\d)(?<!\d[ .,:-])(\d{1,3}) (\d\d)(?![ .,:-]?\d|\w)")
ONE_UNIT = re.compile(rf"\b(?:an?|ein\w{{0,2}}|un[ae]?) ({UNIT_WORD})(?!\w)")
LONGEST = 60  # digits; a longer number is compared as a text


def single_readings(digits):
    """All values of digits with commas and points as one number; none for "1.2.3".

    "1,234" is 1234 and, with a decimal comma, 1.234; "1.234" too; "3,5" is 3.5.
    """
    if len(digits) > LONGEST:
        return set()
    values = set()
    if COMMA_THOUSANDS.fullmatch(digits):
        values.add(Fraction(digits.replace(",", "")))
    if POINT_THOUSANDS.fullmatch(digits):
        values.add(Fraction(digits.replace(".", "").replace(",", ".")))
    if digits.count(",") + digits.count(".") <= 1:
        values.add(Fraction(digits.replace(",", ".")))
    return values


def listed(digits):
    """The parts of a list of numbers: "12,34" and "1.2.3"."""
    return {Fraction(part) for part in re.split("[.,]", digits[:LONGEST]) if part}


def readings(digits):
    """All values that digits with commas and points may have, as one number and as a list."""
    values = single_readings(digits)
    is_list = "," in digits and not COMMA_THOUSANDS.fullmatch(digits)
    return values | listed(digits) if is_list or not values else values


def plain_readings(digits):
    """The values of a number in a call: a point is a decimal point there, a comma may be both."""
    if re.fullmatch(r"\d+\.\d+", digits) and len(digits) <= LONGEST:
        return {Fraction(digits)}
    return single_readings(digits)


def phrase_values(match, in_call=False):
    """The values of a match of PHRASE; in a call only the one that it means, in a text all of it.

    A text that says "5 %" or "3/4" also says 5 and 3.
    """
    groups = match.groupdict()
    if groups["bare"]:
        return bare_values(groups)
    if groups["part"]:
        scale = FACTORS.get(groups["part_scale"], 1)
        return {Fraction(FRACTION_WORDS[groups["part"]]) * scale}
    values = plain_readings(groups["number"]) if in_call else values_in_text(match)
    if groups["exponent"]:
        values = {value * Fraction("1" + groups["exponent"]) for value in values}
    whole = values
    values = with_fraction(values, groups)
    if groups["below"] and not in_call:
        values = values | whole | {Fraction(groups["below"])}
    if not groups["scale"]:
        return values
    factor = FACTORS[groups["scale"]]
    rest = Fraction(groups["rest"] or 0)
    scaled = {value * factor for value in values}
    if rest < factor:
        scaled |= {value + rest for value in scaled}
    if in_call:
        return scaled
    kept = values if groups["scale"] in KEEP_THE_NUMBER else set()
    return scaled | kept | ({rest} if rest else set())


def values_in_text(match):
    """The values of the number in a match of PHRASE; "12,5 %" and "12,5 kg" are no lists."""
    digits = match["number"]
    is_measured = match["scale"] or UNIT_BEHIND.match(match.string, match.end())
    return is_measured and single_readings(digits) or readings(digits)


def bare_values(groups):
    """The values of "million", "million 200000" and "a million and a half"."""
    factor = FACTORS[groups["bare"]]
    rest = int(groups["bare_rest"] or 0)
    if groups["bare_more"]:
        return {factor * (1 + Fraction(FRACTION_WORDS[groups["bare_more"]]))}
    return {factor + rest} if factor > rest else {factor, Fraction(rest)}


def with_fraction(values, groups):
    """Numbers with the fraction that stands behind them: "2 1/2", "3/4", "2 thirds", "1 half"."""
    if groups["below"]:
        below = int(groups["below"])
        return {value / below for value in values} if below else set()
    if groups["upper"]:
        lower = int(groups["lower"])
        part = Fraction(int(groups["upper"]), lower) if lower else 0
        return {value + part for value in values}
    if groups["parts"]:
        return {value / max(int(groups["parts"]), 1) for value in values}
    if groups["decimals"]:
        part = Fraction("0." + groups["decimals"].replace(" ", "")[:LONGEST])
        return {value + part for value in values}
    if groups["more"]:
        part = Fraction(FRACTION_WORDS[groups["more"]])
        if groups["three"]:
            return {value + 3 * part for value in values}
        # "3 quarter" is 3/4 and "3 and a half" is 3.5: both are read, for both are said alike.
        return {value + part for value in values} | {value * part for value in values}
    return values


def means_another(match):
    """Is a phrase a share or a million, which its number alone does not mean?"""
    return match["scale"] not in (None, "k", "m")


def numbers_said(text):
    """All numbers in the reading form of a text."""
    numbers = set()
    phrases = {match[0]: match for match in PHRASE.finditer(text)}  # each only once
    for match in phrases.values():
        numbers |= phrase_values(match)
    numbers |= {price for price, _ in prices_said(text)}
    for match in SINGLE_PART.finditer(text):
        numbers.add(Fraction(1, max(int(match[1]), 1)))
    for match in WITH_HALF.finditer(text):
        numbers.add(with_half(match))
    for pattern in (SPACED_THOUSANDS, SINGLE_DIGITS, SPOKEN_YEAR):
        for match in pattern.finditer(text):
            digits = re.sub(r"[^\d.,]", "", match[0].replace("oh", "0"))
            numbers |= single_readings(digits)
    return numbers


def with_half(match):
    """The value of a match of WITH_HALF: 1.5 for "a litre and a half"."""
    whole = int(match[1]) if match[1].isdigit() else 1
    return whole + Fraction(FRACTION_WORDS[match[3]])


def spoken_prices(text):
    """Two numbers that stand beside each other may be a price: "forty-two fifty"."""
    return {Fraction(f"{whole}.{cents}") for whole, cents in SPOKEN_PRICE.findall(text)}


def prices_said(text):
    """(value, unit) of "8 euros 50" and of "8 € 50"."""
    for match in PRICE.finditer(text):
        yield Fraction(f"{match[1]}.{match[3]}"), match[2]


def measures_said(text):
    """(what is measured, number of the smallest unit) of "5 km", "half a litre", "$19.99"."""
    pairs = [(with_half(match), match[2]) for match in WITH_HALF.finditer(text)]
    pairs += prices_said(text)
    for match in PHRASE.finditer(text):
        unit = unit_at(match, text)
        pairs += [(value, unit) for value in phrase_values(match)]
    pairs += [(1, match[1]) for match in ONE_UNIT.finditer(text)]
    measures = set()
    for value, unit in pairs:
        if unit in UNIT_OF_WORD:
            kind, size = UNIT_OF_WORD[unit]
            measures.add((kind, value * size))
    return measures


def unit_at(match, text):
    """The unit behind a match of PHRASE, or the sign of money before it; "" for none."""
    behind = UNIT_BEHIND.match(text, match.end())
    if behind:
        return behind[1]
    if match["scale"] == "m":
        return "m"  # "3 m" may be metres or millions
    before = text[match.start() - 1 : match.start()]
    return before if before in "$€£" else ""


def ranges_said(text):
    """Pairs (from, to) that a text says in one breath: "2 to 3", "2-3"."""
    return {(match[1], match[2]) for match in RANGE.finditer(text)}


def is_rounded(value, number):
    """Is a decimal with at least two places a number that has no end, 2/3 as 0.67 or 0.6667?"""
    places = len(value.partition(".")[2])
    return places >= 2 and round(number, places) == Fraction(value)


def has_no_end(number):
    """Does a number go on for ever behind the decimal point?"""
    rest = number.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest > 1
