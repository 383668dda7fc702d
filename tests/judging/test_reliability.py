"""How far to believe a judge, by hand."""

from types import SimpleNamespace

import pytest

from judge import by_prompt
from posttrain.judging.reliability import (
    agreement,
    jury_kappa,
    jury_kappas,
    length_correlation,
    order_effects,
    report_lines,
    report_numbers,
)


def test_agreement():
    def row(ok, judged, id_="q"):
        return {"id": id_, "verify": None if ok is None else {"ok": ok}, "judged": judged}

    rows = [
        row(True, 4),
        row(False, 3),
        row(False, 5),
        row(True, 3),
        row(None, 0),
        row(True, None),
        row(True, 1, "r"),
        row(False, 2, "s"),
    ]
    assert agreement(by_prompt(rows)) == (pytest.approx((1 + 0 + 0.5 + 0) / 4), 4)
    assert agreement([[row(True, 1)]]) == (None, 0)


def test_jury_kappa():
    def rows(first, second):
        return [[{"votes": [{"score": a}, {"score": b}]} for a, b in zip(first, second)]]

    assert jury_kappa(rows([1, 2, 3], [10, 20, 30]), 0, 1) == 1.0
    assert jury_kappa(rows([1, 2, 3], [30, 20, 10]), 0, 1) == -1.0
    assert jury_kappa(rows([1, 2, 3, None], [2, 1, 3, 9]), 0, 1) == pytest.approx(2 * 2 / 3 - 1)
    assert jury_kappa(rows([1, 1], [1, 2]), 0, 1) is jury_kappa(rows([1, 2], [2, 2]), 0, 1) is None


def test_the_kappas_of_a_jury():
    """Of every two judges, without those that never tell two answers apart."""
    answers = [{"votes": [{"score": s} for s in scores]} for scores in ((1, 2, 5, 1), (2, 3, 5, 0))]
    assert jury_kappas([answers], ["a", "b", "c", "d"]) == {
        "a and b": 1.0,
        "a and d": -1.0,
        "b and d": -1.0,
    }
    assert jury_kappas([answers], ["a"]) == {}


def test_what_the_order_does():
    """A judge of the place alone, one that knows, one that is undecided: one half counts as the first."""
    assert order_effects([[0.9, 0.1]] * 3) == {
        "pairs_asked": 3,
        "order_flips": 1.0,
        "first_shown_picked": 1.0,
    }
    assert order_effects([[0.1, 0.9]])["first_shown_picked"] == 0.0
    assert order_effects([[0.9, 0.8], [0.2, 0.1]]) == {
        "pairs_asked": 2,
        "order_flips": 0.0,
        "first_shown_picked": 0.5,
    }
    assert order_effects([[0.5, 0.5]]) == {
        "pairs_asked": 1,
        "order_flips": 0.0,
        "first_shown_picked": 0.5,
    }
    assert order_effects([[0.5, 0.49]])["order_flips"] == 1.0
    assert order_effects([]) == {"pairs_asked": 0, "order_flips": None, "first_shown_picked": None}


def test_length_correlation():
    def rows(*pairs):
        return [{"judged": judged, "tokens": tokens} for judged, tokens in pairs]

    assert length_correlation(rows((1, 10), (2, 20), (5, 900))) == pytest.approx(1.0)
    assert length_correlation(rows((5, 10), (2, 20), (1, 900), (None, 1))) == pytest.approx(-1.0)
    assert length_correlation(rows((1, 10), (1, 20))) is None
    assert length_correlation(rows((1, 10), (2, 10))) is None
    assert length_correlation([]) is length_correlation(rows((None, 3))) is None
    assert length_correlation(rows((1, 10), (2, 20))) == pytest.approx(1.0), "two are enough"
    assert length_correlation([{"judged": 1}, {"judged": 2, "tokens": 1}]) == pytest.approx(1.0)


def test_report_numbers():
    """What became of the prompts, and of the rows what they say of the judge."""

    def row(judged, mass, flags=(), **more):
        return {"judged": judged, "mass": mass, "flags": list(flags), "verify": None} | more

    asked = [row(4, 0.9, both_orders=[0.9, 0.2], tokens=3), row(1, 0.7, ["same"], tokens=2)]
    unsure = [row(None, 0.2, ["same", "refusal"], both_orders=[0.9, None]), row(2, None, tokens=9)]
    verified = [row(3, 1.0, verify={"ok": ok}, tokens=1, contaminated=True) for ok in (True, False)]
    picks = [
        SimpleNamespace(slice=piece, reason=reason)
        for piece, reason in (("a", None), ("a", "tied"), ("b", "tied"))
    ]
    labels = [{"label": True}, {"label": False}, {"label": True}]
    found = report_numbers(
        [asked, unsure, verified], ["j"], picks=picks, pairs=["pair"], labels=labels
    )
    correlation = found.pop("score_length_correlation")
    assert -1 < correlation < 1
    assert found == {
        "contaminated": 2,
        "answers": 6,
        "unscored": 1,
        "pairs": 1,
        "labels": 3,
        "labels_true": 2,
        "by_slice": {"a": {"kept": 1, "tied": 1}, "b": {"tied": 1}},
        "flags": {"same": 2, "refusal": 1},
        "agreement_with_verifiers": 0.5,
        "compared": 1,
        "pairs_asked": 1,
        "order_flips": 1.0,
        "first_shown_picked": 1.0,
        "mass": pytest.approx((0.9 + 0.7 + 0.2 + 1 + 1) / 5),
        "jury_kappa": {},
    }


def numbers(**changes):
    return {
        "contaminated": 0,
        "answers": 8,
        "unscored": 1,
        "by_slice": {"a": {"tied": 1, "kept": 2}},
        "flags": {},
        "agreement_with_verifiers": None,
        "compared": 0,
        "pairs_asked": 0,
        "order_flips": None,
        "first_shown_picked": None,
        "score_length_correlation": None,
        "mass": None,
        "jury_kappa": {},
    } | changes


def test_report_lines():
    assert report_lines(numbers()) == [
        "slice    a: 2 kept, 1 tied",
        "flags    none",
        "judge    1 of 8 answers without a score",
    ]
    lines = report_lines(
        numbers(
            contaminated=4,
            flags={"same": 1, "refusal": 3},
            compared=3,
            agreement_with_verifiers=2 / 3,
            mass=0.913,
            score_length_correlation=-0.5,
            pairs_asked=5,
            order_flips=0.2,
            first_shown_picked=0.6,
            jury_kappa={"a and b": 0.61, "a and c": 0.6},
        )
    )
    assert lines[0].startswith("CONTAMINATED  4 of 8 answers are of a judge's own family")
    assert lines[2:5] == [
        "flags    refusal 3, same 1",
        "judge    orders 67% of 3 right/wrong pairs as verifiers do; 1 of 8 answers without a score; "
        "mean mass 0.91; score and length correlate -0.50",
        "orders   5 pairs asked in both orders: 20% change with the order, the first shown is picked in "
        "60%",
    ]
    assert "WARNING" in lines[5] and lines[6] == "jury     a and c: kappa 0.60"
