"""Planted faults in what the gate computes and shows: measures, the rule, its error rates, summary, report."""

from planting import Mutant


def faults(file, tests, rows):
    """Mutants of one file; rows: (function, pattern, replacement, name of a test in `tests`)."""
    mutants = []
    for function, pattern, replacement, test in rows:
        mutants.append(Mutant(file, function, pattern, replacement, [f"{tests}::{test}"]))
    return mutants


MEASURES = faults(
    "posttrain/gating/measures.py",
    "tests/gating/test_measures.py",
    [
        (
            "paired",
            "math.sqrt(clusters / (clusters - 1) * float(sums @ sums)) / n",
            "float(np.std(d, ddof=1)) / math.sqrt(n)",
            "test_copies_in_a_cluster_add_no_evidence",
        ),
        ("paired", "max(error, floor / clusters)", "error", "test_clusters_by_hand"),
        ("pool", "part.error**4 / part.df", "part.error**4 / 99", "test_pool_by_hand"),
        ("pool", "part.clusters > 1", "part.clusters", "test_pool_by_hand"),
        (
            "half_width",
            "misses / 2",
            "misses",
            "test_paired_is_the_paired_t_test",
        ),
        (
            "win_rate",
            "max(error, (2 + 2 * math.cosh(theta)) / difference.clusters)",
            "error",
            "test_win_rates_at_the_edge",
        ),
        ("win_rate", "p > 0.5", "p >= 0.5", "test_what_a_win_is"),
        ("win_rate", "p < 0.5", "p <= 0.5", "test_what_a_win_is"),
        (
            "win_rate",
            "half_width(difference, MISSES / looks)",
            "half_width(difference, MISSES)",
            "test_looks_widen_the_intervals_of_a_win_rate",
        ),
        (
            "win_rate",
            "half_width(Difference(theta, error, difference.clusters), MISSES / looks)",
            "half_width(Difference(theta, error, difference.clusters))",
            "test_looks_widen_the_intervals_of_a_win_rate",
        ),
        (
            "lengths_meet",
            "shorter and longer and least <= length_ratio <= most",
            "least <= length_ratio <= most",
            "test_lengths_that_never_meet_are_outside",
        ),
        (
            "lengths_meet",
            "np.mean(gap <= 0) >= LEAST_SHARE_EACH_WAY",
            "np.mean(gap <= 0) > LEAST_SHARE_EACH_WAY",
            "test_where_lengths_meet",
        ),
        (
            "lengths_meet",
            "np.mean(gap >= 0) >= LEAST_SHARE_EACH_WAY",
            "np.mean(gap >= 0) > LEAST_SHARE_EACH_WAY",
            "test_where_lengths_meet",
        ),
        (
            "lengths_meet",
            "least <= length_ratio <= most",
            "least < length_ratio < most",
            "test_where_lengths_meet",
        ),
        (
            "rate_at_equal_lengths",
            "np.add.at(scores, groups, X * (p - q)[:, None])",
            "np.add.at(scores, np.arange(len(p)) % clusters, X * (p - q)[:, None])",
            "test_copies_in_clusters_do_not_narrow_a_win_rate",
        ),
        (
            "rate_at_equal_lengths",
            "gap / gap.std()",
            "np.abs(gap) / gap.std()",
            "test_the_length_controlled_fit_is_the_right_one",
        ),
        (
            "rate_at_equal_lengths",
            "np.linalg.eigvalsh(A)[0] < 1e-6 * len(p)",
            "np.linalg.cond(A) > 1e10",
            "test_win_rates_at_the_edge",
        ),
        (
            "rate_at_equal_lengths",
            "clusters <= len(columns)",
            "False",
            "test_win_rates_at_the_edge",
        ),
        (
            "difference_of",
            "max(mean - width, -1.0)",
            "mean - width",
            "test_difference_of_shares",
        ),
        (
            "token_pairs",
            '"right_tokens_" if row["type"] == "verify" else "tokens_"',
            '"tokens_"',
            "test_tokens_are_compared_between_right_answers",
        ),
        (
            "token_pairs",
            "candidate and baseline",
            "candidate is not None and baseline is not None",
            "test_tokens_are_compared_between_right_answers",
        ),
        (
            "budgets",
            "MISSES / len(by_slice)",
            "MISSES",
            "test_growth_in_one_slice_is_not_diluted",
        ),
        (
            "budget",
            "limit_of(ratio.low, limit)",
            "limit_of(ratio.ratio, limit)",
            "test_a_budget_fails_when_it_surely_broke",
        ),
        (
            "budget",
            "len(pairs) < LEAST_ITEMS",
            "len(pairs) <= LEAST_ITEMS",
            "test_a_budget_of_few_says_nothing",
        ),
        ("limit_of", "low > limit", "low >= limit", "test_a_limit_is_overdrawn_above_it"),
        (
            "limit_of",
            "limit is not None and low > limit",
            "bool(limit) and low > limit",
            "test_a_limit_is_overdrawn_above_it",
        ),
    ],
)

