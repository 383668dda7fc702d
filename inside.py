"""The two programs in the sandbox: the child has the solution and no test, the tester has the tests and no line of the
solution. The tester calls the solution's functions over a socket; what comes back is an answer to be judged, never a
judgement: nothing that the solution does to its own process reaches the comparison.

A message is 4 bytes of length and ASCII lines: a token, a verb, values. The token of a request is fresh and random, and
only a message with it can answer: one sent too early, or twice, ends the conversation, and all further tests fail.
Values are text of a few kinds, read by `decode`; pickle and eval have no part in it. The solution's objects stay in the
child: the tester holds handles, whose attributes, methods and operators are calls. sandbox.py hands this file over
compiled, with the arguments `tester` or `child` and the seconds of CPU time, so it imports nothing of the house.
"""

import builtins
import io
import operator
import os
import sys

MOST = 1 << 25  # bytes of a message
TYPES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, object, type(None))
STANDARD = {  # kinds of the standard library that travel as the arguments that make them
    "builtins.range": lambda v: (v.start, v.stop, v.step), "builtins.slice": lambda v: (v.start, v.stop, v.step),
    "collections.deque": lambda v: (list(v), v.maxlen), "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator), "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.datetime": lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond),
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds)}
LETTERS = {list: "l", tuple: "t", set: "u", frozenset: "z", dict: "d"}
KINDS = {letter: kind for kind, letter in LETTERS.items()}
SCALARS = {"N": lambda _: None, "T": lambda _: True, "F": lambda _: False, "i": lambda rest: int(rest, 16),
           "f": float.fromhex, "c": lambda rest: complex(*map(float.fromhex, rest.split(" "))), "b": bytes.fromhex,
           "s": lambda rest: bytes.fromhex(rest).decode("utf-8", "surrogatepass")}


class Broken(BaseException):
    """The other side is gone, or talks nonsense. No `except Exception` of a test stops it."""


def encode(value, lines, known, refer):
    """Append the lines of a value: None, numbers, text, bytes, collections (a subclass as its base), STANDARD kinds;
    for anything else `refer` gives the line. known {id: (number, object)} holds the collections that can change and
    that the other side has under the same number: one that occurs again is the same one there, too."""
    if value is None or value is True or value is False:
        lines.append(str(value)[0])
    elif isinstance(value, int):
        lines.append(f"i{int.__index__(value):x}")
    elif isinstance(value, float):
        lines.append("f" + float.hex(value))
    elif isinstance(value, complex):
        lines.append(f"c{float.hex(value.real)} {float.hex(value.imag)}")
    elif isinstance(value, str):
        lines.append("s" + str.encode(value, "utf-8", "surrogatepass").hex())
    elif isinstance(value, bytes):
        lines.append("b" + bytes.hex(value))
    elif id(value) in known:
        lines.append(f"r{known[id(value)][0]}")
    elif isinstance(value, bytearray):
        known[id(value)] = len(known), value
        lines.append("a" + bytearray.hex(value))
    elif kind := next((kind for kind in LETTERS if isinstance(value, kind)), None):
        if kind in (list, set, dict):
            known[id(value)] = len(known), value
        items = contents(value)
        fields = getattr(type(value), "_fields", None) if kind is tuple else None
        if isinstance(fields, tuple) and len(fields) == len(items):  # a named tuple keeps its names
            lines.append("m")
            encode((type(value).__name__, list(fields), items), lines, known, refer)
            return
        lines.append(f"{LETTERS[kind]}{len(items)}")
        for item in items:
            encode(item, lines, known, refer)
    elif (name := f"{type(value).__module__}.{type(value).__qualname__}") in STANDARD and not getattr(
            value, "tzinfo", None):
        lines.append("x" + name)
        encode(STANDARD[name](value), lines, known, refer)
    else:
        lines.append(refer(value))


def contents(value):
    """The items of a collection as a new list; of a dict key, value, key, value; of a bytearray its numbers."""
    if isinstance(value, dict):
        return [one for pair in dict.items(value) for one in pair]
    return list(next(k for k in (list, tuple, set, frozenset, bytearray) if isinstance(value, k)).__iter__(value))


