"""Planted faults in sampling, endpoints and candidates."""

from planting import Mutant

MUTANTS = [
    # sampling
    Mutant(
        "inference.py",
        "sample",
        "logits / heat.where(heat > 0, 1)",
        "logits",
        ["tests/generate/test_local.py::test_temperature_is_that_of_the_softmax"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        ["tests/generate/test_local.py::test_seed_decides"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "row[2][len(row[3])]",
        "row[2][0]",
        ["tests/generate/test_local.py::test_each_step_draws_anew"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "[[row[2][len(row[3])]] for row in alive]",
        "[[row[2][len(row[3])]] for row in rows[: len(alive)]]",
        ["tests/generate/test_local.py::test_an_answer_depends_on_its_own_seed_alone"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "padded_ids([jobs[j][0] for j in read], stops[0], model.device, left=True)",
        "padded_ids([jobs[j][0] for j in read], stops[0], model.device, left=False)",
        ["tests/generate/test_local.py::test_greedy_equals_generate"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "position + 1",
        "position",
        ["tests/generate/test_local.py::test_greedy_equals_generate"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "sample",
        "stop_ids(tokenizer)",
        "stop_ids(tokenizer)[:1]",
        ["tests/generate/test_local.py::test_greedy_equals_generate"],
    ),
    Mutant(
        "inference.py",
        "sample",
        '(ids[:-1], ids, "stop")',
        '(ids, ids, "stop")',
        ["tests/generate/test_local.py::test_stop_token_is_counted_but_not_in_the_text"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "[alive[i] for i in keep]",
        "alive[: len(keep)]",
        ["tests/generate/test_local.py::test_an_answer_depends_on_its_own_seed_alone"],
    ),
    Mutant(
        "inference.py",
        "GrowingLayer.batch_select_indices",
        "[indices[i] for i in moved]",
        "moved",
        ["tests/generate/test_local.py::test_an_answer_depends_on_its_own_seed_alone"],
    ),
    Mutant(
        "inference.py",
        "GrowingLayer.__init__",
        "(0, 0, T - x.shape[2], 0)",
        "(0, 0, 0, T - x.shape[2])",
        ["tests/generate/test_local.py::test_rows_that_wait_change_no_answer"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "Batch.admit",
        "position.max",
        "place.max",
        ["tests/generate/test_local.py::test_rows_that_wait_change_no_answer"],
    ),
    Mutant(
        "inference.py",
        "sample",
        "not alive or plain and free > slots // 8",
        "not alive",
        ["tests/generate/test_local.py::test_waiting_rows_take_the_places_of_those_that_end"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "is_plain",
        "type(layer) is DynamicLayer",
        "isinstance(layer, DynamicLayer)",
        ["tests/generate/test_local.py::test_a_sliding_window_is_not_refilled"],
    ),
    Mutant(
        "posttrain/generate/local.py",
        "generation_batches",
        "rows + rows_per_job[job] > batch_rows",
        "rows + rows_per_job[job] > 2 * batch_rows",
        ["tests/generate/test_local.py::test_batches_hold_every_job_once"],
    ),
    # endpoints
    Mutant(
        "inference.py",
        "seconds_to_wait",
        "max(named, 0.0)",
        "PAUSE",
        ["tests/generate/test_endpoint.py::test_a_busy_server_names_its_time"],
    ),
    Mutant(
        "inference.py",
        "seconds_to_wait",
        "max(named, 0.0) if named <= LONGEST else None",
        "max(named, 0.0) if named <= LONGEST else 0.0",
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
        "inference.py",
        "ask_endpoint",
        "key in known",
        "key in known and not kept",
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
        "inference.py",
        "ask_endpoint.one",
        'append_lines(kept, [{"key": key} | reply])',
        'str([{"key": key} | reply])',
        ["tests/generate/test_endpoint.py::test_killed_and_disturbed_it_ends_the_same"],
    ),
    Mutant(
        "inference.py",
        "ask_endpoint.one",
        "attempt < 2",
        "attempt < 0",
        [
            "tests/generate/test_endpoint.py::test_a_reply_without_its_log_probabilities_is_asked_again"
        ],
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
        "main",
        'seed_for(args.seed, job["row"]["id"], k)',
        'seed_for(0, job["row"]["id"], k)',
        ["tests/test_gen_candidates.py::test_limit_seed_and_greedy"],
    ),
    Mutant(
        "gen_candidates.py",
        "main",
        """
            candidate_row(
                job["row"],
                k,
                made_by[k],
                families[made_by[k][0]],
                seed,
                answer,
                answer.get("read", len(job["ids"]) if k == job["numbers"][0] else 0),
            )
        """,
        """
            candidate_row(
                job["row"] | {"prompt": job["prompt"]},
                k,
                made_by[k],
                families[made_by[k][0]],
                seed,
                answer,
                answer.get("read", len(job["ids"]) if k == job["numbers"][0] else 0),
            )
        """,
        ["tests/test_gen_candidates.py::test_rows_are_complete_and_each_answer_is_its_own"],
    ),
    Mutant(
        "gen_candidates.py",
        "main",
        'row["tokens"] + row["read"]',
        'row["tokens"]',
        ["tests/test_cost.py::test_run_records_carry_forecast_and_measurement"],
    ),
]
