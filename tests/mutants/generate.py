"""Planted faults in sampling, endpoints and candidates."""

from planting import Mutant

MUTANTS = [
    # sampling
    Mutant(
        "posttrain/generate/local.py",
        "next_tokens",
        "logits / divisor",
        "logits",
        ["tests/generate/test_local.py::test_temperature_is_that_of_the_softmax"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "uniform_numbers",
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        ["tests/generate/test_local.py::test_seed_decides"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "next_tokens",
        "row.uniform[len(row.ids)]",
        "row.uniform[0]",
        ["tests/generate/test_local.py::test_each_step_draws_anew"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "next_tokens",
        "row.uniform[len(row.ids)]",
        "rows[0].uniform[len(row.ids)]",
        ["tests/generate/test_local.py::test_an_answer_depends_on_its_own_seed_alone"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "CachedText.admit",
        "padded_ids(prompts, self.pad_id, self.model.device, left=True)",
        "padded_ids(prompts, self.pad_id, self.model.device, left=False)",
        ["tests/generate/test_reading.py::test_a_cache_is_read"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "CachedText.read",
        "self.position + 1",
        "self.position",
        ["tests/generate/test_reading.py::test_a_cache_is_read"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "sample",
        "stop_ids(tokenizer)",
        "stop_ids(tokenizer)[:1]",
        ["tests/generate/test_local.py::test_greedy_equals_generate"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "answer_of",
        "row.ids[:-1] if stopped else row.ids",
        "row.ids",
        ["tests/generate/test_local.py::test_stop_token_is_counted_but_not_in_the_text"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "Batch.remove",
        "[self.rows[i] for i in keep]",
        "self.rows[: len(keep)]",
        ["tests/generate/test_local.py::test_an_answer_depends_on_its_own_seed_alone"],
    ),
    Mutant(
        "posttrain/generate/cache.py",
        "GrowingLayer.batch_select_indices",
        "[indices[i] for i in places]",
        "places",
        ["tests/generate/test_local.py::test_an_answer_depends_on_its_own_seed_alone"],
    ),
    Mutant(
        "posttrain/generate/cache.py",
        "fit_columns",
        "(0, 0, columns - x.shape[2], 0)",
        "(0, 0, 0, columns - x.shape[2])",
        ["tests/generate/test_local.py::test_rows_that_wait_change_no_answer"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "CachedText.admit",
        "position.max",
        "position[-len(rows) :].max",
        ["tests/generate/test_local.py::test_rows_that_wait_change_no_answer"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "sample",
        "batch.can_grow and free > slots // 8",
        "False",
        ["tests/generate/test_local.py::test_waiting_rows_take_the_places_of_those_that_end"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "is_plain",
        "type(layer) is DynamicLayer",
        "isinstance(layer, DynamicLayer)",
        ["tests/generate/test_local.py::test_a_sliding_window_is_not_refilled"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "select_rows",
        "isinstance(layer, GrowingLayer)",
        "hasattr(layer, 'batch_select_indices')",
        ["tests/generate/test_reading.py::test_states_follow_their_rows"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "reading_of",
        "WholeText if reason else CachedText",
        "CachedText",
        ["tests/generate/test_reading.py::test_a_cache_that_is_wrong_is_not_used"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "trial_of_cache",
        "error <= allowed",
        "error <= 10",
        ["tests/generate/test_reading.py::test_a_cache_that_is_wrong_is_not_used"],
    ),
    Mutant(
        "posttrain/generate/reading.py",
        "WholeText.keep_rows",
        "[self.texts[number] for number in rows]",
        "self.texts[: len(rows)]",
        ["tests/generate/test_reading.py::test_rows_read_whole_are_the_rows_of_a_cache"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "generation_batches",
        "rows + rows_per_job[job] > batch_rows",
        "rows + rows_per_job[job] > 2 * batch_rows",
        ["tests/generate/test_local.py::test_batches_hold_every_job_once"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "rows_that_stay",
        "[i for i in range(size, count) if i not in ended]",
        "[*range(size, count)]",
        ["tests/generate/test_local.py::test_rows_that_stay"],
    ),
    Mutant(
        "posttrain/generate/cache.py",
        "GrowingLayer.update",
        "F.pad(self.values, (0, 0, 0, SPARE_COLUMNS))",
        "F.pad(self.keys, (0, 0, 0, SPARE_COLUMNS))",
        ["tests/generate/test_cache.py::test_it_holds_what_a_dynamic_layer_holds"],
    ),
    # endpoints
    Mutant(
        "posttrain/generate/endpoint.py",
        "messages_for_server",
        "key not in UNSENT_KEYS",
        "key != 'weight'",
        [
            "tests/generate/test_endpoint.py::test_a_server_is_sent_the_messages_of_its_protocol",
        ],
    ),
    Mutant(
        "posttrain/chat/dialect.py",
        "arguments_as_json",
        'call["function"] | {"arguments": arguments}',
        'call["function"]',
        [
            "tests/generate/test_endpoint.py::test_a_server_is_sent_the_messages_of_its_protocol",
        ],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "seconds_to_wait",
        "max(seconds, 0.0)",
        "PAUSE",
        ["tests/generate/test_endpoint.py::test_a_busy_server_names_its_time"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "seconds_to_wait",
        """
            if seconds > LONGEST_RETRY_AFTER:
                return None
        """,
        """
            if seconds > LONGEST_RETRY_AFTER:
                return 0.0
        """,
        ["tests/generate/test_endpoint.py::test_what_asking_again_does_not_help"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "",
        "(408, 409, 425, 429)",
        "()",
        ["tests/generate/test_endpoint.py::test_a_storm_of_429_loses_nothing"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "EndpointClient.ask_all",
        "kept_replies.get(key)",
        "None",
        ["tests/generate/test_endpoint.py::test_what_is_kept_is_not_paid_twice"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "read_reply",
        "type(tokens) is not int or type(read) is not int",
        "type(tokens) is not int and type(read) is not int",
        ["tests/generate/test_endpoint.py::test_half_an_emoji_and_odd_usage"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "read_reply",
        'text.encode("utf-8", "replace")',
        'text.encode("utf-8", "surrogatepass")',
        ["tests/generate/test_endpoint.py::test_half_an_emoji_and_odd_usage"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "EndpointClient.ask",
        'append_lines(self.kept, [{"key": key} | reply])',
        "pass",
        ["tests/generate/test_endpoint.py::test_killed_and_disturbed_it_ends_the_same"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "EndpointClient.send_until_answered",
        "attempt >= LOGPROB_ATTEMPTS",
        "True",
        [
            "tests/generate/test_endpoint.py::test_a_reply_without_its_log_probabilities_is_asked_again"
        ],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "EndpointClient.pause",
        "self.resume_at = max(self.resume_at, time.monotonic() + seconds)",
        "pass",
        ["tests/generate/test_endpoint.py::test_a_busy_server_names_its_time"],
    ),
    Mutant(
        "posttrain/generate/endpoint.py",
        "EndpointClient.send_until_answered",
        "garbled >= GARBLED_ATTEMPTS",
        "False",
        ["tests/generate/test_endpoint.py::test_garbled_replies_are_paid_for_four_times_at_most"],
    ),
    # candidates
    Mutant(
        "gen_candidates.py",
        "recipe",
        "k // M % S",
        "k % S",
        ["tests/test_gen_candidates.py::test_recipe_covers_every_combination"],
    ),
    Mutant(
        "gen_candidates.py",
        "make_jobs",
        'seed_for(seed, row["id"], k)',
        'seed_for(0, row["id"], k)',
        ["tests/test_gen_candidates.py::test_limit_seed_and_greedy"],
    ),
    Mutant(
        "gen_candidates.py",
        "candidate_rows",
        "job.row",
        'job.row | {"prompt": job.prompt}',
        ["tests/test_gen_candidates.py::test_rows_are_complete_and_each_answer_is_its_own"],
    ),
    Mutant(
        "gen_candidates.py",
        "make_jobs",
        "name == model",
        "True",
        ["tests/test_gen_candidates.py::test_rows_are_complete_and_each_answer_is_its_own"],
    ),
    Mutant(
        "gen_candidates.py",
        "sample_batch",
        "len(job.ids) if number == 0 else 0",
        "len(job.ids)",
        ["tests/test_gen_candidates.py::test_rows_are_complete_and_each_answer_is_its_own"],
    ),
    Mutant(
        "gen_candidates.py",
        "main",
        'sums["tokens"] + sums["read"]',
        'sums["tokens"]',
        ["tests/test_cost.py::test_run_records_carry_forecast_and_measurement"],
    ),
]
