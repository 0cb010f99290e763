"""What operations give back, as text for a person (pure). One function per shape of result."""

from __future__ import annotations

import textwrap
from datetime import datetime
from typing import Any

Json = dict[str, Any]


def sync(done: Json) -> str:
    if done.get("dry_run"):
        lines = [*(f"would look into {path}" for path in done["dirty"])]
        lines += [f"would remove    {path}" for path in done["missing"]] if not done["alarms"] else []
        return "\n".join([*lines, *done["alarms"].values(), f"{done['unchanged']} unchanged"])
    counts = ", ".join(f"{done[key]} {key}" for key in ("added", "changed", "removed", "moved", "unchanged", "failed"))
    lines = [
        counts,
        f"{done['chunks_embedded']} chunks embedded, {done['chunks_total']} in memory, {done['seconds']:.2f} s",
        *done["alarms"].values(),
    ]
    if done["failed"]:
        lines.append("`memex documents --failed` says why")
    return "\n".join(lines)


def status(found: Json) -> str:
    head = found["head"]
    adapter = "base model" if head["adapter"] is None else f"adapter {head['adapter']}"
    lines = [
        f"daemon      {'running, ' + str(found['watch_mode']) + ' watch' if found['running'] else 'not running'}",
        f"head        generation {head['generation']}, version {head['version']}, {adapter}",
        f"changed     {_local(found['changed_at'])}",
        f"documents   {found['documents']} with {found['chunks']} chunks; "
        f"{found['failed']} failed, {found['held']} held, {found['queue']} waiting",
        f"snapshots   {found['snapshots']}",
    ]
    for name, source in found.get("sources", {}).items():
        reason = f" ({source['reason']})" if source["reason"] else ""
        lines.append(f"source      {name}: {source['mode']}{reason}")
    lines += [f"ALARM       {why}" for why in found.get("alarms", {}).values()]
    if last := found["last_refresh"]:
        lines.append(f"refresh     {last['run']}: {last['decision']}, {last['reason']} ({_local(last['finished_at'])})")
    if now := found.get("refreshing"):
        lines.append(f"refreshing  {now.get('stage')} {now.get('done')}/{now.get('total')}")
    lines += [f"next        {name} at {_local(when)}" for name, when in found.get("next_jobs", {}).items()]
    return "\n".join(lines)


def search(found: Json) -> str:
    if not found["results"]:
        return f"nothing found in {_where(found)}"
    parts = [
        f"{number}. {hit['location']}  {hit['score']:.3f}\n" + textwrap.indent(_shortened(hit["text"]), "   ")
        for number, hit in enumerate(found["results"], start=1)
    ]
    return "\n".join([*parts, f"-- {_where(found)}, {found['seconds']:.3f} s"])


def ask(found: Json) -> str:
    lines = [found["answer"], ""]
    for citation in found["citations"]:
        lines.append(f"[{citation['number']}] {citation['location']}")
        lines.append(textwrap.indent(_shortened(citation["quote"]), "    "))
    if not found["citations"] and found["results"]:
        lines += ["nearest passages:", *(f"  {hit['location']}  {hit['score']:.3f}" for hit in found["results"])]
    lines += [f"({remark})" for remark in found["remarks"]]
    model = "base model" if found["adapter"] is None else f"adapter {found['adapter']}"
    lines.append(f"-- {_where(found)}, {model}, {found['seconds']:.1f} s; retrieval {found['retrieval_id'] or '-'}")
    return "\n".join(lines)


def documents(found: Json) -> str:
    lines = []
    for one in found["documents"]:
        lines.append(f"{one['state']:<7}{one['chunks']:>5} chunks  {one['path']}")
        if one["error"]:
            again = f"next {_local(one['next_try_at'])}" if one["next_try_at"] else "due now"
            tried = "" if one["state"] == "skipped" else f" (tried {one['tries']} times, {again})"
            lines.append(f"       {one['error']}{tried}")
        if one.get("held"):
            lines.append(f"       {one['held']}")
    return "\n".join(lines) or "none"


