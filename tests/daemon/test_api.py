"""HTTP with a made-up memory behind it: who gets in, how much, how many at once, and what streams look like."""

from __future__ import annotations

import http.client
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemon import client
from daemon.api import guard, server
from daemon.api.server import Api, read_token
from daemon.operations.shapes import Depth
from daemon.settings import Api as ApiSettings
from daemon.settings import Settings
from daemon.turns import Turns
from store.errors import Busy, ConfigError, MemexError, NotFound, Stopping, UsageError
from tests.daemon.asking_http import events, free_port, over_socket, over_tcp

FOUND: dict[str, Any] = {
    "version": 4,
    "snapshot": None,
    "as_of": "2026-11-22T10:00:00+00:00",
    "answer": "40 minutes [1]",
    "citations": [{"number": 1, "location": "/docs/bread.txt", "quote": "Bread bakes for 40 minutes."}],
    "remarks": [],
    "adapter": None,
    "experts": {},
    "query_adapter": None,
    "endpoint": None,
    "retrieval_id": "r1",
    "results": [{"location": "/docs/bread.txt", "score": 0.9}],
    "prompt_tokens": 50,
    "new_tokens": 3,
    "seconds": 0.1,
}
DROPPED = {**FOUND, "answer": "Not in the documents.", "citations": [], "remarks": ["no passage holds it"]}


