"""Evaluations and learning cycles as pictures (the only file that imports matplotlib)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from store.errors import UsageError

Json = dict[str, Any]

COLOURS = {"recall": "tab:blue", "ndcg": "tab:orange", "mrr": "tab:green", "precision": "tab:red"}
SETS = {"fresh": "tab:blue", "anchor": "tab:orange", "noise": "tab:purple", "abstain": "tab:red", "general": "tab:gray"}
NAMES = {"recall": "recall", "ndcg": "nDCG", "mrr": "MRR", "precision": "precision"}


def check(path: Path) -> None:
    """Whether a plot can be drawn there, before hours of measuring. Raises UsageError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("a plot needs matplotlib; install it with: pip install 'memexd[plot]'")
    if path.suffix.lower() != ".png":
        raise UsageError(f"a plot is written as PNG; name a file that ends with .png, not {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}; make it, or name another file for the plot")


def draw(done: Json, path: Path) -> None:
    """Retrieval at each cut, the answers' noise curve where there is one; what it is compared with is dashed."""
    noise = done["metrics"].get("noise")
    columns = 2 if noise and noise["questions"] else 1
    figure = _figure(5.5 * columns, 4.2)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    shown = [(done, "-")] + ([(done["against"], "--")] if done["against"] else [])
    for one, style in shown:
        _retrieval(axes[0], one, style)
        if columns == 2:
            _noise(axes[1], one, style)
    for axis in axes:
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    versus = f", dashed: {done['against']['evaluation']}" if done["against"] else ""
    figure.suptitle(f"evaluation {done['evaluation']}: {done['questions']} questions{versus}", fontsize="medium")
    _save(figure, path)


def _retrieval(axis: Any, one: Json, style: str) -> None:
    retrieval = one["metrics"]["retrieval"]
    for name, colour in COLOURS.items():
        points = {int(k): value for k, value in retrieval[name].items() if value is not None}
        if points:
            label = NAMES[name] if style == "-" else None
            axis.plot(list(points), list(points.values()), style, color=colour, marker="o", label=label)
    axis.set_title("retrieval", fontsize="medium")
    axis.set_xlabel("passages looked at")
    axis.set_xticks([1, 3, 5, 10])


def _noise(axis: Any, one: Json, style: str) -> None:
    noise = one["metrics"].get("noise") or {"points": []}
    for name, label, colour in (("f1", "F1", "tab:blue"), ("exact", "exact match", "tab:orange")):
        points = {point["share"]: point[name] for point in noise["points"] if point[name] is not None}
        if points:
            shown = label if style == "-" else None
            axis.plot(list(points), list(points.values()), style, color=colour, marker="o", label=shown)
    axis.set_title("answers among distractors", fontsize="medium")
    axis.set_xlabel("share of distractors")


def draw_cycles(runs: Sequence[Json], path: Path) -> None:
    """Each cycle's candidate on its five sets, the incumbent on the same items (hollow), and what was promoted.
    General text, in nats, has an axis of its own, the bare model hollow. Raises UsageError when no cycle has measured
    anything."""
    from matplotlib.ticker import MaxNLocator

    cycles = [run for run in runs if run["decision"] != "control" and "fresh_f1" in run["metrics"]]
    measured = sorted(cycles, key=lambda run: run["run"])
    if not measured:
        raise UsageError("no cycle has measured anything yet; `memex refresh` runs one")
    figure = _figure(7.5, 6.0)
    scores, general = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for name, colour in SETS.items():
        axis = general if name == "general" else scores
        points = [(run["run"], evidence) for run in measured if (evidence := _evidence(run, name))]
        numbers = [number for number, _ in points]
        axis.plot(numbers, [one["candidate"] for _, one in points], "-o", color=colour, label=name)
        axis.plot(numbers, [one["incumbent"] for _, one in points], "o", color=colour, markerfacecolor="none")
    for run in measured:
        if run["decision"] == "promote":
            for axis in (scores, general):
                axis.axvline(run["run"], color="tab:green", alpha=0.4)
    for axis in (scores, general):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    scores.set_ylim(-0.02, 1.02)
    scores.set_title("candidate (filled), incumbent (hollow), promoted (green line)", fontsize="medium")
    general.set_ylabel("minus nats")
    general.set_xlabel("refresh")
    general.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """One to draw on without a display; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror or error}); name another file") from error


def _evidence(run: Json, name: str) -> Json | None:
    metrics = run["metrics"]
    found: Json | None = metrics["fresh_f1"] if name == "fresh" else metrics.get("guards", {}).get(name)
    return found
