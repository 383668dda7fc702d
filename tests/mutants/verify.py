"""Planted faults in verifying: constraints, calls, code in its sandbox, grounding."""

from planting import Mutant

MUTANTS = [
    # inside the sandbox: what the tests decide
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "ask",
        "next(lines) != token",
        "not next(lines)",
        ["tests/verify/test_sandbox.py::test_a_result_counts_and_says_why"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "Handle.__eq__",
        'ask("eq", self, os.urandom(8).hex()) is not True',
        "True",
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "Handle.__eq__",
        'self is other or not isinstance(other, Handle) or ask("eq", self, other) is not True',
        'self is other or ask("eq", self, other) is not True',
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "Names.__missing__",
        "hasattr(builtins, name)",
        'name == "__build_class__"',
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "tester_resolve",
        "raise ValueError(letter)",
        "return getattr(builtins, rest)",
        ["tests/verify/test_sandbox.py::test_no_other_text_is_a_value"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "ask",
        'verb != "next"',
        "False",
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "ask",
        "verb not in VERBS",
        "VERBS[verb] is None",
        ["tests/verify/test_sandbox.py::test_what_is_not_supported_is_never_accepted"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "run_test",
        'text and state["last"] is None',
        "False",
        ["tests/verify/test_sandbox.py::test_a_result_counts_and_says_why"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "ask",
        'ask("change", *one[2:], now)',
        "pass",
        ["tests/verify/test_sandbox.py::test_an_honest_solution_is_accepted"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "Names.__missing__",
        "__import__(name) if name in sys.stdlib_module_names else self.fetch(name)",
        "self.fetch(name)",
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "run_test",
        'state["broken"] or state["failed"]',
        'state["broken"]',
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "Handle.__getattr__",
        'name in PREDICATES and self._kind_ != "made"',
        "False",
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
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
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "",
        "os.environ.clear()",
        "pass",
        ["tests/verify/test_sandbox.py::test_what_the_code_can_see"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "",
        "512 << 20",
        "1 << 40",
        ["tests/verify/test_sandbox.py::test_limits"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "ask",
        "changed.items()",
        "()",
        ["tests/verify/test_sandbox.py::test_an_honest_solution_is_accepted"],
    ),
    Mutant(
        "posttrain/verify/sandbox_child.py",
        "ask",
        'kind is StopIteration and verb != "next"',
        "kind is StopIteration",
        ["tests/verify/test_sandbox.py::test_an_honest_solution_is_accepted"],
    ),
    # the sandbox and its walls
    Mutant(
        "posttrain/verify/sandbox.py",
        "compute_expected_first",
        "test.left, test.comparators = right, [left]",
        "pass",
        ["tests/verify/test_sandbox.py::test_a_reward_hack_is_rejected"],
    ),
    Mutant(
        "posttrain/verify/sandbox.py",
        "parse_test",
        "ast.FunctionDef | ast.AsyncFunctionDef",
        "ast.FunctionDef",
        ["tests/verify/test_sandbox.py::test_a_test_that_cannot_fail_is_refused"],
    ),
    Mutant(
        "posttrain/verify/sandbox.py",
        "find_sandbox",
        '"setpriv --pdeathsig KILL unshare -n -m -i -u -p -f --kill-child"',
        '"setpriv --pdeathsig KILL unshare -m -i -u -p -f --kill-child"',
        ["tests/verify/test_sandbox.py::test_no_network"],
    ),
    Mutant(
        "posttrain/verify/sandbox.py",
        "run_pair",
        """
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        """,
        "pass",
        ["tests/verify/test_sandbox.py::test_no_orphans_and_no_files"],
    ),
    Mutant(
        "posttrain/verify/sandbox.py",
        "run_tests",
        "command is None and not unsafe",
        "False",
        ["tests/verify/test_sandbox.py::test_without_isolation_it_refuses"],
    ),
    # constraints and calls
    Mutant(
        "posttrain/verify/checks.py",
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
        ["tests/verify/test_verify.py::test_verify"],
    ),
    Mutant(
        "posttrain/verify/checks.py",
        "check_constraint",
        'len({*responses} - {""}) == len(responses)',
        "True",
        ["tests/verify/test_verify.py::test_constraint"],
    ),
    Mutant(
        "posttrain/verify/checks.py",
        "why_not_grounded",
        '{"additionalProperties": False} | schema',
        "schema",
        ["tests/verify/test_grounding.py::test_hostile_and_unknown_arguments"],
    ),
    Mutant(
        "posttrain/verify/checks.py",
        "why_not_grounded.without_patterns",
        'names or key not in ("pattern", "patternProperties", "format")',
        'key not in ("pattern", "patternProperties", "format")',
        ["tests/verify/test_grounding.py::test_a_grounded_call"],
    ),
    # grounding
    Mutant(
        "posttrain/verify/grounding.py",
        "invented.said",
        "numbers_of(word) <= known",
        "numbers_of(word) & known",
        ["tests/verify/test_grounding.py::test_invented"],
    ),
    Mutant(
        "posttrain/verify/grounding.py",
        "invented.visit",
        "any(value == one and type(value) is type(one) for one in given)",
        "bool(given)",
        ["tests/verify/test_grounding.py::test_invented"],
    ),
    Mutant(
        "posttrain/verify/grounding.py",
        "check_facts",
        "not numbers <= known and known or negated[0] != negated[1]",
        "not numbers <= known and known",
        ["tests/verify/test_grounding.py::test_facts"],
    ),
    Mutant(
        "posttrain/verify/grounding.py",
        "check_facts",
        "covered < least or not names <= there",
        "covered < least",
        ["tests/verify/test_grounding.py::test_facts"],
    ),
]
