"""What every script does with its console."""

import io
import sys

import pytest

from posttrain.cli import run_stage


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("cp1252", b"\\u27e6\xfc \\u0939\\u27e7\n"),
        ("ascii", b"\\u27e6\\xfc \\u0939\\u27e7\n"),
        ("utf-8", "⟦ü ह⟧\n".encode()),
    ],
)
def test_a_console_that_lacks_a_character(monkeypatch, stream, encoding, printed):
    """A Windows console in cp1252 gets the number of a letter that it cannot show, and the run goes on."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(raw, encoding=encoding, newline="\n"))

    def main(args):
        print("⟦ü ह⟧", file=getattr(sys, stream), flush=True)
        return 0

    with pytest.raises(SystemExit) as end:
        run_stage(main, None)
    assert end.value.code == 0 and raw.getvalue() == printed