RULE = faults(
    "posttrain/gating/rule.py",
    "tests/gating/test_rule.py",
    [
        (
            "fell",
            """
                (
                    estimate.mean <= -DUST
                    and estimate.mean < quantile(level, estimate.df) * estimate.error
                )
            """,
            "estimate.mean < quantile(level, estimate.df) * estimate.error",
            "test_a_drop_of_less_than_a_point_is_dust",
        ),
        (
            "fell",
            "estimate.mean <= -DUST",
            "estimate.mean < -DUST",
            "test_a_drop_of_less_than_a_point_is_dust",
        ),
        (
            "low_bound",
            "max(3.0, z * z / 2 + z * math.sqrt(lost + z * z / 4))",
            "z * z / 2 + z * math.sqrt(lost + z * z / 4)",
            "test_a_bound_at_the_margin_does_not_clear",
        ),
        (
            "low_bound",
            "max(-mean, 0.0) * clusters",
            "0.0",
            "test_whole_losses_of_few_prompts_are_seen",
        ),
        (
            "clears",
            'enough_clusters and low_bound(difference, level) > -policy["margin"]',
            'low_bound(difference, level) > -policy["margin"]',
            "test_a_slice_is_cleared_on_enough_prompts",
        ),
        (
            "clears",
            'difference.clusters >= policy["min_n"]',
            'difference.clusters > policy["min_n"]',
            "test_a_slice_is_cleared_on_enough_prompts",
        ),
        (
            "clears",
            'low_bound(difference, level) > -policy["margin"]',
            'low_bound(difference, level) >= -policy["margin"]',
            "test_a_bound_at_the_margin_does_not_clear",
        ),
        (
            "can_clear",
            'clusters >= policy["min_n"]',
            'clusters > policy["min_n"]',
            "test_a_bound_at_the_margin_does_not_clear",
        ),
        (
            "can_clear",
            'low_bound(agreeing, ALPHA) > -policy["margin"]',
            'low_bound(agreeing, ALPHA) >= -policy["margin"]',
            "test_a_bound_at_the_margin_does_not_clear",
        ),
        (
            "slice_verdict",
            "ALPHA / hypotheses / times",
            "ALPHA / hypotheses",
            "test_the_level_of_a_failure",
        ),
        (
            "slice_verdict",
            "clears(difference, policy, ALPHA / times)",
            "clears(difference, policy, ALPHA / looks)",
            "test_a_slice_clears_at_its_share_of_the_level",
        ),
        (
            "slice_verdict",
            "clears(difference, policy, ALPHA / times)",
            "clears(difference, policy, ALPHA)",
            "test_a_slice_clears_at_its_share_of_the_level",
        ),
        (
            "slice_verdict",
            'policy["hard"] and fell(difference, ALPHA / hypotheses / times)',
            "fell(difference, ALPHA / hypotheses / times)",
            "test_soft_slices_neither_fail_nor_count",
        ),
        (
            "sequential",
            "ALPHA / hypotheses / len(looks)",
            "ALPHA / hypotheses",
            "test_the_level_of_a_fallen_mean",
        ),
        (
            "sequential",
            "ALPHA / hypotheses / len(looks)",
            "ALPHA / hypotheses / len(looks) / 2",
            "test_the_level_of_a_fallen_mean",
        ),
        (
            "sequential",
            "hard or policies",
            "policies",
            "test_soft_slices_neither_fail_nor_count",
        ),
        (
            "sequential",
            "if hard:\n    decision.mean_fell = fell(mean, ALPHA / hypotheses / len(looks))",
            "decision.mean_fell = fell(mean, ALPHA / hypotheses / len(looks))",
            "test_soft_slices_neither_fail_nor_count",
        ),
        (
            "sequential",
            "[name for name in hard if name in policies]",
            "hard",
            "test_slices_without_items_break_nothing",
        ),
        (
            "sequential",
            """
                decision.verdicts[name] = slice_verdict(
                    difference, policies[name], hypotheses, len(looks)
                )
            """,
            """
                if decision.verdicts.get(name) != "CLEAR":
                    decision.verdicts[name] = slice_verdict(
                        difference, policies[name], hypotheses, len(looks)
                    )
            """,
            "test_a_slice_that_is_clear_no_longer_is_asked_again",
        ),
        (
            "asked_again",
            'decision.verdicts[name] != "CLEAR"',
            "True",
            "test_clear_slices_are_asked_no_more",
        ),
        (
            "asked_again",
            "can_clear(decision.differences[name].clusters, policy)",
            "True",
            "test_few_clusters_are_asked_once",
        ),
        (
            "asked_again",
            'not policy["once"] and (asks_all or is_open)',
            "asks_all or is_open",
            "test_slices_that_are_seen_once",
        ),
        (
            "may_have_fallen",
            "max(1, (8 / max(slices, 1)) ** 0.5)",
            "(8 / max(slices, 1)) ** 0.5",
            "test_how_far_the_mean_may_have_fallen",
        ),
        (
            "describe",
            "interval(difference, times)",
            "interval(difference, 1)",
            "test_describe_gives_repeated_intervals",
        ),
        (
            "describe",
            "quantile(POWER, difference.df) - quantile(level, difference.df)",
            "-quantile(level, difference.df)",
            "test_mde_is_caught_four_times_in_five",
        ),
        (
            "clusters_needed",
            'mean <= -policy["margin"]',
            'mean < -policy["margin"]',
            "test_need_where_there_is_none_or_nothing_has_differed",
        ),
        (
            "clusters_needed.expected",
            "max(spread / math.sqrt(n), 1 / n)",
            "error * clusters / n",
            "test_need_decides",
        ),
        (
            "clusters_needed",
            "error > 1 / clusters",
            "True",
            "test_need_where_there_is_none_or_nothing_has_differed",
        ),
        (
            "interval",
            "ALPHA / looks",
            "ALPHA",
            "test_coverage_after_optional_stopping",
        ),
    ],
)

