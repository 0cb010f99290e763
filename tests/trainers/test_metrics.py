"""Metrics against cases worked out by hand, and rankings against trec_eval's own code."""

import math
import random

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from trainers.metrics import (
    Threshold,
    calibrate,
    exact_match,
    holds,
    judge_threshold,
    mean,
    ndcg,
    normalise,
    percentile,
    precision,
    recall,
    reciprocal_rank,
    token_f1,
)

RANKING = ["x", "b", "y", "a", "z"]
RELEVANT = {"a": 2.0, "b": 1.0, "c": 1.0}


def test_a_ranking_by_hand() -> None:
    assert [precision(RANKING, RELEVANT, k) for k in (1, 3, 5, 10)] == [0, 1 / 3, 2 / 5, 2 / 10]
    assert [recall(RANKING, RELEVANT, k) for k in (1, 3, 5, 10)] == [0, 1 / 3, 2 / 3, 2 / 3]
    assert [reciprocal_rank(RANKING, RELEVANT, k) for k in (1, 3, 10)] == [0, 1 / 2, 1 / 2]
    gained = 1 / math.log2(3) + 2 / math.log2(5)
    best = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(RANKING, RELEVANT, 5) == pytest.approx(gained / best)
    assert ndcg(RANKING, RELEVANT, 1) == 0
    assert ndcg(["a", "b", "c"], RELEVANT, 10) == 1
    assert ndcg([], RELEVANT, 10) == 0


def test_rankings_agree_with_trec_eval() -> None:
    rng = random.Random(1)
    documents = [f"d{number}" for number in range(30)]
    judged = {
        f"q{number}": {one: rng.choice((1, 2, 3)) for one in rng.sample(documents, rng.randint(1, 12))}
        for number in range(40)
    }
    ranked = {query: rng.sample(documents, rng.randint(1, 20)) for query in judged}
    measures = {"P.1,3,5,10", "recall.1,3,5,10", "ndcg_cut.1,3,5,10", "recip_rank"}
    reference = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(
        {query: {one: float(-rank) for rank, one in enumerate(ranking)} for query, ranking in ranked.items()}
    )
    for query, ranking in ranked.items():
        relevant = {one: float(grade) for one, grade in judged[query].items()}
        for k in (1, 3, 5, 10):
            assert precision(ranking, relevant, k) == pytest.approx(reference[query][f"P_{k}"])
            assert recall(ranking, relevant, k) == pytest.approx(reference[query][f"recall_{k}"])
            assert ndcg(ranking, relevant, k) == pytest.approx(reference[query][f"ndcg_cut_{k}"])
        assert reciprocal_rank(ranking, relevant, 100) == pytest.approx(reference[query]["recip_rank"])


def test_exact_match_ignores_case_articles_and_punctuation() -> None:
    assert exact_match("The  Port, 8080.", ["port 8080"]) == 1.0
    assert exact_match("port 80", ["port 8080", "eighty"]) == 0.0


def test_f1_counts_shared_words_and_takes_the_best_answer() -> None:
    assert token_f1("a red big house", ["red house"]) == pytest.approx(0.8)
    assert token_f1("red", ["blue", "the red"]) == 1.0
    assert token_f1("red red", ["red"]) == pytest.approx(2 / 3)
    assert token_f1("", ["red"]) == 0.0


@given(st.text(), st.lists(st.text(), min_size=1, max_size=3))
def test_metrics_stay_within_bounds_and_agree(text: str, answers: list[str]) -> None:
    f1, exact = token_f1(text, answers), exact_match(text, answers)
    assert 0.0 <= f1 <= 1.0
    assert exact <= f1 or not normalise(text)


def test_an_answer_is_held_word_for_word() -> None:
    assert holds("It listens on the Port: 8080, always.", ["port 8080"])
    assert not holds("It listens on port 80801.", ["port 8080"])
    assert not holds("anything", ["", "the"])


def test_percentiles_and_means() -> None:
    values = [float(n) for n in range(1, 21)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (10.0, 19.0, 7.0)
    assert (mean([1.0, 2.0]), mean([])) == (1.5, None)


def test_the_threshold_that_separates_best() -> None:
    assert calibrate([0.5, 0.75], [0.125, 0.25]) == Threshold(0.375, 0.0, 0.0)
    # Below: 0.5 lets half of the unanswerable through, at no refusal; above, the same loss on the other side.
    assert calibrate([0.5, 0.9], [0.1, 0.7]) == Threshold(pytest.approx(0.3), 0.0, 0.5)
    assert calibrate([], [0.1]) is None
    assert calibrate([0.1], [0.1]) is None
    assert judge_threshold(0.6, [0.5, 0.6], [0.7, 0.1, 0.2, 0.3]) == Threshold(0.6, 0.5, 0.25)


SCORES = st.lists(st.integers(0, 20).map(lambda number: number / 20), min_size=1)


@given(SCORES, SCORES)
def test_no_other_threshold_separates_better(answerable: list[float], unanswerable: list[float]) -> None:
    best = calibrate(answerable, unanswerable)
    if best is None:
        return
    for value in [*answerable, *unanswerable]:
        other = judge_threshold(value, answerable, unanswerable)
        if min(*answerable, *unanswerable) < value:  # refusing nothing at all is no threshold
            assert best.false_refusals + best.false_answers <= other.false_refusals + other.false_answers + 1e-9
