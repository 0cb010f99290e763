"""The command line. Nothing heavy is imported until a command needs it, so that `memex --help` answers at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from daemon import client, render
from store.errors import MemexError, UsageError

INTERRUPTED, PARTLY = 130, 3
MISTYPED: Any = typer.BadParameter.__bases__[0]  # what typer raises for any command line it cannot read

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A memory for folders of documents: watched, asked, rolled back, learned from.",
)
snapshots = typer.Typer(no_args_is_help=True, help="Name states of the memory, and look at those named.")
refreshes = typer.Typer(help="Run a learning cycle now, or read what earlier ones decided.")
configuration = typer.Typer(no_args_is_help=True, help="Check the settings, or show what is in force.")
app.add_typer(snapshots, name="snapshot")
app.add_typer(refreshes, name="refresh")
app.add_typer(configuration, name="config")

Config = Annotated[Path | None, typer.Option("--config", help="The settings file; else $MEMEX_CONFIG, ./config.toml.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors as JSON on stderr.")]
Number = Annotated[int | None, typer.Option("-k", min=1, max=1000, help="How many chunks to find.")]
At = Annotated[str | None, typer.Option(help="A snapshot, a version, or a time ('2 hours ago').")]
OnlySource = Annotated[str | None, typer.Option("--source", help="Only this source's documents.")]
OnlyDomain = Annotated[str | None, typer.Option("--domain", help="Only this domain's documents.")]
OnlyTag = Annotated[str | None, typer.Option("--tag", help="Only documents with this tag.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Half = Annotated[str | None, typer.Option("--only", help="Roll back one half: index or model.")]


@app.command()
def serve(config: Config = None, as_json: AsJson = False) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C."""
    from daemon.service import serve as run

    run(_settings(config))


