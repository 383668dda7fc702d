"""Planted faults in the tiny world, benchmarks, the demo and its table, what is installed."""

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
    # the table
    Mutant(
        "bench/table.py",
        "count",
        "gap * sign > 0",
        "gap * sign < 0",
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
        "rubric_scores",
        'type(row["sample"]) is int and HELD_OUT.fullmatch(row["id"])',
        'HELD_OUT.fullmatch(row["id"])',
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
    Mutant(
        "bench/table.py",
        "compare",
        'fmean(score["candidate"]) - fmean(score["baseline"])',
        'sum(score["candidate"]) - sum(score["baseline"])',
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
    Mutant(
        "bench/table.py",
        "cost_per_point",
        """
            f"{cost / gain:.4f}"
        """,
        """
            f"{cost:.4f}"
        """,
        ["tests/test_tiny.py::test_table_of_a_gate"],
    ),
    # the demo
    Mutant(
        "demo.py",
        "Commands.gate",
        "self.suite",
        'f"{TINY}/gate"',
        ["tests/test_demo.py::test_flags_reach_the_commands"],
    ),
    Mutant(
        "demo.py",
        "gating",
        'run.train("dpo.py", dpo, run.pairs(2), name="dpo2", method="--lr 5e-4")',
        'run.train("dpo.py", dpo, run.pairs(1), name="dpo2", method="--lr 5e-4")',
        ["tests/test_demo.py::test_commands_are_the_recorded_ones"],
    ),
    Mutant(
        "demo.py",
        "gating",
        'Task(round_two, after=["dpo", "gate-sft"])',
        'Task(round_two, after=["gate-sft"])',
        ["tests/test_demo.py::test_tasks_wait_for_all_that_they_read"],
    ),
    Mutant(
        "demo.py",
        "Schedule.start_ready",
        "at_work < AT_ONCE and runs.issuperset(task.after)",
        "at_work < AT_ONCE",
        ["tests/test_demo.py::test_tasks_begin_when_what_they_need_is_there"],
    ),
    Mutant(
        "demo.py",
        "Schedule.wait_for",
        "self.raise_failure()",
        "pass",
        ["tests/test_demo.py::test_a_failure_elsewhere_ends_the_wait"],
    ),
    Mutant(
        "demo.py",
        "without_slice",
        "mark not in line",
        "mark in line",
        ["tests/test_demo.py::test_slice_is_left_out_byte_for_byte"],
    ),
    Mutant(
        "demo.py",
        "is_fine",
        'code in VERDICT_CODES and (gate_folder(command) / "report.json").exists()',
        "code in VERDICT_CODES",
        ["tests/test_demo.py::test_a_gate_without_a_report_has_failed"],
    ),
    Mutant(
        "demo.py",
        "stop_on_signals",
        "signal.signal(number, signal.default_int_handler)",
        "pass",
        ["tests/test_demo.py::test_killed_it_leaves_no_command_at_work"],
    ),
    Mutant(
        "demo.py",
        "main",
        "failure.code if failure.code > 0 else 128 - failure.code",
        "1",
        ["tests/test_demo.py::test_a_failed_command_ends_it"],
    ),
    Mutant(
        "demo.py",
        "take_folder",
        "os.set_inheritable(file.fileno(), True)",
        "pass",
        ["tests/test_demo.py::test_two_cannot_work_in_one_folder"],
    ),
    Mutant(
        "demo.py",
        "echo",
        'len(lines[-1]) + 1 + len(chunk) + len(" \\\\") <= WIDTH',
        "len(lines[-1]) + 1 + len(chunk) <= WIDTH",
        ["tests/test_demo.py::test_an_echo_can_be_copied"],
    ),
    Mutant(
        "demo.py",
        "gate_lines",
        'report["verdict"] == "SHIP"',
        'report["verdict"] != "BLOCK!"',
        ["tests/test_demo.py::test_it_runs_to_the_end_in_a_folder_with_a_space"],
    ),
    Mutant(
        "demo.py",
        "example",
        'differ(item, ("sft", "dpo"))',
        "differ(item, texts)",
        ["tests/test_demo.py::test_texts_of_three_policies"],
    ),
    # what is installed
    Mutant(
        "posttrain/cli.py",
        "missing_library",
        'error.name.split(".")[0]',
        "error.name",
        ["tests/test_requirements.py::test_missing_library_of_a_stage"],
    ),
    Mutant(
        "requirements.txt",
        "",
        "openai==",
        "open-ai==",
        ["tests/test_requirements.py::test_what_is_imported_is_listed"],
    ),
    # the walk over learning rates
    Mutant(
        "bench/learning_rates.py",
        "last_evaluation",
        'line["eval_rewards/chosen"] - line["eval_rewards/rejected"]',
        'line["eval_rewards/chosen"]',
        ["tests/test_learning_rates.py::test_the_last_evaluation_counts"],
    ),
    Mutant(
        "bench/learning_rates.py",
        "Walk.answers",
        "verdict is True",
        "verdict is not None",
        ["tests/test_learning_rates.py::test_accepted_answers_are_counted"],
    ),
    Mutant(
        "bench/learning_rates.py",
        "lines_of",
        'f"sft-{args.start_rate:g}"',
        'f"sft-{args.sft[0]:g}"',
        ["tests/test_learning_rates.py::test_every_run_gets_its_rate_and_its_start"],
    ),
    Mutant(
        "bench/learning_rates.py",
        "Walk.train",
        "*self.adapter",
        "*self.adapter[2:]",
        ["tests/test_learning_rates.py::test_every_run_gets_its_rate_and_its_start"],
    ),
    Mutant(
        "bench/learning_rates.py",
        "table",
        '(line["trainer"], line["lr"])',
        '(line["trainer"], "any")',
        ["tests/test_learning_rates.py::test_rates_and_trainers_have_rows_of_their_own"],
    ),
    Mutant(
        "bench/learning_rates.py",
        "cell",
        """
            f"{form.format(fmean(values))} ({each})"
        """,
        """
            f"{form.format(max(values))} ({each})"
        """,
        ["tests/test_learning_rates.py::test_a_row_of_the_table"],
    ),
    Mutant(
        "sft.py",
        "parse_args",
        'training_flags(p, lr=2e-4, unit="rows")',
        'training_flags(p, lr=3e-4, unit="rows")',
        ["tests/test_learning_rates.py::test_default_rates_have_been_tried"],
    ),
]
