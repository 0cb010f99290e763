from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.conftest import make_example
from trainers import evaluate
from trainers.evaluate import exact_match, score, summary, token_f1
from trainers.model import LanguageModel
from trainers.prompt import ABSENT


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
    assert exact <= f1 or not evaluate.normalise(text)


def test_abstention_is_right_only_where_the_answer_is_absent() -> None:
    here, gone = make_example(0), make_example(0, gold=False)
    assert score(here, "red").value == 1.0
    assert (score(here, ABSENT).value, score(here, ABSENT).absent) == (0.0, True)
    assert score(gone, ABSENT).value == 1.0
    assert score(gone, "red").value == 0.0


def test_summary_names_false_refusals() -> None:
    scores = [score(make_example(0, "fresh"), "red"), score(make_example(1, "fresh"), ABSENT)]
    scores.append(score(make_example(2, "abstain", gold=False), ABSENT))
    assert summary(scores) == {"abstain": 1.0, "fresh": 0.5, "exact": 0.5, "false_refusals": 0.5}


def test_evaluate_scores_every_item_in_order_and_the_general_text(tiny_path: Path) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    items = [make_example(n, "fresh") for n in (2, 0, 1)]
    steps: list[tuple[int, int]] = []
    scores = evaluate.evaluate(model, items, 4, batch=2, progress=lambda done, total: steps.append((done, total)))
    assert [s.example_id for s in scores[:3]] == [item.example_id for item in items]
    general = [s for s in scores if s.set == "general"]
    assert len(general) == len(evaluate.GENERAL)
    assert all(s.value < 0 for s in general)
    assert steps == [(2, 3), (3, 3)]