RATES = faults(
    "posttrain/gating/rates.py",
    "tests/gating/test_rates.py",
    [
        (
            "SimulatedGate.run",
            'hard and all(decision.verdicts[name] == "CLEAR" for name in hard)',
            'all(decision.verdicts[name] == "CLEAR" for name in hard)',
            "test_without_a_hard_slice_nothing_ships",
        ),
        (
            "SimulatedGate.run",
            '"FAIL" not in decision.verdicts.values()',
            "decision.mean_fell",
            "test_what_blocked_is_told",
        ),
        (
            "beta_prior",
            "between * m / max(m - 1, 1)",
            "float(np.var(shares))",
            "test_worlds_that_were_measured_spread_like_the_truth",
        ),
        (
            "beta_prior",
            "rate * (1 - rate) / between - 1",
            "rate * (1 - rate) / between",
            "test_the_prior_of_a_slice",
        ),
        ("beta_prior", "0.5 / len(right)", "1 / len(right)", "test_the_prior_of_a_slice"),
        (
            "MeasuredSlice.draw",
            "rng.beta(self.a[items], self.b[items])",
            "self.a[items] / (self.a[items] + self.b[items])",
            "test_a_fast_draw_is_the_plain_one",
        ),
        (
            "MeasuredSlice.draw",
            "rng.integers(len(self.sizes), size=len(self.sizes))",
            "np.arange(len(self.sizes))",
            "test_measured_draws_whole_clusters",
        ),
        (
            "MeasuredSlice.draw",
            "self.starts[chosen][groups] + within",
            "self.starts[chosen][groups]",
            "test_a_fast_draw_is_the_plain_one",
        ),
        (
            "MeasuredSlice.__init__",
            'np.argsort(groups, kind="stable")',
            "np.arange(len(groups))",
            "test_a_fast_draw_is_the_plain_one",
        ),
        (
            "lowered",
            "drop * len(rates)",
            "drop * len(hit)",
            "test_lowered_falls_by_so_many_points",
        ),
        (
            "SignedSlice.draw",
            "self.better += rng.binomial(k - self.k, 0.5, len(self.better))",
            "self.better = rng.binomial(k, 0.5, len(self.better))",
            "test_fixed_slices_grow_surer_as_real_ones_do",
        ),
        (
            "SignedSlice.draw",
            "if self.once:\n    k = 1",
            "pass",
            "test_fixed_slices_grow_surer_as_real_ones_do",
        ),
        (
            "SignedSlice.draw",
            "self.d * mean_sign[self.groups] - self.lost",
            "self.d * rng.choice((-1.0, 1.0), len(self.d)) - self.lost",
            "test_the_sign_of_a_cluster_is_one",
        ),
        (
            "SampledSlice.draw",
            "more * BASELINE_DRAWS",
            "more",
            "test_the_promises_are_kept",
        ),
        (
            "prompts_needed",
            "quantile(1 - power, math.inf)",
            "quantile(0.5, math.inf)",
            "test_prompts_needed_clear_as_often_as_said",
        ),
        (
            "prompts_needed",
            "1 if k is None else looks",
            "looks",
            "test_prompts_needed_clear_as_often_as_said",
        ),
        (
            "known_rates",
            'math.sqrt(slice_rows[0]["answers"]["candidate"])',
            "1",
            "test_what_known_rates_draws_from",
        ),
        (
            "known_rates",
            'slice_rows[0]["type"] == "verify" and not once',
            'slice_rows[0]["type"] == "verify"',
            "test_what_known_rates_draws_from",
        ),
        ("error_rates", "max(runs // 5, 20)", "runs", "test_known_rates_of_a_gates_own_answers"),
        (
            "clusters_of",
            'item["type"] in IN_SLICES',
            "True",
            "test_clusters_are_counted_in_slices",
        ),
        (
            "power_lines",
            "clusters < min(needs.values())",
            "clusters <= min(needs.values())",
            "test_power_lines",
        ),
    ],
)
# The rule's own faults that its error rates show.
RATES += faults(
    "posttrain/gating/rule.py",
    "tests/gating/test_rates.py",
    [
        (
            "sequential",
            "hypotheses = len(hard) + 1",
            "hypotheses = 1",
            "test_the_promises_are_kept",
        ),
        (
            "sequential",
            "if hard:\n    decision.mean_fell = fell(mean, ALPHA / hypotheses / len(looks))",
            "pass",
            "test_what_blocked_is_told",
        ),
        (
            "sequential",
            "all_clear and may_have_fallen(mean, len(hard))",
            "False",
            "test_the_promises_are_kept",
        ),
        (
            "slice_verdict",
            "ALPHA / hypotheses / times",
            "ALPHA / (hypotheses - 1) / times",
            "test_slices_that_are_seen_once_are_blocked_as_often_as_they_may",
        ),
    ],
)

