"""The reference's log-probabilities: whose values count, how exact they are, what is read at once."""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import write

from posttrain.cli import BadInput
from posttrain.train import reference
from posttrain.train.reference import ReferenceCache, group_by_prompt


def entry(key, logp):
    return {"key": key, "logp": logp}


@pytest.fixture
def cache(tmp_path):
    """That of a run b, which has values of its own, as two runs beside it have."""
    for name, logp in (("a", -1.0), ("b", -2.0), ("c", -3.0)):
        (tmp_path / name).mkdir()
        entries = [entry("shared", logp), entry(name, logp)]
        write(tmp_path / name / "ref_logps.jsonl", entries)
    return ReferenceCache(tmp_path / "b")


def test_a_runs_own_values_count(cache):
    assert cache.logps == {"shared": -2.0, "a": -1.0, "b": -2.0, "c": -3.0}
    assert cache.own_keys == {"shared", "b"}


def test_what_is_borrowed_is_copied_once(cache):
    with cache.open() as file:
        cache.copy_borrowed(file, ["shared", "b", "c", "not scored yet"])
    lines = [line for line in cache.path.read_text().splitlines()[2:] if line]
    assert [json.loads(line) for line in lines] == [entry("c", -3.0)]


def test_on_which_device_it_is():
    for kind in ("cpu", "cuda"):
        model = SimpleNamespace(device=torch.device(kind))
        assert reference.is_on_cpu(model) == (kind == "cpu")


@pytest.mark.parametrize(("on_cpu", "allowed"), [(True, 1e-4), (False, 0.02)])
def test_how_far_cached_values_may_be_off(cache, on_cpu, allowed):
    """A token, of the worst sequence of the group, in either direction."""
    group = [{"key": "a", "ids": [1] * 10}, {"key": "c", "ids": [1] * 20}]
    for sign in (1, -1):
        close = [-1.0 + 9.5 * sign * allowed, -3.0]
        cache.compare(group, close, on_cpu)
        cache.compare(group, [-1.0, -3.0 + 19 * sign * allowed], on_cpu)
        for off in (
            [-1.0 + 10.5 * sign * allowed, -3.0],
            [-1.0, -3.0 + 21 * sign * allowed],
        ):
            with pytest.raises(BadInput, match="off by"):
                cache.compare(group, off, on_cpu)


def test_what_a_line_of_the_file_may_be(tmp_path):
    """Whatever is no entry, torn or foreign, is left out."""
    good = [entry("a", -1.5), entry("b", "-2.5")]
    path = write(tmp_path / "ref.jsonl", [*good, {}, [1], entry("c", "x"), entry("d", None)])
    with open(path, "a") as file:
        file.write('{"key": "e", "lo')
    assert reference.read_entries(Path(path)) == {"a": -1.5, "b": -2.5}


def test_values_are_written_as_they_come(tmp_path, monkeypatch):
    """Group by group, so that a kill costs one; the file of a new run begins with them."""
    cache, seen = ReferenceCache(tmp_path / "run"), []

    def score_group(model, group):
        seen.append(cache.path.read_text())
        return [-1.0] * len(group)

    monkeypatch.setattr(reference, "score_group", score_group)
    with cache.open() as file:
        reference.score_missing(None, [[{"key": "a"}], [{"key": "b"}]], cache, file)
    first = json.dumps(entry("a", -1.0)) + "\n"
    assert seen == ["", first] and cache.path.read_text().startswith(first)
    assert cache.logps == {"a": -1.0, "b": -1.0}


def test_another_reference_is_gone_before_the_policy_comes(monkeypatch):
    """It reads as the policy will, under a key of its own."""

    class Model:
        pass

    calls = []

    def load_reference(*given):
        calls.append(given)
        return Model()

    def teach_lines(model):
        model.reads_lines = True
        calls.append(weakref.ref(model))

    def score_reference(model, rows, **more):
        assert model.reads_lines
        calls.append((rows, more))
        return 99

    def free_memory():
        assert calls[1]() is None, "the model is still there"
        calls.append("freed")

    for function in (load_reference, teach_lines, score_reference, free_memory):
        monkeypatch.setattr(reference, function.__name__, function)
    monkeypatch.setattr(reference, "fingerprint", "{}, {}".format)
    options = {"pack_tokens": 7, "out": "runs/x"}
    assert reference.score_other_reference("name", "tokenizer", "nf4", ["row"], **options) == 99
    assert calls[0] == ("name", "tokenizer", "nf4") and calls[3] == "freed"
    assert calls[2] == (["row"], options | {"model_key": "name, nf4"})


def test_answers_to_a_prompt_are_read_at_once():
    """As far as a pack goes, which has room for other prompts then."""
    seqs = [{"ids": [1, 2, answer], "mask": [0, 0, 1]} for answer in (3, 4, 5)]
    seqs.insert(1, {"ids": [9, 8], "mask": [0, 1]})
    model = SimpleNamespace(line_reader="a reader")

    def answers(pack_tokens):
        groups = group_by_prompt(seqs, pack_tokens, model)
        return [[seq["ids"][-1] for seq in group] for group in groups]

    assert answers(4) == [[3, 4], [5], [8]]
    assert answers(5) == [[3, 4, 5], [8]]
    assert answers(7) == [[3, 4, 5, 8]]
