"""Training a query adapter: it learns what is there to learn, and the gate lets nothing else through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from store.types import Hit
from trainers import retriever
from trainers.gate import FRESH, Pair
from trainers.retriever import RECALL, Asked, Lesson, Settings, compared, decide, is_held_out, made, train

DIMENSION = 24
QUICK = Settings(rank=4, lr=1e-2, l2=1e-2, max_steps=120)


def unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def planted(count: int, seed: int) -> list[Lesson]:
    """Questions that all lie off their passage in one direction, and near misses that lie there."""
    rng, off = np.random.default_rng(seed), unit(np.arange(DIMENSION) - 7.0)
    lessons = []
    for number in range(count):
        right = unit(rng.normal(size=DIMENSION))
        near = tuple(unit(off + 0.3 * rng.normal(size=DIMENSION) / DIMENSION**0.5 + 0.2 * right) for _ in range(5))
        lessons.append(Lesson(f"d{number}", unit(right + 1.5 * off), right, near))
    return lessons


def first_places(lessons: list[Lesson], questions: np.ndarray) -> float:
    rights = np.stack([one.right for one in lessons])
    near = np.concatenate([np.stack(one.near) for one in lessons])
    return float(np.mean([np.argmax([*(rights @ asked), *(near @ asked)]) == at for at, asked in enumerate(questions)]))


def test_it_improves_what_is_planted_on_questions_that_it_never_saw() -> None:
    trained = train(planted(60, seed=1), QUICK)
    assert trained is not None
    asked = planted(60, seed=2)
    plain = np.stack([one.question for one in asked])
    assert first_places(asked, plain) < 0.2
    assert first_places(asked, trained.adapter.move(plain)) > 0.8
    assert (trained.step, trained.best_loss < trained.first_loss) == (pytest.approx(60, abs=60), True)


def test_the_same_lessons_give_the_same_weights() -> None:
    one, other = (train(planted(30, seed=1), QUICK) for _ in range(2))
    assert one is not None
    assert other is not None
    assert (
        one.adapter.down.tobytes() + one.adapter.up.tobytes()
        == other.adapter.down.tobytes() + other.adapter.up.tobytes()
    )
    another = train(planted(30, seed=1), replace(QUICK, seed=1))
    assert another is not None
    assert another.adapter.down.tobytes() != one.adapter.down.tobytes()


def test_it_goes_on_from_what_serves() -> None:
    first = train(planted(30, seed=1), replace(QUICK, max_steps=20))
    assert first is not None
    on = train(planted(30, seed=1), replace(QUICK, max_steps=20), first.adapter)
    assert on is not None
    assert on.first_loss == pytest.approx(first.best_loss, rel=1e-5)
    assert on.best_loss < first.best_loss


def test_the_gradient_is_that_of_the_loss() -> None:
    """By differences."""
    rng = np.random.default_rng(3)
    batch = retriever._Batch(
        [replace(one, weight=1.0 + at % 3, document_id=f"d{at // 2}") for at, one in enumerate(planted(8, 1))]
    )
    weights = [rng.normal(size=(DIMENSION, 4)) / 5, rng.normal(size=(4, DIMENSION)) / 5]
    _, gradient = batch.loss(weights, QUICK)
    for which, at in ((0, (3, 1)), (0, (20, 2)), (1, (0, 5)), (1, (3, 23))):
        losses = []
        for step in (1e-6, -1e-6):
            moved = [one.copy() for one in weights]
            moved[which][at] += step
            losses.append(batch.loss(moved, QUICK)[0])
        assert gradient[which][at] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_another_right_passage_of_a_document_is_no_wrong_one() -> None:
    """It may hold the answer too; of another document it is what a question has to be told apart from."""
    one, other = planted(2, seed=1)
    lessons = [one, replace(other, right=unit(one.right + 0.1 * other.right))]
    weights = [np.ones((DIMENSION, 4)), np.zeros((4, DIMENSION))]
    apart, together = (
        retriever._Batch([replace(lesson, near=(), document_id=f"d{at * differ}") for at, lesson in enumerate(lessons)])
        for differ in (1, 0)
    )
    assert together.loss(weights, QUICK)[0] < apart.loss(weights, QUICK)[0] - 0.1


def test_where_there_is_nothing_to_learn_the_start_is_what_is_left() -> None:
    """What the questions lie off by says nothing of others."""
    rng = np.random.default_rng(5)
    lessons = [
        replace(one, question=unit(one.right + 1.5 * unit(rng.normal(size=DIMENSION)))) for one in planted(40, seed=5)
    ]
    trained = train(lessons, replace(QUICK, lr=0.1))
    assert trained is not None
    assert trained.best_loss <= trained.first_loss
    if trained.step == 0:
        assert not trained.adapter.up.any()


@pytest.mark.parametrize(
    "lessons", [planted(retriever.LEAST - 1, 1), [replace(one, document_id="d") for one in planted(40, 1)]]
)
def test_too_few_questions_or_documents_teach_nothing(lessons: list[Lesson]) -> None:
    assert train(lessons, QUICK) is None


def test_questions_are_made_whether_or_not_they_are_found(corpus: list[Hit]) -> None:
    asked = made(corpus, 40)
    assert len(asked) == len({one.text for one in asked}) == 40
    assert {one.right.document_id for one in asked} == {hit.document_id for hit in corpus}, "each document in turn"
    assert all(one.passage in one.right.text for one in asked)
    assert made(corpus, 40) == asked
    assert made(corpus, 10) == asked[:10]


def test_a_document_is_on_one_side_for_ever() -> None:
    held = [is_held_out(f"document {number}") for number in range(400)]
    assert 160 < sum(held) < 240
    assert held == [is_held_out(f"document {number}") for number in range(400)]


def pairs(corpus: list[Hit], gains: list[float], recalls: list[float] | None = None) -> list[Pair]:
    asked = [Asked(f"question {at}", corpus[2 * at % len(corpus)], "passage") for at in range(len(gains))]
    before = [(0.5, 1.0)] * len(gains)
    after = [(0.5 + gain, recall) for gain, recall in zip(gains, recalls or [1.0] * len(gains), strict=True)]
    return compared(asked, after, before)


@pytest.mark.parametrize(
    ("gains", "recalls", "outcome"),
    [
        ([0.2, 0.1] * 20, None, "promote"),
        ([0.0] * 40, None, "reject"),
        ([-0.1] * 40, None, "reject"),
        ([0.3, -0.28] * 20, None, "inconclusive"),
        ([0.2] * 10, None, "inconclusive"),
        ([0.2, -0.15, 0.2, -0.15, 0.1] * 8, None, "inconclusive"),
        ([0.2, 0.1] * 20, [0.0, 1.0, 1.0, 1.0] * 10, "reject"),
    ],
)
def test_only_a_proven_gain_is_promoted(
    corpus: list[Hit], gains: list[float], recalls: list[float] | None, outcome: str
) -> None:
    decision = decide(pairs(corpus, gains, recalls))
    assert decision.outcome == outcome, decision.reason
    assert decision.evidence[FRESH].items == decision.evidence[RECALL].items == len(gains)


def test_evidence_repeats_no_question(corpus: list[Hit]) -> None:
    assert not any("question" in pair.example_id for pair in pairs(corpus, [0.1] * 3))
