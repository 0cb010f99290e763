from pathlib import Path

from tests.trainers.conftest import make_example
from trainers import evaluate
from trainers.evaluate import score, summary
from trainers.model import LanguageModel
from trainers.prompt import ABSENT


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
