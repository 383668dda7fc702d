"""Where a model comes from: run records written by hand, as the stages write them."""

import itertools
import json

import pytest
from conftest import save_folder, write

from posttrain.gating.contamination import contaminated
from posttrain.hashing import digest
from posttrain.run import lineage as lineage_room
from posttrain.run.folder import read_run
from posttrain.run.lineage import lineage, returned, story


def record(out, script, inputs=(), root=None, **facts):
    """A run of ours: the record of `out` (a folder, or a .jsonl), its paths relative to `root` where given."""
    out.parent.mkdir(parents=True, exist_ok=True)
    place = out.with_suffix(".run.json") if out.suffix == ".jsonl" else out / "run.json"
    if out.suffix == ".jsonl":
        write(out, [{"id": out.stem}])
    else:
        out.mkdir(exist_ok=True)
        (out / "weights").write_text(str(out))

    def said(path):
        return str(path.relative_to(root) if root else path)

    made = {
        "script": script,
        "finished": True,
        "arguments": facts.pop("arguments", {}),
        "path": said(place),
        "inputs": {said(path): digest(path) for path in inputs},
    } | facts
    place.write_text(json.dumps(made))
    return out


def chain(folder, root=None, **judge):
    """prompts -> candidates -> judge -> dpo, each with its cost; returns the folder of the last."""
    prompts = folder / "data" / "prompts.jsonl"
    prompts.parent.mkdir(parents=True)
    write(prompts, [{"id": "a"}])
    sft = record(folder / "runs" / "sft", "sft.py", [prompts], root, seconds=1800.0, cost=1.0)
    candidates = record(
        folder / "runs" / "candidates.jsonl",
        "gen_candidates.py",
        [prompts, sft],
        root,
        seconds=600.0,
        cost=0.25,
    )
    judged = record(
        folder / "runs" / "judged",
        "judge.py",
        [candidates],
        root,
        seconds=1200.0,
        cost=0.5,
        arguments={"judge": judge.get("judge", ["some/judge"])},
    )
    pairs = judged / "pairs.jsonl"
    write(pairs, [{"id": "a"}])
    return record(folder / "runs" / "dpo", "dpo.py", [pairs, sft], root, seconds=3600.0, cost=2.0)


def stages(name, **options):
    return [record["script"].removesuffix(".py") for record in lineage(name, **options)]


ALL = ["dpo", "judge", "gen_candidates", "sft"]


def test_a_whole_chain(tmp_path):
    """From pairs.jsonl inside the judge's folder, over the record beside candidates.jsonl, to the prompts."""
    dpo = chain(tmp_path)
    assert stages(dpo) == stages(str(dpo)) == ALL
    assert [one["path"] for one in lineage(dpo)] == [
        str(tmp_path / "runs" / part)
        for part in ("dpo/run.json", "judged/run.json", "candidates.run.json", "sft/run.json")
    ]


def test_relative_paths_are_those_of_the_run(tmp_path, monkeypatch):
    """Seen from elsewhere, and after the folder was moved as a whole; from where the runs were started, too."""
    chain(tmp_path / "project", root=tmp_path / "project")
    assert stages(tmp_path / "project" / "runs" / "dpo") == ALL
    (tmp_path / "project").rename(tmp_path / "moved")
    assert stages(tmp_path / "moved" / "runs" / "dpo") == ALL
    monkeypatch.chdir(tmp_path / "moved")
    assert stages("runs/dpo") == ALL
    monkeypatch.chdir("runs/dpo")
    assert stages(".") == ALL


def test_one_run_that_was_moved_is_still_known(tmp_path):
    """Its record is read where it lies now; inputs with absolute paths are found where they were."""
    chain(tmp_path).rename(tmp_path / "shelf")
    assert stages(tmp_path / "shelf") == ALL


def test_an_absolute_output_of_relative_inputs(tmp_path):
    """The folder where a run was started is that of the runs that read its output."""
    chain(tmp_path, root=tmp_path)
    place = tmp_path / "runs" / "judged" / "run.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"path": str(place)}))
    assert stages(tmp_path / "runs" / "dpo") == ALL


def test_an_input_that_changed_is_not_followed(tmp_path):
    dpo = chain(tmp_path)
    write(tmp_path / "runs" / "judged" / "pairs.jsonl", [{"id": "other"}])
    assert stages(dpo) == ["dpo", "sft"]


def test_a_loop_ends(tmp_path, monkeypatch):
    reads = itertools.count(1)

    def read_few(path):
        assert next(reads) < 20, "it goes round and round"
        return read_run(path)

    monkeypatch.setattr(lineage_room, "read_run", read_few)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    record(two, "gen_candidates.py")
    record(one, "judge.py", [two])
    record(two, "gen_candidates.py", [one])
    assert stages(one) == ["judge", "gen_candidates"]


def test_each_run_counts_once(tmp_path):
    """Two files of one judge's folder."""
    judged = record(tmp_path / "judged", "judge.py")
    for part in ("pairs", "labels"):
        write(judged / f"{part}.jsonl", [{"id": part}])
    assert stages(
        record(tmp_path / "kto", "kto.py", [judged / "pairs.jsonl", judged / "labels.jsonl"])
    ) == ["kto", "judge"]


