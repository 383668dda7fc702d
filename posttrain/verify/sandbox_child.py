"""The two programs in the sandbox, which talk over a socket.

The child has the solution and no test, the tester has the tests and no line of the solution. The
tester calls the solution's functions; what comes back is an answer to be judged, never a judgement:
nothing that the solution does to its own process reaches the comparison.

A message is 4 bytes of length and ASCII lines: a token, a verb, values. The token of a request is
fresh and random, and only a message with it can answer: one sent too early, or twice, ends the
conversation, and all further tests fail. Values are text of a few kinds, read by `decode`; pickle
and eval have no part in it. The solution's objects stay in the child: the tester holds handles,
whose attributes and methods are calls; arithmetic, `with` and `await` are refused, and so is output
that the test redirects.

sandbox.py hands this file over compiled, with the arguments `tester` or `child` and the seconds of
CPU time, so it imports nothing of the house, and little else: each import is paid in every run.
"""

import builtins
import operator
import os
import sys

MOST = 1 << 25  # bytes of a message
GONE = "the code ended its process, or gave no plain value"
LIMITS = {"AS": 512 << 20, "FSIZE": 1 << 20, "NOFILE": 64, "NPROC": 64, "CORE": 0}  # and CPU


class Broken(BaseException):
    """The other side is gone or talks nonsense, or the test needs what there is not.

    No `except Exception` stops it.
    """


# ---- values as text ------------------------------------------------------------------------------


def write_nothing(_):
    return ""


def read_nothing(_):
    return None


def read_bool(text):
    return text == "True"


def read_int(text):
    return int(text, 16)


def write_text(text):
    return str.encode(text, "utf-8", "surrogatepass").hex()


def read_text(text):
    return bytes.fromhex(text).decode("utf-8", "surrogatepass")


SCALARS = {  # kind: its letter, how it is written, how it is read
    type(None): ("N", write_nothing, read_nothing),
    bool: ("B", str, read_bool),
    int: ("i", hex, read_int),
    float: ("f", float.__repr__, float),
    complex: ("c", complex.__repr__, complex),
    bytes: ("b", bytes.hex, bytes.fromhex),
    str: ("s", write_text, read_text),
}
STANDARD = {  # kinds of the standard library that travel as the arguments that make them
    "builtins.range": lambda value: (value.start, value.stop, value.step),
    "collections.deque": lambda value: (list(value), value.maxlen),
    "decimal.Decimal": lambda value: (str(value),),
    "fractions.Fraction": lambda value: (value.numerator, value.denominator),
    "datetime.date": lambda value: (value.year, value.month, value.day),
}
LETTERS = {list: "l", set: "u", dict: "d", bytearray: "a", tuple: "t", frozenset: "z"}
FIXED = (tuple, frozenset)  # cannot change
READ = {letter: read for letter, _, read in SCALARS.values()}
KINDS = {letter: kind for kind, letter in LETTERS.items()}


def plain_kind(value):
    """The kind that a value travels as: its class, or a base of it; None when it has none."""
    for kind in type(value).__mro__:
        if kind in SCALARS or kind in LETTERS:
            return kind
    return None


def encode(value, lines, shared, refer):
    """Append the lines of a value, a subclass as its base; what has no kind gets refer(value).

    shared {id: (number, object)}: the collections that can change, as they come. Of one that occurs
    again goes the number: it is the same one there.
    """
    kind = plain_kind(value)
    if kind in SCALARS:
        letter, write, _ = SCALARS[kind]
        lines.append(letter + write(value))
    elif id(value) in shared:
        lines.append(f"r{shared[id(value)][0]}")
    elif kind:
        if kind not in FIXED:
            shared[id(value)] = len(shared), value
        items = contents(value)
        lines.append(f"{LETTERS[kind]}{len(items)}")
        for item in items:
            encode(item, lines, shared, refer)
    elif (name := f"{type(value).__module__}.{type(value).__qualname__}") in STANDARD:
        lines.append("x" + name)
        encode(STANDARD[name](value), lines, shared, refer)
    else:
        lines.append(refer(value))


