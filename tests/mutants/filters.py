"""Planted faults in the filters of candidates."""

from planting import Mutant

MUTANTS = [
    Mutant(
        "posttrain/filters.py",
        "may_recur",
        "words_and_calls(row)[1]",
        'row["completion"][0].get("tool_calls")',
        ["tests/test_filters.py::test_native_calls_recur"],
    ),
    Mutant(
        "posttrain/filters.py",
        "words_and_calls",
        "(reading.prose, reading.calls)",
        "(text, reading.calls)",
        ["tests/test_filters.py::test_a_native_call_is_no_text"],
    ),
    Mutant(
        "posttrain/filters.py",
        "words_and_calls",
        'tool_calls or not row.get("tools")',
        "tool_calls",
        ["tests/test_filters.py::test_a_native_call_is_no_text"],
    ),
    Mutant(
        "posttrain/filters.py",
        "may_recur",
        "is_right or is_refusal(text) or words_and_calls(row)[1]",
        "is_refusal(text) or words_and_calls(row)[1]",
        ["tests/test_filters.py::test_same_answer_to_many_requests"],
    ),
    Mutant(
        "posttrain/filters.py",
        "language_of_words",
        "is_clear and is_frequent and is_varied",
        "is_clear",
        ["tests/test_filters.py::test_language"],
    ),
    Mutant(
        "posttrain/filters.py",
        "language_of_script",
        '0.15 if name == "ja" else 0.5',
        "0.5",
        ["tests/test_filters.py::test_language"],
    ),
    Mutant(
        "posttrain/filters.py",
        "is_in_another_language",
        "answer.tool_calls or ELSEWHERE.search(answer.request)",
        "answer.tool_calls",
        ["tests/test_filters.py::test_language_switch"],
    ),
    Mutant(
        "posttrain/filters.py",
        "is_in_another_language",
        "{language(answer.code_free), language(answer.code_free[half:])}",
        "{language(answer.code_free)}",
        ["tests/test_filters.py::test_another_language"],
    ),
    Mutant(
        "posttrain/filters.py",
        "is_repetitive",
        "mostly_repeats(runs) or mostly_repeats(runs[-60:])",
        "mostly_repeats(runs)",
        ["tests/test_filters.py::test_repetition_and_markers"],
    ),
    Mutant(
        "posttrain/filters.py",
        "has_policy_words",
        '("all", answer.row.get("slice", "all"))',
        '("all",)',
        ["tests/test_filters.py::test_policy_words"],
    ),
    Mutant(
        "posttrain/filters.py",
        "alike",
        "max(SAME_LEAST, SAME_SHARE * len(keys_of_prompt))",
        "SAME_LEAST",
        ["tests/test_filters.py::test_the_same_answer_now_and_then"],
    ),
    Mutant(
        "posttrain/filters.py",
        "alike",
        "(count[hash(run)], run)",
        "(count[hash(run)], hash(run))",
        ["tests/test_filters.py::test_templates_are_grouped_alike_in_every_process"],
    ),
    Mutant(
        "posttrain/filters.py",
        "same_answers",
        "len(groups) > 1",
        "False",
        ["tests/test_filters.py::test_the_same_answer_over_slices"],
    ),
    Mutant(
        "posttrain/filters.py",
        "same_in_group",
        "is_explained(members, others, requests)",
        "False",
        ["tests/test_filters.py::test_what_may_be_the_same"],
    ),
    Mutant(
        "posttrain/filters.py",
        "odd_lengths",
        "len(logs) < LENGTH_LEAST",
        "False",
        ["tests/test_filters.py::test_length_outliers"],
    ),
    Mutant(
        "posttrain/filters.py",
        "finds_injection",
        "match[0].casefold() not in request",
        "True",
        ["tests/test_filters.py::test_what_the_request_speaks_of_is_no_injection"],
    ),
    Mutant(
        "posttrain/filters.py",
        "is_json_verdict",
        """
            try:
                data = json.loads(bare)
            except (ValueError, RecursionError):
                return False
        """,
        """
            try:
                data = json.loads(bare)
            except (ValueError, RecursionError):
                return True
        """,
        ["tests/test_filters.py::test_find_flags"],
    ),
    Mutant(
        "posttrain/filter_patterns.py",
        "",
        r'''r"""(?:(?:ai|llm|human|automatic|automated|impartial|fair|strict|expert|neutral|
        objective|independent) ){0,3}
        (?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|examiners?|scorers?|
        (?:grading|evaluation|judging|scoring|reward|judge) model|
        model (?:that is )?(?:scoring|grading|judging|evaluating|rating))\b"""''',
        r'''r"""(?:(?:ai|llm|human|automatic|automated|impartial|fair|strict|expert|neutral|
        objective|independent) )*
        (?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|examiners?|scorers?|
        (?:grading|evaluation|judging|scoring|reward|judge) model|
        model (?:that is )?(?:scoring|grading|judging|evaluating|rating))\b"""''',
        ["tests/test_filters.py::test_no_text_takes_long"],
    ),
]
