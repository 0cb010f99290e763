"""Commands on the learning cycles."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, app, carry_out

refreshes = typer.Typer(help="Run a learning cycle now, or read what earlier ones decided.")
app.add_typer(refreshes, name="refresh")


@refreshes.callback(invoke_without_command=True)
def refresh(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be learned, learn nothing.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run one learning cycle now."""
    if context.invoked_subcommand is None:
        carry_out(config, as_json, "refresh", {"dry_run": dry_run}, render.refresh_plan if dry_run else render.refresh)


@refreshes.command("list")
def refresh_list(config: Config = None, as_json: AsJson = False) -> None:
    """The learning cycles, newest first."""
    carry_out(config, as_json, "refresh_list", {}, render.refresh_list)


@refreshes.command("show")
def refresh_show(run: int, config: Config = None, as_json: AsJson = False) -> None:
    """One learning cycle, with its evidence."""
    carry_out(config, as_json, "refresh_show", {"run": run}, render.refresh)
