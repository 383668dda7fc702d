"""Forecasts: by a given speed, or by that of the runs beside."""

import json
import os

import pytest

from posttrain.run.folder import runs_beside
from posttrain.run.forecast import forecast


def test_forecast_takes_the_speed_of_a_run_beside_it(tmp_path):
    (tmp_path / "old").mkdir()
    for finished, expected in ((False, None), (True, 20.0)):
        (tmp_path / "old/run.json").write_text(
            json.dumps({"script": "sft.py", "finished": finished, "tokens": 500, "seconds": 10.0})
        )
        assert forecast(tmp_path / "new", "sft.py", 1000)["seconds"] == expected
    assert forecast(tmp_path / "new", "dpo.py", 1000)["seconds"] is None
    assert forecast(tmp_path / "new", "dpo.py", 1000, price_gpu_hour=2.0)["cost"] is None
    plan = forecast(tmp_path / "new", "sft.py", 1000, tokens_per_second=100, price_gpu_hour=3600.0)
    assert plan == {"tokens": 1000, "seconds": 10.0, "cost": 10.0}


def test_forecast(tmp_path):
    out = tmp_path / "new"
    assert forecast(out, "x.py", 5000, 100, price_per_million=2.0, price_gpu_hour=7.2) == {
        "tokens": 5000,
        "seconds": 50.0,
        "cost": pytest.approx(0.01 + 0.1),
    }
    assert forecast(out, "x.py", 5000) == {"tokens": 5000, "seconds": None, "cost": 0.0}
    assert forecast(out, "x.py", 5000, price_per_million=2.0) == {
        "tokens": 5000,
        "seconds": None,
        "cost": 0.01,
    }
    assert forecast(out, "x.py", 5000, price_per_million=2.0, price_gpu_hour=1.0)["cost"] is None, (
        "an unknown time has no known price"
    )


def test_forecast_takes_the_newest_finished_run_of_the_same_script(tmp_path):
    def put(name, when, **more):
        path = tmp_path / name / "run.json" if "." not in name else tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"script": "x.py", "finished": True, "tokens": 100, "seconds": 10.0} | more)
        )
        os.utime(path, (when, when))

    put("old", 1000)
    put("mid.run.json", 2000, tokens=400)
    put("late", 3000, tokens=900, finished=False)
    put("other", 4000, tokens=900, script="y.py")
    put("instant", 5000, seconds=0.0)
    put("silent", 6000, tokens=None)
    (tmp_path / "broken.run.json").write_text("{")
    assert forecast(tmp_path / "new", "x.py", 80)["seconds"] == 2.0
    tokens = [record["tokens"] for record in runs_beside(tmp_path / "new")]
    assert tokens == [100, 400, 900, 100, None]


def test_forecast_takes_the_speed_of_the_same_model(tmp_path):
    """As model or judge; without a model to look for, of whatever was run last."""
    for when, (key, name, seconds) in enumerate(
        [("model", "a", 1.0), ("judge", "b", 2.0), ("model", "c", 4.0)], 1000
    ):
        record = {"script": "x.py", "finished": True, "tokens": 100, "seconds": seconds}
        path = tmp_path / f"{name}.run.json"
        path.write_text(json.dumps(record | {"arguments": {key: name}}))
        os.utime(path, (when, when))
    bare = {"script": "x.py", "finished": True, "tokens": 1, "seconds": 1.0}
    (tmp_path / "bare.run.json").write_text(json.dumps(bare))
    os.utime(tmp_path / "bare.run.json", (999, 999))
    for model, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0), (None, 4.0), ("d", None)):
        assert forecast(tmp_path / "new", "x.py", 100, model=model)["seconds"] == seconds
