"""Computing a torch module with OpenVINO: a fifth more texts a second than torch on the same cores, in fp32.

The only file that imports openvino. It is an extra: `pip install 'memexd[openvino]'`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.durable import sync_filesystem
from store.errors import ConfigError
from store.types import Vectors

LEAST_COSINE = 0.9999  # between torch's rows and ours; 0.9999999 is usual

_FILE = "model.xml"  # the weights lie beside it, in model.bin
_TRACED = 6  # tokens that a conversion sees: fewer than some of the probes have, so that any number must do

Ids = NDArray[np.int64]

log = logging.getLogger(__name__)


def check_installed() -> None:
    """Raises ConfigError if the package is missing."""
    if importlib.util.find_spec("openvino") is None:
        raise ConfigError(
            'embedding.backend = "openvino" needs the package openvino. '
            "Run: pip install 'memexd[openvino]', or set embedding.backend = \"torch\"."
        )


def version() -> str:
    """Of the package: another one converts anew."""
    return metadata.version("openvino")


def open_model(
    module: Callable[[], Any], probes: tuple[Ids, Ids], kept: Path | None, *, threads: int
) -> Callable[[Ids, Ids], Vectors]:
    """The module as a function of token ids and mask, which `threads` threads may call at once.

    It is read from `kept`; if nothing is there, `module` gives what is converted (about 5 s) and kept there for the
    next time. The conversion must give for the probes what the module gives: raises ConfigError if it cannot be made or
    does not.
    """
    openvino = _import()
    core = openvino.Core()

    def runnable(model: Any) -> Callable[[Ids, Ids], Vectors]:
        # One thread a stream and a stream a thread: nothing waits for anything. The system, which knows what else
        # runs, places the threads.
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core.compile_model(model, "CPU", options)
        idle: SimpleQueue[Any] = SimpleQueue()

        def forward(ids: Ids, mask: Ids) -> Vectors:
            try:
                request = idle.get_nowait()
            except Empty:
                request = compiled.create_infer_request()
            rows: Vectors = request.infer((ids, mask))[0]
            idle.put(request)
            return rows

        # The first call on one thread, before there are others: openvino sets up its tables in it, and two threads
        # that do so at once wait for each other's lock and Python's for ever (2026.4).
        forward(*probes)
        return forward

    if kept is not None and kept.is_dir():
        try:
            return runnable(core.read_model(kept / _FILE))
        except RuntimeError as error:
            log.warning("The converted model %s cannot be read (%s); it is converted anew.", kept, _said(error))
    original = module()
    try:
        converted = _convert(original, probes)
        forward = runnable(converted)
        cosine = float((_rows(original, *probes) * forward(*probes)).sum(axis=1).min())
    except (RuntimeError, openvino.frontend.OpConversionFailure) as error:
        raise ConfigError(
            f'OpenVINO cannot compute this model ({_said(error)}). Set embedding.backend = "torch".'
        ) from error
    if not cosine >= LEAST_COSINE:
        raise ConfigError(
            f'OpenVINO computes this model wrong (cosine {cosine:.4f} to torch). Set embedding.backend = "torch".'
        )
    if kept is not None:
        try:
            _keep(converted, kept)
        except OSError as error:  # a full disk, a reader without the right to write: it works all the same
            log.warning("The converted model cannot be kept in %s: %s", kept, error)
    return forward


def _import() -> Any:
    # Importing openvino tells its makers so over the network, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _convert(module: Any, probes: tuple[Ids, Ids]) -> Any:
    import torch
    from transformers.utils import logging as transformers_logging

    example = tuple(torch.from_numpy(part[:2, :_TRACED].copy()) for part in probes)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of each branch; the probes show whether one mattered
            return _import().convert_model(module, example_input=example)
    finally:
        transformers_logging.set_verbosity(verbosity)


def _rows(module: Any, ids: Ids, mask: Ids) -> Vectors:
    import torch

    with torch.inference_mode():
        return module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()  # type: ignore[no-any-return]


def _said(error: Exception) -> str:
    """Its message, which has lines and lines, as a part of a sentence."""
    return " ".join(str(error).split())[:300]


def _keep(model: Any, kept: Path) -> None:
    """Write the model to `kept`, whole or not at all, and remove what other versions and models left beside it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
    try:
        _import().save_model(model, temporary / _FILE, compress_to_fp16=False)
        sync_filesystem(temporary)
        for old in kept.parent.glob("openvino-*"):
            shutil.rmtree(old)
        os.rename(temporary, kept)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
