"""Commands on the learning cycles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, app, carry_out
from store.durable import write_text
from store.errors import UsageError

refreshes = typer.Typer(help="Run a learning cycle now, or read what earlier ones decided.")
app.add_typer(refreshes, name="refresh")


@refreshes.callback(invoke_without_command=True)
def refresh(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be learned, learn nothing.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="With --dry-run: write the examples here, one JSON object a line.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run one learning cycle now."""
    if context.invoked_subcommand is not None:
        return
    if export is not None and not dry_run:
        raise UsageError("--export shows what would be learned; say --dry-run too")
    if not dry_run:
        carry_out(config, as_json, "refresh", {}, render.refresh)
        return
    if export is None:
        carry_out(config, as_json, "refresh", {"dry_run": True}, render.refresh_plan)
        return
    planned = carry_out(config, as_json, "refresh", {"dry_run": True, "whole": True}, render.refresh_counts)
    try:
        write_text(export, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in planned["whole"]))
    except OSError as error:
        raise UsageError(f"--export: {export} cannot be written ({error.strerror})") from None


@refreshes.command("list")
def refresh_list(config: Config = None, as_json: AsJson = False) -> None:
    """The learning cycles, newest first."""
    carry_out(config, as_json, "refresh_list", {}, render.refresh_list)


@refreshes.command("show")
def refresh_show(run: int, config: Config = None, as_json: AsJson = False) -> None:
    """One learning cycle, with its evidence."""
    carry_out(config, as_json, "refresh_show", {"run": run}, render.refresh)