def decode(lines, shared, resolve):
    """The value that the next lines spell. Text that spells none raises some Exception.

    shared: gets the collections that can change, in order. What `refer` wrote,
    resolve(letter, rest) reads.
    """
    line = next(lines, "")
    letter, rest = line[:1], line[1:]
    if letter in READ:
        return READ[letter](rest)
    if letter == "r":
        return shared[abs(int(rest))]
    if letter == "x" and rest in STANDARD:
        module, name = rest.split(".")
        return getattr(__import__(module), name)(*decode(lines, shared, resolve))
    if letter not in KINDS:
        return resolve(letter, rest)
    kind = KINDS[letter]
    if kind in FIXED:
        return kind([decode(lines, shared, resolve) for _ in range(int(rest))])
    collection = kind()
    shared.append(collection)  # before its items, which may refer to it
    change(collection, [decode(lines, shared, resolve) for _ in range(int(rest))])
    return collection


def contents(value):
    """The items of a collection as a new list; of a dict key, value, key, value."""
    kind = plain_kind(value)
    if kind is not dict:
        return list(kind.__iter__(value))  # of a bytearray its numbers
    items = []
    for pair in dict.items(value):
        items.extend(pair)
    return items


def change(collection, items):
    """Give a list, set, dict or bytearray these contents, in place."""
    kind = plain_kind(collection)
    kind.clear(collection)
    if kind is dict:
        items = zip(items[::2], items[1::2])
    add = kind.update if kind in (set, dict) else kind.extend
    add(collection, items)


def differ(before, now):
    """Are these not the same objects in the same order?"""
    return len(before) != len(now) or any(map(operator.is_not, before, now))


def builtin_name(error):
    """Of the class of an exception, or of the nearest base that is Python's own."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__


# ---- messages ------------------------------------------------------------------------------------


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

# Dataclasses and typing look here for the code's names.
solution = sys.modules["solution"] = type(sys)("solution")
objects = [solution]  # what the tester has handles of; for good: no number is reused
numbers = {}  # {id of an object: its number}
tokens = []  # of the requests being answered, innermost last


def load():
    exec(compile(state["code"], "solution.py", "exec"), solution.__dict__)


def call(function, /, *args, **kwargs):
    return function(*args, **kwargs)


def is_instance(kind, value):
    return isinstance(value, kind)


def change_attribute(owner, name, items):
    change(getattr(owner, name), items)


# What the tester may ask for.
VERBS = {
    "load": load,
    "call": call,
    "instancecheck": is_instance,
    "change": change_attribute,
    "getattr": getattr,
    "setattr": setattr,
    "len": len,
    "str": str,
    "repr": repr,
    "hash": hash,
    "iter": iter,
    "next": next,
    "bool": bool,
    "eq": operator.eq,
    "contains": operator.contains,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
}


def child_refer(value):
    """The line of a handle: k: a class, o: anything else."""
    if id(value) not in numbers:
        numbers[id(value)] = len(objects)
        objects.append(value)
    letter = "k" if isinstance(value, type) else "o"
    return f"{letter}{numbers[id(value)]}"


def child_resolve(letter, rest):
    """o: an object that the tester has a handle of; n: a builtin; p: a function of the tester."""
    if letter == "o":
        return objects[int(rest)]
    if letter != "p":
        return getattr(builtins, rest)

    def ask_back(*args, **kwargs):
        """The tester's function, called by message."""
        lines = [tokens[-1], "back"]
        encode((int(rest), args, kwargs), lines, {}, child_refer)
        send(lines)
        return answer_requests()

    return ask_back