def decode(lines, seen, resolve):
    """The value that the next lines spell; `seen` gets the collections that can change, in order. What `refer` wrote,
    resolve(letter, rest) reads. Any other text raises some Exception."""
    line = next(lines, "")
    letter, rest = line[:1], line[1:]
    if letter in SCALARS:
        return SCALARS[letter](rest)
    if letter == "r":
        return seen[abs(int(rest))]
    if letter == "m":
        name, fields, items = decode(lines, seen, resolve)
        return __import__("collections").namedtuple(name, fields, rename=True)(*items)  # refuses names like __eq__
    if letter == "x" and rest in STANDARD:
        module, name = rest.split(".")
        return getattr(__import__(module), name)(*decode(lines, seen, resolve))
    if letter == "a":
        seen.append(bytearray.fromhex(rest))
        return seen[-1]
    if letter not in KINDS:
        return resolve(letter, rest)
    kind = KINDS[letter]
    made = kind()
    if kind in (list, set, dict):
        seen.append(made)
    items = [decode(lines, seen, resolve) for _ in range(int(rest))]  # of a dict twice as many
    if kind in (tuple, frozenset):
        return kind(items)
    change(made, items)
    return made


def change(collection, items):
    """Give a list, set, dict or bytearray these contents, in place."""
    if isinstance(collection, list):
        list.__setitem__(collection, slice(None), items)
    elif isinstance(collection, bytearray):
        collection[:] = bytes(items)
    elif isinstance(collection, set):
        set.clear(collection)
        set.update(collection, items)
    else:
        dict.clear(collection)
        dict.update(collection, zip(items[::2], items[1::2]))


def differ(before, now):
    """Are these not the same objects in the same order?"""
    return len(before) != len(now) or any(map(operator.is_not, before, now))


def send(lines):
    body = "\n".join(lines).encode("utf-8", "replace")
    rest = memoryview(len(body).to_bytes(4, "big") + body)
    try:
        if len(body) > MOST:
            raise Broken("a value of more than 32 MB")
        while rest:
            rest = rest[os.write(link, rest):]
    except OSError:
        raise Broken("the code ended its process") from None


def receive():
    """Iterator over the lines of the next message. Broken: there is none."""
    def read(size):
        parts = []
        while size:
            part = os.read(link, min(size, 1 << 16))
            if not part:
                raise Broken("the code ended its process")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    try:
        size = int.from_bytes(read(4), "big")
        if size > MOST:
            raise Broken("no answer to the call")
        return iter(read(size).decode("ascii", "replace").split("\n"))
    except OSError:
        raise Broken("the code ended its process") from None


# ---- the child ------------------------------------------------------------------------------------------------

solution = sys.modules["solution"] = type(sys)("solution")  # where dataclasses and typing look for the code's names
space = solution.__dict__
objects, numbers = [], {}  # what the tester has handles of, and {id: number}; kept for good, so no number is reused
tokens = []  # of the requests being answered, innermost last


def load():
    exec(compile(state["code"], "solution.py", "exec"), space)


def find_name(name):
    if name not in space:
        raise NameError(f"name {name!r} is not defined")
    return space[name]


def run_awaitable(awaitable):
    async def finish():
        return await awaitable
    return __import__("asyncio").run(finish())


VERBS = {"load": load, "name": find_name, "await": run_awaitable, "copy": lambda o: __import__("copy").copy(o),
         "deepcopy": lambda o: __import__("copy").deepcopy(o),
         "change": lambda o, name, items: change(getattr(o, name), items),
         "call": lambda f, /, *args, **kwargs: f(*args, **kwargs), "defines": lambda name: name in space,
         "truth": bool, "enter": lambda o: type(o).__enter__(o),
         "exit": lambda o, kind, words: type(o).__exit__(o, kind, kind and kind(*words), None)}
VERBS |= {name: getattr(builtins, name) for name in (
    "getattr setattr delattr len str repr hash iter next int float complex round isinstance issubclass").split()}
