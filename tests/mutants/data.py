"""Planted faults in the data that ships: the tiny world, benchmarks, the table of a gate."""

from planting import Mutant

MUTANTS = [
    # the tiny world
    Mutant(
        "data/make/world.py",
        "pick",
        "named and rng.random() < 0.5",
        "named",
        ["tests/test_tiny.py::test_every_record_and_its_gold_answer"],
    ),
    Mutant(
        "data/make/world.py",
        "truth",
        "extra < 2",
        "extra < 9",
        ["tests/test_tiny.py::test_truth_knows_right_chatty_and_wrong"],
    ),
    # benchmarks
    Mutant(
        "data/make/benchmarks.py",
        "choice",
        "(labels, [*digits], names)",
        "(labels, choices, [*digits], names)",
        ["tests/gating/test_suite.py::test_multiple_choice"],
    ),
    Mutant(
        "data/make/benchmarks.py",
        "main",
        'f"mgsm-{seen[name]}"',
        'f"mgsm-{number}"',
        ["tests/gating/test_suite.py::test_sums"],
    ),
    Mutant(
        "data/make/benchmarks.py",
        "sums",
        'text(row, "answer").rpartition("####")[2]',
        'text(row, "answer").partition("####")[0]',
        ["tests/gating/test_suite.py::test_sums"],
    ),
    Mutant(
        "data/make/benchmarks.py",
        "constraints",
        "number - 1",
        "number",
        ["tests/gating/test_suite.py::test_instructions"],
    ),
    Mutant(
        "data/make/benchmarks.py",
        "constraints",
        """
            {"text": '"', "min": 2}
        """,
        """
            {"text": '"', "min": 1}
        """,
        ["tests/gating/test_suite.py::test_instructions"],
    ),
    Mutant(
        "data/make/benchmarks.py",
        "constraints",
        r'r"[A-Za-z]" if name == "letter_frequency" else r"\w+"',
        'r"[A-Za-z]" if name == "letter_frequency" else r".+"',
        ["tests/gating/test_suite.py::test_instructions"],
    ),
    # the table of a gate
    Mutant(
        "bench/table.py",
        "compare",
        "(gap > 0 for gap in gaps)",
        "(gap < 0 for gap in gaps)",
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
    Mutant(
        "bench/table.py",
        "",
        r"""
            rf"({'|'.join(SLICES)})-(dev|test)-\d+-\d+"
        """,
        r"""
            rf"({'|'.join(SLICES)})-(train|dev|test)-\d+-\d+"
        """,
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
    Mutant(
        "bench/table.py",
        "compare",
        'type(row["sample"]) is int and TINY_ID.fullmatch(row["id"])',
        'TINY_ID.fullmatch(row["id"])',
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
    Mutant(
        "bench/table.py",
        "compare",
        'fmean(score["candidate"]) - fmean(score["baseline"])',
        'sum(score["candidate"]) - sum(score["baseline"])',
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
]
