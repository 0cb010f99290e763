"""The main job of memex before your eyes: `make demo`, or `make demo DOCS=folder` on documents of your own.

A real daemon is started on real folders with the real models, and everything is asked of it through the `memex`
command, as a person would. Each step prints what it did and what it measured. The exit code is 1 if any step fails.
Nothing is written but below one temporary directory; a folder given as DOCS is only read.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMEX = str(Path(sys.executable).with_name("memex"))
QUICK = 10.0  # seconds within which a change to a file must show
LONGEST_BACKFILL = 900.0  # seconds that the documents may take to become searchable
MODULES = """
argparse base64 bisect calendar cmd codecs collections configparser contextlib copy csv datetime decimal difflib email
enum fnmatch fractions functools gettext glob graphlib gzip heapq imaplib ipaddress json locale logging mailbox
mimetypes optparse pathlib pickle platform plistlib poplib pprint queue random sched secrets shelve shlex shutil smtplib
socketserver statistics string subprocess tarfile tempfile textwrap threading timeit tokenize turtle unittest uuid wave
weakref webbrowser zipfile
"""
HANDBOOK = {
    "office.md": "# The office\n\nThe code of the front door is 4711. The alarm is turned off with the blue key.\n",
    "heating.md": "# Heating\n\nThe boiler is serviced every October by the company Lindqvist.\n",
    "parking.md": "# Parking\n\nVisitors park in the courtyard, on the spaces with a yellow number.\n",
}


class Failed(Exception):
    """A step did not give what it must."""


class Demo:
    """One state directory, one daemon, and the folders that it watches."""

    def __init__(self, folder: Path, documents: Path | None, settings: str) -> None:
        self.notes = folder / "notes"
        self.books = documents or folder / "books"
        self.config = folder / "config.toml"
        self.log = folder / "daemon.log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.notes.mkdir()
        for name, text in HANDBOOK.items():
            (self.notes / name).write_text(text)
        if documents is None:
            self.books.mkdir()
            write_library(self.books)
        self.config.write_text(
            f"state_dir = {json.dumps(str(folder / 'state'))}\n"
            f'[[sources]]\npath = {json.dumps(str(self.notes))}\nname = "notes"\n'
            f'[[sources]]\npath = {json.dumps(str(self.books))}\nname = "books"\n' + settings
        )

    def memex(self, *arguments: str, code: int = 0) -> Any:
        """Run the command and give its JSON; Failed when its exit code is not `code`."""
        ran = subprocess.run(
            [MEMEX, *arguments, "--config", str(self.config), "--json"], capture_output=True, text=True, check=False
        )
        if ran.returncode != code:
            raise Failed(f"memex {' '.join(arguments)}: exit code {ran.returncode}\n{ran.stderr or ran.stdout}")
        return json.loads(ran.stdout or ran.stderr)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen([MEMEX, "serve", "--config", str(self.config)], stdout=log, stderr=log)
        self.until(lambda: self.status()["running"], 60.0, "the daemon to answer")

    def stop(self) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(timeout=60)

    def status(self) -> Any:
        try:
            return self.memex("status")
        except Failed:
            if self.daemon is not None and self.daemon.poll() is not None:
                raise Failed(f"the daemon ended:\n{self.log.read_text()[-2000:]}") from None
            return {"running": False}

    def until(self, done: Callable[[], Any], seconds: float, what: str, pause: float = 0.1) -> float:
        """Wait until `done`, asked each `pause` seconds, and return the seconds that it took."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > seconds:
                log = self.log.read_text()[-2000:]
                raise Failed(f"waited {seconds:.0f} s for {what}; the daemon's log ends:\n{log}")
            time.sleep(pause)
        return time.monotonic() - started

    def best(self, query: str, *options: str) -> str:
        """The text of the best chunk among the notes."""
        found = self.memex("search", query, "-k", "1", "--source", "notes", *options)["results"]
        return str(found[0]["text"]) if found else ""


