"""Planted faults in verifying: constraints, calls, code in its sandbox, grounding."""

from planting import Mutant

MUTANTS = [
    # inside the sandbox: what the tests decide
    Mutant(
        "inside.py",
        "ask",
        "next(lines) != token",
        "not next(lines)",
        ["tests/test_sandbox.py::test_a_result_counts_and_says_why"],
    ),
    Mutant(
        "inside.py",
        "Handle.__eq__",
        'ask("eq", self, os.urandom(8).hex()) is not True',
        "True",
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "Handle.__eq__",
        'self is other or not isinstance(other, Handle) or ask("eq", self, other) is not True',
        'self is other or ask("eq", self, other) is not True',
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "Names.__missing__",
        "hasattr(builtins, name)",
        'name == "__build_class__"',
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "tester_resolve",
        "raise ValueError(letter)",
        "return getattr(builtins, rest)",
        ["tests/test_sandbox.py::test_no_other_text_is_a_value"],
    ),
    Mutant(
        "inside.py",
        "ask",
        'verb != "next"',
        "False",
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "ask",
        "verb not in VERBS",
        "VERBS[verb] is None",
        ["tests/test_sandbox.py::test_what_is_not_supported_is_never_accepted"],
    ),
    Mutant(
        "inside.py",
        "run_test",
        'text and state["last"] is None',
        "False",
        ["tests/test_sandbox.py::test_a_result_counts_and_says_why"],
    ),
    Mutant(
        "inside.py",
        "ask",
        'ask("change", *one[2:], now)',
        "pass",
        ["tests/test_sandbox.py::test_an_honest_solution_is_accepted"],
    ),
    Mutant(
        "inside.py",
        "Names.__missing__",
        "__import__(name) if name in sys.stdlib_module_names else self.fetch(name)",
        "self.fetch(name)",
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "run_test",
        'state["broken"] or state["failed"]',
        'state["broken"]',
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "Handle.__getattr__",
        'name in PREDICATES and self._kind_ != "made"',
        "False",
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "Handle.__contains__",
        """
            (
                ask("contains", self, item) is True
                if made
                else any(one is item or one == item for one in self)
            )
        """,
        """
            (
                ask("contains", self, item) is True
                if True
                else any(one is item or one == item for one in self)
            )
        """,
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "inside.py",
        "",
        "os.environ.clear()",
        "pass",
        ["tests/test_sandbox.py::test_what_the_code_can_see"],
    ),
    Mutant(
        "inside.py",
        "",
        "512 << 20",
        "1 << 40",
        ["tests/test_sandbox.py::test_limits"],
    ),
    Mutant(
        "inside.py",
        "ask",
        "changed.items()",
        "()",
        ["tests/test_sandbox.py::test_an_honest_solution_is_accepted"],
    ),
    Mutant(
        "inside.py",
        "ask",
        'kind is StopIteration and verb != "next"',
        "kind is StopIteration",
        ["tests/test_sandbox.py::test_an_honest_solution_is_accepted"],
    ),
    # the sandbox and its walls
    Mutant(
        "sandbox.py",
        "compute_expected_first",
        "test.left, test.comparators = right, [left]",
        "pass",
        ["tests/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "sandbox.py",
        "parse_test",
        "ast.FunctionDef | ast.AsyncFunctionDef",
        "ast.FunctionDef",
        ["tests/test_sandbox.py::test_a_test_that_cannot_fail_is_refused"],
    ),
    Mutant(
        "sandbox.py",
        "find_sandbox",
        '"setpriv --pdeathsig KILL unshare -n -m -i -u -p -f --kill-child"',
        '"setpriv --pdeathsig KILL unshare -m -i -u -p -f --kill-child"',
        ["tests/test_sandbox.py::test_no_network"],
    ),
    Mutant(
        "sandbox.py",
        "run_pair",
        """
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        """,
        "pass",
        ["tests/test_sandbox.py::test_no_orphans_and_no_files"],
    ),
    Mutant(
        "sandbox.py",
        "run_tests",
        "command is None and not unsafe",
        "False",
        ["tests/test_sandbox.py::test_without_isolation_it_refuses"],
    ),
    # constraints and calls
    Mutant(
        "verify.py",
        "with_helpers",
        r"""
            (
                brought + test
                if "candidate" in test
                and any(re.search(rf"\b{one.name}\b", test) for one in helpers)
                else test
            )
        """,
        r'test if any(re.search(rf"\b{one.name}\b", test) for one in helpers) else test',
        ["tests/test_verify.py::test_verify"],
    ),
    Mutant(
        "verify.py",
        "check_constraint",
        'len({*responses} - {""}) == len(responses)',
        "True",
        ["tests/test_verify.py::test_constraint"],
    ),
    Mutant(
        "verify.py",
        "why_not_grounded",
        '{"additionalProperties": False} | schema',
        "schema",
        ["tests/test_grounding.py::test_hostile_and_unknown_arguments"],
    ),
    Mutant(
        "verify.py",
        "why_not_grounded.without_patterns",
        'names or key not in ("pattern", "patternProperties", "format")',
        'key not in ("pattern", "patternProperties", "format")',
        ["tests/test_grounding.py::test_a_grounded_call"],
    ),
    # grounding
    Mutant(
        "grounding.py",
        "invented.said",
        "numbers_of(word) <= known",
        "numbers_of(word) & known",
        ["tests/test_grounding.py::test_invented"],
    ),
    Mutant(
        "grounding.py",
        "invented.visit",
        "any(value == one and type(value) is type(one) for one in given)",
        "bool(given)",
        ["tests/test_grounding.py::test_invented"],
    ),
    Mutant(
        "grounding.py",
        "check_facts",
        "not numbers <= known and known or negated[0] != negated[1]",
        "not numbers <= known and known",
        ["tests/test_grounding.py::test_facts"],
    ),
    Mutant(
        "grounding.py",
        "check_facts",
        "covered < least or not names <= there",
        "covered < least",
        ["tests/test_grounding.py::test_facts"],
    ),
]
