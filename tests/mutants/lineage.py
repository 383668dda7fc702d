"""Planted faults in lineage, and in what it tells of a judge."""

from planting import Mutant

MUTANTS = [
    Mutant(
        "posttrain/gating/contamination.py",
        "contaminated",
        "digest(judge) == digest(candidate)",
        "judge == candidate",
        ["tests/run/test_lineage.py::test_a_judge_of_itself"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "lineage",
        "hash_when_read and digest(path) != hash_when_read",
        "False",
        ["tests/run/test_lineage.py::test_an_input_that_changed_is_not_followed"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "lineage",
        "path.resolve() in records",
        "False",
        ["tests/run/test_lineage.py::test_a_loop_ends"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "lineage",
        "path.resolve() == baseline",
        "False",
        ["tests/run/test_lineage.py::test_until_the_baseline"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "start_folder",
        "record_path.removesuffix(path_when_written) or default",
        "record_path.removesuffix(path_when_written)",
        ["tests/run/test_lineage.py::test_an_absolute_output_of_relative_inputs"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "start_folder",
        "record_path.endswith(path_when_written)",
        "False",
        ["tests/run/test_lineage.py::test_relative_paths_are_those_of_the_run"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "lineage",
        'reversed(record["inputs"].items())',
        'record["inputs"].items()',
        ["tests/run/test_lineage.py::test_a_whole_chain"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "_record_of",
        'path.parent / "run.json"',
        "path",
        ["tests/run/test_lineage.py::test_a_whole_chain"],
    ),
    Mutant(
        "posttrain/gating/contamination.py",
        "_labellers",
        "[judges] if isinstance(judges, str) else judges or []",
        "judges or []",
        ["tests/run/test_lineage.py::test_the_training_judge_is_named"],
    ),
    Mutant(
        "posttrain/gating/contamination.py",
        "_labellers",
        """
            if record["script"] != "judge.py":
                return []
        """,
        "pass",
        ["tests/run/test_lineage.py::test_a_stranger_is_no_contamination"],
    ),
    Mutant(
        "posttrain/gating/contamination.py",
        "contaminated",
        "related(family_of(labeller), family_of(judge))",
        "False",
        ["tests/run/test_lineage.py::test_a_family_by_name"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "returned",
        "lineage(candidate, until=baseline)",
        "lineage(candidate)",
        ["tests/run/test_lineage.py::test_returned_by_hand"],
    ),
]
