"""Words of four languages for numbers, fractions, months and units of time; texts read with them.

`reading_form` writes a text so that one set of patterns fits it in every language: small letters
without accents, numbers in digits ("zweihundertfünfzig" and "two hundred and fifty" are "250"),
ordinals as "3th", months and units of time in English. All keys here are in that spelling: "fünf"
is "funf".
"""

import re
import unicodedata

INFINITY = float("inf")
# Marks that may stand behind any phrase: they end a sentence, a clause, a bracket or a quotation.
MARKS = ".,;:!?¿¡…。、，；：！？()[]{}（）「」\"'`´‘’“”„«»<>*–—-"


def counted(words, first=0, step=1):
    """{word: number} of words that count on from `first`."""
    return {word: first + step * place for place, word in enumerate(words.split())}


# ---- tables --------------------------------------------------------------------------------------

# Cardinals that stand for a value below a thousand.
CARDINALS = (
    counted("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
    | counted("fifteen sixteen seventeen eighteen nineteen", 15)
    | counted("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10)
    | counted("null eins zwei drei vier funf sechs sieben acht neun zehn elf zwolf dreizehn")
    | counted("vierzehn funfzehn sechzehn siebzehn achtzehn neunzehn", 14)
    | counted("zwanzig dreissig vierzig funfzig sechzig siebzig achtzig neunzig", 20, 10)
    | {"zwo": 2, "fuenf": 5, "zwoelf": 12, "fuenfzehn": 15, "fuenfzig": 50, "fourty": 40}
    | counted("cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce")
    | counted("quince dieciseis diecisiete dieciocho diecinueve veinte veintiuno veintidos", 15)
    | counted("veintitres veinticuatro veinticinco veintiseis veintisiete veintiocho", 23)
    | {"veintinueve": 29, "veintiun": 21, "veintiuna": 21}
    | counted("treinta cuarenta cincuenta sesenta setenta ochenta noventa", 30, 10)
    | counted("cien doscientos trescientos cuatrocientos quinientos seiscientos", 100, 100)
    | counted("ciento doscientas trescientas cuatrocientas quinientas seiscientas", 100, 100)
    | counted("setecientos ochocientos novecientos", 700, 100)
    | counted("setecientas ochocientas novecientas", 700, 100)
    | counted("zero un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze")
    | counted("quinze seize vingt", 15)
    | counted("vingt trente quarante cinquante soixante septante huitante nonante", 20, 10)
    | {"vingts": 20, "octante": 80}
)
# "a", as it may be a number inside a longer one only: "veinte y un", "vingt et une".
ARTICLES = {"un": 1, "una": 1, "une": 1, "ein": 1, "eine": 1}
CARDINALS |= ARTICLES
HUNDREDS = {"hundred", "hundert", "cent", "cents"}
SCALES = {
    "thousand": 10**3,
    "million": 10**6,
    "millions": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "tausend": 10**3,
    "millionen": 10**6,
    "milliarde": 10**9,
    "milliarden": 10**9,
    "billionen": 10**12,
    "mil": 10**3,
    "millon": 10**6,
    "millones": 10**6,
    "mille": 10**3,
    "milliard": 10**9,
    "milliards": 10**9,
}
DOZENS = {"dozen", "dutzend", "docena", "docenas", "douzaine", "douzaines"}
# Numbers that no other word makes longer.
LONE = {
    "couple": "2",
    "pair": "2",
    "both": "2",
    "double": "2",
    "twice": "2",
    "triple": "3",
    "thrice": "3",
    "single": "1",
    "solo": "1",
    "beide": "2",
    "beiden": "2",
    "ambos": "2",
    "anderthalb": "1.5",
    "fortnight": "2 week",
    "viertelstunde": "quarter hour",
    "dreiviertelstunde": "3 quarter hour",
}
ORDINALS = (
    counted("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", 1)
    | counted("thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth", 13)
    | counted("twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth", 20, 10)
    | {"ninetieth": 90}
    | counted("primero segundo tercero cuarto quinto sexto septimo octavo noveno decimo", 1)
    | counted("primera segunda tercera cuarta quinta sexta septima octava novena decima", 1)
    | {"primer": 1, "tercer": 3, "premier": 1, "premiere": 1}
    | counted("deuxieme troisieme quatrieme cinquieme sixieme septieme huitieme neuvieme", 2)
    | counted("dixieme onzieme douzieme treizieme quatorzieme quinzieme seizieme", 10)
    | {"vingtieme": 20, "trentieme": 30}
)
# Ordinals that mean something else behind such a word: "a second", "y cuarto".
NO_ORDINAL_BEHIND = {
    "second": {"a", "per", "each", "every"},
    "segundo": {"un", "por", "cada"},
    "cuarto": {"y", "menos", "un", "tres"},
}
FRACTION_WORDS = {"half": "1/2", "halb": "1/2", "quarter": "1/4"}
# Ordinals in the plural are parts: "two thirds" is "2 3ths".
PARTS = {f"{word}s": number for word, number in ORDINALS.items() if word.endswith(("rd", "th"))}
PARTS |= {
    "drittel": 3,
    "dritteln": 3,
    "tercio": 3,
    "tercios": 3,
    "tiers": 3,
    "cuartas": 4,
    "funftel": 5,
    "zehntel": 10,
}

MONTH_NAMES = (
    "january february march april may june july august september october november december"
).split()
MONTHS = {name: number for number, name in enumerate(MONTH_NAMES, 1)}
# Other words -> what they mean, in the words that the patterns know.
MEANINGS = {
    "january": "jan januar janner enero ene janvier janv",
    "february": "feb februar febrero fevrier fevr",
    "march": "mar marz maerz marzo mars",
    "april": "apr abril abr avril avr",
    "may": "mai mayo",
    "june": "jun juni junio juin",
    "july": "jul juli julio juillet juil",
    "august": "aug agosto ago aout",
    "september": "sep sept septiembre setiembre septembre",
    "october": "oct okt oktober octubre octobre",
    "november": "nov noviembre novembre",
    "december": "dec dez dezember dic diciembre decembre",
    "second": "sec secs seconds sekunde sekunden segundos seconde secondes",
    "minute": "min mins minutes minuten minuto minutos",
    "hour": "hr hrs hours stunde stunden hora horas",
    "heure": "heures",
    "day": "days tag tage tagen dia dias jour jours",
    "week": "weeks woche wochen semana semanas semaine semaines",
    "month": "months monat monate monaten mes meses mois",
    "year": "years jahr jahre jahren ano anos ans annee annees",
    "half": "halves halbe halber halben halbes halfte medio media mitad demi demie moitie",
    "quarter": "quarters viertel vierteln cuarto cuartos quart quarts",
    "percent": "prozent",
    "hundred": "cent hundert cien ciento",
    "and": "und y et",
    "noon": "midday mittag mittags mediodia midi",
    "midnight": "mitternacht medianoche minuit",
    "afternoon": "nachmittag nachmittags tarde",
    "evening": "abend abends soir",
    "night": "nachts nacht noche nuit",
    "morning": "morgens vormittag vormittags matin",
}
MEANING = {word: meaning for meaning, words in MEANINGS.items() for word in words.split()}
# Words that mean a number, a fraction or a month in this language only: the text has to be in it.
NEEDS_LANGUAGE = {
    "elf": "de",
    "null": "de",
    "acht": "de",
    "tag": "de",
    "once": "es",
    "dos": "es",
    "quince": "es",
    "mil": "es",
    "media": "es",
    "ago": "es",
    "mes": "es",
    "sept": "fr",
    "cent": "fr",
    "cents": "fr",
    "seize": "fr",
    "mars": "fr",
    "premier": "fr",
    "tiers": "fr",
    "quart": "fr",
    "quarts": "fr",
    "demi": "fr",
}
OTHERWISE = {"sept": "september"}  # what they mean in English
# Words by which a text is in a language: none of them is a word of another of the four.
CLUES = {
    "de": (
        "und ich der das den fur ein eine einen einem bitte uhr ist nicht zum bis wir von "
        "nach gaste personen stunden um vor gegen viertel dreiviertel zwei drei vier funf "
        "sechs sieben neun zehn zwanzig halb auf wecker heute weck"
    ),
    "es": (
        "el los las del por para que una y quiero reserva mesa personas hora horas manana "
        "minutos dias tengo necesito somos cinco siete ocho nueve diez veinte treinta "
        "millones veces docena docenas pon anade"
    ),
    "fr": (
        "le les des du pour une et je avec dans est nous aux heure heures personnes chambre "
        "jours vers billets nuits soir matin deux trois quatre cinq huit neuf vingt trente "
        "soixante"
    ),
}
CLUE_WORDS = {language: set(words.split()) for language, words in CLUES.items()}
CLUE_WORDS["es"] |= {word for word in CARDINALS if word.endswith(("cientos", "cientas", "enta"))}
CLUE_WORDS["es"] |= {word for word in CARDINALS if word.startswith(("veinti", "dieci"))}
CLUE_WORDS["fr"] |= {word for word in CARDINALS if word.endswith(("ante", "nze"))}

# German writes a number as one word.
GERMAN_CARDINALS = {
    word: CARDINALS[word]
    for word in (
        "eins zwei zwo drei vier funf fuenf sechs sieben acht neun zehn elf zwolf zwoelf dreizehn "
        "vierzehn funfzehn fuenfzehn sechzehn siebzehn achtzehn neunzehn zwanzig dreissig vierzig "
        "funfzig fuenfzig sechzig siebzig achtzig neunzig ein eine"
    ).split()
}
GERMAN_ORDINALS = counted("erst zweit dritt viert funft sechst siebt acht neunt zehnt elft", 1) | (
    counted("zwolft dreizehnt vierzehnt funfzehnt sechzehnt siebzehnt achtzehnt neunzehnt", 12)
    | counted("zwanzigst dreissigst", 20, 10)
)


def alternatives(words):
    """A pattern of any of the words, the longest first."""
    return "|".join(sorted(words, key=len, reverse=True))


GERMAN_PIECE = re.compile(alternatives([*GERMAN_CARDINALS, "hundert", "tausend", "und"]))
GERMAN_NUMBER = re.compile(
    rf"((?:{GERMAN_PIECE.pattern})*?)"
    rf"(?:({alternatives(GERMAN_ORDINALS)})e[nrsm]?|(einhalb(?:tausend)?|mal))?"
)
LONGEST_GERMAN = 60  # letters; no longer word is tried

# ---- one number, word by word --------------------------------------------------------------------


class SpokenNumber:
    """A number as its words come in; `takes` says whether the next word still belongs to it."""

    def __init__(self):
        self.closed = 0  # what thousands and millions have ended
        self.group = 0  # what stands behind them
        self.scale = INFINITY  # the last of them
        # The next number has to be in this range, to be added.
        self.least = 0
        self.limit = INFINITY
        self.words = 0

    def value(self):
        return self.closed + self.group

    def takes(self, word):
        """Adds a word for a number; False where it begins another number."""
        if word in HUNDREDS:
            is_taken = self.take_hundred()
        elif word in SCALES:
            is_taken = self.take_scale(SCALES[word])
        elif word in DOZENS:
            is_taken = self.take_dozen()
        else:
            is_taken = self.take_cardinal(word)
        self.words += is_taken
        return is_taken

    def take_cardinal(self, word):
        number = CARDINALS[word]
        if word.startswith("vingt") and self.group % 100 == 4 and self.words:
            self.group += 76  # quatre-vingt
            self.least, self.limit = 1, 20
            return True
        if self.words and not self.least <= number < self.limit:
            return False
        if not self.words and word in ARTICLES:
            return False
        self.group += number
        self.least = 1
        if number >= 100:
            self.limit = 100
        elif word == "soixante":
            self.limit = 20  # soixante-dix
        elif number >= 20 and number % 10 == 0:
            self.limit = 10
        elif word == "dix":
            self.least, self.limit = 7, 10  # dix-sept
        else:
            self.limit = 0
        return True

    def take_hundred(self):
        if not self.words or self.group == 0 and self.limit > 100:
            self.group = 100
        elif 0 < self.group < 100:
            self.group *= 100
        else:
            return False
        self.least, self.limit = 1, 100
        return True

    def take_scale(self, scale):
        if not self.words:
            self.closed = scale
        elif scale > self.scale:
            self.closed = (self.closed + self.group) * scale  # dos mil millones
        elif scale < self.scale and self.group:
            self.closed += self.group * scale
        else:
            return False
        self.group = 0
        self.scale = scale
        self.least, self.limit = 1, scale
        return True

    def take_dozen(self):
        if self.closed or self.limit == 0 and self.group == 0:
            return False
        self.group = 12 * (self.group or 1)
        self.limit = 0
        return True

    def takes_joiner(self, word):
        """May "and" stand here? "two hundred and five", "treinta y uno"; not "two and three"."""
        is_tens = self.limit in (10, 20)
        return bool(self.words) and (self.limit >= 100 or is_tens and word in ("y", "et"))


def german_number(word):
    """(digits, ordinal mark) of a German number that is one word; None for other words."""
    if len(word) > LONGEST_GERMAN:
        return None
    match = GERMAN_NUMBER.fullmatch(word)
    if not match or word in ("", "mal", "einmal"):
        return None
    pieces, ordinal, half = match.groups(default="")
    number = 0
    group = 0
    tens_wait = False
    for piece in GERMAN_PIECE.findall(pieces):
        if piece == "hundert":
            group = 100 * (group or 1)
        elif piece == "tausend":
            number += 1000 * (group or 1)
            group = 0
        elif piece != "und":
            group += GERMAN_CARDINALS[piece]
        tens_wait = piece == "und"
    if tens_wait and not ordinal:
        return None
    number += group + GERMAN_ORDINALS.get(ordinal, 0)
    if half == "einhalb":
        return f"{number}.5", ""
    if half == "einhalbtausend":
        return f"{number}500", ""
    return str(number), "th" if ordinal else ""


# ---- a text --------------------------------------------------------------------------------------

WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|.", re.DOTALL)
VULGAR = re.compile(r"(?<=\d)([¼½¾⅓⅔⅛⅜⅝⅞])")
PERCENT_WORDS = re.compile(r"\b(?:per|por|pour)[ -]?(?:cent|ciento)\b")
# "1 300,75"
SPACED_PRICE = re.compile(r"(?<!\d)(?<!\d[.,])\d{1,3}(?:[ '’]\d{3}){1,5}(?=[.,]\d\d(?!\d))")
SQUARED = re.compile(r"\b(?:squared|zum quadrat|al cuadrado|au carre)\b")
CUBED = re.compile(r"\b(?:cubed|al cubo|au cube)\b")
DECIMAL_POINTS = ("point", "komma", "coma", "virgule", "punto")
GAPS = (" ", "-", "\u2010", "\u2011")


def without_accents(text):
    """A text in small letters, without accents; ½ is 1/2."""
    text = VULGAR.sub(r" \1", text.casefold())
    text = unicodedata.normalize("NFKD", text).replace("\u2044", "/")
    return "".join([letter for letter in text if not unicodedata.combining(letter)])


def languages_of(words):
    """Which languages besides English a text has words of."""
    words = set(words)
    return {language for language, clues in CLUE_WORDS.items() if words & clues}


def reading_form(text):
    """A text as the patterns read it, see above."""
    text = PERCENT_WORDS.sub("percent", without_accents(text))
    text = CUBED.sub("^3", SQUARED.sub("^2", text))
    text = SPACED_PRICE.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    words = WORD.findall(text)
    return Reader(words).text()


class Reader:
    """Writes the words of a text anew, numbers in digits."""

    def __init__(self, words):
        self.words = words
        self.languages = languages_of(words)
        self.written = []

    def text(self):
        place = 0
        while place < len(self.words):
            place = self.read(place)
        return "".join(self.written)

    def is_allowed(self, word):
        """Is the text in the language that a word needs?"""
        language = NEEDS_LANGUAGE.get(word, "")
        return not language or language in self.languages

    def word_before(self, place):
        return self.words[place - 2] if place >= 2 and self.words[place - 1] in GAPS else ""

    def read(self, place):
        """Writes what begins at a place; returns the place behind it."""
        word = self.words[place]
        if not word[0].isalpha() or not self.is_allowed(word):
            self.written.append(OTHERWISE.get(word, word))
            return place + 1
        if self.is_cardinal(word):
            end = self.read_number(place)
            if end > place:
                return end
        self.written.append(self.one_word(word, place))
        return place + 1

    def is_cardinal(self, word):
        return word in CARDINALS or word in HUNDREDS or word in SCALES or word in DOZENS

    def one_word(self, word, place):
        """What a word that begins no number in words means."""
        if word in LONE:
            return LONE[word]
        if word in ORDINALS and self.is_ordinal(word, place):
            return f"{ORDINALS[word]}th"
        if word in PARTS:
            return f"{PARTS[word]}ths"
        if word in MEANING:
            return MEANING[word]
        german = None if word in ARTICLES else german_number(word)
        return "".join(german) if german else word

    def is_ordinal(self, word, place):
        before = self.word_before(place)
        return before not in NO_ORDINAL_BEHIND.get(word, ()) and not before[-1:].isdigit()

    def read_number(self, place):
        """Writes the number that begins at a place, in digits; returns the place behind it."""
        number = SpokenNumber()
        end = place
        mark = ""
        is_decimal = self.word_before(place) in DECIMAL_POINTS  # "two point five million"
        while not mark and not (is_decimal and number.words):
            start = self.next_word(end, number) if number.words else place
            word = self.words[start] if start < len(self.words) else ""
            if self.is_cardinal(word) and self.is_allowed(word) and number.takes(word):
                end = start + 1
            elif word in ORDINALS and self.adds_ordinal(number, word):
                end = start + 1
                mark = "th"
            else:
                break
        if number.words == 0 or number.words == 1 and not mark and self.is_scale(place):
            return place  # "a million", "3 hundred": read with what stands before it
        self.written.append(f"{number.value()}{mark}")
        return end

    def is_scale(self, place):
        word = self.words[place]
        return word in SCALES or word in HUNDREDS or word in DOZENS

    def adds_ordinal(self, number, word):
        """Adds the last word of "twenty-first"."""
        if not number.words or not number.least <= ORDINALS[word] < number.limit:
            return False
        number.group += ORDINALS[word]
        return True

    def is_hundreds(self, place):
        """Do hundreds stand here, as in "three thousand, two hundred"?"""
        words = self.words[place : place + 3]
        return len(words) == 3 and words[0] in CARDINALS and words[2] in HUNDREDS

    def next_word(self, place, number):
        """The place of the word that may go on with a number, over "-", " ", ", " and "and"."""
        if self.words[place : place + 2] == [",", " "] and self.is_hundreds(place + 2):
            return place + 2 if number.group == 0 and number.closed else len(self.words)
        if place >= len(self.words) or self.words[place] not in GAPS:
            return len(self.words)
        joiner = self.words[place + 1 : place + 3]
        if len(joiner) == 2 and joiner[0] in ("and", "und", "y", "et") and joiner[1] in GAPS:
            return place + 3 if number.takes_joiner(joiner[0]) else len(self.words)
        return place + 1
