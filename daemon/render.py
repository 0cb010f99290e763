"""What operations give back, as text for a person (pure). One function per shape of result."""

from __future__ import annotations

import json
import textwrap
from datetime import timedelta
from typing import Any

from daemon.wording import change, local, model, moved, search_by, several, shortened, where

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
    lines = [
        f"daemon      {'running, ' + str(found['watch_mode']) + ' watch' if found['running'] else 'not running'}",
        f"head        generation {head['generation']}, version {head['version']}, {model(head['adapter'])}"
        f"{search_by(head['query_adapter'])}",
        f"changed     {local(found['changed_at'])}",
        f"documents   {found['documents']} with {found['chunks']} chunks; "
        f"{found['failed']} failed, {found['held']} held, {found['queue']} waiting",
        *_pace(found),
        f"snapshots   {found['snapshots']}",
    ]
    for name, source in found.get("sources", {}).items():
        reason = f" ({source['reason']})" if source["reason"] else ""
        lines.append(f"source      {name}: {source['mode']}{reason}")
    lines += [f"ALARM       {why}" for why in found.get("alarms", {}).values()]
    if done := found.get("maintenance"):
        lines.append(
            f"upkeep      {done['fragments']} fragments, {done['versions']} versions, {done['unindexed']} chunks not "
            f"indexed yet; {done['pruned']} versions pruned in {done['seconds']:.2f} s ({local(done['at'])})"
        )
    if last := found["last_refresh"]:
        lines.append(f"refresh     {last['run']}: {last['decision']}, {last['reason']} ({local(last['finished_at'])})")
    if now := found.get("canary"):
        asked = now["answered"]
        lines.append(
            f"canary      {model(now['adapter'])} answers {now['share']:.0%} of the questions, {model(now['before'])} "
            f"the others, until {local(now['until'])}; so far {asked['canary']} and {asked['others']}"
        )
    if last := found["last_backup"]:
        good = last["last_ok"]
        since = f"; the last good one: {local(good['at'])} to {good['dir']}" if good else ""
        ended = f"to {last['dir']}" if last["ok"] else f"FAILED: {last['error']}{since}"
        lines.append(f"backup      {ended} ({local(last['at'])})")
    if now := found.get("refreshing"):
        lines.append(f"refreshing  {now.get('stage')} {now.get('done')}/{now.get('total')}")
    if now := found.get("backing_up"):
        lines.append(f"backing up  {now['done']}/{now['total']} files")
    lines += [f"next        {name} at {local(when)}" for name, when in found.get("next_jobs", {}).items()]
    return "\n".join(lines)


def _pace(found: Json) -> list[str]:
    if not found["queue"] or not found.get("files_per_second"):
        return []
    left = "" if found["seconds_left"] is None else f", about {timedelta(seconds=found['seconds_left'])} left"
    return [f"ingesting   {found['files_per_second']} files/s, {found['chunks_per_second']} chunks/s{left}"]


def search(found: Json) -> str:
    if not found["results"]:
        return f"nothing found in {where(found)}"
    parts = [
        f"{number}. {hit['location']}  {hit['score']:.3f}\n" + textwrap.indent(shortened(hit["text"]), "   ")
        for number, hit in enumerate(found["results"], start=1)
    ]
    remarks = [f"({remark})" for remark in found["remarks"]]
    end = f"-- {where(found)}{search_by(found['query_adapter'])}, {found['seconds']:.3f} s"
    return "\n".join([*parts, *remarks, end])


def ask(found: Json) -> str:
    return str(found["answer"]) + after_answer(found["answer"], found)


def after_answer(said: str, found: Json) -> str:
    """What is to be read after `said`, the model's words as they came: what the check made of them, and the citations.

    If the answer as checked begins with them, its rest comes first.
    """
    answer, said = str(found["answer"]), said.strip()
    lines = [answer.removeprefix(said) if answer.startswith(said) else "", ""]
    if not answer.startswith(said) and not found["citations"]:
        lines += [f"{answer} No passage holds what was said above."]
    for citation in found["citations"]:
        lines.append(f"[{citation['number']}] {citation['location']}")
        lines.append(textwrap.indent(shortened(citation["quote"]), "    "))
    if not found["citations"] and found["results"]:
        lines += ["nearest passages:", *(f"  {hit['location']}  {hit['score']:.3f}" for hit in found["results"])]
    lines += [f"({remark})" for remark in found["remarks"]]
    kept = found["retrieval_id"] or "-"
    experts = ", ".join(filter(None, found["experts"]))  # the shared adapter's domain has no name
    told_by = (found["endpoint"] or model(found["adapter"])) + (f" (expert in {experts})" if experts else "")
    told_by += search_by(found["query_adapter"])
    lines.append(f"-- {where(found)}, {told_by}, {found['seconds']:.1f} s; retrieval {kept}")
    return "\n".join(lines)