SUMMARY = faults(
    "posttrain/gating/summary.py",
    "tests/test_gate.py",
    [
        (
            "unscored_slices",
            "MOST_UNSCORED * sizes[name]",
            "sizes[name]",
            "test_a_slice_without_any_score_is_no_success",
        ),
        (
            "unscored_slices",
            'item["type"] == "canary"',
            'item["type"] == "zoo"',
            "test_a_slice_without_any_score_is_no_success",
        ),
        (
            "latency_of_requests",
            "limit_of(ratio.low, limit)",
            "limit_of(0, limit)",
            "test_latency_and_items_that_are_only_counted",
        ),
        (
            "overall_summary",
            "hard_slices(decision, policies) or list(decision.differences)",
            "list(decision.differences)",
            "test_policy",
        ),
    ],
) + faults(
    "posttrain/gating/summary.py",
    "tests/gating/test_summary.py",
    [
        (
            "unscored_slices",
            'policy["hard"] and losses[name] > MOST_UNSCORED * sizes[name]',
            "losses[name] > MOST_UNSCORED * sizes[name]",
            "test_slices_of_which_too_much_has_no_score",
        ),
        (
            "unscored_slices",
            "losses[name] > MOST_UNSCORED * sizes[name]",
            "losses[name] >= MOST_UNSCORED * sizes[name]",
            "test_slices_of_which_too_much_has_no_score",
        ),
        (
            "worst_flips",
            'ranks[row["slice"], d] += 1',
            'ranks[row["slice"], d] = 1',
            "test_the_worst_flips",
        ),
        (
            "refusal_note",
            "wrong_way * (after - before) > NOTED",
            "after - before > NOTED",
            "test_what_is_noted_of_refusals",
        ),
        (
            "refusal_note",
            "wrong_way * (after - before) > NOTED",
            "wrong_way * (after - before) >= NOTED",
            "test_what_is_noted_of_refusals",
        ),
        (
            "latency_of_requests",
            "limit_of(ratio.low, limit)",
            "limit_of(ratio.ratio, limit)",
            "test_a_limit_of_the_latency",
        ),
        (
            "cost_of_requests",
            "limit_of(ratio, limit)",
            "limit_of(0, limit)",
            "test_the_cost_of_requests",
        ),
        (
            "cost_of_requests",
            'not price_gpu_hour or 0 in (*speed["candidate"], *speed["baseline"])',
            "not price_gpu_hour",
            "test_the_cost_of_requests",
        ),
        (
            "winrate_summary",
            "1 if once else looks",
            "looks",
            "test_a_win_rate_by_looks",
        ),
        ("winrate_summary", "1 if once else looks", "1", "test_a_win_rate_by_looks"),
        ("ids_without_score", 'item["type"] != "budget"', "True", "test_items_without_a_score"),
        (
            "slice_summaries",
            "len(hard_slices(decision, policies)) + 1",
            "len(policies) + 1",
            "test_slices_of_the_report",
        ),
        (
            "slice_summary",
            'None if rows[0]["type"] in ONCE else k',
            "k",
            "test_slices_of_the_report",
        ),
        (
            "blind_spots",
            'if quarantined:\n    spots.append(f"{quarantined} canaries are quarantined: the baseline fails them, too.")',
            "pass",
            "test_blind_spots",
        ),
        (
            "caught_sentence",
            "min(caught, key=caught.get)",
            "max(caught, key=caught.get)",
            "test_blind_spots",
        ),
    ],
)

