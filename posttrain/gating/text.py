"""Texts and numbers as people read them: nothing hides, nothing is wider than a terminal.

Prompts, answers and names are hostile until shown.
"""

import re
import unicodedata

COLUMNS = 110  # of a terminal

# Categories of characters that hide or reorder text or move a cursor: controls, bidirectional marks
# and zero-width characters, lone surrogates, separators of lines and paragraphs.
HIDING = ("Cc", "Cf", "Cs", "Zl", "Zp")
# But these stay. The last two are joiners, which emoji and many scripts need.
KEPT = "\n\t\u200c\u200d"


# ---- texts ---------------------------------------------------------------------------------------


def visible(text):
    """Text in which no character hides, reorders the line or moves a cursor.

    Those that would become codes such as ⟨U+202E⟩.
    """
    shown = []
    for character in str(text).replace("\r\n", "\n"):
        if unicodedata.category(character) in HIDING and character not in KEPT:
            character = f"⟨U+{ord(character):04X}⟩"
        shown.append(character)
    return "".join(shown)


def cut(text, most):
    """Visible text; beyond `most` characters its middle is left out, and these are counted."""
    text = str(text)
    unread = max(len(text) - 2 * most, 0)  # shown to nobody, so not even looked at
    if unread:
        text = text[:most] + text[-most:]
    text = visible(text)
    gone = unread + len(text) - most
    if gone <= 0:
        return text
    half = most // 2
    return f"{text[:half]} [… {gone:,} characters cut …] {text[-half:]}"


def flat(text):
    """Visible text on one line."""
    return re.sub(r"\s+", " ", visible(text))


def listed(names, most=20):
    """Names with commas; beyond `most` they are counted."""
    text = ", ".join(str(name) for name in names[:most])
    if len(names) > most:
        text += f" and {len(names) - most} more"
    return text


# ---- numbers and verdicts ----------------------------------------------------------------------


def share(value):
    """A share in per cent."""
    return f"{value:.1%}"


def points(value):
    """A difference of shares, in points."""
    return f"{100 * value:+z.1f}"


def times(value):
    """A ratio."""
    return f"{value:.3g}x"


def between(low, high, form=points):
    """An interval."""
    return f"[{form(low)}, {form(high)}]"


def outcome(numbers):
    """The verdict of a slice; soft ones may fall without blocking."""
    return numbers["verdict"] if numbers["hard"] else f"{numbers['verdict']} (soft)"


# ---- columns of a terminal -----------------------------------------------------------------------


def width(text):
    """Columns that a text takes in a terminal."""
    return sum(columns_of(character) for character in text)


def columns_of(character):
    """Columns that a character takes."""
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text, columns):
    """Text cut at its end to fit into so many columns."""
    if width(text) <= columns:
        return text
    return first_columns(text, columns - 1) + "…"


def first_columns(text, columns):
    """The beginning of a text that fits into so many columns."""
    used = 0
    for place, character in enumerate(text):
        used += columns_of(character)
        if used > columns:
            return text[:place]
    return text


def broken(text, columns):
    """Text broken anywhere, as lines of at most so many columns."""
    lines = []
    while width(text) > columns:
        head = first_columns(text, columns)
        lines.append(head)
        text = text[len(head) :]
    return [*lines, text]


def wrapped(text, indent="", columns=COLUMNS):
    """Text broken at blanks, as lines of at most so many columns; those after the first indented.

    Only a word that is longer than a line is broken inside.
    """
    later = columns - width(indent)
    lines = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if width(longer) <= (later if lines else columns):
            line = longer
            continue
        if line:
            lines.append(line)
        *whole, line = broken(word, later)
        lines += whole
    lines.append(line)
    return [lines[0], *(indent + line for line in lines[1:])]


def table_lines(rows):
    """Rows of cells, the head first, as the lines of a Markdown table with aligned columns."""
    widths = [max(width(cell) for cell in column) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, widths)]
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + "|".join("-" * (size + 2) for size in widths) + "|")
    return lines


def tables_that_fit(rows, columns=COLUMNS):
    """Rows of cells -> tables that are no wider than so many columns, as table_lines has them.

    Columns that do not fit stand in a further table, behind the first column again. Cells that are
    too long even so are cut at their end.
    """
    longest_name = columns // 4
    longest_cell = columns - longest_name - len("|  |  |")
    fitting = []
    for name, *cells in rows:
        fitting.append([fit(name, longest_name), *(fit(cell, longest_cell) for cell in cells)])
    first, *others = zip(*fitting)
    tables = []
    table = [first]
    for column in others:
        if len(table) > 1 and width(table_lines([*zip(*table, column)])[0]) > columns:
            tables.append(table)
            table = [first]
        table.append(column)
    tables.append(table)
    return [table_lines([*zip(*table)]) for table in tables]