def main(documents: Path | None) -> int:
    with tempfile.TemporaryDirectory(prefix="memex-demo-") as folder:
        demo = Demo(Path(folder), documents, "[refresh]\nminutes = 8.0\nmax_steps = 60\n")
        print(f"memex demo: state, notes and log are in {folder}")
        try:
            for number, step in enumerate(STEPS, start=1):
                print(f"\n{number:>2}. {inspect.getdoc(step)}", flush=True)
                step(demo)
        except Failed as failure:
            print(f"\nFAILED: {failure}", file=sys.stderr)
            return 1
        finally:
            if demo.daemon is not None and demo.daemon.poll() is None:
                demo.daemon.kill()
                demo.daemon.wait()
    print("\nAll steps done.")
    return 0


# --- the steps -------------------------------------------------------------------------------------------------


def start(demo: Demo) -> None:
    """The daemon starts on two folders, and their documents become searchable."""
    started = time.monotonic()
    demo.start()
    say(f"it answers after {time.monotonic() - started:.1f} s")
    files = sum(path.is_file() for path in demo.books.rglob("*")) + len(HANDBOOK)
    last = -1.0

    def filled() -> bool:
        nonlocal last
        status = demo.status()
        if time.monotonic() - last > 15:
            last = time.monotonic()
            say(f"{status['documents']} documents, {status['chunks']} chunks, {status['queue']} waiting")
        return status["documents"] > 0 and status["queue"] == 0 and len(demo.best("the code of the front door")) > 0

    demo.until(filled, LONGEST_BACKFILL, "the documents", pause=3.0)  # asking more often would slow the embedding
    status = demo.status()
    seconds = time.monotonic() - started
    say(
        f"{status['documents']} of {files} files in {status['chunks']} chunks after {seconds:.0f} s, "
        f"{status['failed']} failed; {status['watch_mode']} watch"
    )


def question(demo: Demo) -> None:
    """A question is answered with a citation."""
    say("the first question loads the language model (the very first converts it, 45 s)")
    demo.until(lambda: "4711" in ask(demo, "What is the code of the front door?"), 1.0, "an answer with 4711")


def edit(demo: Demo) -> None:
    """A file is edited, and the answer changes."""
    (demo.notes / "office.md").write_text(HANDBOOK["office.md"].replace("4711", "9035"))
    shows(demo, "the code of the front door", "9035", "the edit")
    if "9035" not in ask(demo, "What is the code of the front door?"):
        raise Failed("the answer does not have the new code 9035")


def add(demo: Demo) -> None:
    """A file is added."""
    (demo.notes / "garden.md").write_text("# Garden\n\nThe apple tree was planted in 1987 by Ingrid.\n")
    shows(demo, "who planted the apple tree", "Ingrid", "the new file")
    if "Ingrid" not in ask(demo, "Who planted the apple tree?"):
        raise Failed("the answer does not name Ingrid")


def remove(demo: Demo) -> None:
    """A file is deleted, and what it said is gone from the answers."""
    (demo.notes / "parking.md").unlink()
    seconds = demo.until(lambda: "yellow" not in demo.best("where do visitors park"), QUICK, "the deletion")
    say(f"gone from search {seconds:.2f} s after the deletion")
    if "courtyard" in ask(demo, "Where do visitors park?"):
        raise Failed("the answer still has what the deleted file said")


def refresh(demo: Demo) -> None:
    """A refresh cycle makes questions from the documents, trains an adapter, evaluates it, and decides."""
    say("this takes some minutes; meanwhile the daemon goes on answering")
    before = demo.status()["head"]
    done = demo.memex("refresh")
    head = demo.status()["head"]
    fresh = done["metrics"]["fresh_f1"]
    say(f"{done['examples']} examples, {done['metrics']['steps']} steps, {done['seconds']:.0f} s")
    say(f"held-out questions, token F1: {fresh['incumbent']:.2f} before, {fresh['candidate']:.2f} after")
    say(f"decision: {done['decision']}: {done['reason']}")
    if done["decision"] == "promote" and head["adapter"] != done["adapter"]:
        raise Failed("the adapter was promoted and does not serve")
    if done["decision"] != "promote" and head["adapter"] != before["adapter"]:
        raise Failed("the adapter was not promoted and serves")
    say("serving: " + ("the base model" if head["adapter"] is None else f"adapter {head['adapter']}"))
    ask(demo, "Who services the boiler?")


def snapshot(demo: Demo) -> None:
    """A snapshot is taken."""
    taken = demo.memex("snapshot", "create", "good")
    say(f"'good': version {taken['version']}, {taken['documents']} documents, {taken['chunks']} chunks")