def answer_requests():
    """Serve the tester until it hangs up, or until it answers what was asked back."""
    while True:
        lines, shared = receive(), []
        token, verb = next(lines), next(lines)
        value = decode(lines, shared, child_resolve)
        if verb == "value":
            return value
        if verb == "raise":
            raise getattr(builtins, value[0])(*value[1])
        before = [contents(collection) for collection in shared]
        tokens.append(token)
        try:
            outcome, result = "value", VERBS[verb](*value[0], **value[1])
        except BaseException as error:
            outcome, result = "raise", (builtin_name(error), error.args)
        tokens.pop()
        changed = {}
        for number, collection in enumerate(shared):
            now = contents(collection)
            if differ(before[number], now):
                changed[number] = now
        lines = [token, outcome]
        numbered = {id(item): (number, item) for number, item in enumerate(shared)}
        encode((result, changed), lines, numbered, child_refer)
        send(lines)


# ---- the tester ----------------------------------------------------------------------------------

callbacks = []  # functions of the tests that the solution got
fetched = []  # [collection, its contents, handle, name]: the latest that were read as attributes
state = {
    "broken": "",  # why no further answer is believed
    "failed": "",  # why this test fails although the solution caught the error
    "last": None,  # the last answer: (value,), or () where it raised
}
# What a text, a set or a number says about itself, given the expected value, or as good as the
# whole test.
PREDICATES = {
    name for name in dir(str) + dir(set) + dir(float) if name.startswith(("starts", "ends", "is"))
}


class Handle:
    """An object of the solution. It never poses as a plain value, which no handle is equal to.

    Two objects are compared by the solution's own ==, unless that finds them equal to a random text
    as well. Only what the test itself made, by calling a class whose name has a capital letter
    (kind K), may say what it contains, or answer PREDICATES.
    """

    __slots__ = ("_number_", "_kind_")

    def __init__(self, number, kind):
        self._number_ = number
        self._kind_ = kind  # k: a class, K: one with a capital letter, made: by a K, o: the others

    def __getattr__(self, name):
        if name in PREDICATES and self._kind_ != "made":
            raise Broken(f"{name}() of an object that only poses as a value")
        return ask("getattr", self, name)

    def __setattr__(self, name, value):
        if name in Handle.__slots__:
            object.__setattr__(self, name, value)
        else:
            ask("setattr", self, name, value)

    def __call__(self, /, *args, **kwargs):
        result = ask("call", self, *args, **kwargs)
        if isinstance(result, Handle) and self._kind_ == "K":
            result._kind_ = "made"
        return result

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Handle) or ask("eq", self, other) is not True:
            return False
        try:
            return ask("eq", self, os.urandom(8).hex()) is not True
        except Exception:  # it looks at what a text does not have
            return True

    def __contains__(self, item):
        if self._kind_ == "made":
            return ask("contains", self, item) is True
        for member in self:
            if member is item or member == item:
                return True
        return False


def asking(verb):
    """A method of Handle that asks the child for a verb; `ask` refuses those that it has not."""

    def method(self, *args):
        return ask(verb, self, *args)

    return method


for verb in (
    "len str repr hash iter next bool getitem setitem delitem instancecheck lt le gt ge add radd "
    "sub rsub mul rmul truediv neg abs int float index enter exit await copy deepcopy reduce_ex "
    "subclasscheck"
).split():
    setattr(Handle, f"__{verb}__", asking(verb))
handles = {0: Handle(0, "o")}  # {number: handle}; 0 is the solution's module


def tester_refer(value):
    """The line of a handle, a builtin, or a function of the test."""
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
    """Have the child do something; its value, or its exception.

    What it changed in the arguments changes here, too.
    """
    refuse(verb)
    send_attributes()
    token, shared = os.urandom(8).hex(), {}
    lines = [token, verb]
    encode((args, kwargs), lines, shared, tester_refer)
    collections = [collection for _, collection in shared.values()]
    try:
        send(lines)
        while True:
            lines = receive()
            if next(lines) != token:
                raise Broken("an answer that nobody asked for")
            outcome = next(lines)
            if outcome != "back":
                break
            call_back(token, *decode(lines, [], tester_resolve))
        value, changed = decode(lines, [*collections], tester_resolve)
        for number, items in changed.items():
            change(collections[number], items)
        if outcome == "raise":
            value = exception_of(verb, *value)
    except BaseException as error:  # the message makes no sense
        state["broken"] = str(error) if isinstance(error, Broken) else GONE
        raise Broken(state["broken"]) from None
    if verb in ("call", "next") or state["last"] is None:
        state["last"] = (value,) if outcome == "value" else ()
    if outcome == "raise":
        raise value
    if verb == "getattr" and isinstance(value, list | dict | set):
        fetched[:] = [*fetched[-9:], [value, contents(value), *args]]
    return value


