"""HTTP as a user has it: a real daemon with a tiny language model that says nonsense, streams and signals."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import client, operations
from tests.daemon.asking_http import events, free_port, over_socket, over_tcp
from tests.daemon.running import MEMEX, Running
from tests.trainers.conftest import tiny_path  # noqa: F401 - a fixture

QUESTION = "Bread bakes for how many minutes?"
READING = (
    "search",
    "documents",
    "show",
    "show_diff",
    "snapshot_show",
    "snapshot_diff",
    "rollback_plan",
    "refresh_show",
)
HARMLESS = (*READING, "feedback", "snapshot_pin", "snapshot_delete", "release", "ask/stream", "v1/chat/completions")


class Served(Running):
    def __init__(self, folder: Path, model: Path, tokens: int) -> None:
        self.port = free_port()
        self.socket = folder / "state" / "run" / "memex.sock"
        super().__init__(
            folder,
            f'[generator]\nmodel = "{model}"\nmax_new_tokens = {tokens}\n[api]\nlisten = "127.0.0.1:{self.port}"\n',
        )
        self.write("bread.txt", "Bread bakes for 40 minutes at 220 degrees.")
        self.start()
        self.until(lambda: self.paths() == {"bread.txt"})

    def end(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory, tiny_path: Path) -> Path:  # noqa: F811
    """A model that can be heard: a random one repeats what its prompt ends with, which is a line break as a rule."""
    path = tmp_path_factory.mktemp("speaking") / "model"
    shutil.copytree(tiny_path, path)
    template = path / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant\nred"))
    assert "assistant\nred" in template.read_text()
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, speaking: Path) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("served"), speaking, 12)
    yield one
    one.end()


def test_every_operation_is_described(served: Served) -> None:
    status, _, spec = over_socket(served.socket, "/openapi.json")
    offered = {*operations.READ, *operations.WRITE, *operations.WRITE_IN_STEPS, "refresh", "backup"}
    posts = {path for path, methods in spec["paths"].items() if "post" in methods}
    assert status == 200
    assert posts == {f"/{name}" for name in offered} | {"/ask/stream", "/v1/chat/completions"}
    assert {path for path, methods in spec["paths"].items() if "get" in methods} == {"/status", "/v1/models"}
    for path in posts:
        described = spec["paths"][path]["post"]
        assert described["summary"]
        assert described["requestBody"]
        assert "422" not in described["responses"]
    ask = spec["components"]["schemas"]["ask"]["properties"]
    times = {f"{what}_{when}" for what in ("modified", "ingested") for when in ("after", "before")}
    assert ask.keys() == {"question", "k", "at", "base", "source", "domain", "tag", "path"} | times
    assert "text/event-stream" in spec["paths"]["/ask/stream"]["post"]["responses"]["200"]["content"]


def test_a_real_answer_streams_and_the_check_drops_it(served: Served) -> None:
    whole = over_socket(served.socket, "/ask", {"question": QUESTION})[2]
    status, _, text = over_socket(served.socket, "/ask/stream", {"question": QUESTION})
    *pieces, (kind, last) = events(text)
    assert (status, kind) == (200, "result")
    assert len(pieces) > 1
    said = "".join(data["text"] for _, data in pieces).strip()
    assert said
    assert repr(said) in last["remarks"][-1]  # the nonsense, word for word
    differing = ("retrieval_id", "seconds")
    assert {k: v for k, v in last.items() if k not in differing} == {
        k: v for k, v in whole.items() if k not in differing
    }
    token = (served.state / "token").read_text().strip()
    chat = {"messages": [{"role": "user", "content": QUESTION}]}
    status, _, answer = over_tcp(served.port, "/v1/chat/completions", chat, Authorization=f"Bearer {token}")
    assert status == 200
    assert answer["choices"][0]["message"]["content"].startswith("Not in the documents.\n")
    assert "bread.txt" in answer["choices"][0]["message"]["content"]
    assert over_tcp(served.port, "/v1/chat/completions", chat)[0] == 401


def test_eight_clients_at_once_are_all_answered(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.call, served.socket, "ask", {"question": QUESTION}) for _ in range(8)]
        found = [pool.submit(client.call, served.socket, "search", {"query": "bread"}) for _ in range(8)]
        assert {one.result()["answer"] for one in asked} == {"Not in the documents."}
        assert {one.result()["results"][0]["text"] for one in found} == {"Bread bakes for 40 minutes at 220 degrees."}


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["\ud800", "\x00", "9" * 20, "9" * 5000, "²", "%", "x" * 8000, "../../etc/passwd", "2 hours ago"]),
)
values = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.lists(texts, max_size=2),
)
bodies = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("query", "question", "document", "first", "second", "name", "snapshot", "at"), texts),
            **dict.fromkeys(("retrieval", "verdict", "source", "domain", "tag", "only"), texts),
            **dict.fromkeys(("k", "run", "queries", "paths", "failed", "history", "base", "stream", "n"), values),
            "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": values}), max_size=2),
        },
    ),
    st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, seed=st.randoms(use_true_random=False))
def test_no_body_breaks_it(served: Served, body: Any, seed: Any) -> None:
    spec = over_socket(served.socket, "/openapi.json")[2]
    for place in HARMLESS:
        name = spec["paths"][f"/{place}"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        known = spec["components"]["schemas"][name.rpartition("/")[2]]["properties"]
        # Mostly what the operation takes, so that it gets past the form.
        fits = isinstance(body, dict) and seed.random() < 0.9
        sent = {key: value for key, value in body.items() if key in known} if fits else body
        status, _, said = over_socket(served.socket, f"/{place}", json.dumps(sent).encode())
        assert status in (200, 400, 404), (place, sent, said)
        if status != 200:
            assert said["message"] if "message" in said else said["error"]["message"]


def test_a_terminal_hears_it_and_a_pipe_gets_it_whole(served: Served) -> None:
    piped = served.command("ask", QUESTION).stdout
    assert piped.startswith("Not in the documents.\n")
    told = _on_a_terminal("ask", QUESTION, "--config", str(served.config))
    first, rest = told.split("\n", 1)
    assert first, told
    assert "Not in the documents" not in first, repr(told)
    assert "Not in the documents. No passage holds what was said above." in rest
    assert f"no passage holds what the model said: {first.strip()!r}"[:50] in rest
    assert served.stop() == 0
    alone = _on_a_terminal("ask", QUESTION, "--config", str(served.config))
    assert alone.split("\n")[0] == first


def test_sigterm_during_a_stream_ends_it_with_an_error_and_the_daemon_cleanly(tmp_path: Path, speaking: Path) -> None:
    served = Served(tmp_path, speaking, 100_000)
    try:
        connection = client._UnixConnection(served.socket)
        body = json.dumps({"question": QUESTION}).encode()
        connection.request("POST", "/ask/stream", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        first = b"".join(response.readline() for _ in range(3))
        assert first.startswith(b"event: token")
        assert served.stop() == 0
        kind, last = events((first + response.read()).decode())[-1]
        assert (kind, last["error"]) == ("error", "Stopping")
        assert "Traceback" not in served.log.read_text()
        assert not served.socket.exists()
    finally:
        served.end()


def _on_a_terminal(*arguments: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([MEMEX, *arguments], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    told = b""
    try:
        while piece := os.read(ours, 4096):
            told += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return told.decode().replace("\r\n", "\n")
