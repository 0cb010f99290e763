"""Commands on what memory holds: feeding it, asking it, checking it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from daemon import client, render
from daemon.cli.frame import (
    AsJson,
    At,
    Config,
    IngestedAfter,
    IngestedBefore,
    ModifiedAfter,
    ModifiedBefore,
    Number,
    OnlyDomain,
    OnlyPath,
    OnlySource,
    OnlyTag,
    Yes,
    app,
    carry_out,
    confirm,
    given,
    settings_from,
    show_result,
)
from store.errors import UsageError

PARTLY = 3  # exit code: done, but some files failed


@app.command()
def serve(config: Config = None, as_json: AsJson = False) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C."""
    from daemon.service import serve as run

    run(settings_from(config))


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
    result = carry_out(config, as_json, "sync", arguments, render.sync)
    if result.get("failed"):
        raise typer.Exit(PARTLY)


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> None:
    """Head, counts, queue, watch mode, failures, last refresh, next jobs."""
    from daemon.config import socket_path
    from store.summary import summarise

    settings = settings_from(config)
    socket = socket_path(settings)
    if client.is_running(socket):
        found = client.call(socket, "status")
    else:
        found = {**summarise(settings.state_dir / "catalogue.sqlite"), "running": False, "queue": 0, "watch_mode": None}
    show_result(found, as_json, render.status)


@app.command()
def search(
    context: typer.Context,
    query: str,
    k: Number = None,
    at: At = None,
    source: OnlySource = None,
    domain: OnlyDomain = None,
    tag: OnlyTag = None,
    path: OnlyPath = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    ingested_after: IngestedAfter = None,
    ingested_before: IngestedBefore = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Find chunks."""
    carry_out(config, as_json, "search", given(context), render.search)


@app.command()
def ask(
    context: typer.Context,
    question: str,
    k: Number = None,
    at: At = None,
    base: Annotated[bool, typer.Option("--base", help="Answer with the bare model, without the adapter.")] = False,
    source: OnlySource = None,
    domain: OnlyDomain = None,
    tag: OnlyTag = None,
    path: OnlyPath = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    ingested_after: IngestedAfter = None,
    ingested_before: IngestedBefore = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    if as_json or not sys.stdout.isatty():
        carry_out(config, as_json, "ask", given(context), render.ask)
        return
    said = ""

    def on_token(piece: str) -> None:
        nonlocal said
        piece = piece if said else piece.lstrip()
        print(piece, end="", flush=True)
        said += piece

    carry_out(config, as_json, "ask", given(context), lambda found: render.after_answer(said, found), on_token)


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
    carry_out(
        config, as_json, "feedback", arguments, lambda done: f"noted: {done['retrieval_id']} was {done['feedback']}"
    )


@app.command()
def documents(
    failed: Annotated[bool, typer.Option("--failed", help="Only those that could not be read.")] = False,
    held: Annotated[bool, typer.Option("--held", help="Only those that a rollback holds.")] = False,
    at: At = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List what is remembered."""
    carry_out(config, as_json, "documents", {"failed": failed, "held": held, "at": at}, render.documents)


@app.command()
def show(
    document: str,
    revisions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A [B]]", help="For --diff: numbers that --history shows, or WHENs; B is else now."),
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changed from revision A to B.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Its revisions too.")] = False,
    at: At = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a document's chunks; name it by id, path or the end of its path."""
    named = revisions or []
    if diff:
        if not 1 <= len(named) <= 2 or history or at:
            raise UsageError(
                "say what to compare, as in `memex show notes.md --diff 1 2`, and neither --history nor --at"
            )
        compared = {"document": document, "first": named[0], "second": named[1] if named[1:] else None}
        carry_out(config, as_json, "show_diff", compared, render.diff)
        return
    if named:
        raise UsageError(f"{named[0]!r}: one document at a time; to compare its revisions say --diff")
    carry_out(config, as_json, "show", {"document": document, "history": history, "at": at}, render.show)


@app.command()
def release(
    paths: Annotated[list[str] | None, typer.Argument(help="Documents, or folders of them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is held.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Let held content back in."""
    carry_out(config, as_json, "release", {"paths": paths, "everything": everything}, render.release)


@app.command()
def forget(document: str, yes: Yes = False, config: Config = None, as_json: AsJson = False) -> None:
    """Remove a document from all history: every version, snapshot, cache, log and example. There is no way back."""
    confirm(f"Remove {document} from all history, snapshots included? This cannot be undone.", yes)
    carry_out(config, as_json, "forget", {"document": document}, render.forget)


@app.command()
def doctor(
    read_data: Annotated[bool, typer.Option("--read-data", help="Read and verify every file and row.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without loss.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check that head, tables, catalogue, snapshots and adapters agree."""
    result = carry_out(config, as_json, "repair" if repair else "doctor", {"read_data": read_data}, render.doctor)
    if result["problems"]:
        raise typer.Exit(1)