def test_until_the_baseline(tmp_path):
    """The baseline and what only it needed are left out."""
    dpo = chain(tmp_path)
    assert stages(dpo, until=tmp_path / "runs" / "sft") == ["dpo", "judge", "gen_candidates"]
    assert stages(dpo, until=dpo) == []
    # The same folder under another name.
    roundabout = tmp_path / "runs" / ".." / "runs" / "dpo"
    assert stages(roundabout, until=dpo) == []


def test_what_no_run_of_ours_made(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "prompts.jsonl", [{"id": "a"}])
    for name in (
        "Qwen/Qwen3-0.6B",
        tmp_path / "model",
        tmp_path / "prompts.jsonl",
        tmp_path / "none",
        "",
    ):
        assert lineage(name) == []
    (tmp_path / "model" / "run.json").write_text('{"torn')
    assert lineage(tmp_path / "model") == [] and story(tmp_path / "model") == "no run of ours"


def test_names_with_dots_and_equal_signs(tmp_path):
    """A folder is no file of another name, and a learning rate in its name is no weight."""
    record(tmp_path / "v1.jsonl", "gen_candidates.py")
    assert stages(record(tmp_path / "v1.5", "sft.py")) == ["sft"]
    assert stages(record(tmp_path / "lr=2", "dpo.py")) == ["dpo"]


# ---- the judge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["some/judge", ["else", "some/judge"]])
def test_the_training_judge_is_named(tmp_path, said):
    dpo = chain(tmp_path, judge=said)
    why = contaminated("some/judge", str(dpo))
    assert (
        why == f"the judge some/judge also made the training data ({tmp_path / 'runs' / 'judged'})"
    )


def test_the_same_judge_under_another_name(tmp_path):
    """Another folder with the same content; another model with the same vocabulary."""
    first, copy = (save_folder(tmp_path / name) for name in ("alpha", "beta"))
    other = save_folder(tmp_path / "gamma", seed=1)
    assert digest(first) == digest(copy) != digest(other)
    dpo = str(chain(tmp_path / "p", judge=first))
    for judge in (copy, other):
        assert contaminated(judge, dpo).startswith(
            f"the judge {judge} is of one family with {first}, which made"
        )


def test_a_family_by_name(tmp_path):
    dpo = str(chain(tmp_path, judge=["Qwen/Qwen3-8B"]))
    assert "is of one family with Qwen/Qwen3-8B" in contaminated("qwen2.5-72b@http://host/v1", dpo)


def test_a_stranger_is_no_contamination(tmp_path):
    dpo = str(chain(tmp_path))
    assert (
        contaminated("mistral/large", dpo) is None
        and contaminated("some/judge", "hub/model") is None
    )
    checked = str(chain(tmp_path / "p", judge=None))
    assert contaminated("some/judge", checked) is None, "labelled by verifiers alone"
    record(tmp_path / "asked", "gen_candidates.py", arguments={"judge": "mistral/large"})
    assert contaminated("mistral/large", str(tmp_path / "asked")) is None, "only judge.py labels"


def test_a_judge_of_itself(tmp_path):
    first, copy = (str(save_folder(tmp_path / name)) for name in ("alpha", "beta"))
    assert contaminated(first, copy) == f"the judge {first} is the candidate itself"


# ---- cost ----------------------------------------------------------------------------------------------------


def test_returned_by_hand(tmp_path):
    """dpo 2.0 + judge 0.5 + candidates 0.25 of money, 3600 + 1200 + 600 seconds; the baseline's own is not in it."""
    dpo = chain(tmp_path)
    got = returned(dpo, tmp_path / "runs" / "sft", 5.5, 11.0)
    assert got == pytest.approx(
        {
            "spent": 2.75,
            "gpu_hours": 1.5,
            "points": 5.5,
            "winrate_points": 11.0,
            "points_per_money": 2.0,
            "points_per_hour": 5.5 / 1.5,
            "winrate_per_money": 4.0,
        }
    )
    assert returned(dpo, "hub/base", 5.5, None)["spent"] == 3.75
    assert returned(dpo, "hub/base", 5.5, None)["winrate_per_money"] is None
    assert (
        returned("hub/model", "hub/base", 5.5, None) is None
        and returned(dpo, dpo, 1.0, None) is None
    )


def test_without_prices_there_is_time(tmp_path):
    run = record(tmp_path / "sft", "sft.py", seconds=7200.0, cost=None)
    got = returned(run, "hub/base", 3.0, 4.0)
    assert (
        got["spent"],
        got["points_per_hour"],
        got["points_per_money"],
        got["winrate_per_money"],
    ) == (0, 1.5, None, None)
    assert returned(record(tmp_path / "bare", "sft.py"), "hub/base", 3.0, None) is None


def test_story(tmp_path):
    dpo = chain(tmp_path)
    runs = tmp_path / "runs"
    assert story(dpo) == (
        f"dpo (pairs.jsonl {digest(runs / 'judged' / 'pairs.jsonl')}, sft {digest(runs / 'sft')}) <- judge "
        f"(candidates.jsonl {digest(runs / 'candidates.jsonl')}) <- gen_candidates (prompts.jsonl "
        f"{digest(tmp_path / 'data' / 'prompts.jsonl')}, sft {digest(runs / 'sft')}) <- sft (prompts.jsonl "
        f"{digest(tmp_path / 'data' / 'prompts.jsonl')})"
    )
