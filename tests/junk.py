"""What is put in place of good values to see it refused in one line, and how that line looks."""

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}

JUNK = [
    None,
    True,
    False,
    0,
    -1,
    10**40,
    1e300,
    0.5,
    "",
    " ",
    "assistant",
    "<|im_end|>",
    [],
    {},
    [[]],
    [{}],
    [None],
    {"a": {}},
    "\ud800",
    "\x00",
    [1, 2],
    {"role": "assistant"},
    {"role": "wizard", "content": "x"},
    [USER],
    [ASSISTANT],
    [USER, USER],
    [ASSISTANT, ASSISTANT],
    {"name": 3},
    "[{",
    "{}",
    "[1]",
    '{"name": "f"}',
    float("nan"),
    float("inf"),
    [[[[[[[]]]]]]],
    {"type": "function", "function": 5},
    {"function": {"name": None}},
    -1e-9,
]
TEXT_DAMAGE = [
    lambda t, r: t[: r.randrange(len(t))],
    lambda t, r: t + t,
    lambda t, r: t.replace(":", "", 1),
    lambda t, r: t.replace('"', "'", 2),
    lambda t, r: "[" * 100_000 + t,
    lambda t, r: f"[{t}]",
    lambda t, r: t.replace("{", '{"x": 1e999, ', 1),
    lambda t, r: t.replace("{", '{"x": NaN, ', 1),
    lambda t, r: t.replace("{", '{"x": ' + "9" * 5000 + ", ", 1),
    lambda t, r: '"' + t,
    lambda t, r: '{"prompt": ' * 5000,
    lambda t, r: "null",
    lambda t, r: "\\",
    lambda t, r: t + " x",
    lambda t, r: '{"prompt": "\\ud800", "completion": "\\udc00"}',
    lambda t, r: "\x00" + t,
]


def places(value, path=()):
    """All paths to a part of a JSON value."""
    found = [path] if path else []
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else []
    )
    return found + [p for key, part in parts for p in places(part, (*path, key))]


def check_message(error, path, where=True):
    text = str(error)
    assert "\n" not in text and len(text) < 600, text
    assert not where or text.startswith((f"{path}:", f"{path}: no records")), text
    text.encode()  # it can be printed
