"""Planted faults in the filters of candidates."""

from planting import Mutant

MUTANTS = [
    Mutant(
        "posttrain/filters.py",
        "same_answers",
        '(rows[n].get("verify") or {}).get("ok") or is_refusal(texts[n])',
        "is_refusal(texts[n])",
        ["tests/test_filters.py::test_same_answer_to_many_requests"],
    ),
    Mutant(
        "posttrain/filters.py",
        "language",
        """
            (
                first >= 1.5 * second
                and first >= 0.1 * words.total()
                and len(words.keys() & STOP_WORDS[name]) >= 3
            )
        """,
        "first >= 1.5 * second and True",
        ["tests/test_filters.py::test_language"],
    ),
    Mutant(
        "posttrain/filters.py",
        "find_flags",
        "calls or ELSEWHERE.search(request)",
        "calls",
        ["tests/test_filters.py::test_language_switch"],
    ),
    Mutant(
        "posttrain/filters.py",
        "find_flags",
        "(code_free, code_free[len(code_free) // 2 :])",
        "(code_free,)",
        ["tests/test_filters.py::test_another_language"],
    ),
    Mutant(
        "posttrain/filters.py",
        "repeats",
        "(runs, runs[-60:])",
        "(runs,)",
        ["tests/test_filters.py::test_repetition_and_markers"],
    ),
    Mutant(
        "posttrain/filters.py",
        "same_answers",
        "max(least, share * len(askers))",
        "least",
        ["tests/test_filters.py::test_the_same_answer_now_and_then"],
    ),
    Mutant(
        "posttrain/filters.py",
        "same_answers",
        """
            (
                explained
                or right
                or rows[n]["completion"][0].get("tool_calls")
                or brief
                and len(said[n]) <= 5
            )
        """,
        'right or rows[n]["completion"][0].get("tool_calls") or brief and len(said[n]) <= 5',
        ["tests/test_filters.py::test_what_may_be_the_same"],
    ),
    Mutant(
        "posttrain/filters.py",
        "finds_injection",
        "found[0].casefold() not in request",
        "True",
        ["tests/test_filters.py::test_what_the_request_speaks_of_is_no_injection"],
    ),
    Mutant(
        "posttrain/filters.py",
        "",
        r'''r"""(?:(?:ai|llm|human|automatic|automated|impartial|fair|strict|expert|neutral|objective|
        independent) ){0,3}
        (?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|examiners?|scorers?|
        (?:grading|evaluation|judging|scoring|reward|judge) model|
        model (?:that is )?(?:scoring|grading|judging|evaluating|rating))\b"""''',
        r'''r"""(?:(?:ai|llm|human|automatic|automated|impartial|fair|strict|expert|neutral|objective|
        independent) )*
        (?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|examiners?|scorers?|
        (?:grading|evaluation|judging|scoring|reward|judge) model|
        model (?:that is )?(?:scoring|grading|judging|evaluating|rating))\b"""''',
        ["tests/test_filters.py::test_no_text_takes_long"],
    ),
]
