"""The two programs in the sandbox: the child has the solution and no test, the tester has the tests and no line of the
solution. The tester calls the solution's functions over a socket; what comes back is an answer to be judged, never a
judgement: nothing that the solution does to its own process reaches the comparison.

A message is 4 bytes of length and ASCII lines: a token, a verb, values. The token of a request is fresh and random, and
only a message with it can answer: one sent too early, or twice, ends the conversation, and all further tests fail.
Values are text of a few kinds, read by `decode`; pickle and eval have no part in it. The solution's objects stay in the
child: the tester holds handles, whose attributes and methods are calls; arithmetic, `with` and `await` are refused, and
so is output that the test redirects. sandbox.py hands this file over compiled, with the arguments `tester` or `child`
and the seconds of CPU time, so it imports nothing of the house.
"""

import builtins
import operator
import os
import sys

MOST = 1 << 25  # bytes of a message
GONE = "the code ended its process, or gave no plain value"
SCALARS = {  # kind: its letter, how it is written, how it is read
    type(None): ("N", lambda _: "", lambda _: None),
    bool: ("B", str, lambda text: text == "True"),
    int: ("i", hex, lambda text: int(text, 16)),
    float: ("f", float.__repr__, float),
    complex: ("c", complex.__repr__, complex),
    bytes: ("b", bytes.hex, bytes.fromhex),
    str: (
        "s",
        lambda v: str.encode(v, "utf-8", "surrogatepass").hex(),
        lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    ),
}
STANDARD = {  # kinds of the standard library that travel as the arguments that make them
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "collections.deque": lambda v: (list(v), v.maxlen),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
    "datetime.date": lambda v: (v.year, v.month, v.day),
}
LETTERS = {list: "l", set: "u", dict: "d", bytearray: "a", tuple: "t", frozenset: "z"}
FIXED = (tuple, frozenset)  # cannot change
READ = {letter: read for letter, _, read in SCALARS.values()}
KINDS = {letter: kind for kind, letter in LETTERS.items()}


class Broken(BaseException):
    """The other side is gone or talks nonsense, or the test needs what there is not. No `except Exception` stops it."""


def plain_kind(value):
    return next((kind for kind in type(value).__mro__ if kind in SCALARS or kind in LETTERS), None)


def encode(value, lines, known, refer):
    """Append the lines of a value, a subclass as its base; what has no kind gets the line refer(value). known {id:
    (number, object)}: the collections that can change; of one that occurs again goes the number: the same one there."""
    kind = plain_kind(value)
    if kind in SCALARS:
        letter, write, _ = SCALARS[kind]
        lines.append(letter + write(value))
    elif id(value) in known:
        lines.append(f"r{known[id(value)][0]}")
    elif kind:
        if kind not in FIXED:
            known[id(value)] = len(known), value
        items = contents(value)
        lines.append(f"{LETTERS[kind]}{len(items)}")
        for item in items:
            encode(item, lines, known, refer)
    elif (name := f"{type(value).__module__}.{type(value).__qualname__}") in STANDARD:
        lines.append("x" + name)
        encode(STANDARD[name](value), lines, known, refer)
    else:
        lines.append(refer(value))


def decode(lines, seen, resolve):
    """The value that the next lines spell; `seen` gets the collections that can change, in order. What `refer` wrote,
    resolve(letter, rest) reads. Any other text raises some Exception."""
    line = next(lines, "")
    letter, rest = line[:1], line[1:]
    if letter in READ:
        return READ[letter](rest)
    if letter == "r":
        return seen[abs(int(rest))]
    if letter == "x" and rest in STANDARD:
        module, name = rest.split(".")
        return getattr(__import__(module), name)(*decode(lines, seen, resolve))
    if letter not in KINDS:
        return resolve(letter, rest)
    kind = KINDS[letter]
    if kind not in FIXED:
        seen.append(made := kind())
    items = [decode(lines, seen, resolve) for _ in range(int(rest))]
    if kind in FIXED:
        return kind(items)
    change(made, items)
    return made


