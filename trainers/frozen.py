"""A decoder in two parts: lower layers that do not learn run once, and what they give is kept.

Works on the module tree of transformers' decoders: a list `layers`, each called with the hidden states first. Nothing
of a layer is changed: for the time of one call its `forward` is stood in for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Reached(Exception):
    def __init__(self, hidden: Any) -> None:
        self.hidden = hidden


def lower(decoder: Any, first: int, inputs: dict[str, Any]) -> Any:
    """The hidden states that layer `first` would be given, (1, tokens, width), without gradient."""
    import torch

    def stop(_layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Reached(arguments[0] if arguments else named["hidden_states"])

    hook = decoder.layers[first].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            decoder(**inputs, use_cache=False)
    except _Reached as reached:
        return reached.hidden
    finally:
        hook.remove()
    raise AssertionError("a decoder that does not call its layers")


def upper(decoder: Any, first: int, inputs: dict[str, Any], hidden: Any) -> Any:
    """The decoder's last state, where layer `first` is given `hidden` and those below it do nothing."""
    with _skipping(decoder.layers[:first], hidden):
        return decoder(**inputs, use_cache=False).last_hidden_state


@contextmanager
def _skipping(layers: Any, hidden: Any) -> Iterator[None]:
    for layer in layers:
        layer.forward = lambda *_, **__: hidden
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