TEXT = faults(
    "posttrain/gating/text.py",
    "tests/gating/test_text.py",
    [
        (
            "visible",
            "character not in KEPT",
            'character in "\\0"',
            "test_what_hides_becomes_a_code",
        ),
        (
            "",
            '("Cc", "Cf", "Cs", "Zl", "Zp")',
            '("Cc", "Cs", "Zl", "Zp")',
            "test_what_hides_becomes_a_code",
        ),
        (
            "cut",
            'f"{text[:half]} [… {gone:,} characters cut …] {text[-half:]}"',
            'f"{text[:half]} [… {gone:,} characters cut …] {text[half:most]}"',
            "test_a_long_text_shows_both_ends",
        ),
        ("cut", "gone <= 0", "gone <= 1", "test_a_text_is_cut_above_its_limit"),
        ("cut", "max(len(text) - 2 * most, 0)", "0", "test_a_text_is_cut_above_its_limit"),
        (
            "listed",
            "len(names) > most",
            "len(names) >= most",
            "test_names_beyond_the_limit_are_counted",
        ),
        (
            "outcome",
            'numbers["verdict"] if numbers["hard"] else f"{numbers[\'verdict\']} (soft)"',
            'numbers["verdict"]',
            "test_numbers",
        ),
        ("columns_of", 'unicodedata.east_asian_width(character) in "WF"', "False", "test_width"),
        ("fit", "width(text) <= columns", "True", "test_fit_and_broken"),
        ("fit", "width(text) <= columns", "width(text) < columns", "test_fit_and_broken"),
        ("first_columns", "used > columns", "used >= columns", "test_fit_and_broken"),
        ("wrapped", "columns - width(indent)", "columns", "test_wrapped"),
        ("wrapped", "later if lines else columns", "later", "test_wrapped"),
        ("table_lines", "size - width(cell)", "size - len(cell)", "test_table_lines"),
        (
            "tables_that_fit",
            "len(table) > 1 and width(table_lines([*zip(*table, column)])[0]) > columns",
            "False",
            "test_columns_that_do_not_fit_stand_in_another_table",
        ),
        (
            "tables_that_fit",
            "width(table_lines([*zip(*table, column)])[0]) > columns",
            "width(table_lines([*zip(*table, column)])[0]) >= columns",
            "test_columns_that_do_not_fit_stand_in_another_table",
        ),
        (
            "tables_that_fit",
            "fit(name, longest_name)",
            "name",
            "test_cells_that_are_too_long_are_cut",
        ),
    ],
)