def contents(value):
    """The items of a collection as a new list; of a dict key, value, key, value; of a bytearray its numbers."""
    kind = plain_kind(value)
    return (
        [one for pair in dict.items(value) for one in pair]
        if kind is dict
        else list(kind.__iter__(value))
    )


def change(collection, items):
    """Give a list, set, dict or bytearray these contents, in place."""
    kind = plain_kind(collection)
    kind.clear(collection)
    add = kind.update if kind in (set, dict) else kind.extend
    add(collection, zip(items[::2], items[1::2]) if kind is dict else items)


def differ(before, now):
    """Are these not the same objects in the same order?"""
    return len(before) != len(now) or any(map(operator.is_not, before, now))


def builtin_name(error):
    """Of the class of an exception, or of the nearest base that is Python's own."""
    return next(
        kind.__name__
        for kind in type(error).__mro__
        if getattr(builtins, kind.__name__, None) is kind
    )


def send(lines):
    body = "\n".join(lines).encode("ascii", "replace")
    sink.write(len(body).to_bytes(4, "big") + body)
    sink.flush()


def receive():
    """Iterator over the lines of the next message."""
    size = int.from_bytes(source.read(4), "big")
    body = source.read(size) if size <= MOST else b""
    if not body or len(body) < size:
        raise EOFError
    return iter(body.decode("ascii", "replace").split("\n"))


# ---- the child -----------------------------------------------------------------------------------

solution = sys.modules["solution"] = type(sys)(
    "solution"
)  # where dataclasses and typing look for the code's names
objects, numbers = (
    [solution],
    {},
)  # what the tester has handles of, and {id: number}; for good: no number is reused
tokens = []  # of the requests being answered, innermost last
VERBS = {
    "load": lambda: exec(compile(state["code"], "solution.py", "exec"), solution.__dict__),
    "call": lambda f, /, *args, **kwargs: f(*args, **kwargs),
    "instancecheck": lambda kind, o: isinstance(o, kind),
    "change": lambda owner, name, items: change(getattr(owner, name), items),
}
VERBS |= {
    name: getattr(builtins, name)
    for name in "getattr setattr len str repr hash iter next bool".split()
}
VERBS |= {name: getattr(operator, name) for name in "eq contains getitem setitem delitem".split()}


def child_refer(value):
    """The line of a handle: k: a class, o: anything else."""
    if id(value) not in numbers:
        numbers[id(value)] = len(objects)
        objects.append(value)
    return f"{'k' if isinstance(value, type) else 'o'}{numbers[id(value)]}"


def child_resolve(letter, rest):
    """o: an object that the tester has a handle of; n: a builtin; p: a function of the tester, called by message."""
    if letter != "p":
        return objects[int(rest)] if letter == "o" else getattr(builtins, rest)

    def ask_back(*args, **kwargs):
        lines = [tokens[-1], "back"]
        encode((int(rest), args, kwargs), lines, {}, child_refer)
        send(lines)
        return answer_requests()

    return ask_back


def answer_requests():
    """Serve the tester until it hangs up, or until it answers what was asked back."""
    while True:
        lines, seen = receive(), []
        token, verb = next(lines), next(lines)
        value = decode(lines, seen, child_resolve)
        if verb == "value":
            return value
        if verb == "raise":
            raise getattr(builtins, value[0])(*value[1])
        before = [contents(one) for one in seen]
        tokens.append(token)
        try:
            said, value = "value", VERBS[verb](*value[0], **value[1])
        except BaseException as error:
            said, value = "raise", (builtin_name(error), error.args)
        tokens.pop()
        changed = {n: now for n, one in enumerate(seen) if differ(before[n], now := contents(one))}
        lines = [token, said]
        encode(
            (value, changed), lines, {id(one): (n, one) for n, one in enumerate(seen)}, child_refer
        )
        send(lines)


# ---- the tester ----------------------------------------------------------------------------------

