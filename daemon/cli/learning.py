"""Commands on the learning cycles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, app, carry_out, settings_from, show_result
from daemon.settings import Control
from store.durable import write_text
from store.errors import UsageError

refreshes = typer.Typer(help="Run a learning cycle now, or read what earlier ones decided.")
app.add_typer(refreshes, name="refresh")
adapters = typer.Typer(no_args_is_help=True, help="What the learning cycles made.")
app.add_typer(adapters, name="adapter")


@refreshes.callback(invoke_without_command=True)
def refresh(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be learned, learn nothing.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="With --dry-run: write the examples here, one JSON object a line.")
    ] = None,
    control: Annotated[
        Control | None,
        typer.Option(help="Two trained alike (aa), or something left out: does the gate see it?"),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run one learning cycle now."""
    if context.invoked_subcommand is not None:
        return
    if export is not None and not dry_run:
        raise UsageError("--export shows what would be learned; say --dry-run too")
    if control is not None and dry_run:
        raise UsageError("--control runs a cycle; leave --dry-run out")
    if not dry_run:
        carry_out(config, as_json, "refresh", {"control": control}, render.refresh)
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
def refresh_show(
    run: int,
    items: Annotated[bool, typer.Option("--items", help="Also each question that it was judged by.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """One learning cycle, with its evidence."""
    carry_out(config, as_json, "refresh_show", {"run": run, "items": items}, render.refresh)


@refreshes.command("plot")
def refresh_plot(file: Path, config: Config = None, as_json: AsJson = False) -> None:
    """Draw what each cycle measured, and what was promoted, into a PNG file."""
    from daemon.evaluation import plot

    plot.check(file)

    def drawn(found: dict[str, Any]) -> str:
        plot.draw_cycles(found["runs"], file)
        return f"{len(found['runs'])} cycles in {file}"

    found = carry_out(config, as_json, "refresh_list", {}, drawn)
    if as_json:
        drawn(found)


@adapters.callback()
def adapter() -> None:
    """What the learning cycles made."""


@adapters.command()
def export(
    adapter: int,
    folder: Path,
    merged: Annotated[bool, typer.Option("--merged", help="Base and adapter as one model, without experts.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write an adapter to a new folder, with its experts, as plain peft reads it."""
    from daemon.exporting import export_adapter

    done = export_adapter(settings_from(config), adapter, folder, merged=merged)
    show_result(done, as_json, render.adapter_export)
