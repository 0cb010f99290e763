"""Commands on states of the memory: naming them, and returning to them."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, Half, Yes, app, carry_out, confirm

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


@snapshots.command("delete")
def snapshot_delete(name: str, yes: Yes = False, config: Config = None, as_json: AsJson = False) -> None:
    """Delete a snapshot."""
    confirm(f"Delete snapshot {name}?", yes)
    carry_out(config, as_json, "snapshot_delete", {"name": name}, lambda done: f"deleted {done['deleted']}")


@app.command()
def rollback(
    snapshot: str,
    only: Half = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")] = False,
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
