"""Evaluations, replays and answers for review as text for a person (pure)."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from daemon.wording import change, local, model, moved, shortened, where

Json = dict[str, Any]

CUTS = ("1", "3", "5", "10")
FAULTS = {"unsupported": "unsupported", "wrong": "wrong", "citation": "wrong citation"}


def evaluation(done: Json) -> str:
    """The figures as a table; each with its change where there is something to compare with."""
    other = done["against"] or {}
    metrics, before = done["metrics"], other.get("metrics", {})
    lines = [_headline(done)]
    if other:
        lines.append(f"against {_headline(other)}")
        if done["asked"] != other["asked"]:
            lines.append("(other questions were asked then: the figures do not compare one to one)")
        if done["config"] != other["config"]:
            lines.append("(other settings were in force then)")
    lines += [*_retrieval(metrics, before), *_answers(metrics, before), *_noise(metrics, before)]
    for name, spread in metrics["latency"].items():
        was = before.get("latency", {}).get(name, {})
        p50, p95 = (_figure(spread[key], was.get(key), "s") for key in ("p50", "p95"))
        lines.append(f"{name:<12}p50 {p50}, p95 {p95}")
    return "\n".join([*lines, *_threshold(metrics["threshold"])])


def evaluation_list(found: Json) -> str:
    lines = [
        f"{_headline(one)}: nDCG@10 {_value(one['metrics']['retrieval']['ndcg']['10'])}, "
        f"F1 {_value(one['metrics'].get('answers', {}).get('f1'))}"
        for one in found["evaluations"]
    ]
    return "\n".join(lines) or "none"


def replay(done: Json) -> str:
    then, now = done["then"], done["now"]
    lines = [f"{done['question']}  (retrieval {done['retrieval_id']} of {local(done['at'])}, {done['mode']})"]
    if done["mode"] != "search":
        lines += _answer("recorded", done["recorded"]["answer"], model(done["recorded"]["adapter"]))
    for name, one in (("then", then), ("now", now)):
        lines += _answer(name, one.get("answer"), where(one))
        lines += [f"            ({remark})" for remark in one.get("remarks", ())]
    if not done["same_hits"]:
        lines.append(
            "that version does not give the passages that were recorded: settings or models differ, or "
            "content was forgotten since"
        )
    if not done["same_answer"]:
        lines.append("that version does not give the answer that was recorded: settings or models differ")
    lines.append("passages, then and now:")
    for one in done["results"]:
        why = f"  ({one['why']})" if one["why"] else ""
        lines.append(f"  {moved(one['rank'])} {one['location']}{why}")
    if done["adapter"]["from"] != done["adapter"]["to"]:
        lines.append(f"serving     {change(done['adapter'], model)}")
    if done["generation"]["from"] != done["generation"]["to"]:
        lines.append(f"generation  {change(done['generation'], str)}")
    for key, pair in done["settings"].items():
        lines.append(f"setting     {key}: {json.dumps(pair['from'])} -> {json.dumps(pair['to'])}")
    return "\n".join(lines)


def for_review(one: Json, number: int, of: int) -> str:
    lines = [f"--- {number} of {of}, {local(one['at'])}, {model(one['adapter'])}", f"Q: {one['question']}"]
    lines.append(f"A: {one['answer']}")
    for passage in one["passages"]:
        mark = f"[{passage['cited']}]" if passage["cited"] else "   "
        lines += [f"{mark:<5}{passage['location']}", textwrap.indent(shortened(passage["text"], 8), "     ")]
    if one["gone"]:
        lines.append(f"     ({one['gone']} passages are gone from memory)")
    return "\n".join(lines)


def reviewed(done: Json) -> str:
    counts = ", ".join(f"{count} {word}" for word, count in done["verdicts"].items()) or "none"
    return f"judged: {counts}; {done['left']} of those shown are left"


def _headline(one: Json) -> str:
    kinds = {"made": "made from the documents", "logged": "judged by users", "file": "of " + one["name"]}
    asked = kinds.get(one["kind"], f"of the collection {one['name']}")
    at = f", {where(one['state'])}, {model(one['state']['adapter'])}" if one["state"] else ""
    return f"evaluation {one['evaluation']} of {local(one['at'])}: {one['questions']} questions {asked}{at}"


def _retrieval(metrics: Json, before: Json) -> list[str]:
    found, was = metrics["retrieval"], before.get("retrieval", {})
    if not found["questions"]:
        return ["retrieval   not measured: no question says what is relevant"]
    lines = [f"{'retrieval':<12}" + "".join(f"{'@' + cut:<16}" for cut in CUTS).rstrip()]
    for name, shown in (("precision", "precision"), ("recall", "recall"), ("mrr", "MRR"), ("ndcg", "nDCG")):
        cells = (_figure(found[name][cut], was.get(name, {}).get(cut)) for cut in CUTS)
        lines.append(f"  {shown:<10}" + "".join(f"{cell:<16}" for cell in cells).rstrip())
    return lines


def _answers(metrics: Json, before: Json) -> list[str]:
    if "answers" not in metrics:
        return []
    shown = {
        "answers": ("exact", "f1", "groundedness", "citation_precision", "citation_recall"),
        "abstention": ("false_refusals", "right_refusals"),
        "tokens": ("prompt", "new"),
    }
    lines = []
    for name, keys in shown.items():
        was = before.get(name, {})
        cells = (f"{key.replace('_', ' ')} {_figure(metrics[name][key], was.get(key))}" for key in keys)
        lines.append(f"{name:<12}{', '.join(cells)}")
    return lines


def _noise(metrics: Json, before: Json) -> list[str]:
    noise = metrics.get("noise")
    if noise is None:
        return []
    if not noise["questions"]:
        return ["noise       not measured: no question has its answer and five distractors among what was found"]
    was = {point["share"]: point for point in before.get("noise", {}).get("points", ())}
    lines = [f"{'distractors':<12}" + "".join(f"{point['share']:<16.0%}" for point in noise["points"]).rstrip()]
    for name in ("exact", "f1"):
        cells = (_figure(point[name], was.get(point["share"], {}).get(name)) for point in noise["points"])
        lines.append(f"  {name:<10}" + "".join(f"{cell:<16}" for cell in cells).rstrip())
    lines.append(
        f"  of {noise['questions']} questions; with distractors only, {_value(noise['without']['refusals'])} refuse"
    )
    return lines


def _threshold(found: Json) -> list[str]:
    if found["best"] is None:
        return ["threshold   not calibrated: needs questions with an answer and questions without one"]
    lines = []
    for word, one in (("now", found["now"]), ("best", found["best"])):
        lines.append(
            f"{'threshold' if word == 'now' else '':<12}retrieval.min_score = {one['value']:.3f} ({word}): "
            f"{one['false_refusals']:.1%} false refusals, {one['false_answers']:.1%} false answers"
        )
    left_out = ", these with their right passages left out" if found["left_out"] else ""
    lines.append(
        f"            by {found['answerable']} answerable and {found['unanswerable']} unanswerable questions{left_out}"
    )
    return lines


def _answer(name: str, answer: str | None, where: str) -> list[str]:
    said = [] if answer is None else [f"{name:<12}{answer}"]
    return [*said, f"{'' if said else name:<12}-- {where}"]


def _figure(value: float | None, before: float | None, unit: str = "") -> str:
    """0.712, or 0.712 (+0.031) where there is something to compare with."""
    if value is None or before is None:
        return _value(value) + (unit if value is not None else "")
    moved_by = f"{value - before:+.3f}"
    return f"{_value(value)}{unit} ({'=' if float(moved_by) == 0 else moved_by})"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
