"""The command line. Nothing heavy is imported until a command needs it, so that `memex --help` answers at once."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

import typer

from daemon.cli import (  # noqa: F401 - they add their commands to `app`
    backups,
    configuration,
    evaluation,
    learning,
    memory,
    states,
)
from daemon.cli.frame import app
from store.errors import MemexError, UsageError

INTERRUPTED = 130
MISTYPED: Any = typer.BadParameter.__bases__[0]  # what typer raises for any command line it cannot read


def main() -> None:
    """The `memex` command: runs, and turns errors into messages and exit codes."""
    # Threads that spin at barriers take the cores from training and embedding in turn. Must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.exit(app(standalone_mode=False))
    except MISTYPED as error:
        _complain(UsageError(f"{error.format_message()} (`memex --help`)"))
    except MemexError as error:
        _complain(error)
    except (KeyboardInterrupt, typer.Abort):
        print("memex: interrupted; what was committed stands", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _complain(error: MemexError) -> NoReturn:
    text = json.dumps(error.described()) if "--json" in sys.argv else f"memex: {error}"
    print(text, file=sys.stderr)
    sys.exit(error.exit_code)
