"""Commands on the settings."""

from __future__ import annotations

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, app, settings_from, show_result
from store.errors import UsageError

configuration = typer.Typer(no_args_is_help=True, help="Check the settings, or show what is in force.")
app.add_typer(configuration, name="config")


@configuration.command("check")
def config_check(config: Config = None, as_json: AsJson = False) -> None:
    """Read the settings and say what is wrong with them."""
    from daemon.config import check, find_file

    settings = settings_from(config)
    problems = check(settings, find_file(config))
    show_result({"problems": problems}, as_json, lambda found: "\n".join(found["problems"]) or "nothing wrong")
    if problems:
        raise typer.Exit(UsageError.exit_code)


@configuration.command("show")
def config_show(config: Config = None, as_json: AsJson = False) -> None:
    """Every setting in force."""
    from daemon.config import show

    show_result(show(settings_from(config)), as_json, render.settings)
