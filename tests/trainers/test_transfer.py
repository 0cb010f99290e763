from datetime import UTC, datetime
from typing import Any

import pytest

from store.types import Run
from trainers.transfer import backward_transfer, matrix


def run(number: int, decision: str, candidate: dict[str, float], incumbent: dict[str, float]) -> Run:
    at = datetime(2026, 1, number, tzinfo=UTC)
    metrics: dict[str, Any] = {"episodes": {"candidate": candidate, "incumbent": incumbent}}
    return Run(number, at, at, "test", 1, decision, "", number, None, 10, metrics)


def test_the_row_of_a_cycle_is_of_what_served_after_it() -> None:
    runs = [
        run(3, "promote", {"1": 0.5, "3": 0.9}, {"1": 0.6, "3": 0.2}),
        run(1, "promote", {"1": 0.6}, {"1": 0.1}),
        run(2, "reject", {"1": 0.9, "2": 0.9}, {"1": 0.6, "2": 0.3}),
    ]
    assert matrix(runs) == {1: {1: 0.6}, 2: {1: 0.6, 2: 0.3}, 3: {1: 0.5, 3: 0.9}}
    assert backward_transfer(matrix(runs)) == pytest.approx(-0.1)
    assert backward_transfer(matrix(runs[1:])) == pytest.approx(0.0)
    control = run(4, "control", {"1": 0.0, "3": 0.0}, {"1": 0.1, "3": 0.1})
    assert matrix([*runs, control]) == matrix(runs), "what a control measures never served"


def test_nothing_measured_is_no_figure() -> None:
    failed = Run(1, datetime(2026, 1, 1, tzinfo=UTC), None, "test", 1, "failed", "", None, None, 0, {})
    assert matrix([failed]) == {}
    assert backward_transfer({}) is None
    assert backward_transfer({1: {1: 0.5}}) is None
