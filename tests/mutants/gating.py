"""Planted faults in the gate: suites, answers, lineage. Its rule and its report: rule.py."""

from planting import Mutant

MUTANTS = [
    # suites, policies, lm-eval samples
    Mutant(
        "posttrain/gating/suite.py",
        "read_suite",
        'item["id"] not in items',
        "True",
        ["tests/gating/test_suite.py::test_ids_and_types_are_checked_across_files"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "read_suite",
        'kind == item["type"]',
        "True",
        ["tests/gating/test_suite.py::test_ids_and_types_are_checked_across_files"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "read_suite",
        """
            (
                types.setdefault(item["slice"], item["type"])
                if item["type"] in SCORED
                else item["type"]
            )
        """,
        'types.setdefault(item["slice"], item["type"]) if item["type"] else ""',
        ["tests/gating/test_suite.py::test_ids_and_types_are_checked_across_files"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "choice_index",
        "2 <= len(texts) == len({*texts}) == len(choices) <= 10",
        "2 <= len(texts) == len(choices) <= 10",
        ["tests/gating/test_suite.py::test_a_bad_row_is_named_with_its_place_and_field"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "choice_index",
        "len(meant) < 2",
        "True",
        ["tests/gating/test_suite.py::test_a_bad_row_is_named_with_its_place_and_field"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "choice_index",
        "meant[0] in range(len(texts))",
        "meant[0] < len(texts)",
        ["tests/gating/test_suite.py::test_a_bad_row_is_named_with_its_place_and_field"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "suite_item",
        "{*FIELDS}",
        '{*FIELDS, "evidence"}',
        ["tests/gating/test_suite.py::test_a_bad_row_is_named_with_its_place_and_field"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "suite_item",
        'item.setdefault("expected", kind) == kind',
        'item.setdefault("expected", kind)',
        ["tests/gating/test_suite.py::test_a_bad_row_is_named_with_its_place_and_field"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "suite_item",
        'ALIASES.get(kind, "id") in item',
        "True",
        ["tests/gating/test_suite.py::test_an_alias_demands_its_field"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "read_suite",
        "read_jsonl(file, limit)",
        "read_jsonl(file)[:limit]",
        ["tests/gating/test_suite.py::test_a_huge_file_is_not_read_whole"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "read_policy",
        "(field, row[field]) not in lines",
        "True",
        ["tests/gating/test_suite.py::test_a_bad_policy"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "read_policy",
        "{field} < row.keys() <= keys",
        "{field} <= row.keys() <= keys",
        ["tests/gating/test_suite.py::test_a_bad_policy"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "read_policy",
        'base | lines.get(("slice", name), {})',
        'lines.get(("slice", name), {}) | base',
        ["tests/gating/test_suite.py::test_a_policy"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "join_task",
        "one[field] == other[field]",
        "True",
        ["tests/gating/test_suite.py::test_runs_that_cannot_be_compared"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "join_task",
        "max(map(len, read))",
        "min(map(len, read))",
        ["tests/gating/test_suite.py::test_runs_that_cannot_be_compared"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "join_task",
        'row["doc_hash"] in again and row["doc_id"]',
        "False",
        ["tests/gating/test_suite.py::test_the_same_document_twice_is_joined_by_number"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "sample_files",
        "(min(files), max(files))",
        "(max(files), min(files))",
        ["tests/gating/test_suite.py::test_the_newest_file_of_a_task_and_only_one_model"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "sample_files",
        "len({file.parent for _, file in files}) > 1",
        "len(files) > 99",
        ["tests/gating/test_suite.py::test_the_newest_file_of_a_task_and_only_one_model"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "join_task",
        '"strict" not in name',
        "0",
        ["tests/gating/test_suite.py::test_strict_filters_and_the_order_of_metrics"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "join_task",
        """
            {
                "id": f"{task}:{one['doc_id']}",
                "slice": task,
                "cluster": one["doc_hash"],
                "type": "lm-eval",
                "candidate": float(one[metric]),
                "baseline": float(other[metric]),
            }
        """,
        """
            {
                "id": f"{task}:{one['doc_id']}",
                "slice": task,
                "cluster": one["doc_hash"],
                "type": "lm-eval",
                "candidate": float(other[metric]),
                "baseline": float(one[metric]),
            }
        """,
        ["tests/gating/test_suite.py::test_two_runs_are_joined"],
    ),
    Mutant(
        "posttrain/gating/suite.py",
        "join_task",
        'ids[row["doc_id"]] == 1',
        "True",
        ["tests/gating/test_suite.py::test_runs_that_cannot_be_compared"],
    ),
    # answers
    Mutant(
        "posttrain/gating/answers.py",
        "key_of",
        'item.get("choices")',
        "None",
        ["tests/test_gate.py::test_nothing_stale_is_borrowed"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "read_answers",
        "not is_answer(row, keys)",
        "False",
        ["tests/test_gate.py::test_nothing_stale_is_borrowed"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "is_answer",
        'keys.get(str(row["id"])) == row["of"]',
        'row["id"] in keys',
        ["tests/test_gate.py::test_baseline_answers_are_borrowed"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "lendable",
        'record.get("baseline_key") == key',
        'record.get("baseline_key")',
        ["tests/test_gate.py::test_baseline_answers_are_borrowed"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "grade",
        'one["ok"] and one["text"].strip()',
        'one["ok"]',
        ["tests/test_gate.py::test_grade"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "grade",
        'None in [one["ok"] for one in own]',
        "False",
        ["tests/test_gate.py::test_grade"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "choose",
        '[{"ids": row["ids"][:-1], "mask": row["mask"][:-1]} for row in rows]',
        '[{"ids": row["ids"][:-1], "mask": row["mask"][:-1]} for row in rows[::-1]]',
        ["tests/test_gate.py::test_multiple_choice_by_log_likelihood"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "choose",
        "choice.encode",
        "choice.split",
        ["tests/test_gate.py::test_multiple_choice_by_log_likelihood"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "compare",
        'own["text"] != base["text"]',
        "True",
        ["tests/test_gate.py::test_equal_answers_are_a_tie_unasked"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "compare",
        "enumerate((own, base))",
        "enumerate((base, own))",
        ["tests/test_gate.py::test_head_to_head_by_a_judge"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "grade",
        '{"candidate": 1.0, "tie": 0.5, "baseline": 0.0}',
        '{"candidate": 0.0, "tie": 0.5, "baseline": 1.0}',
        ["tests/test_gate.py::test_grade_other_types"],
    ),
    Mutant(
        "posttrain/gating/answers.py",
        "choose",
        "continue_lines(path, [1] * len(jobs))",
        "len(read_jsonl(path)) if path.exists() else 0",
        ["tests/test_gate.py::test_resume_after_a_cut_at_any_byte"],
    ),
    # lineage
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
        "_start_folder",
        "record_path.removesuffix(path_when_written) or default",
        "record_path.removesuffix(path_when_written)",
        ["tests/run/test_lineage.py::test_an_absolute_output_of_relative_inputs"],
    ),
    Mutant(
        "posttrain/run/lineage.py",
        "_start_folder",
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
    # the gate itself
    Mutant(
        "gate.py",
        "",
        '{"SHIP": 0, "BLOCK": 1, "NOT ENOUGH DATA": 3}',
        '{"SHIP": 0, "BLOCK": 0, "NOT ENOUGH DATA": 3}',
        ["tests/test_gate.py::test_ship_block_and_not_enough_data"],
    ),
    Mutant(
        "gate.py",
        "decide",
        'c["baseline"] and not c["candidate"] and c.get("confirmed", True)',
        'not c["candidate"]',
        ["tests/test_gate.py::test_decide"],
    ),
    Mutant(
        "gate.py",
        "decide",
        'c["baseline"] and not c["candidate"] and c.get("confirmed", True)',
        'c["baseline"] and not c["candidate"]',
        ["tests/test_gate.py::test_decide"],
    ),
    Mutant(
        "gate.py",
        "decide",
        '{name: s for name, s in slices.items() if s.get("hard", True)}',
        "slices",
        ["tests/test_gate.py::test_decide"],
    ),
    Mutant(
        "gate.py",
        "decide",
        "needs or not hard",
        "needs",
        ["tests/test_gate.py::test_decide"],
    ),
    Mutant(
        "gate.py",
        "decide",
        'lambda name: hard[name]["delta"]',
        "str",
        ["tests/test_gate.py::test_decide"],
    ),
    Mutant(
        "gate.py",
        "gather.ask",
        'seed_for(args.seed, role, item["id"], n)',
        'seed_for(args.seed, item["id"], n)',
        ["tests/test_gate.py::test_a_model_against_itself_is_not_blocked"],
    ),
    Mutant(
        "gate.py",
        "draws_of",
        "k * BASELINE_DRAWS",
        "k",
        ["tests/test_gate.py::test_clear_slices_are_asked_no_more"],
    ),
    Mutant(
        "gate.py",
        "gather",
        'not all(passes("candidate", item, n) for n in range(2))',
        "True",
        ["tests/test_gate.py::test_canaries"],
    ),
    Mutant(
        "gate.py",
        "gather",
        'all(passes("candidate", item, n) for n in range(2))',
        'passes("candidate", item, 0)',
        ["tests/test_gate.py::test_canaries"],
    ),
    Mutant(
        "gate.py",
        "main",
        "args.temperature if args.model_temperature is None else args.model_temperature",
        "args.temperature",
        ["tests/test_gate.py::test_greedy_beside_and_a_cooler_candidate"],
    ),
    Mutant(
        "gate.py",
        "main",
        """
            [
                fingerprint(args.baseline, args.quantize),
                ends,
                args.temperature,
                args.max_tokens,
                args.seed,
            ]
        """,
        "[fingerprint(args.baseline, args.quantize), ends, args.temperature, args.max_tokens]",
        ["tests/test_gate.py::test_baseline_answers_are_borrowed"],
    ),
    Mutant(
        "gate.py",
        "main",
        'contaminated(args.judge, args.model) if summary["winrate"] else None',
        "None",
        ["tests/test_gate.py::test_a_judge_that_made_the_training_data_is_named"],
    ),
    Mutant(
        "gate.py",
        "main",
        """
            [
                fingerprint(args.baseline, args.quantize),
                ends,
                args.temperature,
                args.max_tokens,
                args.seed,
            ]
        """,
        """
            [
                fingerprint(args.baseline, args.quantize),
                args.temperature,
                args.max_tokens,
                args.seed,
            ]
        """,
        ["tests/test_gate.py::test_nothing_stale_is_borrowed"],
    ),
    Mutant(
        "gate.py",
        "main",
        "load_tokenizer(args.judge)",
        "pass",
        ["tests/test_gate.py::test_nothing_is_asked_in_vain"],
    ),
    Mutant(
        "gate.py",
        "main",
        "args.latency > len(asked)",
        "not asked",
        ["tests/test_gate.py::test_flags_that_do_not_go_together"],
    ),
    Mutant(
        "gate.py",
        "decide",
        """
            f"no slice fell; {'improved' if overall['low'] > 0 else 'no improvement shown'}: {gain}"
        """,
        """
            (
                f"no slice fell; {'improved' if overall['delta'] > -1 else 'no improvement shown'}"
                f": {gain}"
            )
        """,
        ["tests/test_gate.py::test_decide"],
    ),
]