@app.command()
def sync(
    paths: Annotated[list[str] | None, typer.Argument(help="Only what lies here; else all sources.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what differs, change nothing.")] = False,
    confirm_deletes: Annotated[
        bool, typer.Option("--confirm-deletes", help="Remove what is gone, however much it is.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed files again now.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Scan the sources once, ingest what differs, and exit."""
    arguments = {"paths": paths, "dry_run": dry_run, "confirm_deletes": confirm_deletes, "retry": retry}
    result = _run(config, as_json, "sync", arguments, render.sync)
    if result.get("failed"):
        raise typer.Exit(PARTLY)


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> None:
    """Head, counts, queue, watch mode, failures, last refresh, next jobs."""
    from daemon.config import socket_path
    from store.summary import summarise

    settings = _settings(config)
    socket = socket_path(settings)
    if client.is_running(socket):
        found = client.call(socket, "status")
    else:
        found = {**summarise(settings.state_dir / "catalogue.sqlite"), "running": False, "queue": 0, "watch_mode": None}
    _show(found, as_json, render.status)


@app.command()
def search(
    query: str,
    k: Number = None,
    at: At = None,
    source: OnlySource = None,
    domain: OnlyDomain = None,
    tag: OnlyTag = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Find chunks."""
    arguments = {"query": query, "k": k, "at": at, "source": source, "domain": domain, "tag": tag}
    _run(config, as_json, "search", arguments, render.search)


@app.command()
def ask(
    question: str,
    k: Number = None,
    at: At = None,
    base: Annotated[bool, typer.Option("--base", help="Answer with the bare model, without the adapter.")] = False,
    source: OnlySource = None,
    domain: OnlyDomain = None,
    tag: OnlyTag = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    arguments = {"question": question, "k": k, "at": at, "base": base, "source": source, "domain": domain, "tag": tag}
    _run(config, as_json, "ask", arguments, render.ask)


@app.command()
def feedback(
    retrieval: str,
    verdict: Annotated[str, typer.Argument(help="good or bad")],
    answer: Annotated[str | None, typer.Option(help="What would have been right.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say whether an answer was right."""
    arguments = {"retrieval": retrieval, "verdict": verdict, "answer": answer}
    _run(config, as_json, "feedback", arguments, lambda done: f"noted: {done['retrieval_id']} was {done['feedback']}")


@app.command()
def documents(
    failed: Annotated[bool, typer.Option("--failed", help="Only those that could not be read.")] = False,
    held: Annotated[bool, typer.Option("--held", help="Only those that a rollback holds.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List what is remembered."""
    _run(config, as_json, "documents", {"failed": failed, "held": held}, render.documents)


@app.command()
def show(
    document: str,
    history: Annotated[bool, typer.Option("--history", help="Its revisions too.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a document's chunks; name it by id, path or the end of its path."""
    _run(config, as_json, "show", {"document": document, "history": history}, render.show)


@snapshots.command("create")
def snapshot_create(
    name: Annotated[str | None, typer.Argument()] = None,
    reason: Annotated[str, typer.Option(help="Why it is taken.")] = "by hand",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Name the state that serves now."""
    _run(config, as_json, "snapshot_create", {"name": name, "reason": reason}, render.snapshot)


@snapshots.command("list")
def snapshot_list(config: Config = None, as_json: AsJson = False) -> None:
    """All snapshots, oldest first."""
    _run(config, as_json, "snapshot_list", {}, render.snapshot_list)


@snapshots.command("show")
def snapshot_show(name: str, config: Config = None, as_json: AsJson = False) -> None:
    """One snapshot, and what returning to it would change."""
    _run(config, as_json, "snapshot_show", {"name": name}, render.snapshot_show)


@snapshots.command("delete")
def snapshot_delete(name: str, yes: Yes = False, config: Config = None, as_json: AsJson = False) -> None:
    """Delete a snapshot."""
    _confirm(f"Delete snapshot {name}?", yes)
    _run(config, as_json, "snapshot_delete", {"name": name}, lambda done: f"deleted {done['deleted']}")


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
        _run(config, as_json, "rollback_plan", arguments, render.plan)
        return
    _confirm(f"Roll back to {snapshot}? The state before is kept as a snapshot.", yes)
    _run(config, as_json, "rollback", arguments, render.rollback)


@app.command()
def release(
    paths: Annotated[list[str] | None, typer.Argument(help="Documents, or folders of them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is held.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Let held content back in."""
    _run(config, as_json, "release", {"paths": paths, "everything": everything}, render.release)


@refreshes.callback(invoke_without_command=True)
def refresh(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be learned, learn nothing.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run one learning cycle now."""
    if context.invoked_subcommand is None:
        _run(config, as_json, "refresh", {"dry_run": dry_run}, render.refresh_plan if dry_run else render.refresh)


@refreshes.command("list")
def refresh_list(config: Config = None, as_json: AsJson = False) -> None:
    """The learning cycles, newest first."""
    _run(config, as_json, "refresh_list", {}, render.refresh_list)


@refreshes.command("show")
def refresh_show(run: int, config: Config = None, as_json: AsJson = False) -> None:
    """One learning cycle, with its evidence."""
    _run(config, as_json, "refresh_show", {"run": run}, render.refresh)


@app.command()
def doctor(config: Config = None, as_json: AsJson = False) -> None:
    """Check that head, tables, catalogue, snapshots and adapters agree."""
    result = _run(config, as_json, "doctor", {}, render.doctor)
    if result["problems"]:
        raise typer.Exit(1)


@configuration.command("check")
def config_check(config: Config = None, as_json: AsJson = False) -> None:
    """Read the settings and say what is wrong with them."""
    from daemon.config import check, find_file

    settings = _settings(config)
    problems = check(settings, find_file(config))
    _show({"problems": problems}, as_json, lambda found: "\n".join(found["problems"]) or "nothing wrong")
    if problems:
        raise typer.Exit(UsageError.exit_code)


@configuration.command("show")
def config_show(config: Config = None, as_json: AsJson = False) -> None:
    """Every setting in force."""
    from daemon.config import show

    _show(show(_settings(config)), as_json, render.settings)


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


def _settings(config: Path | None) -> Any:
    from daemon.config import load

    return load(config)


def _run(
    config: Path | None, as_json: bool, operation: str, arguments: dict[str, Any], rendered: Callable[[Any], str]
) -> Any:
    """Have the daemon do it, or, without one, do it here; then show what came out."""
    from daemon.config import socket_path

    settings = _settings(config)
    socket = socket_path(settings)
    if client.is_running(socket):
        result = client.call(socket, operation, arguments)
    else:
        from daemon.offline import perform

        result = perform(settings, operation, arguments, show_progress=not as_json)
    _show(result, as_json, rendered)
    return result


def _show(result: Any, as_json: bool, rendered: Callable[[Any], str]) -> None:
    print(json.dumps(result, indent=2) if as_json else rendered(result))


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this needs an answer and there is no terminal to ask on; say --yes")
    if not typer.confirm(question, err=True):
        raise typer.Abort