def show(found: Json) -> str:
    lines = [documents({"documents": [found]}), f"       id {found['document_id']}"]
    for one in found.get("history", []):
        until = "now" if one["until"] is None else f"move {one['until']}"
        lines.append(
            f"       move {one['since']} to {until}: content {one['content'][:12]}, {one['chunks']} chunks, "
            f"file of {_local(one['modified_at'])}, {one['path']}"
        )
    for hit in found["passages"]:
        place = f"page {hit['page']}" if hit["page"] else " > ".join(hit["headings"])
        lines += [f"--- {hit['position']} {place}".rstrip(), hit["text"]]
    return "\n".join(lines)


def snapshot(one: Json) -> str:
    model = "base model" if one["adapter"] is None else f"adapter {one['adapter']}"
    return (
        f"{one['name']}  version {one['version']}, {one['documents']} documents, {one['chunks']} chunks, {model}, "
        f"{_local(one['created_at'])}, {one['reason']}"
    )


def snapshot_list(found: list[Json]) -> str:
    return "\n".join(snapshot(one) for one in found) or "none"


def snapshot_show(found: Json) -> str:
    return f"{snapshot(found)}\nrolling back to it would change:\n{plan(found['rollback'])}"


def plan(found: Json) -> str:
    lines = [f"{word:<9}{path}" for word in ("out", "back", "changed") for path in found[word]]
    model = "base model" if found["adapter"] is None else f"adapter {found['adapter']}"
    return "\n".join([*lines, f"serving  {model}"])


def rollback(done: Json) -> str:
    return (
        f"rolled back to {done['to']} in {done['seconds']:.3f} s: version {done['version']}, {done['held']} held; "
        f"undo with `memex rollback {done['from']}`"
    )


def release(done: Json) -> str:
    lines = [f"released {path}" for path in done["released"]]
    return "\n".join([*lines, f"{len(done['released'])} released, {done['chunks_embedded']} chunks embedded"])


def refresh_plan(found: Json) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in found["counts"].items()) or "none"
    lines = [f"{found['examples']} examples: {counts}"]
    for one in found["shown"]:
        lines.append(f"[{one['split']}/{one['kind']}] {one['question']}\n    -> {one['target']}")
    return "\n".join(lines)


def refresh(done: Json) -> str:
    lines = [
        f"refresh {done['run']}: {done['decision']}, {done['reason']}",
        f"{done['examples']} examples, {done['seconds'] or 0:.0f} s, candidate adapter {done['adapter'] or 'none'}",
    ]
    for name, value in done["metrics"].items():
        lines.append(f"  {name}: {_number(value)}")
    return "\n".join(lines)


def refresh_list(found: Json) -> str:
    lines = [
        f"{one['run']:>4}  {_local(one['started_at'])}  {one['decision']:<12} adapter {one['adapter'] or '-'}  "
        f"{one['trigger']}; {one['reason']}"
        for one in found["runs"]
    ]
    return "\n".join(lines) or "none"


def doctor(found: Json) -> str:
    lines = [f"PROBLEM  {problem}" for problem in found["problems"]]
    return "\n".join([*lines, f"{found['checked']} things checked, {len(found['problems'])} problems"])


def settings(found: Json) -> str:
    import json

    return json.dumps(found, indent=2)


def _where(found: Json) -> str:
    name = f"snapshot {found['snapshot']}, " if found["snapshot"] else ""
    return f"{name}version {found['version']} of {_local(found['as_of'])}"


def _local(text: str | None) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else "never"


def _shortened(text: str, lines: int = 4) -> str:
    kept = [line for line in text.splitlines() if line.strip()]
    return "\n".join([*kept[:lines], *(["..."] if len(kept) > lines else [])])


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(one)}" for key, one in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
