"""A language model behind an OpenAI-compatible endpoint, such as ollama, vLLM or llama.cpp's server."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from daemon.settings import Generator as Settings
from store.errors import Busy, ConfigError, EndpointFailed, MemexError
from trainers.generator import Generation

BYTES_PER_TOKEN = 4  # of English, about; the endpoint alone knows its tokens
WINDOW = 1 << 30  # it knows its window too, and refuses what is more
SECONDS = 120.0  # without a word from it
LIST_SECONDS = 10.0  # for the list of its models
LOOK_SECONDS = 0.25  # how soon whoever wants to stop is noticed
AT_ONCE = 8  # answers

Json = dict[str, Any]


class Endpoint:
    """Safe from any thread; asks greedily, as far as the endpoint lets it.

    https://platform.openai.com/docs/api-reference/chat
    """

    window = WINDOW

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when the key cannot be read."""
        self._url = settings.endpoint.rstrip("/")
        self._model = settings.endpoint_model
        self._room = threading.BoundedSemaphore(AT_ONCE)
        key = _key(settings.endpoint_key_file)
        # A proxy for the web is none for this machine.
        here = urlsplit(self._url).hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = build_opener(*([ProxyHandler({})] if here else []))
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def count(self, text: str) -> int:
        return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)

    def generate(
        self,
        messages: Sequence[dict[str, str]],
        max_new_tokens: int,
        on_token: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Generation:
        """As `Generator.generate`. Raises EndpointFailed, and Busy when it answers too many already."""
        if not self._room.acquire(blocking=False):
            raise Busy(f"{AT_ONCE} questions are with {self._url} already; ask again in a moment")
        try:
            return self._answer(messages, max_new_tokens, on_token or (lambda piece: None), stop or (lambda: False))
        finally:
            self._room.release()

    def _answer(
        self,
        messages: Sequence[dict[str, str]],
        max_new_tokens: int,
        on_token: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> Generation:
        started = time.perf_counter()
        asked = {
            "model": self._model or self._first_model(),
            "messages": list(messages),
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        pieces: list[str] = []
        usage: dict[str, int] = {}
        for event in self._events(asked, stop):
            for choice in event.get("choices") or ():
                if piece := (choice.get("delta") or {}).get("content"):
                    pieces.append(piece)
                    on_token(piece)
            usage = event.get("usage") or usage
        text = "".join(pieces).strip()
        prompt_tokens = usage.get("prompt_tokens") or sum(self.count(one["content"]) for one in messages)
        new_tokens = usage.get("completion_tokens") or self.count(text)
        return Generation(text, prompt_tokens, new_tokens, time.perf_counter() - started)

    def _events(self, asked: Json, stop: Callable[[], bool]) -> Iterator[Json]:
        """The server-sent events of an answer, until its end or until `stop` says so: a server may take its time, so it
        is read on a thread that can be left alone."""
        told: queue.SimpleQueue[Json | MemexError | None] = queue.SimpleQueue()
        left = threading.Event()
        threading.Thread(target=self._read, args=(asked, told.put, left.is_set), name="endpoint", daemon=True).start()
        try:
            while not stop():
                try:
                    event = told.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    continue
                if event is None:
                    return
                if isinstance(event, MemexError):
                    raise event
                yield event
        finally:
            left.set()

    def _read(self, asked: Json, tell: Callable[[Json | MemexError | None], None], left: Callable[[], bool]) -> None:
        """Tell each event, then None; or what went wrong."""
        try:
            whole = False
            with self._open("/chat/completions", SECONDS, json.dumps(asked).encode()) as response:
                for line in response:
                    if left():
                        return
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:"):
                        continue
                    if data == b"[DONE]":
                        whole = True
                        continue
                    event = json.loads(data)
                    if not isinstance(event, dict) or "error" in event:
                        raise self._failed(f"it sent {data.decode('utf-8', 'replace')[:200]}")
                    whole = whole or any(choice.get("finish_reason") for choice in event.get("choices") or ())
                    tell(event)
            tell(None if whole else self._failed("the answer broke off"))
        except MemexError as error:
            tell(error)

    def _first_model(self) -> str:
        with self._open("/models", LIST_SECONDS) as response:
            try:
                self._model = str(json.loads(response.read())["data"][0]["id"])
            except (LookupError, TypeError) as error:
                raise self._failed("it lists no model; set generator.endpoint_model") from error
        return self._model

    @contextmanager
    def _open(self, path: str, seconds: float, body: bytes | None = None) -> Iterator[HTTPResponse]:
        request = Request(self._url + path, body, self._headers)
        try:
            with self._opener.open(request, timeout=seconds) as response:
                yield response
        except HTTPError as error:
            raise self._failed(f"{error.code} {_message(error)}") from error
        except (OSError, HTTPException, ValueError, AttributeError, TypeError) as error:
            raise self._failed(str(error) or type(error).__name__) from error

    def _failed(self, why: str) -> EndpointFailed:
        return EndpointFailed(
            f"{self._url} (generator.endpoint) did not answer: {why}; `memex search` works without it, and without the "
            "setting the local model answers"
        )


def _message(error: HTTPError) -> str:
    """What OpenAI's shape of an error says, or else the body's beginning."""
    try:
        body = error.read()
    except (OSError, HTTPException):
        return error.reason
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _key(file: str) -> str:
    if not file:
        return ""
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generator.endpoint_key_file: {file} cannot be read ({error})") from None
    if not key.isascii() or not key.isprintable() or len(key.split()) != 1:
        raise ConfigError(f"generator.endpoint_key_file: {file} should hold the key alone, one word")
    return key