def documents(found: Json) -> str:
    lines = []
    for one in found["documents"]:
        lines.append(f"{one['state']:<7}{one['chunks']:>5} chunks  {one['path']}")
        if one["error"]:
            again = f"next {local(one['next_try_at'])}" if one["next_try_at"] else "due now"
            tried = "" if one["state"] == "skipped" else f" (tried {one['tries']} times, {again})"
            lines.append(f"       {one['error']}{tried}")
        if one.get("held"):
            lines.append(f"       {one['held']}")
    lines += [f"-- {where(found)}"] if "as_of" in found else []
    return "\n".join(lines) or "none"


def show(found: Json) -> str:
    lines = [documents({"documents": [found]}), f"       id {found['document_id']}"]
    for one in found.get("history", []):
        until = "now" if one["until"] is None else local(one["until_at"])
        gone = "" if one["version"] is not None else "; its text is gone"
        lines.append(
            f"{one['number']:>6} {local(one['since_at'])} to {until} ({one['reason']}): content "
            f"{one['content'][:12]}, {one['chunks']} chunks, file of {local(one['modified_at'])}, {one['path']}{gone}"
        )
    for hit in found["passages"]:
        place = f"page {hit['page']}" if hit["page"] else " > ".join(hit["headings"])
        lines += [f"--- {hit['position']} {place}".rstrip(), hit["text"]]
    lines += [f"-- {where(found)}"] if "as_of" in found else []
    return "\n".join(lines)


def diff(found: Json) -> str:
    return "\n".join(found["diff"]) or "no difference"


def snapshot(one: Json) -> str:
    return (
        f"{one['name']}  version {one['version']}, {one['documents']} documents, {one['chunks']} chunks, "
        f"{model(one['adapter'])}{search_by(one['query_adapter'])}, {local(one['created_at'])}, {one['reason']}"
        f"{', pinned' if one['pinned'] else ''}"
    )


def snapshot_list(found: list[Json]) -> str:
    return "\n".join(snapshot(one) for one in found) or "none"


def snapshot_show(found: Json) -> str:
    return f"{snapshot(found)}\nrolling back to it would change:\n{plan(found['rollback'])}"


def plan(found: Json) -> str:
    lines = [f"{word:<11} {path}" for word in ("out", "back", "changed") for path in found[word]]
    lines += [f"moved       {one['from']} -> {one['to']}" for one in found["moved"]]
    lines += [f"relabelled  {path}" for path in found["relabelled"]]
    lines = lines or ["the same documents"]
    lines += [f"held        {one['path']}: {one['reason']}" for one in found["held"]]
    lines += [f"freed       {path}" for path in found["freed"]]
    lines += _serving(found)
    for key, pair in found["settings"].items():
        lines.append(f"setting     {key} stays {json.dumps(pair['from'])}; then it was {json.dumps(pair['to'])}")
    return "\n".join(lines)


def difference(found: Json) -> str:
    lines = [f"from {where(found['from'])}", f"to   {where(found['to'])}"]
    for word in ("added", "removed", "changed", "relabelled"):
        lines += [f"{word:<11} {one['path']}" for one in found[word]]
    lines += [f"moved       {one['from']} -> {one['to']}" for one in found["moved"]]
    if not any(found[word] for word in ("added", "removed", "changed", "relabelled", "moved")):
        lines.append("the same documents")
    lines += _serving(found)
    if found["generation"]["from"] != found["generation"]["to"]:
        lines.append(f"generation  {change(found['generation'], str)}")
    for key, pair in found["settings"].items():
        lines.append(f"setting     {key}: {json.dumps(pair['from'])} -> {json.dumps(pair['to'])}")
    for one in found["queries"]:
        lines.append(f"query: {one['query']}")
        lines += [f"  {moved(result['rank'])} {result['location']}" for result in one["results"]]
    return "\n".join(lines)


def _serving(found: Json) -> list[str]:
    query = found["query_adapter"]
    moved_by = [f"query       {change(query, lambda one: f'adapter {one}' if one else 'as it is')}"]
    return [f"serving     {change(found['adapter'], model)}", *(moved_by if any(query.values()) else [])]