VERBS |= {name: getattr(operator, name) for name in (
    "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift iadd isub imul eq lt le gt ge neg pos abs "
    "invert index contains getitem setitem delitem").split()}


def child_refer(value):
    kind = type(value)
    if (kind is type or kind is type(len)) and getattr(builtins, value.__name__, None) is value and (
            value in TYPES or kind is type and issubclass(value, Exception)):
        return "n" + value.__name__
    if id(value) not in numbers:
        numbers[id(value)] = len(objects)
        objects.append(value)
    what = "x"
    if isinstance(value, type):
        what = "e" if issubclass(value, Exception) else "c"
    elif kind is type(sys):
        what = "m"
    elif hasattr(kind, "__await__"):
        what = "w"
    line = f"o{numbers[id(value)]} {what}"
    if what == "e":
        line += f" {value.__name__} {child_refer(next(b for b in value.__bases__ if issubclass(b, Exception)))}"
    return line


def child_resolve(letter, rest):
    """o: an object that the tester has a handle of; n: a builtin; p: a function of the tester, called by message; g: an
    iterator of the tester, whose next value is."""
    if letter == "o":
        return objects[int(rest)]
    if letter == "n":
        return getattr(builtins, rest)
    number = int(rest)

    def ask_back(*args, **kwargs):
        lines = [tokens[-1], "back"]
        encode((number, args, kwargs), lines, {}, child_refer)
        send(lines)
        return answer_requests()
    if letter == "g":
        return type("iterator", (), {"__iter__": lambda self: self, "__next__": lambda self: ask_back()})()
    return ask_back


def describe(error):
    """(class, arguments, attributes) of an exception; what is no Exception becomes a RuntimeError: it must not end the
    tester, and a StopIteration that leaves a call would end a loop over map() there."""
    if not isinstance(error, Exception) or isinstance(error, (StopIteration, StopAsyncIteration)):
        return RuntimeError, (type(error).__name__,), {}
    return type(error), error.args, getattr(error, "__dict__", {})


def answer_requests():
    """Serve the tester until it hangs up, or until it answers what was asked back."""
    me = os.getpid()
    while True:
        lines, seen = receive(), []
        token, verb, listening = next(lines), next(lines), next(lines)
        if verb == "value":
            return decode(lines, seen, child_resolve)
        if verb == "raise":
            kind, args, _ = decode(lines, seen, child_resolve)
            raise kind(*args)
        args, kwargs = decode(lines, seen, child_resolve)
        before = [contents(one) for one in seen]
        tokens.append(token)
        screen, sys.stdout = sys.stdout, io.StringIO() if listening else sys.stdout
        try:
            said, value = "value", VERBS[verb](*args, **kwargs)
        except StopIteration as error:
            said, value = ("raise", (StopIteration, error.args, {})) if verb == "next" else ("raise", describe(error))
        except BaseException as error:
            said, value = "raise", describe(error)
        tokens.pop()
        printed, sys.stdout = sys.stdout.getvalue() if listening else "", screen
        if os.getpid() != me:  # the code forked, and this is the copy
            os._exit(0)
        known = {id(one): (number, one) for number, one in enumerate(seen)}
        changed = {number: now for number, now in enumerate(map(contents, seen)) if differ(before[number], now)}
        out = [token, said]
        try:
            encode((value, changed, printed), out, known, child_refer)
        except Exception as error:  # nested too deeply, out of memory, an exception with odd arguments
            out = [token, "raise"]
            encode(((RuntimeError, (f"no plain value: {type(error).__name__}",), {}), {}, ""), out, {}, child_refer)
        send(out)


# ---- the tester -----------------------------------------------------------------------------------------------

handles = {}  # number: handle or exception class
callbacks = []  # functions of the tests that the solution got
fetched = []  # [collection, its contents, handle, name]: the latest that were read as attributes
# why no further answer is believed; why this test fails although the solution caught the error; the last answer
state = {"broken": "", "failed": "", "last": None}


# what the child calls by these names: `except` it must not catch what the test itself asserts
STAND_INS = {kind: type(kind.__name__, (kind,), {}) for kind in (Exception, AssertionError)}