class Made:
    """Operations that do what a test wants, behind a real server on a real socket and a real port."""

    def __init__(self, folder: Path) -> None:
        self.turns = Turns(waiting=2)
        self.go_on = threading.Event()
        self.go_on.set()
        self.stopped = threading.Event()
        self.found = FOUND
        self.port = free_port()
        settings = Settings(state_dir=folder / "state", api=ApiSettings(listen=f"127.0.0.1:{self.port}"))
        self.socket = folder / "state" / "run" / "memex.sock"
        self.api = Api({"ask": self.ask, "fail": self.fail, "wait": self.wait}, lambda: {"running": True}, settings)
        self.api.bind()
        self.api.start()
        self.bearer = f"Bearer {(folder / 'state' / 'token').read_text().strip()}"

    def ask(
        self,
        question: str,
        k: Depth | None = None,
        *,
        on_token: Callable[[str], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Answer."""
        with self.turns.take(stop):
            if question == "nowhere":
                raise NotFound("no source 'nowhere'")
            for piece in ("40", " minutes"):
                if on_token:
                    on_token(piece)
                while not self.go_on.wait(0.02):
                    if self.turns.closed or stop():
                        self.stopped.set()
                        raise Stopping("stopped")
            if question == "half":
                raise MemexError("the model broke")
            return self.found

    def fail(self, number: int = 0) -> None:
        """Fail."""
        raise RuntimeError("a secret")

    def wait(self) -> dict[str, str]:
        """Wait."""
        self.go_on.wait(30)
        return {}

    def tcp(self, place: str, body: Any = None, **headers: str) -> Any:
        return over_tcp(self.port, place, body, **{"Authorization": self.bearer, **headers})


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    one = Made(tmp_path)
    yield one
    one.go_on.set()
    one.api.stop()


def test_socket_and_token_are_for_this_user_only(made: Made) -> None:
    assert stat.S_IMODE(made.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE((made.socket.parent.parent / "token").stat().st_mode) == 0o600


def test_nothing_listens_on_tcp_by_default(tmp_path: Path) -> None:
    api = Api({}, dict, Settings(state_dir=tmp_path))
    api.bind()
    api.start()
    assert [one.family for one, _ in api._bound] == [socket.AF_UNIX]
    assert not (tmp_path / "token").exists()
    api.stop()


def test_the_token_opens_tcp_and_nothing_else_does(made: Made) -> None:
    assert made.tcp("/status")[0] == 200
    assert over_socket(made.socket, "/status")[0] == 200  # the folder keeps others out
    for wrong in ("", "Bearer", "Bearer x", f"Basic {made.bearer[7:]}", made.bearer[:-1], f"{made.bearer} x"):
        for place in ("/status", "/openapi.json", "/v1/models", "/nothing"):
            status, headers, _ = made.tcp(place, Authorization=wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer"), (wrong, place)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[::2]", ""]
)
def test_a_foreign_host_is_refused(made: Made, host: str) -> None:
    status, _, said = made.tcp("/status", Host=host)
    assert (status, said["error"]) == (403, "UsageError")


def test_names_of_this_machine_are_no_foreign_hosts(made: Made) -> None:
    for host in ("localhost", f"LOCALHOST:{made.port}", "127.0.0.1:9", "[::1]:80", "[::1]"):
        assert made.tcp("/status", Host=host)[0] == 200, host


def test_pages_of_other_origins_are_refused(made: Made) -> None:
    here = f"127.0.0.1:{made.port}"
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:9",
        f"https://{here}",
        f"http://localhost:{made.port}",
    ):
        assert made.tcp("/status", Origin=origin)[0] == 403, origin
        for kind in ("text/plain", "application/json"):  # text/plain is what a page may send without asking first
            status, _, _ = made.tcp("/ask", {"question": "q"}, Origin=origin, Content_Type=kind)
            assert status == 403, (origin, kind)
    assert made.tcp("/status", Origin=f"http://{here}")[0] == 200
    assert made.tcp("/ask", {"question": "q"}, Content_Type="text/plain")[0] == 415
    connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=10)
    connection.request("OPTIONS", "/ask", headers={"Origin": "http://evil.example"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (403, None)


def test_a_stream_tells_pieces_as_they_come_and_then_the_result(made: Made) -> None:
    made.go_on.clear()
    connection = client._UnixConnection(made.socket)
    connection.request("POST", "/ask/stream", b'{"question": "how long?"}', {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.getheader("Content-Type", "").startswith("text/event-stream")
    lines = [response.readline() for _ in range(3)]  # while the model still works
    assert lines == [b"event: token\n", b'data: {"text": "40"}\n', b"\n"]
    made.go_on.set()
    rest = events(response.read().decode())
    assert rest == [("token", {"text": " minutes"}), ("result", FOUND)]
    assert over_socket(made.socket, "/ask", {"question": "how long?"})[2] == FOUND


def test_the_client_is_told_too(made: Made) -> None:
    said: list[str] = []
    assert client.call(made.socket, "ask", {"question": "how long?"}, said.append) == FOUND
    assert said == ["40", " minutes"]
    for question, error in (("nowhere", NotFound), ("half", MemexError)):
        with pytest.raises(error, match=r"nowhere|broke"):
            client.call(made.socket, "ask", {"question": question}, said.append)
    with pytest.raises(UsageError, match="less than or equal to 1000"):
        client.call(made.socket, "ask", {"question": "q", "k": 1001}, said.append)


def test_whoever_goes_away_frees_the_model(made: Made) -> None:
    made.go_on.clear()
    connection = client._UnixConnection(made.socket)
    connection.request("POST", "/ask/stream", b'{"question": "how long?"}', {"Content-Type": "application/json"})
    connection.getresponse().readline()
    connection.close()
    connection.sock = None
    assert made.stopped.wait(10)


def test_chat_programs_get_what_they_know(made: Made) -> None:
    asked = {
        "model": "gpt-4o",
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "nowhere"},
            {"role": "assistant", "content": "?"},
            {"role": "user", "content": [{"type": "text", "text": "how long?"}]},
        ],
    }
    status, _, whole = made.tcp("/v1/chat/completions", asked)
    assert (status, whole["object"], whole["model"]) == (200, "chat.completion", "memex")
    (choice,) = whole["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].startswith("40 minutes [1]\n")
    assert "\n[1] /docs/bread.txt\n    Bread bakes for 40 minutes." in choice["message"]["content"]
    assert whole["usage"] == {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53}
    status, _, text = made.tcp(
        "/v1/chat/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}}
    )
    *chunks, usage, (_, done) = events(text)
    assert (status, done, usage[1]["usage"]) == (200, "[DONE]", whole["usage"])
    assert {(one["object"], one["id"]) for _, one in chunks} == {("chat.completion.chunk", chunks[0][1]["id"])}
    deltas = [one["choices"][0]["delta"] for _, one in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1]["content"] == "40"
    assert "".join(one.get("content", "") for one in deltas) == choice["message"]["content"]
    assert chunks[-1][1]["choices"][0]["finish_reason"] == "stop"
    assert made.tcp("/v1/models")[2]["data"][0]["id"] == "memex"


def test_a_chat_says_when_the_check_drops_what_was_said(made: Made) -> None:
    made.found = DROPPED
    asked = {"messages": [{"role": "user", "content": "how long?"}], "stream": True}
    told = events(made.tcp("/v1/chat/completions", asked)[2])[:-1]
    text = "".join(one["choices"][0]["delta"].get("content", "") for _, one in told)
    assert text.startswith("40 minutes\n")
    assert "Not in the documents. No passage holds what was said above." in text


def test_errors_of_a_chat_have_openais_shape(made: Made) -> None:
    question = {"messages": [{"role": "user", "content": "nowhere"}]}
    for body, status, kind in (
        (question, 404, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error"),
        ({**question, "n": 2}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "half"}]}, 500, "server_error"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "invalid_request_error"),
    ):
        code, _, said = made.tcp("/v1/chat/completions", body)
        assert (code, said["error"]["type"]) == (status, kind), body
        assert said["error"]["message"]
    assert made.tcp("/v1/models", Authorization="Bearer x")[2]["error"]["type"] == "invalid_request_error"
    (_, first), (_, second), *_, (_, last) = events(
        made.tcp("/v1/chat/completions", {"messages": [{"role": "user", "content": "half"}], "stream": True})[2]
    )
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert second["choices"][0]["delta"]["content"] == "40"
    assert last["error"]["message"] == "the model broke"


def test_past_the_queue_of_the_model_it_is_429(made: Made) -> None:
    made.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(over_socket, made.socket, "/ask", {"question": "q"}) for _ in range(8)]
        while sum(one.done() for one in asked) < 5:  # one has the turn and two may wait
            time.sleep(0.01)
        made.go_on.set()
        answers = [one.result() for one in asked]
    assert sorted(status for status, _, _ in answers) == [200] * 3 + [429] * 5
    assert {(headers["retry-after"], said["error"]) for status, headers, said in answers if status == 429} == {
        ("2", "Busy")
    }


def test_past_the_requests_under_way_it_is_429_and_status_still_answers(made: Made) -> None:
    made.go_on.clear()
    with ThreadPoolExecutor(guard.AT_ONCE) as pool:
        waiting = [pool.submit(over_socket, made.socket, "/wait", {}) for _ in range(guard.AT_ONCE)]
        while made.api._door._inside < guard.AT_ONCE:
            time.sleep(0.01)
        status, headers, _ = made.tcp("/v1/chat/completions", {"messages": []})
        assert (status, headers["retry-after"]) == (429, "2")
        assert over_socket(made.socket, "/status")[0] == 200
        made.go_on.set()
        assert {one.result()[0] for one in waiting} == {200}
    assert made.tcp("/ask", {"question": "q"})[0] == 200


def test_when_stopping_it_is_503(made: Made) -> None:
    made.api.refuse()
    for place, body in (("/ask", {"question": "q"}), ("/v1/chat/completions", {"messages": []})):
        status, headers, _ = made.tcp(place, body)
        assert (status, headers["retry-after"]) == (503, "10")


def test_a_body_has_a_size_and_arrives_in_time(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made.tcp("/ask", b" " * (guard.LARGEST_BODY - 20) + b'{"question": "q"}')[0] == 200
    status, _, said = made.tcp("/ask", b" " * (guard.LARGEST_BODY + 1))
    assert (status, said["error"]) == (413, "UsageError")
    connection = client._UnixConnection(made.socket)
    pieces = (b" " * 65536 for _ in range(40))  # without a length
    connection.request("POST", "/ask", pieces, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", made.port), timeout=10) as slow:
        head = f"POST /ask HTTP/1.1\r\nHost: localhost\r\nAuthorization: {made.bearer}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_bad_input_is_400_with_a_message_and_an_error_of_ours_tells_nothing(made: Made) -> None:
    for body in (
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"question": NaN}',
        b'{"question": "\\ud800"}',
    ):
        status, _, said = over_socket(made.socket, "/ask", body)
        assert (status, said["error"]) == (400, "UsageError"), body[:20]
    for arguments, named in (
        ({}, "question"),
        ({"question": "q", "other": 1}, "other"),
        ({"question": "q", "k": 0}, "k"),
        ({"question": "q", "k": "5"}, "k"),
        ({"question": "q", "k": 10**400}, "k"),
        ({"question": "x" * 10_000}, "question"),
        ({"question": "q", "on_token": "x"}, "on_token"),
    ):
        status, _, said = over_socket(made.socket, "/ask", arguments)
        assert status == 400
        assert said["message"].startswith(f"{named}: "), said
    assert over_socket(made.socket, "/nothing", {})[0] == 404
    assert over_socket(made.socket, "/status", {})[0] == 405
    status, _, said = over_socket(made.socket, "/fail", {})
    assert (status, "secret" in said["message"]) == (500, False)


def test_settings_take_loopback_addresses_only() -> None:
    for good, address in (
        ("", None),
        ("127.0.0.1:8377", ("127.0.0.1", 8377)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ):
        assert ApiSettings(listen=good).address() == address
    for bad in (
        "0.0.0.0:80",
        "[::]:80",
        "192.168.1.2:80",
        "example.com:80",
        "127.0.0.1",
        "127.0.0.1:0",
        ":80",
        "localhost:99999",
        "[127.0.0.1:80",
        "٣:80",
        "127.0.0.1:8377 ",
    ):
        with pytest.raises(ValidationError):
            ApiSettings(listen=bad)


def test_a_token_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made" / "token"
    token = read_token(path)
    assert len(token) >= 32
    assert read_token(path) == token
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    for worthless in ("", "short", "two words that are long enough", "ä" * 20):
        path.write_text(worthless)
        with pytest.raises(ConfigError, match=r"api\.token_file"):
            read_token(path)


def test_what_cannot_be_listened_on_is_said(tmp_path: Path, made: Made) -> None:
    taken = Api({}, dict, Settings(state_dir=tmp_path / "b", api=ApiSettings(listen=f"127.0.0.1:{made.port}")))
    with pytest.raises(ConfigError, match=rf"api\.listen: 127\.0\.0\.1 port {made.port}: Address already in use"):
        taken.bind()
    (tmp_path / "precious").write_text("text")
    with pytest.raises(UsageError, match="no socket"):
        Api({}, dict, Settings(state_dir=tmp_path, api=ApiSettings(socket=str(tmp_path / "precious")))).bind()
    assert (tmp_path / "precious").read_text() == "text"
    with pytest.raises(UsageError, match="longer than 107 bytes"):
        Api({}, dict, Settings(state_dir=tmp_path / ("x" * server.LONGEST_SOCKET)))


def test_turns_come_in_order_and_do_not_wait_for_ever() -> None:
    turns, order = Turns(waiting=2, seconds=0.1), []
    with turns.take(), pytest.raises(Busy, match="no time"), turns.take():
        order.append("never")
    with turns.take(), pytest.raises(Stopping), turns.take(lambda: True):
        order.append("never")
    turns = Turns()

    def one(number: int) -> None:
        with turns.take():
            order.append(number)

    with turns.take():
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=one, args=(number,)))
            threads[-1].start()
            while len(turns._line) < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]
    turns.close()
    with pytest.raises(Stopping), turns.take():
        order.append(5)