def refuse(verb):
    """Broken where nothing is believed any more, or this cannot be done."""
    if state["broken"]:
        raise Broken(state["broken"])
    if sys.stdout:
        raise Broken("not supported: redirected output")
    if verb not in VERBS:
        raise Broken(f"not supported: {verb} of an object of the solution")


def send_attributes():
    """Tell the child what the test changed in its attributes: o.children.append(x)."""
    for entry in fetched:
        collection, before, *place = entry
        now = contents(collection)
        if differ(before, now):
            entry[1] = now
            ask("change", *place, now)


def exception_of(verb, name, arguments):
    """The exception that the solution raised, unless it could do harm here."""
    kind = getattr(builtins, name)
    # Those would end the tester, or a loop over map() in the test.
    if not issubclass(kind, Exception) or kind is StopIteration and verb != "next":
        kind = RuntimeError
    return kind(*arguments)


def call_back(token, number, arguments, named):
    """The solution calls a function that the test passed to it.

    An assert that fails there fails the test.
    """
    lines = [token, "value"]
    try:
        encode(callbacks[abs(number)](*arguments, **named), lines, {}, tester_refer)
    except Exception as error:
        if isinstance(error, AssertionError):
            state["failed"] = "an assert failed in a function that the solution called"
        lines = [token, "raise"]
        encode((builtin_name(error), (str(error),)), lines, {}, tester_refer)
    send(lines)


class Names(dict):
    """The globals of a test: its own, then Python's with the modules of its library, then the
    solution's, which can never stand in for those of the test unless it is the `entry_point`.
    """

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
        where = text.split("\n")[line_of(error) - 1].strip()[:60]
        if isinstance(error, AssertionError) and state["last"] and not str(error):
            (value,) = state["last"]
            return f"{where} gave {'an object' if isinstance(value, Handle) else ascii(value)[:60]}"
        return f"{where} raised {type(error).__name__}: {str(error)[:60]}".strip(": ")


def line_of(error):
    """The innermost line of a test that an error came through; 1 when it came through none."""
    line, trace = 1, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<test>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


# ---- the two programs ----------------------------------------------------------------------------


def limit_resources(seconds):
    import resource  # not on every system

    for name, most in {**LIMITS, "CPU": seconds}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


if __name__ == "__main__":
    limit_resources(int(sys.argv[2]))
    link = os.dup(2)
    source = open(link, "rb", closefd=False)
    sink = open(link, "wb", closefd=False)
    os.environ.clear()
    handed_over = open(0, "rb", closefd=False).read().decode("utf-8", "surrogatepass")
    if sys.argv[1] == "tester":
        # It writes a line for the code and one for each test: "" or why it fails.
        sys.stdout = sys.stderr = None  # print() is silent then
        out = os.dup(1)
        os.dup2(0, 1)  # nothing else can be written there
        os.dup2(0, 2)
        entry_point, tests = decode(iter(handed_over.split("\n")), [], None)
        for test in ("", *tests):
            try:
                why = run_test(test, entry_point)
            except BaseException:
                why = "the test failed with an object that has no text"
            os.write(out, ascii(why).encode() + b"\n")
    else:
        state["code"] = handed_over
        os.dup2(1, 0)  # /dev/null
        os.dup2(1, 2)
        answer_requests()
    os._exit(0)
