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
        "_read_row",
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
    # what a message says
    Mutant(
        "posttrain/records/messages.py",
        "Reading.leave",
        "self.unread.add((what, key))",
        "pass",
        ["tests/records/test_messages.py::test_keys_that_nothing_reads_are_counted_by_rows"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_as_message",
        "_take_weight(rest, field) == 0 and is_assistant",
        "_take_weight(rest, field) == 0",
        ["tests/records/test_messages.py::test_a_turn_that_is_not_trained_on"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take_weight",
        "min(weights.values(), default=1)",
        "1",
        ["tests/records/test_messages.py::test_a_turn_that_is_not_trained_on"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take_weight",
        "value not in (0, 1)",
        "value < 0",
        ["tests/records/test_messages.py::test_a_turn_is_trained_on_or_not"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take_weight",
        "len(set(weights.values())) > 1",
        "False",
        ["tests/records/test_messages.py::test_weights_of_a_turn_do_not_contradict_each_other"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take_thought",
        "isinstance(text, str) and not thought",
        "isinstance(text, str)",
        ["tests/records/test_messages.py::test_the_same_thought_twice_is_one_and_another_is_named"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_split_thought",
        "thoughts.append(text)",
        "pass",
        ["tests/records/test_messages.py::test_a_thought_among_the_parts_of_a_content"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_list_of_calls",
        "parse_json(calls)",
        "[calls]",
        ["tests/records/test_messages.py::test_calls_may_be_the_json_of_a_list"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_as_message",
        "_list_of_calls(content) or [content]",
        "_list_of_calls(content)",
        ["tests/records/test_messages.py::test_a_turn_of_calls_has_calls"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_split_conversation",
        "kind in ('sft', 'labels') and last_role != 'assistant' and not has_completion",
        "False",
        ["tests/records/test_layouts.py::test_a_conversation_to_train_on_ends_with_an_answer"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take_calls",
        "calls or [old]",
        "calls",
        ["tests/records/test_messages.py::test_calls_as_openai_had_them_first"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take_calls",
        "functions and functions != [old['function']]",
        "False",
        ["tests/records/test_messages.py::test_calls_as_openai_had_them_first"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_take",
        "rest.get(key) is not None",
        "key in rest",
        ["tests/records/test_messages.py::test_the_layout_of_a_message_may_differ_from_row_to_row"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_take_thought_column",
        "message[key] = row.pop(key)",
        "row.pop(key)",
        ["tests/records/test_messages.py::test_a_thought_in_a_column_beside_a_plain_answer"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_rename_fields",
        "row.get('completion') is None and 'response' in row",
        "'response' in row",
        ["tests/records/test_messages.py::test_the_layout_of_a_message_may_differ_from_row_to_row"],
    ),
    Mutant(
        "posttrain/records/files.py",
        "_most_first",
        "(-rows, key)",
        "(rows, key)",
        ["tests/records/test_messages.py::test_one_line_names_them"],
    ),
    # a system text in a column
    Mutant(
        "posttrain/records/layouts.py",
        "_add_system",
        "SYSTEM_FIELDS[1:] if is_candidate else SYSTEM_FIELDS",
        "SYSTEM_FIELDS",
        [
            "tests/records/test_layouts.py::test_the_system_text_of_a_candidate_stays_out_of_its_prompt"
        ],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_add_system",
        "'generator' in row and 'candidate' in row",
        "'candidate' in row or 'prompt' in row",
        ["tests/records/test_layouts.py::test_a_system_column_is_the_system_message"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_add_system",
        "text.strip() not in [other.strip() for other in texts]",
        "False",
        ["tests/records/test_layouts.py::test_a_system_column_is_the_system_message"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "normalise",
        "[prompt_of_record, row['prompt']]",
        "[row['prompt']]",
        [
            "tests/records/test_layouts.py::test_answers_that_repeat_the_prompt_with_or_without_the_system_column"
        ],
    ),
    # a table's nulls
    Mutant(
        "posttrain/records/nulls.py",
        "_clean_schema",
        "'type' not in schema",
        "True",
        ["tests/records/test_nulls.py::test_schemas_lose_what_a_table_has_added"],
    ),
    Mutant(
        "posttrain/records/nulls.py",
        "_clean_schema",
        "part is None and not (word in VALUE_WORDS and keeps_null)",
        "part is None",
        ["tests/records/test_nulls.py::test_schemas_lose_what_a_table_has_added"],
    ),
    Mutant(
        "posttrain/records/nulls.py",
        "_clean_schema",
        "word in NAME_WORDS and isinstance(part, dict)",
        "False",
        ["tests/records/test_nulls.py::test_schemas_lose_what_a_table_has_added"],
    ),
    Mutant(
        "posttrain/records/nulls.py",
        "_clean_value",
        "part is not None or any(allows_null(schema, root) for schema in of_key)",
        "part is not None",
        ["tests/records/test_nulls.py::test_a_null_that_the_tools_schema_allows_stays"],
    ),
    Mutant(
        "posttrain/records/nulls.py",
        "_verdict_on_null",
        "schema.get('nullable') is True",
        "False",
        ["tests/records/test_nulls.py::test_a_null_that_the_tools_schema_allows_stays"],
    ),
    Mutant(
        "posttrain/records/nulls.py",
        "_resolve",
        "schema.get(name) if isinstance(schema, dict) else None",
        "schema",
        ["tests/records/test_nulls.py::test_a_null_that_the_tools_schema_allows_stays"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_clean_verifier_fields",
        "row.pop('call', None)",
        "pass",
        ["tests/records/test_nulls.py::test_null_columns_of_a_row_without_tools"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_clean_call",
        "clean_arguments(value, schema)",
        "clean_arguments(value, None)",
        ["tests/records/test_nulls.py::test_calls_follow_the_schema_of_their_own_tool"],
    ),
    Mutant(
        "posttrain/records/messages.py",
        "_as_tool_call",
        "clean_arguments(arguments, reading.schemas.get(name))",
        "clean_arguments(arguments, None)",
        ["tests/records/test_nulls.py::test_calls_follow_the_schema_of_their_own_tool"],
    ),
    Mutant(
        "posttrain/records/files.py",
        "_without_empty",
        "value is not None or field in NULL_HAS_MEANING",
        "value is not None",
        ["tests/records/test_nulls.py::test_rows_of_a_table_read_as_they_were"],
    ),
    # a table's values
    Mutant(
        "posttrain/records/table_values.py",
        "plain_row",
        "field not in fields_read",
        "True",
        ["tests/records/test_table_values.py::test_nan_is_no_value_of_a_field_that_is_read"],
    ),
    Mutant(
        "posttrain/records/table_values.py",
        "_float",
        "math.isinf(value)",
        "False",
        [
            "tests/records/test_table_values.py::test_what_no_record_can_hold_is_refused_where_it_stands"
        ],
    ),
    Mutant(
        "posttrain/records/table_values.py",
        "_decimal",
        "Decimal(str(number)) == value",
        "True",
        ["tests/records/test_table_values.py::test_a_value_of_a_table_is_plain_json"],
    ),
    Mutant(
        "posttrain/records/table_values.py",
        "_moment",
        "value != value",
        "False",
        ["tests/records/test_table_values.py::test_moments_of_pandas"],
    ),
    Mutant(
        "posttrain/records/jsonl.py",
        "_parse",
        "line.decode('utf-8-sig')",
        "line.decode('utf-8')",
        ["tests/records/test_jsonl.py::test_files_of_other_editors"],
    ),
    # before an answer is paid for
    Mutant(
        "gen_candidates.py",
        "read_prompts",
        "read_records(path, 'prompts', limit, check=check_fields)",
        "read_records(path, 'prompts', limit)",
        [
            "tests/test_gen_candidates.py::test_a_check_that_could_not_be_made_is_refused_before_it_is_paid_for"
        ],
    ),
    # Alpaca
    Mutant(
        "posttrain/records/layouts.py",
        "_read_alpaca",
        "[*history, {'role': 'user', 'content': '\\n\\n'.join(texts)}]",
        "[{'role': 'user', 'content': '\\n\\n'.join(texts)}]",
        ["tests/records/test_layouts.py::test_turns_before_an_alpaca_row"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_read_alpaca",
        "text and text.strip()",
        "text",
        ["tests/records/test_layouts.py::test_an_alpaca_row_without_input"],
    ),
    Mutant(
        "posttrain/records/layouts.py",
        "_read_alpaca",
        "row.get('instruction') is None or _has_prompt(row)",
        "row.get('instruction') is None",
        ["tests/records/test_layouts.py::test_an_instruction_is_no_prompt_where_there_is_another"],
    ),
]