REPORT = faults(
    "posttrain/gating/report.py",
    "tests/gating/test_report.py",
    [
        (
            "winrate_part",
            '"Not measured: nothing was judged head to head."',
            '"None."',
            "test_a_report_without_parts_says_so",
        ),
        (
            "canary_part",
            '[c for c in broken if c["confirmed"]]',
            "broken",
            "test_every_number_is_said",
        ),
        (
            "canary_part",
            'len(canaries) - len(kinds["quarantined"])',
            "len(canaries)",
            "test_every_number_is_said",
        ),
        ("canary_part", "min(3 / count, 1)", "min(1 / count, 1)", "test_every_number_is_said"),
        (
            "canary_part",
            'flat(cut(c["text"], CANARY_SHOWS))',
            'c["text"]',
            "test_the_page_stays_small",
        ),
        ("winrate_part", 'winrate["outside_support"]', "0", "test_every_number_is_said"),
        (
            "title",
            '" - CONTAMINATED" if report["contaminated"] else ""',
            '""',
            "test_the_parts_come_in_the_order_in_which_people_read",
        ),
        (
            "plain",
            r'r"([\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\()"',
            r'r"([\\`*]|<(?=[A-Za-z/!?])|(?<=\])\()"',
            "test_markdown_keeps_texts_in_their_place",
        ),
        (
            "plain",
            r'r"([\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\()"',
            r'r"([\\`*|]|(?<=\])\()"',
            "test_a_tag_is_none_but_an_arrow_is_one",
        ),
        (
            "plain",
            r'r"([\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\()"',
            r'r"([\\`*|]|<|(?<=\])\()"',
            "test_a_tag_is_none_but_an_arrow_is_one",
        ),
        ("", '" " * 4', '" "', "test_markdown_keeps_texts_in_their_place"),
        (
            "markdown",
            "part.flips[:TEXT_FLIPS]",
            "part.flips",
            "test_the_text_shows_the_first_flips",
        ),
        (
            "markdown",
            "len(part.flips) > TEXT_FLIPS",
            "len(part.flips) >= TEXT_FLIPS",
            "test_the_text_shows_the_first_flips",
        ),
        (
            "flip_lines",
            "fit(f\"### {plain(flip['id'])} ({plain(flip['slice'])})\", COLUMNS)",
            "f\"### {plain(flip['id'])} ({plain(flip['slice'])})\"",
            "test_no_line_is_wider_than_a_terminal",
        ),
        (
            "html",
            "environment.get_template",
            "environment.overlay(autoescape=False).get_template",
            "test_texts_cannot_leave_their_place",
        ),
        (
            "shown_on_page",
            "visible(value)",
            "value",
            "test_nothing_hides_and_nothing_reorders",
        ),
        (
            "html",
            "len(page.encode()) < LARGEST_PAGE",
            "True",
            "test_the_page_stays_small",
        ),
    ],
)

FIGURES = faults(
    "posttrain/gating/figures.py",
    "tests/gating/test_figures.py",
    [
        (
            "svg",
            "draw.__name__",
            '"gate"',
            "test_names_inside_figures_are_used_once",
        ),
        ("svg", '"text.parse_math"', '"text.usetex"', "test_a_name_is_no_formula"),
        (
            "for_a_page",
            'text.replace(INK, "currentColor")',
            "text",
            "test_figures_take_their_ink_from_the_page",
        ),
        (
            "for_a_page",
            're.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)',
            "text",
            "test_figures_take_their_ink_from_the_page",
        ),
        (
            "slice_label",
            "len(name) >= LONGEST_NAME",
            "len(name) > LONGEST_NAME",
            "test_what_a_slice_is_labelled",
        ),
        (
            "in_points",
            "min(max(difference, -1), 1)",
            "difference",
            "test_a_difference_stays_in_the_figure",
        ),
    ],
) + faults(
    "posttrain/gating/figures.py",
    "tests/gating/test_report.py",
    [("svg", "draw.__name__", "None", "test_equal_reports_give_equal_bytes")],
)

PAGE = faults(
    "posttrain/gating/report.html.j2",
    "tests/gating/test_report.py",
    [
        ("", '<th scope="col">', "<th>", "test_the_page_is_for_every_reader"),
        ("", "--soft: #5a6068", "--soft: #8a9098", "test_contrast_in_light_and_dark"),
    ],
)

MUTANTS = [*MEASURES, *RULE, *RATES, *SUMMARY, *TEXT, *REPORT, *FIGURES, *PAGE]
