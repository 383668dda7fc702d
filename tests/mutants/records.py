"""Planted faults in reading and writing records: JSONL, digests, run records, cost."""

from planting import Mutant

MUTANTS = [
    # reading, runs and what they record
    Mutant(
        "posttrain/records/jsonl.py",
        "stream_jsonl",
        "len(line) > MAX_LINE",
        "len(line) > 99 * MAX_LINE",
        ["tests/gating/test_suite.py::test_a_huge_file_is_not_read_whole"],
    ),
    Mutant(
        "posttrain/run/folder.py",
        "",
        '{"run.json", "run.json.tmp", "ref_logps.jsonl", "log.jsonl", "tracker"}',
        '{"run.json", "ref_logps.jsonl", "log.jsonl", "tracker"}',
        ["tests/train/test_training.py::test_killed_before_the_first_record_it_starts_again"],
    ),
    Mutant(
        "posttrain/records/files.py",
        "read_records",
        'raise BadInput(f"{place}: {error}") from None',
        "raise",
        [
            "tests/records/test_records.py::test_a_thousand_broken_records_read_or_are_refused_in_one_line"
        ],
    ),
    Mutant(
        "posttrain/records/jsonl.py",
        "_parse",
        "ValueError",
        "json.JSONDecodeError",
        [
            "tests/records/test_records.py::test_a_thousand_broken_records_read_or_are_refused_in_one_line"
        ],
    ),
    Mutant(
        "posttrain/run/folder.py",
        "_refuse_other_run",
        '("script", "inputs", "arguments")',
        '("script",)',
        ["tests/run/test_folder.py::test_other_arguments_or_inputs_are_refused"],
    ),
    Mutant(
        "posttrain/records/jsonl.py",
        "continue_lines",
        "os.truncate(path, line_ends[lines - 1] if lines else 0)",
        "pass",
        ["tests/test_gen_candidates.py::test_resume_after_a_cut_at_any_byte"],
    ),
    Mutant(
        "posttrain/run/folder.py",
        "start_run",
        "has_results or is_foreign",
        "is_foreign",
        ["tests/test_gen_candidates.py::test_a_foreign_file_is_never_overwritten"],
    ),
    Mutant(
        "posttrain/records/mixture.py",
        "read_mixture",
        "file_weight * slice_weights.get(weighted_slice, 1.0)",
        "file_weight",
        ["tests/train/test_watch.py::test_a_slice_has_its_weight_and_its_own_numbers"],
    ),
    Mutant(
        "posttrain/hashing.py",
        "_add_file",
        "range(0, size, MIB)",
        "(0, MIB)",
        ["tests/test_hashing.py::test_a_change_in_the_middle_of_a_large_file_shows"],
    ),
    Mutant(
        "posttrain/run/folder.py",
        "start_run",
        'old | {"path": str(path)}',
        "old",
        ["tests/train/test_watch.py::test_a_renamed_folder_is_continued_where_it_is"],
    ),
    Mutant(
        "posttrain/hashing.py",
        "digest",
        'str(path).removeprefix("hf:")',
        'str(path).removeprefix("hg:")',
        ["tests/test_hashing.py::test_a_local_data_set_is_hashed"],
    ),
    Mutant(
        "posttrain/run/folder.py",
        "_has_results",
        "file.name not in BEFORE_RESULTS",
        "file.name != 'run.json'",
        ["tests/run/test_folder.py::test_a_run_without_a_result_starts_anew"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "",
        '("p", _is_share, "a number from 0 to 1")',
        '("p", _is_number, "a number from 0 to 1")',
        ["tests/records/test_layouts.py::test_values_of_fields"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_check_values",
        "row.pop(field, None)",
        "pass",
        ["tests/records/test_layouts.py::test_null_is_no_value_but_in_the_labels_of_a_pair"],
    ),
    # cost
    Mutant(
        "common.py",
        "money",
        "tokens * price_per_million / 1e6",
        "tokens * price_per_million / 1e3",
        ["tests/test_common.py::test_cost_model_by_hand"],
    ),
    Mutant(
        "common.py",
        "judge_tokens",
        "prompts * (rubric_len + prompt_len + n * answer_len)",
        "prompts * n * (rubric_len + prompt_len + answer_len)",
        ["tests/test_common.py::test_cost_model_by_hand"],
    ),
    Mutant(
        "common.py",
        "money",
        "seconds * price_gpu_hour / 3600",
        "seconds * price_gpu_hour / 60",
        ["tests/test_cost.py::test_money_is_per_million_tokens_and_per_hour"],
    ),
    Mutant(
        "posttrain/run/forecast.py",
        "_measured_speed",
        "reversed(runs_beside(out))",
        "runs_beside(out)",
        [
            "tests/run/test_forecast.py::test_forecast_takes_the_newest_finished_run_of_the_same_script"
        ],
    ),
    Mutant(
        "common.py",
        "generation_tokens",
        "prompts * prompt_len",
        "prompts * n * prompt_len",
        ["tests/test_cost.py::test_generation_reads_a_prompt_once_and_writes_n_answers"],
    ),
    # a prompt's last turn
    Mutant(
        "posttrain/records/layouts.py",
        "_read_prompt",
        "last_role not in ('user', 'tool')",
        "last_role == 'system'",
        ["tests/records/test_layouts.py::test_a_prompt_ends_where_the_assistant_begins"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_read_prompt",
        "last_role not in ('user', 'tool')",
        "last_role == 'assistant'",
        ["tests/records/test_layouts.py::test_a_prompt_ends_where_the_assistant_begins"],
    ),
]