callbacks = []  # functions of the tests that the solution got
fetched = []  # [collection, its contents, handle, name]: the latest that were read as attributes
# why no further answer is believed; why this test fails although the solution caught the error; the last answer
state = {"broken": "", "failed": "", "last": None}
# what a text, a set or a number says about itself, given the expected value, or as good as the whole test
PREDICATES = {
    name for name in dir(str) + dir(set) + dir(float) if name.startswith(("starts", "ends", "is"))
}


class Handle:
    """An object of the solution. It never poses as a plain value, which no handle is equal to; two objects are compared
    by the solution's own ==, unless that finds them equal to a random text as well. Only what the test itself made, by
    calling a class whose name has a capital letter (kind K), may say what it contains, or answer PREDICATES."""

    __slots__ = ("_number_", "_kind_")

    def __init__(self, number, kind):
        self._number_, self._kind_ = number, kind

    def __getattr__(self, name):
        if name in PREDICATES and self._kind_ != "made":
            raise Broken(f"{name}() of an object that only poses as a value")
        return ask("getattr", self, name)

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value) if name in Handle.__slots__ else ask(
            "setattr", self, name, value
        )

    def __call__(self, /, *args, **kwargs):
        result = ask("call", self, *args, **kwargs)
        if isinstance(result, Handle) and self._kind_ == "K":
            result._kind_ = "made"
        return result

    def __eq__(self, other):
        if self is other or not isinstance(other, Handle) or ask("eq", self, other) is not True:
            return self is other
        try:
            return ask("eq", self, os.urandom(8).hex()) is not True
        except Exception:  # it looks at what a text does not have
            return True

    def __contains__(self, item):
        made = self._kind_ == "made"
        return (
            ask("contains", self, item) is True
            if made
            else any(one is item or one == item for one in self)
        )


for verb in (
    "len str repr hash iter next bool getitem setitem delitem instancecheck lt le gt ge add radd sub rsub mul "
    "rmul truediv neg abs int float index enter exit await copy deepcopy reduce_ex subclasscheck"
).split():
    setattr(Handle, f"__{verb}__", lambda self, *args, verb=verb: ask(verb, self, *args))
handles = {0: Handle(0, "o")}  # {number: handle}; 0 is the solution's module


def tester_refer(value):
    if isinstance(value, Handle):
        return f"o{value._number_}"
    if getattr(builtins, str(getattr(value, "__name__", "")), None) is value:
        return "n" + value.__name__
    if isinstance(value, type) or not callable(value):
        raise Broken(f"the test's {type(value).__name__} cannot be passed to the solution")
    callbacks.append(value)
    return f"p{len(callbacks) - 1}"


def tester_resolve(letter, rest):
    """A handle. Nothing else: the child must not choose what the tester calls."""
    if letter not in ("o", "k"):
        raise ValueError(letter)
    return handles.setdefault(int(rest), Handle(int(rest), letter))


def ask(verb, /, *args, **kwargs):
    """Have the child do something; its value, or its exception. What it changed in the arguments changes here, too."""
    if state["broken"] or verb not in VERBS or sys.stdout:
        raise Broken(
            state["broken"]
            or "not supported: "
            + ("redirected output" if sys.stdout else f"{verb} of an object of the solution")
        )
    for one in fetched:  # o.children.append(x) in the test
        if differ(one[1], now := contents(one[0])):
            one[1] = now
            ask("change", *one[2:], now)
    token, known = os.urandom(8).hex(), {}
    lines = [token, verb]
    encode((args, kwargs), lines, known, tester_refer)
    mine = [one for _, one in known.values()]
    try:
        send(lines)
        while True:
            lines = receive()
            if next(lines) != token:
                raise Broken("an answer that nobody asked for")
            if (said := next(lines)) != "back":
                break
            call_back(token, *decode(lines, [], tester_resolve))
        value, changed = decode(lines, [*mine], tester_resolve)
        for number, items in changed.items():
            change(mine[number], items)
        if said == "raise":
            kind = getattr(builtins, value[0])
            if not issubclass(kind, Exception) or kind is StopIteration and verb != "next":
                kind = RuntimeError  # those would end the tester, or a loop over map() in the test
            value = kind(*value[1])
    except BaseException as error:  # the message makes no sense
        state["broken"] = str(error) if isinstance(error, Broken) else GONE
        raise Broken(state["broken"]) from None
    if verb in ("call", "next") or state["last"] is None:
        state["last"] = (value,) if said == "value" else ()
    if said == "raise":
        raise value
    if verb == "getattr" and isinstance(value, list | dict | set):
        fetched[:] = [*fetched[-9:], [value, contents(value), *args]]
    return value


