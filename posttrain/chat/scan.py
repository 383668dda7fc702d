"""Reading a text from left to right: fixed marks, strict JSON, and values as Python writes them.

Whatever a model wrote may stand in the text. Every reader moves forward only, so that a hostile
text takes no more time than its length, and nothing is raised but ValueError.
"""

import json
import math
import re

DEEPEST = 50  # lists and objects inside each other, in values as Python writes them

SPACE = re.compile(r"\s*")
# A name in source code: get_tide, weather.today, get-tide.
NAME = re.compile(r"[^\W\d][\w.-]*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
WORD = re.compile(r"[A-Za-z]+")
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}

# A quoted text. Templates put apostrophes into single quotes as they are ('it's windy'): between
# two letters an apostrophe ends nothing.
QUOTED = {
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]|\\.|(?<=\w)'(?=\w))*)'", re.DOTALL),
}
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


# ---- strict JSON ---------------------------------------------------------------------------------


def strict_json(text):
    """json.loads that refuses the same key twice, NaN, Infinity, absurd depth: ValueError."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_json(text):
    """Is a text one JSON object or list, and nothing else?"""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        strict_json(text)
    except ValueError:
        return False
    return True


def unique_keys(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("the same key twice")
    return dict(pairs)


def refuse_constant(name):
    raise ValueError(f"{name} is no JSON")


def finite_float(text):
    if not math.isfinite(float(text)):
        raise ValueError("a number too large")
    return float(text)


DECODER = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_float=finite_float, parse_constant=refuse_constant
)


# ---- the scan ------------------------------------------------------------------------------------


class Scan:
    """A place in a text that moves forward while the text is read."""

    def __init__(self, text, place=0):
        self.text = text
        self.place = place

    def space(self):
        """Step over white space, and go on with what is behind it."""
        self.place = SPACE.match(self.text, self.place).end()
        return self

    def at_end(self):
        return self.place == len(self.text)

    def sees(self, literal):
        return self.text.startswith(literal, self.place)

    def takes(self, literal):
        """Step over a literal, if it stands here."""
        is_here = self.sees(literal)
        if is_here:
            self.place += len(literal)
        return is_here

    def expects(self, literal):
        if not self.takes(literal):
            raise ValueError(f"expected {literal!r} at character {self.place}")

    def closes(self, literal):
        """Step over a closing mark behind white space; it may be left out where the text ends.

        Many servers cut it off, because it ends the turn.
        """
        if not self.space().at_end():
            self.expects(literal)

    def matches(self, pattern):
        """Step over what a regular expression matches here: the match, or None."""
        match = pattern.match(self.text, self.place)
        if match:
            self.place = match.end()
        return match

    def until(self, literal, refused=()):
        """The text before a literal, which is stepped over as well.

        refused: literals that may not stand in it; there the nesting would be wrong.
        """
        end = self.text.find(literal, self.place)
        if end < 0:
            raise ValueError(f"{literal!r} is missing")
        piece = self.text[self.place : end]
        for mark in refused:
            if mark in piece:
                raise ValueError(f"{mark!r} inside a value")
        self.place = end + len(literal)
        return piece

    def json(self):
        """The JSON value that stands here."""
        self.space()
        try:
            value, self.place = DECODER.raw_decode(self.text, self.place)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return value


# ---- values as Python writes them ----------------------------------------------------------------


def read_literal(scan, depth=0):
    """A value in which the words of Python and of JSON may be mixed: {"a": True, 'b': null}."""
    scan.space()
    opening = scan.text[scan.place : scan.place + 1]
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if opening in QUOTED:
        return read_quoted(scan, opening)
    if scan.takes("["):
        return read_items(scan, "]", depth)
    if scan.takes("("):
        return read_items(scan, ")", depth)
    if scan.takes("{"):
        return read_pairs(scan, depth)
    word = scan.matches(WORD)
    if word:
        if word[0] not in WORDS:
            raise ValueError(f"{word[0]} is no value")
        return WORDS[word[0]]
    number = scan.matches(NUMBER)
    if not number:
        raise ValueError(f"no value at character {scan.place}")
    return strict_json(number[0])


def read_quoted(scan, quote):
    match = scan.matches(QUOTED[quote])
    if not match:
        raise ValueError("a text without closing quote")
    text = ESCAPE.sub(unescaped, match[1])
    # JSON writes an emoji as two halves.
    return HALVES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def unescaped(match):
    """The character that an escape stands for; an unknown one stands for itself, as in Python."""
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return ESCAPES.get(code, code if code in "'\"\\/" else match[0])


def read_items(scan, closing, depth):
    """The items of a list or a tuple, behind its opening bracket."""
    items = []
    while not scan.space().takes(closing):
        if items:
            scan.expects(",")
            if scan.space().takes(closing):
                break
        items.append(read_literal(scan, depth + 1))
    return items


def read_pairs(scan, depth):
    """The pairs of an object, behind its opening bracket."""
    pairs = []
    while not scan.space().takes("}"):
        if pairs:
            scan.expects(",")
            scan.space()
        key = read_literal(scan, depth + 1)
        if not isinstance(key, str):
            raise ValueError("a key that is no text")
        scan.space().expects(":")
        pairs.append((key, read_literal(scan, depth + 1)))
    return unique_keys(pairs)


def read_arguments(scan):
    """{name: value} of keyword arguments, behind their opening bracket: a=1, b='x')."""
    pairs = []
    while not scan.space().takes(")"):
        if pairs:
            scan.expects(",")
            if scan.space().takes(")"):
                break
        name = scan.matches(NAME)
        if not name:
            raise ValueError("an argument without a name")
        scan.space().expects("=")
        pairs.append((name[0], read_literal(scan)))
    return unique_keys(pairs)