def prune(found: Json) -> str:
    word = "would remove" if found["dry_run"] else "removed"
    lines = [f"{'keep':<12} {one['name']}: {', '.join(one['reasons'])}" for one in found["kept"]]
    lines += [f"{word:<12} {one['name']}  {local(one['created_at'])}, {one['reason']}" for one in found["removed"]]
    return "\n".join([*lines, f"{len(found['kept'])} kept, {len(found['removed'])} {word}"])


def rollback(done: Json) -> str:
    return (
        f"rolled back to {done['to']} in {done['seconds']:.3f} s: version {done['version']}, {done['held']} held; "
        f"undo with `memex rollback {done['from']}`"
    )


def release(done: Json) -> str:
    lines = [f"released {path}" for path in done["released"]]
    return "\n".join([*lines, f"{len(done['released'])} released, {done['chunks_embedded']} chunks embedded"])


def forget(done: Json) -> str:
    lines = [
        f"forgot {done['path']} in {done['seconds']:.1f} s: {done['snapshots']} snapshots written anew, "
        f"{done['retrievals']} retrievals and {done['examples']} examples removed"
    ]
    if done["adapters"]:
        numbers = ", ".join(str(one) for one in done["adapters"])
        now = "the base model" if done["adapter"] is None else f"adapter {done['adapter']}"
        lines.append(f"retired, as they learned from it: adapters {numbers}; {now} serves")
    if done["query_adapters"]:
        numbers = ", ".join(str(one) for one in done["query_adapters"])
        now = "none" if done["query_adapter"] is None else f"query adapter {done['query_adapter']}"
        lines.append(f"retired, as they learned from it: query adapters {numbers}; {now} serves")
    if done["still_on_disk"]:
        lines.append("the file still lies in its folder; it stays out until it is changed or released")
    lines += [f"the same content is still remembered as {path}; forget that too" for path in done["copies"]]
    return "\n".join(lines)


def adapter_export(done: Json) -> str:
    what = "merged into" if done["merged"] else "for"
    return f"adapter {done['adapter']}, {what} {done['base']}: {done['bytes'] / 1e6:.1f} MB in {done['dir']}"


def refresh_counts(found: Json) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in found["counts"].items()) or "none"
    return f"{found['examples']} examples: {counts}"


def refresh_plan(found: Json) -> str:
    lines = [refresh_counts(found), found["power"]]
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
    lines += _quarantined(done)
    for one in done.get("items", ()):
        lines.append(f"{one['candidate'] - one['incumbent']:+.3f} [{one['set']}] {one['question']} -> {one['right']}")
        for arm in ("incumbent", "candidate"):
            lines.append(f"       {arm:<10} {one[arm]:.3f} {' '.join(one[f'{arm}_text'].split())}")
    return "\n".join(lines)


def refresh_list(found: Json) -> str:
    lines = []
    for one in found["runs"]:
        lines.append(
            f"{one['run']:>4}  {local(one['started_at'])}  {one['decision']:<12} adapter {one['adapter'] or '-'}  "
            f"{one['trigger']}; {one['reason']}"
        )
        if query := one["metrics"].get("query"):
            lines.append(f"      query: {query['decision']}, {query['reason']}")
        lines += _quarantined(one)
    if (moved := found["backward_transfer"]) is not None:
        lines.append(f"F1 on what earlier cycles taught, since then: {moved:+.3f}")
    return "\n".join(lines) or "none"


def _quarantined(run: Json) -> list[str]:
    paths = run.get("quarantined", ())
    return [f"      what it made learned from what is in quarantine now: {several(paths)}"] if paths else []


def doctor(found: Json) -> str:
    lines = [f"mended   {problem}" for problem in found["mended"]]
    lines += [f"PROBLEM  {problem}" for problem in found["problems"]]
    hint = f"; `memex doctor --repair` mends {found['mendable']} of them" if found["mendable"] else ""
    return "\n".join([*lines, f"{found['checked']} things checked, {len(found['problems'])} problems{hint}"])


def backup(done: Json) -> str:
    return (
        f"backed up to {done['dir']} in {done['seconds']:.1f} s: {done['files']} files, {_size(done['bytes'])}; "
        f"copied {done['copied_files']} ({_size(done['copied_bytes'])}), removed {done['removed']}"
    )


def restore(done: Json) -> str:
    head = done["head"]
    return (
        f"restored from {done['from']} in {done['seconds']:.1f} s: {done['files']} files, {_size(done['bytes'])}; "
        f"head: generation {head['generation']}, version {head['version']}, {model(head['adapter'])}"
        f"{search_by(head['query_adapter'])}\n"
        "`memex doctor` checks it; `memex sync` or `memex serve` takes in what changed since"
    )


def settings(found: Json) -> str:
    return json.dumps(found, indent=2)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(one)}" for key, one in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