def call_back(token, number, given, named):
    """The solution calls a function that the test passed to it. An assert that fails there fails the test."""
    lines = [token, "value"]
    try:
        encode(callbacks[abs(number)](*given, **named), lines, {}, tester_refer)
    except Exception as error:
        if isinstance(error, AssertionError):
            state["failed"] = "an assert failed in a function that the solution called"
        lines = [token, "raise"]
        encode((builtin_name(error), (str(error),)), lines, {}, tester_refer)
    send(lines)


class Names(dict):
    """The globals of a test: its own, then Python's with the modules of its library, then the solution's, which can
    never stand in for those of the test unless it is the `entry_point`."""

    def __missing__(self, name):
        if hasattr(builtins, name):
            raise KeyError(name)
        return __import__(name) if name in sys.stdlib_module_names else self.fetch(name)

    def fetch(self, name):
        """The solution's; variables afresh each time, for a call may change them."""
        value = ask("getattr", handles[0], name)
        if isinstance(value, Handle):
            self[name] = value
            if value._kind_ == "k" and name[:1].isupper():
                value._kind_ = "K"
        return value


def run_test(text, entry_point):
    """Why a test fails, or ""; an empty one loads the solution."""
    names = Names(__builtins__=builtins, __name__="tests")
    fetched.clear()
    try:
        if not text:
            ask("load")
        elif entry_point:
            names["candidate"] = names[entry_point] = names.fetch(entry_point)
        state.update(failed="", last=None)
        exec(compile(text, "<test>", "exec"), names)
        if text and state["last"] is None:
            return "the test uses nothing of the solution"
        return state["broken"] or state["failed"]
    except BaseException as error:
        trace, line = error.__traceback__, 1
        while trace:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<test>" else line
            trace = trace.tb_next
        where = text.split("\n")[line - 1].strip()[:60]
        if isinstance(error, AssertionError) and state["last"] and not str(error):
            (value,) = state["last"]
            return f"{where} gave {'an object' if isinstance(value, Handle) else ascii(value)[:60]}"
        return f"{where} raised {type(error).__name__}: {str(error)[:60]}".strip(": ")


if __name__ == "__main__":
    import resource  # not on every system

    for name, most in dict(
        CPU=int(sys.argv[2]), AS=512 << 20, FSIZE=1 << 20, NOFILE=64, NPROC=64, CORE=0
    ).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    link = os.dup(2)
    source, sink = open(link, "rb", closefd=False), open(link, "wb", closefd=False)
    os.environ.clear()
    given = open(0, "rb", closefd=False).read().decode("utf-8", "surrogatepass")
    if sys.argv[1] == "tester":  # a line for the code and one for each test: "" or why it fails
        sys.stdout = sys.stderr = None  # print() is silent then
        out = os.dup(1)
        os.dup2(0, 1), os.dup2(0, 2)  # nothing else can be written there
        entry_point, tests = decode(iter(given.split("\n")), [], None)
        for test in ("", *tests):
            try:
                why = run_test(test, entry_point)
            except BaseException:
                why = "the test failed with an object that has no text"
            os.write(out, ascii(why).encode() + b"\n")
    else:
        state["code"] = given
        os.dup2(1, 0), os.dup2(1, 2)  # /dev/null
        answer_requests()
    os._exit(0)
