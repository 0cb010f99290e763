"""An OpenAI-compatible endpoint answers instead of the local model; here a small server on a real socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon import operations, render
from daemon.endpoint import AT_ONCE, Endpoint
from daemon.settings import Generator
from store.errors import Busy, ConfigError, EndpointFailed
from tests.daemon.conftest import World

QUESTION = "Bread bakes for how many minutes?"


class Server(ThreadingHTTPServer):
    """Streams `says` word by word, as OpenAI does, and keeps what it was asked."""

    says = "40 minutes [1]"
    status = 200
    sends = ""  # instead of an answer
    counts = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self._send(json.dumps({"data": [{"id": "big-model"}, {"id": "other"}]}))

    def do_POST(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.path != "/v1/chat/completions":
            self.server.status = 404
        if self.server.sends or self.server.status != 200:
            self._send(self.server.sends)
            return
        words = self.server.says.split(" ")
        pieces = [words[0], *(f" {word}" for word in words[1:])]
        events: list[Any] = [{"choices": [{"delta": {"content": one}}]} for one in pieces]
        ended = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        events = [{"choices": [{"delta": {"role": "assistant"}}]}, *events, ended]
        if self.server.counts:
            events.append({"choices": [], "usage": {"prompt_tokens": 77, "completion_tokens": 5}})
        self._send("".join(f"data: {json.dumps(one)}\n\n" for one in events) + "data: [DONE]\n\n")

    def _send(self, text: str) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture
def kitchen(world: World, server: Server) -> World:
    world.write("bread.txt", "Bread bakes for 40 minutes at 220 degrees.")
    world.sync()
    world.reopen(generator=Generator(endpoint=server.url))
    return world


def test_it_answers_with_citations_and_is_recorded(kitchen: World, server: Server) -> None:
    pieces: list[str] = []
    told = operations.ask(kitchen.runtime, QUESTION, on_token=pieces.append)
    assert told["answer"] == "40 minutes [1]"
    assert told["citations"][0]["quote"] == "Bread bakes for 40 minutes at 220 degrees."
    assert (told["adapter"], told["endpoint"]) == (None, server.url)
    assert (told["prompt_tokens"], told["new_tokens"]) == (77, 5)
    assert pieces == ["40", " minutes", " [1]"]
    (asked,) = server.asked
    assert (asked["model"], asked["temperature"], asked["stream"]) == ("big-model", 0, True)
    assert asked["messages"][-1]["content"].endswith(f"Question: {QUESTION}")
    assert asked["max_tokens"] == kitchen.settings.generator.max_new_tokens
    kept = kitchen.runtime.memory.journal.retrieval(told["retrieval_id"])
    assert (kept.mode, kept.answer) == ("endpoint", "40 minutes [1]")
    assert server.url in render.ask(told)


def test_its_answers_are_checked_like_any_other(kitchen: World, server: Server) -> None:
    server.says = "90 minutes [1]"
    told = operations.ask(kitchen.runtime, QUESTION)
    assert (told["answer"], told["citations"]) == ("Not in the documents.", [])
    assert any("90 minutes" in remark for remark in told["remarks"])


def test_model_and_key_are_settings(kitchen: World, server: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    kitchen.reopen(
        generator=Generator(endpoint=f"{server.url}/", endpoint_model="other", endpoint_key_file=str(tmp_path / "key"))
    )
    server.counts = False
    told = operations.ask(kitchen.runtime, QUESTION)
    assert told["prompt_tokens"] > 20, "counted here when it does not count itself"
    assert [one["model"] for one in server.asked] == ["other"]
    assert server.keys == ["Bearer s3cret"]
    with pytest.raises(ConfigError, match=r"endpoint_key_file.*nowhere"):
        Endpoint(Generator(endpoint=server.url, endpoint_key_file=str(tmp_path / "nowhere")))
    (tmp_path / "key").write_text("# my key\nsk-SECRET\n")
    with pytest.raises(ConfigError, match="one word") as failed:
        Endpoint(Generator(endpoint=server.url, endpoint_key_file=str(tmp_path / "key")))
    assert "SECRET" not in str(failed.value)


@pytest.mark.parametrize(
    ("status", "sends", "said"),
    [
        (401, '{"error": {"message": "no such key"}}', "401 no such key"),
        (500, "out of memory", "500 out of memory"),
        (200, "data: {broken\n\n", "did not answer"),
        (200, 'data: {"error": "too long"}\n\n', "too long"),
        (200, "data: 7\n\n", "did not answer"),
        (200, 'data: {"choices": [{"delta": {"content": "40"}}]}\n\n', "broke off"),
        (200, '{"choices": [{"message": {"content": "40 minutes"}}]}', "broke off"),
    ],
)
def test_a_failure_says_what_and_nothing_is_recorded(
    kitchen: World, server: Server, status: int, sends: str, said: str
) -> None:
    server.status, server.sends = 200, ""
    operations.ask(kitchen.runtime, QUESTION)
    before = kitchen.runtime.memory.journal.unjudged(10)
    server.status, server.sends = status, sends
    with pytest.raises(EndpointFailed, match=said) as failed:
        operations.ask(kitchen.runtime, QUESTION)
    assert "generator.endpoint" in str(failed.value)
    assert kitchen.runtime.memory.journal.unjudged(10) == before


def test_a_proxy_for_the_web_is_none_for_this_machine(
    kitchen: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    kitchen.reopen()
    assert operations.ask(kitchen.runtime, QUESTION)["answer"] == "40 minutes [1]"


def test_nobody_there(world: World) -> None:
    world.write("bread.txt", "Bread bakes for 40 minutes at 220 degrees.")
    world.sync()
    world.reopen(generator=Generator(endpoint="http://127.0.0.1:9/v1"))
    with pytest.raises(EndpointFailed, match=r"127\.0\.0\.1:9"):
        operations.ask(world.runtime, QUESTION)
    assert operations.search(world.runtime, QUESTION)["results"]


def test_it_is_put_off_when_asked_to_stop(kitchen: World, server: Server) -> None:
    said: list[str] = []
    done = Endpoint(kitchen.settings.generator).generate(
        [{"role": "user", "content": "?"}], 16, said.append, lambda: bool(said)
    )
    assert (done.text, said) == ("40", ["40"])


def test_who_stops_need_not_wait_for_a_server_that_hangs(kitchen: World, server: Server) -> None:
    hanging = socket.create_server(("127.0.0.1", 0))
    settings = Generator(endpoint=f"http://127.0.0.1:{hanging.getsockname()[1]}/v1", endpoint_model="m")
    endpoint, asked = Endpoint(settings), time.monotonic()
    done = endpoint.generate([{"role": "user", "content": "?"}], 16, stop=lambda: time.monotonic() > asked + 0.5)
    assert (done.text, time.monotonic() - asked < 10) == ("", True)
    go_on = threading.Event()
    waiting = [
        threading.Thread(target=endpoint.generate, args=([{"role": "user", "content": "?"}], 16, None, go_on.is_set))
        for _ in range(AT_ONCE)
    ]
    for one in waiting:
        one.start()
    time.sleep(0.5)
    with pytest.raises(Busy, match="ask again"):
        endpoint.generate([{"role": "user", "content": "?"}], 16)
    go_on.set()
    for one in waiting:
        one.join(10)
    hanging.close()


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://x/v1", "http://", "http://x y", "http://x/v1?a=b"])
def test_an_endpoint_is_an_address(url: str) -> None:
    with pytest.raises(ValueError, match="should be the address of an API"):
        Generator(endpoint=url)
