"""Commands on states of the memory: naming them, and returning to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, Half, Number, Yes, app, carry_out, confirm
from store.errors import UsageError

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")]

snapshots = typer.Typer(no_args_is_help=True, help="Name states of the memory, and look at those named.")
app.add_typer(snapshots, name="snapshot")


@snapshots.command("create")
def snapshot_create(
    name: Annotated[str | None, typer.Argument()] = None,
    reason: Annotated[str, typer.Option(help="Why it is taken.")] = "by hand",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Name the state that serves now."""
    carry_out(config, as_json, "snapshot_create", {"name": name, "reason": reason}, render.snapshot)


@snapshots.command("list")
def snapshot_list(config: Config = None, as_json: AsJson = False) -> None:
    """All snapshots, oldest first."""
    carry_out(config, as_json, "snapshot_list", {}, render.snapshot_list)


@snapshots.command("show")
def snapshot_show(name: str, config: Config = None, as_json: AsJson = False) -> None:
    """One snapshot, and what returning to it would change."""
    carry_out(config, as_json, "snapshot_show", {"name": name}, render.snapshot_show)


@snapshots.command("diff")
def snapshot_diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A snapshot, a version, or a time.")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="As A; else what serves now.")] = None,
    query: Annotated[
        Path | None, typer.Option("--query", help="A file with a query per line: show how their results moved.")
    ] = None,
    k: Number = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """What differs from state A to state B: documents, what serves, settings, results."""
    queries = None if query is None else read_queries(query)
    arguments = {"first": first, "second": second, "queries": queries, "k": k}
    carry_out(config, as_json, "snapshot_diff", arguments, render.difference)


@snapshots.command("pin")
def snapshot_pin(
    name: str,
    unpin: Annotated[bool, typer.Option("--unpin", help="Let retention decide again.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Have retention leave a snapshot alone."""
    carry_out(config, as_json, "snapshot_pin", {"name": name, "pinned": not unpin}, render.snapshot)


@snapshots.command("prune")
def snapshot_prune(
    dry_run: DryRun = False,
    yes: Yes = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Delete the snapshots that the policy in [snapshots] does not keep."""
    if not dry_run:
        confirm("Delete the snapshots that the policy does not keep? --dry-run shows them.", yes)
    carry_out(config, as_json, "snapshot_prune_plan" if dry_run else "snapshot_prune", {}, render.prune)


@snapshots.command("delete")
def snapshot_delete(name: str, yes: Yes = False, config: Config = None, as_json: AsJson = False) -> None:
    """Delete a snapshot."""
    confirm(f"Delete snapshot {name}?", yes)
    carry_out(config, as_json, "snapshot_delete", {"name": name}, lambda done: f"deleted {done['deleted']}")


@app.command()
def rollback(
    snapshot: str,
    only: Half = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Return to a snapshot. What comes after it is held out until `memex release` or an edit."""
    arguments = {"snapshot": snapshot, "only": only}
    if dry_run:
        carry_out(config, as_json, "rollback_plan", arguments, render.plan)
        return
    confirm(f"Roll back to {snapshot}? The state before is kept as a snapshot.", yes)
    carry_out(config, as_json, "rollback", arguments, render.rollback)


def read_queries(file: Path) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        queries = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); it holds one query per line, in UTF-8") from None
    if not queries:
        raise UsageError(f"{file}: no queries; it holds one per line")
    return queries