class Handle:
    """An object of the solution. Its operators are calls, too, as long as they carry no expected value to an object
    that poses as a result: a plain value is never equal to a handle, and arithmetic with one is an error, unless the
    test itself made the object (`made`: by calling a class whose name has a capital letter). Two objects are compared
    by the solution's own ==, unless that finds them equal to a random text as well."""

    __slots__ = ("number", "kind", "made")

    def __init__(self, number, kind):
        self.number, self.kind, self.made = number, kind, False

    def __getattr__(self, name):
        if name in PREDICATES and not self.made:
            raise TypeError(f"{name}() of an object that only poses as a value")
        return ask("getattr", self, name)

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value) if name in Handle.__slots__ else ask("setattr", self, name, value)

    def __call__(self, /, *args, **kwargs):
        result = ask("call", self, *args, **kwargs)
        if isinstance(result, Handle) and self.kind == "c" and self.made:
            result.made = True
        return result

    def __eq__(self, other):
        if self is other or not isinstance(other, Handle) or ask("eq", self, other) is not True:
            return self is other
        try:
            return ask("eq", self, os.urandom(8).hex()) is not True
        except Exception:  # it looks at what a text does not have
            return True

    def __hash__(self):
        return ask("hash", self)

    def __contains__(self, item):
        return ask("contains", self, item) is True if self.made else any(one is item or one == item for one in self)

    def __iter__(self):
        found = ask("iter", self)
        return found if isinstance(found, Handle) else iter(found)

    def __bool__(self):
        return ask("truth", self)

    def __deepcopy__(self, _):
        return ask("deepcopy", self)

    def __exit__(self, kind, error, trace):
        """What it swallows, a failed assert excepted."""
        swallow = ask("exit", self, kind and builtin_kind(error), kind and error.args)
        return bool(swallow) and not isinstance(error, AssertionError)


# what a text, a set or a number says about itself, given the expected value, or as good as the whole test
PREDICATES = {name for kind in (str, set, float) for name in dir(kind)
              if name.startswith(("startswith", "endswith", "is"))}


def add_operators():
    """The other operators of Handle, each a call."""
    def unary(verb):
        return lambda self, /, *args, **kwargs: ask(verb, self, *args, **kwargs)

    def binary(verb, swapped=False):
        def forward(self, other):
            if not (isinstance(other, Handle) or self.made):
                return NotImplemented
            result = ask(verb, other, self) if swapped else ask(verb, self, other)
            if isinstance(result, Handle):
                result.made = result.made or self.made
            elif not isinstance(other, Handle):
                raise TypeError("arithmetic of an object and a plain value must give an object")
            return result
        return forward

    for verb in ("delattr len str repr next int float complex round neg pos abs invert index getitem setitem delitem "
                 "enter copy").split():
        setattr(Handle, f"__{verb}__", unary(verb))
    for verb in "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift".split():
        setattr(Handle, f"__{verb.strip('_')}__", binary(verb))
        setattr(Handle, f"__r{verb.strip('_')}__", binary(verb, True))
    for verb in "iadd isub imul".split():
        setattr(Handle, f"__{verb}__", binary(verb))
    for verb in "lt le gt ge".split():
        setattr(Handle, f"__{verb}__", lambda self, other, verb=verb: ask(verb, self, other) if isinstance(
            other, Handle) else NotImplemented)
    Handle.__instancecheck__ = lambda self, other: isinstance(other, Handle) and ask("isinstance", other, self)
    Handle.__subclasscheck__ = lambda self, other: isinstance(other, Handle) and ask("issubclass", other, self)


def tester_refer(value):
    if isinstance(value, Handle):
        return f"o{value.number}"
    if isinstance(value, type) and value.__module__ == "solution":  # an exception's class
        return f"o{next(number for number, one in handles.items() if one is value)}"
    if getattr(value, "__module__", "") == "builtins" and getattr(builtins, value.__name__, None) is value:
        return "n" + value.__name__
    if isinstance(value, type) or not callable(value) and not hasattr(value, "__iter__"):
        raise TypeError(f"a {type(value).__name__} of the test cannot be passed to the solution")
    callbacks.append(value if callable(value) else iter(value).__next__)
    return f"{'p' if callable(value) else 'g'}{len(callbacks) - 1}"


