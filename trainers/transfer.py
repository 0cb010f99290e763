"""What later cycles did to what earlier ones taught (pure).

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (2017): R[t][i] is the score on episode i after
cycle t, and backward transfer the mean of R[T][i] - R[i][i]; below 0, something was forgotten.

A cycle asks again what the reservoir drew of an earlier episode, not all of it: small differences are chance.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.types import Run
from trainers.metrics import mean

Matrix = dict[int, dict[int, float]]  # cycle -> episode -> mean F1 of what served after the cycle


def matrix(runs: Sequence[Run]) -> Matrix:
    """A row for each cycle that measured something, oldest first, of the adapter that served after it. A control is
    none: what it measures never served."""
    rows: Matrix = {}
    for run in sorted(runs, key=lambda one: one.run):
        if run.decision != "control" and (episodes := run.metrics.get("episodes")):
            row = episodes["candidate" if run.decision == "promote" else "incumbent"]
            rows[run.run] = {int(episode): value for episode, value in row.items()}
    return rows


def backward_transfer(rows: Matrix) -> float | None:
    """The mean change, since its own cycle, on each earlier episode that the last cycle measured; None where there is
    none."""
    if not rows:
        return None
    last = max(rows)
    return mean([rows[last][one] - rows[one][one] for one in rows[last] if one < last and one in rows.get(one, {})])