def poison(demo: Demo) -> None:
    """A bad document is added."""
    (demo.notes / "prank.md").write_text("# The office\n\nThe code of the front door is 0000, call the mayor first.\n")
    demo.until(lambda: prank_is_found(demo), QUICK, "the bad document")
    say("the bad document is found by search")


def rollback(demo: Demo) -> None:
    """A rollback takes it out, while its file still lies there."""
    done = demo.memex("rollback", "good", "--yes")
    say(f"rolled back in {done['seconds'] * 1000:.0f} ms; {done['held']} held; undo with {done['from']}")
    if prank_is_found(demo):
        raise Failed("the bad document is still found")
    demo.memex("sync")
    if prank_is_found(demo) or not (demo.notes / "prank.md").exists():
        raise Failed("a scan brought the bad document back")
    (held,) = demo.memex("documents", "--held")["documents"]
    say(f"{held['path']} lies there and stays out: {held['held']}")


def past(demo: Demo) -> None:
    """The past can be asked: the state before the rollback, and the very first."""
    before = next(one["name"] for one in demo.memex("snapshot", "list") if one["name"].startswith("before-rollback"))
    if "0000" not in json.dumps(demo.memex("search", "front door code", "--source", "notes", "--at", before)):
        raise Failed("the state before the rollback does not have the bad document")
    say(f"--at {before}: the bad document is there")
    if "9035" not in demo.best("the code of the front door", "--at", "good"):
        raise Failed("the snapshot does not have the code 9035")
    say("--at good: the code is 9035")


def release(demo: Demo) -> None:
    """Released, the document comes back, and nothing is embedded twice."""
    done = demo.memex("release", str(demo.notes / "prank.md"))
    if not prank_is_found(demo) or done["chunks_embedded"]:
        raise Failed(f"the released document is not found, or was embedded again: {done}")
    say("found again; 0 chunks embedded")


def stop(demo: Demo) -> None:
    """SIGTERM ends the daemon cleanly, and all that is on the disk agrees."""
    started = time.monotonic()
    code = demo.stop()
    if code != 0:
        raise Failed(f"the daemon ended with {code}")
    say(f"ended after {time.monotonic() - started:.1f} s")
    checked = demo.memex("doctor")
    say(f"doctor: {checked['checked']} things checked, {len(checked['problems'])} problems")


STEPS = (start, question, edit, add, remove, refresh, snapshot, poison, rollback, past, release, stop)


def prank_is_found(demo: Demo) -> bool:
    return "0000" in json.dumps(demo.memex("search", "the code of the front door", "--source", "notes"))


def shows(demo: Demo, query: str, wanted: str, what: str) -> None:
    seconds = demo.until(lambda: wanted in demo.best(query), QUICK, what)
    say(f"searchable {seconds:.2f} s after the file was closed")


def ask(demo: Demo, question: str) -> str:
    found = demo.memex("ask", question, "--source", "notes")
    say(f"asked: {question}")
    say(f"answer: {found['answer']}   ({found['seconds']:.1f} s, version {found['version']})")
    for citation in found["citations"]:
        say(f"  [{citation['number']}] {citation['location']}: {citation['quote']!r}")
    return str(found["answer"])


def write_library(folder: Path) -> None:
    """Documents that come with Python: what its modules say of themselves and of their functions."""
    for name in MODULES.split():
        module = importlib.import_module(name)
        parts = [f"# The module {name}", plain(inspect.getdoc(module) or "")]
        for member in sorted(getattr(module, "__all__", ()))[:8]:
            text = plain(inspect.getdoc(getattr(module, member, None)) or "")
            if 80 < len(text) < 1500:
                parts += [f"## {name}.{member}", text]
        (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def plain(text: str) -> str:
    """Without lines that would read as headings or rulers."""
    return "\n".join(line for line in text.splitlines() if not re.match(r"\s*(#|=+$|-+$)", line))[:4000]


def say(text: str) -> None:
    print(f"    {text}", flush=True)


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else None
    own = Path(os.path.expanduser(given)).resolve() if given else None
    if own is not None and not own.is_dir():
        sys.exit(f"DOCS={given}: no such folder")
    sys.exit(main(own))