def tester_resolve(letter, rest):
    """o: a handle (an exception's class becomes one here, an awaitable a coroutine); n: a plain type or a builtin
    exception, never a function: the child must not choose what the tester calls."""
    if letter == "n":
        kind = getattr(builtins, rest)
        if kind in TYPES or isinstance(kind, type) and issubclass(kind, Exception):
            return STAND_INS.get(kind, kind)
    number, what, *more = rest.split(" ", 3)
    number = int(number)
    if letter != "o":
        raise ValueError(letter)
    if what == "w":
        async def wait():
            return ask("await", Handle(number, what))
        return wait()
    if number not in handles and what == "e":
        name, base = more
        base = tester_resolve(base[:1], base[1:])
        if not isinstance(base, type) or not issubclass(base, Exception):
            raise ValueError(name)
        handles[number] = type(name, (base,), {"__module__": "solution"})
    return handles.setdefault(number, Handle(number, what))


def ask(verb, /, *args, **kwargs):
    """Have the child do something; its value, or its exception. Collections among the arguments that it changed are
    changed here as well; what it prints is only kept while the test redirects its own output."""
    if state["broken"]:
        raise Broken(state["broken"])
    for one in fetched:  # o.children.append(x) in the test
        if differ(one[1], now := contents(one[0])):
            one[1] = now
            ask("change", *one[2:], now)
    token, known = os.urandom(8).hex(), {}
    lines = [token, verb, "" if sys.stdout is None else "listening"]
    encode((args, kwargs), lines, known, tester_refer)
    seen = [one for _, one in known.values()]
    try:
        send(lines)
        while True:
            lines = receive()
            if next(lines) != token:
                raise Broken("an answer that nobody asked for")
            said = next(lines, "")
            if said != "back":
                break
            call_back(token, decode(lines, [], tester_resolve))
        mine = list(seen)
        value, changed, printed = decode(lines, seen, tester_resolve)
        for number, items in changed.items():
            change(mine[number], items)
        if printed:
            sys.stdout.write(printed)
        if said == "raise":
            kind, words, more = value
            refused = StopIteration if verb != "next" else ()
            if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, refused):
                raise Broken("an exception of no known kind")
        elif said != "value":
            raise Broken("no answer to the call")
    except Broken as error:
        state["broken"] = str(error)
        raise
    except Exception:  # what `decode` or the lines above find wrong with the message
        state["broken"] = "no plain value"
        raise Broken(state["broken"]) from None
    if said == "raise":
        try:
            error = kind(*words)
            vars(error).update(more)
        except Exception:
            error = RuntimeError(kind.__name__)
        state["last"] = None
        raise error
    if verb in ("call", "next", "await"):
        state["last"] = value,
    if verb == "getattr" and isinstance(value, list | dict | set):
        fetched[:] = [*fetched[-9:], [value, contents(value), *args]]
    return value


def call_back(token, asked):
    """The solution calls a function that the test passed to it. An assert that fails there fails the test."""
    number, args, kwargs = asked
    lines = [token, "value", ""]
    try:
        encode(callbacks[abs(number)](*args, **kwargs), lines, {}, tester_refer)
    except Exception as error:
        if isinstance(error, AssertionError):
            state["failed"] = "an assert failed in a function that the solution called"
        lines = [token, "raise", ""]
        encode((builtin_kind(error), (str(error),), {}), lines, {}, tester_refer)
    send(lines)


def builtin_kind(error):
    return next(kind for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)


class Names(dict):
    """The globals of a test: its own, then Python's, then the solution's, asked for when they are used. The solution
    can never stand in for a builtin of the test."""

    def __missing__(self, name):
        if hasattr(builtins, name):
            raise KeyError(name)
        return self.fetch(name)

    def fetch(self, name):
        """The solution's; variables afresh each time, for a call may change them."""
        value = ask("name", name)
        if isinstance(value, Handle) and value.kind == "m" and name in sys.stdlib_module_names:
            value = __import__(name)  # a module is the tester's own
        if isinstance(value, Handle):
            value.made = value.kind == "c" and name[:1].isupper()
        if isinstance(value, Handle | type):
            self[name] = value
        return value


