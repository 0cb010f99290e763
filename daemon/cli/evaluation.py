"""Commands that measure: evaluations, replays, and a person's review."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon import render_evaluation
from daemon.cli.frame import AsJson, At, Config, app, carry_out, connected, settings_from, show_result

KEYS = {
    "c": ("correct", "good", None),
    "u": ("unsupported", "bad", "unsupported"),
    "w": ("wrong", "bad", "wrong"),
    "x": ("wrong citation", "bad", "citation"),
}
ASK = "correct (c), unsupported (u), wrong (w), wrong citation (x), skip (s), quit (q): "
END = "\x04"  # Ctrl-D

evaluations = typer.Typer(help="Measure retrieval and answers, or read what earlier evaluations measured.")
app.add_typer(evaluations, name="eval")


@evaluations.callback(invoke_without_command=True)
def evaluate(
    context: typer.Context,
    asked: Annotated[
        str, typer.Option("--set", help="A file of questions, a BEIR folder, 'logged' (judged answers) or 'made'.")
    ] = "made",
    questions: Annotated[int | None, typer.Option(min=1, help="At most so many questions.")] = None,
    retrieval_only: Annotated[bool, typer.Option("--retrieval-only", help="Leave out the language model.")] = False,
    against: Annotated[
        str | None, typer.Option(help="Compare with this run, or with a snapshot; else with the last run of the set.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this PNG file.")] = None,
    at: At = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well memory finds and answers. Runs beside a daemon, in a process of its own."""
    if context.invoked_subcommand is not None:
        return
    from daemon.evaluation.offline import evaluate_here

    arguments = {"count": questions, "retrieval_only": retrieval_only, "against": against, "when": at}
    result = evaluate_here(settings_from(config), asked, arguments, plot_to=plot, show_progress=not as_json)
    show_result(result, as_json, render_evaluation.evaluation)


@evaluations.command("list")
def eval_list(config: Config = None, as_json: AsJson = False) -> None:
    """The evaluations, newest first."""
    carry_out(config, as_json, "eval_list", {}, render_evaluation.evaluation_list)


@evaluations.command("show")
def eval_show(
    evaluation: int,
    against: Annotated[int | None, typer.Option(help="Compare with this run.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """One evaluation."""
    arguments = {"evaluation": evaluation, "against": against}
    carry_out(config, as_json, "eval_show", arguments, render_evaluation.evaluation)


@app.command()
def replay(retrieval: str, config: Config = None, as_json: AsJson = False) -> None:
    """Ask an old question again: of the version that it saw, and of what memory holds now."""
    carry_out(config, as_json, "replay", {"retrieval": retrieval}, render_evaluation.replay)


@app.command()
def review(
    limit: Annotated[int, typer.Option("-n", min=1, help="At most so many answers, the newest first.")] = 20,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Judge answers one by one, by single keys. What is judged feeds evaluation and training."""
    verdicts: dict[str, int] = {}
    with connected(settings_from(config)) as call:
        answers = call("unjudged", {"limit": limit})["answers"]
        for number, one in enumerate(answers, start=1):
            _say(render_evaluation.for_review(one, number, len(answers)))
            key = _choose()
            if key in ("q", END):
                break
            if key != "s":
                word, verdict, fault = KEYS[key]
                answer = _correction() if verdict == "bad" else None
                arguments: dict[str, Any] = {"verdict": verdict, "fault": fault, "answer": answer}
                call("feedback", {"retrieval": one["retrieval_id"], **arguments})
                verdicts[word] = verdicts.get(word, 0) + 1
    done = {"verdicts": verdicts, "left": len(answers) - sum(verdicts.values())}
    show_result(done, as_json, render_evaluation.reviewed)


def _choose() -> str:
    while True:
        _say(ASK, end="")
        key = _key()
        _say("" if key == END else key)
        if key in (*KEYS, "s", "q", END):
            return key


def _correction() -> str | None:
    _say("the right answer, if you know it (Enter: none): ", end="")
    return sys.stdin.readline().strip() or None


def _key() -> str:
    """One key from a terminal, else the first letter of a line; END where there is no more."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip()[:1].lower() if line else END
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal, termios.TCSADRAIN)  # what was typed ahead counts
        return os.read(terminal, 1).decode(errors="replace").lower() or END
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
