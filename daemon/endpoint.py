"""A language model behind an OpenAI-compatible endpoint, such as ollama, vLLM or llama.cpp's server."""

from __future__ import annotations

import json
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
from store.errors import ConfigError, EndpointFailed
from trainers.generator import Generation

BYTES_PER_TOKEN = 4  # of English, about; the endpoint alone knows its tokens
WINDOW = 1 << 30  # it knows its window too, and refuses what is more
SECONDS = 120.0  # without a word from it


class Endpoint:
    """Safe from any thread; asks greedily, as far as the endpoint lets it.

    https://platform.openai.com/docs/api-reference/chat
    """

    window = WINDOW

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when the key cannot be read."""
        self._url = settings.endpoint.rstrip("/")
        self._model = settings.endpoint_model
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
        """As `Generator.generate`. Raises EndpointFailed."""
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
        for event in self._events(asked):
            if stop and stop():
                break
            for choice in event.get("choices") or ():
                if piece := (choice.get("delta") or {}).get("content"):
                    pieces.append(piece)
                    if on_token:
                        on_token(piece)
            usage = event.get("usage") or usage
        text = "".join(pieces).strip()
        prompt_tokens = usage.get("prompt_tokens") or sum(self.count(one["content"]) for one in messages)
        new_tokens = usage.get("completion_tokens") or self.count(text)
        return Generation(text, prompt_tokens, new_tokens, time.perf_counter() - started)

    def _events(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The server-sent events of an answer."""
        with self._open("/chat/completions", json.dumps(asked).encode()) as response:
            for line in response:
                data = line.removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or data == b"[DONE]":
                    continue
                event = json.loads(data)
                if not isinstance(event, dict) or "error" in event:
                    raise self._failed(f"it sent {data.decode('utf-8', 'replace')[:200]}")
                yield event

    def _first_model(self) -> str:
        with self._open("/models") as response:
            try:
                self._model = str(json.loads(response.read())["data"][0]["id"])
            except (LookupError, TypeError) as error:
                raise self._failed("it lists no model; set generator.endpoint_model") from error
        return self._model

    @contextmanager
    def _open(self, path: str, body: bytes | None = None) -> Iterator[HTTPResponse]:
        request = Request(self._url + path, body, self._headers)
        try:
            with self._opener.open(request, timeout=SECONDS) as response:
                yield response
        except HTTPError as error:
            raise self._failed(f"{error.code} {_message(error.read())}") from error
        except (OSError, HTTPException, ValueError, AttributeError, TypeError) as error:
            raise self._failed(str(error) or type(error).__name__) from error

    def _failed(self, why: str) -> EndpointFailed:
        return EndpointFailed(
            f"{self._url} (generator.endpoint) did not answer: {why}; `memex search` works without it, and without the "
            "setting the local model answers"
        )


def _message(body: bytes) -> str:
    """What OpenAI's shape of an error says, or else the body's beginning."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _key(file: str) -> str:
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generator.endpoint_key_file: {file} cannot be read ({error})") from None