class Approx:
    """pytest.approx of a number, or of a list or tuple of them."""

    def __init__(self, value, rel=1e-6, abs=1e-12):
        self.value, self.near = value, {"rel_tol": rel, "abs_tol": abs}

    def __eq__(self, other):
        if isinstance(self.value, list | tuple):
            return len(other) == len(self.value) and all(
                Approx(one, *self.near.values()) == got for one, got in zip(self.value, other))
        return __import__("math").isclose(self.value, other, **self.near)


def from_solution(name):
    """For a test that begins with `from solution import f`."""
    try:
        return Names()[name]
    except (KeyError, NameError):
        raise AttributeError(name) from None


def name_and_text(error):
    return f"{type(error).__name__}: {str(error)[:60]}" if str(error) else type(error).__name__


def brief(value):
    try:
        return "an object" if isinstance(value, Handle) else repr(value)[:60]
    except Exception:
        return f"a {type(value).__name__}"


def run_test(source, entry_point, modules, borrowed):
    """Why a test fails, or "". `modules` are the tester's own whatever the solution defines; `borrowed`: names that are
    the solution's where it defines them, builtin ones and those of class bodies, where Python asks no __missing__."""
    names = Names({name: __import__(name) for name in modules}, __builtins__=builtins, __name__="tests")
    state.update(failed="", last=None)
    fetched.clear()
    try:
        for name in borrowed:
            if ask("defines", name) is True:
                names[name] = names.fetch(name)
        if entry_point:
            if ask("defines", entry_point) is not True:
                return f"the code does not define {entry_point}"
            names["candidate"] = names[entry_point] = names.fetch(entry_point)
        exec(compile(source, "<test>", "exec"), names)
        return state["broken"] or state["failed"]
    except Broken as error:
        return str(error)
    except BaseException as error:
        trace, line = error.__traceback__, 1
        while trace:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<test>" else line
            trace = trace.tb_next
        where = source.split("\n")[line - 1].strip()[:60]
        if isinstance(error, AssertionError) and state["last"] and not str(error):
            return f"{where} gave {brief(*state['last'])}"
        return f"{where} raised {name_and_text(error)}"


def tester(out):
    """Run the tests of the job on stdin, (entry point, [[source, modules, borrowed], ...]); a line for the code and one
    for each test: "" or why it fails."""
    def say(why):
        os.write(out, ascii(why).encode() + b"\n")

    entry_point, tests = decode(iter(read_all(0).decode("ascii").split("\n")), [], None)
    add_operators()
    solution.__getattr__ = from_solution
    sys.modules["pytest"] = pytest = type(sys)("pytest")  # what tests of functions use of it
    pytest.approx = Approx
    pytest.raises = lambda kind, match="": __import__("unittest").TestCase().assertRaisesRegex(kind, match)
    try:
        ask("load")
        say("")
    except Broken as error:
        return say(str(error))
    except Exception as error:
        return say(name_and_text(error))
    for test in tests:
        say(run_test(test[0], entry_point, *test[1:]))


def read_all(file):
    with open(file, "rb", closefd=False) as text:
        return text.read()


if __name__ == "__main__":
    import resource  # not on every system

    for name, most in (("CPU", int(sys.argv[2])), ("AS", 512 << 20), ("FSIZE", 1 << 20), ("NOFILE", 64), ("NPROC", 64),
                       ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    link = os.dup(2)
    os.environ.clear()
    if sys.argv[1] == "tester":
        sys.stdout = sys.stderr = None  # print() is silent then
        out = os.dup(1)
        os.dup2(0, 1), os.dup2(0, 2)  # nothing else can be written there
        tester(out)
    else:
        state["code"] = read_all(0).decode("utf-8", "surrogatepass")
        os.dup2(1, 0), os.dup2(1, 2)  # /dev/null
        try:
            answer_requests()
        except Broken:
            pass
    os._exit(0)
