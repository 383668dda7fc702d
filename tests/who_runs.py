"""Which tests run which function: a pytest plugin, and the map that it fills.

    python -m pytest -p who_runs --who-runs FOLDER tests/records

It notes the code of every Python function that is called while a test runs. What a fixture of a
module or session calls counts for every test that uses the fixture, whichever made it. What runs in
other processes is not seen."""

import json
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--who-runs", metavar="FOLDER", help="write down which test runs what")


def pytest_configure(config):
    folder = config.getoption("--who-runs")
    if folder:
        config.pluginmanager.register(Recorder(Path(folder)))


def function_of(code):
    """ "file::function" of a code object of this tree, named as planting.walk does; else None."""
    file = Path(code.co_filename)
    if not file.is_relative_to(ROOT) or "site-packages" in file.parts:
        return None
    # A lambda or comprehension belongs to the function around it.
    names = [name for name in code.co_qualname.split(".") if not name.startswith("<")]
    return f"{file.relative_to(ROOT).as_posix()}::{'.'.join(names)}"


class Recorder:
    """Collects code objects per test and per fixture of wide scope; writes a file at the end."""

    def __init__(self, folder):
        self.folder = folder
        self.codes = set()  # of what runs now
        self.of_fixture = defaultdict(set)
        self.of_test = {}  # test: (its codes, the fixtures it uses, seconds)
        self.failed = set()  # tests

    def note(self, frame, event, arg):
        self.codes.add(frame.f_code)  # returns None: no event for the lines inside

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.codes = set()
        begin = sum(os.times()[:4])
        threading.settrace(self.note)
        sys.settrace(self.note)
        yield
        sys.settrace(None)
        threading.settrace(None)
        seconds = sum(os.times()[:4]) - begin
        self.of_test[item.nodeid] = (self.codes, wide_fixtures(item), seconds)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            yield
            return
        around, self.codes = self.codes, self.of_fixture[fixture_key(fixturedef)]
        yield
        self.codes = around

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self):
        lines = []
        for test, (codes, fixtures, seconds) in self.of_test.items():
            codes = codes.union(*(self.of_fixture[key] for key in fixtures))
            functions = {function_of(code) for code in codes} - {None}
            line = {"test": test, "seconds": round(seconds, 2), "functions": sorted(functions)}
            line["failed"] = test in self.failed
            lines.append(json.dumps(line) + "\n")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{os.getpid()}.jsonl").write_text("".join(lines))


def fixture_key(fixturedef):
    return fixturedef.baseid, fixturedef.argname


def wide_fixtures(item):
    """The keys of all fixtures of a test that outlive it, those behind others included."""
    return [
        fixture_key(fixturedef)
        for fixturedefs in item._fixtureinfo.name2fixturedefs.values()
        for fixturedef in fixturedefs
        if fixturedef.scope != "function"
    ]
