"""Commands on copies of the memory."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from daemon import render
from daemon.cli.frame import AsJson, Config, app, carry_out, settings_from, show_result

Folder = Annotated[str, typer.Argument(metavar="DIR", help="The folder that holds the backup.")]


@app.command()
def backup(dir: Folder, config: Config = None, as_json: AsJson = False) -> None:
    """Copy the memory to a folder, also while the daemon runs; only what is new is copied."""
    carry_out(config, as_json, "backup", {"dir": os.path.abspath(dir)}, render.backup)


@app.command()
def restore(dir: Folder, config: Config = None, as_json: AsJson = False) -> None:
    """Put the memory back from a backup, into a state_dir that has none."""
    from daemon.offline import put_back

    show_result(put_back(settings_from(config), dir, show_progress=not as_json), as_json, render.restore)
