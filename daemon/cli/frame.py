"""What all commands share: options, finding who does the work, showing what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon import client
from store.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A memory for folders of documents: watched, asked, rolled back, learned from.",
)

Config = Annotated[
    Path | None,
    typer.Option("--config", help="The settings; else $MEMEX_CONFIG, ./config.toml, /etc/memex/."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors as JSON on stderr.")]
Number = Annotated[int | None, typer.Option("-k", min=1, max=1000, help="How many chunks to find.")]
At = Annotated[str | None, typer.Option(help="A snapshot, a version, or a time ('2 hours ago').")]
OnlySource = Annotated[str | None, typer.Option("--source", help="Only this source's documents.")]
OnlyDomain = Annotated[str | None, typer.Option("--domain", help="Only this domain's documents.")]
OnlyTag = Annotated[str | None, typer.Option("--tag", help="Only documents with this tag.")]
OnlyPath = Annotated[
    str | None, typer.Option("--path", help="Only documents whose path this glob fits: 'notes/**/*.md', '*.log'.")
]
ModifiedAfter = Annotated[str | None, typer.Option(help="Only files changed since: a time ('2 days ago').")]
ModifiedBefore = Annotated[str | None, typer.Option(help="Only files last changed before it.")]
IngestedAfter = Annotated[str | None, typer.Option(help="Only what memory took in since.")]
IngestedBefore = Annotated[str | None, typer.Option(help="Only what memory took in before it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Half = Annotated[str | None, typer.Option("--only", help="Roll back one half: index or model.")]

LONG = ("sync", "release", "refresh")  # operations with a progress bar


def given(context: typer.Context) -> dict[str, Any]:
    """A command's arguments as its operation takes them."""
    return {name: value for name, value in context.params.items() if name not in ("config", "as_json")}


def settings_from(config: Path | None) -> Any:
    from daemon.config import load

    return load(config)


def carry_out(
    config: Path | None,
    as_json: bool,
    operation: str,
    arguments: dict[str, Any],
    rendered: Callable[[Any], str],
    on_token: Callable[[str], None] | None = None,
) -> Any:
    """Have the daemon do it, or, without one, do it here; then show what came out. `on_token` is for `ask`."""
    from daemon.config import socket_path

    settings = settings_from(config)
    socket = socket_path(settings)
    if client.is_running(socket):
        from daemon.progress import following

        with following(socket, operation, operation in LONG and not as_json, client.call):
            result = client.call(socket, operation, arguments, on_token)
    else:
        from daemon.offline import perform

        heard = {"on_token": on_token} if on_token else {}
        result = perform(settings, operation, arguments | heard, show_progress=not as_json)
    show_result(result, as_json, rendered)
    return result


@contextmanager
def connected(settings: Any) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Several operations in a row: by the daemon or, without one, by a memory that is opened once."""
    from daemon.config import socket_path

    socket = socket_path(settings)
    if client.is_running(socket):
        yield partial(client.call, socket)
    else:
        from daemon.offline import opened

        with opened(settings) as perform:
            yield perform


def show_result(result: Any, as_json: bool, rendered: Callable[[Any], str]) -> None:
    print(json.dumps(result, indent=2) if as_json else rendered(result))


def confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this needs an answer and there is no terminal to ask on; say --yes")
    if not typer.confirm(question, err=True):
        raise typer.Abort
