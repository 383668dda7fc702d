r"""The little LaTeX in which models write a final answer: \boxed{...}, fractions, spacing.

Nothing here knows mathematics: \sqrt{2} stays the text that it is.
"""

import re

# What opens and closes: an escaped brace counts for nothing, "\boxed{" and "\fbox{" open a box.
BRACE = re.compile(r"\\[{}\\]|(\\boxed|\\fbox)?\s?([{}])")

PART = r"\s?(?:\{\s?(-?[\d.,]+)\s?\}|(\d))"  # of a fraction: {12}, or one digit without braces
FRACTION = re.compile(rf"(-?)(?<![\d.])(\d+)?\s?\\[dt]?frac{PART}{PART}")
# What only sets the type -> what a reader sees. In this order.
PLAIN = (
    (
        re.compile(
            r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s?\{([^{}]*)\}"
        ),
        r" \1",
    ),
    (re.compile(r"(?<=\d)(?:\{,\}|\\[,;:! ]|~)\s?(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\s?(?:\\times|\\cdot)\s?10\^(?:\{([-+]?\d{1,3})\}|(\d))"), r"e\1\2"),
    (re.compile(r"\\([%$#&_])"), r"\1"),
    (re.compile(r"\^?\{?\\circ\}?"), "°"),
    (re.compile(r"\\(?:left|right|displaystyle)\b|\\!"), ""),
    (re.compile(r"\\[,;: ]|\\q?quad\b|~"), " "),
)


def boxed(text):
    r"""What stands in the last \boxed{...} or \fbox{...} of a text; None without a closed one."""
    opened = []  # (place behind a brace, does it open a box?)
    last = (-1, None)
    for match in BRACE.finditer(text):
        if match[2] == "{":
            opened.append((match.end(), bool(match[1])))
        elif match[2] == "}" and opened:
            start, is_box = opened.pop()
            if is_box:
                last = max(last, (start, match.end() - 1))
    start, end = last
    return text[start:end].strip() if start >= 0 else None


def without_latex(text):
    r"""A text with \frac{3}{4} as 3/4, 1{,}234 as 1,234, \text{cm} as cm, \% as %."""
    if "\\" not in text and "{" not in text:
        return text
    text = FRACTION.sub(plain_fraction, text)
    for pattern, replacement in PLAIN:
        text = pattern.sub(replacement, text)
    return text


def plain_fraction(match):
    r"""A match of FRACTION as a/b: 2\frac{1}{2} is the mixed number 2 1/2."""
    sign, whole, *parts = match.groups(default="")
    upper = parts[0] or parts[1]
    lower = parts[2] or parts[3]
    return f"{sign}{whole} {upper}/{lower}" if whole else f"{sign}{upper}/{lower}"
