"""The picture of a run's log."""

import pytest
from conftest import pair_rows, run_main, write
from matplotlib.figure import Figure

from posttrain.train.curves import PANELS, curves, draw_panel, loss_by_slice


@pytest.fixture(scope="module")
def watched(base, tmp_path_factory):
    """A DPO run of 170 pairs in three slices, eight of them held out, evaluated twice."""
    folder = tmp_path_factory.mktemp("watched")
    rows = [row | {"slice": "abc"[n % 3]} for n, row in enumerate(pair_rows(170))]
    words = ["--model", base, "--data", write(folder / "data.jsonl", rows), "--out", folder / "run"]
    words += ["--batch-size", 8, "--lora-r", 2, "--lr", 0.01, "--max-steps", 4, "--eval-every", 2]
    assert run_main("dpo", *words) == 0
    return words, folder / "run"


def test_curves_are_drawn(watched):
    words, out = watched
    text = (out / "log.jsonl").read_text()
    (out / "log.jsonl").write_text(
        text.replace('"a": {', '"price_$5_to_$10": {').replace('"b": {', '"_b": {')
    )
    curves(out)
    data = (out / "curves.png").read_bytes()
    assert data[:4] == b"\x89PNG" and len(data) > 20_000


def test_a_panel():
    """Every series is a line with its name; a name is no formula, and a few points are marked."""
    axis = Figure().subplots()
    many = [(step, step / 2) for step in range(15)]
    draw_panel(axis, "loss", {"_a": [(1, 0.5), (2, 0.25)], "$b$": many, "none": []})
    few_points, line = axis.get_lines()
    assert few_points.get_xydata().tolist() == [[1, 0.5], [2, 0.25]]
    assert line.get_xydata().tolist() == [[*point] for point in many]
    assert (few_points.get_marker(), line.get_marker()) == ("o", "None")
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["a", r"\$b\$"] and axis.get_visible()
    assert (axis.get_title(), axis.get_xlabel()) == ("loss", "step")

    empty = Figure().subplots()
    draw_panel(empty, "loss", {"a": []})
    assert not empty.get_visible() and empty.get_legend() is None


def test_a_picture_costs_no_run(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": "much"}\n{"step"')
    curves(tmp_path)
    assert "curves.png could not be drawn (JSONDecodeError" in capsys.readouterr().out


def test_series_by_hand():
    """A column that a line lacks leaves a gap; slices are gathered by name."""
    lines = [
        {
            "step": 1,
            "loss": 0.7,
            "eval_loss": 0.8,
            "slices": {"a": {"loss": 0.6}, "b": {"loss": 0.8}},
        },
        {"step": 2, "loss": 0.5, "slices": {"a": {"loss": 0.5}}},
        {"step": 3, "loss": 0.4, "eval_loss": 0.6},
    ]
    assert PANELS["loss"](lines) == {
        "loss": [(1, 0.7), (2, 0.5), (3, 0.4)],
        "eval_loss": [(1, 0.8), (3, 0.6)],
    }
    assert loss_by_slice(lines) == {"a": [(1, 0.6), (2, 0.5)], "b": [(1, 0.8)]}
    assert PANELS["KL (nats an answer)"](lines) == {"kl": [], "sampled_kl": []}
