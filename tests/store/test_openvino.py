"""What becomes of a torch module that OpenVINO is to compute."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store.errors import ConfigError
from store.openvino import open_model

pytest.importorskip("openvino", reason="openvino is not installed: pip install -e '.[openvino]'")
torch = pytest.importorskip("torch")

IDS = np.array([[1, 2, 3, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]], np.int64)
MASK = np.where(IDS > 0, 1, 0)


def module(rows: Callable[[Any, Any], Any]) -> Any:
    class Rows(torch.nn.Module):
        def forward(self, ids: Any, mask: Any) -> Any:
            return torch.nn.functional.normalize(rows(ids.float(), mask.float()), dim=1)

    return Rows()


def mean_and_spread(ids: Any, mask: Any) -> Any:
    mean = (ids * mask).sum(1) / mask.sum(1)
    return torch.stack([mean, (ids * ids * mask).sum(1).sqrt()], 1)


def test_any_number_of_texts_and_tokens(tmp_path: Path) -> None:
    forward = open_model(lambda: module(mean_and_spread), (IDS, MASK), tmp_path / "openvino-1", threads=2)
    again = open_model(lambda: pytest.fail("it is kept"), (IDS, MASK), tmp_path / "openvino-1", threads=1)
    for ids in (IDS, IDS[:1], IDS[1:, :4], np.arange(1, 601).reshape(30, 20)):
        mask = np.where(ids > 0, 1, 0)
        expected = module(mean_and_spread)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        np.testing.assert_allclose(forward(ids, mask), expected, atol=1e-5)
        np.testing.assert_allclose(again(ids, mask), expected, atol=1e-5)


def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    def branches(ids: Any, mask: Any) -> Any:
        return mean_and_spread(ids, mask) * (torch.tensor([1.0, -1.0]) if ids.shape[1] > 6 else 1.0)

    with pytest.raises(ConfigError, match=r'computes this model wrong .* Set embedding.backend = "torch"'):
        open_model(lambda: module(branches), (IDS, MASK), tmp_path / "openvino-1", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_cannot_be_converted(tmp_path: Path) -> None:
    def unknown(ids: Any, mask: Any) -> Any:
        return mean_and_spread(torch.special.bessel_j0(ids), mask)

    with pytest.raises(ConfigError, match="OpenVINO cannot compute this model"):
        open_model(lambda: module(unknown), (IDS, MASK), tmp_path / "openvino-1", threads=1)


def test_what_cannot_be_kept_computes_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "models").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        forward = open_model(
            lambda: module(mean_and_spread), (IDS, MASK), tmp_path / "models" / "openvino-1", threads=1
        )
    assert "cannot be kept" in caplog.text
    assert forward(IDS, MASK).shape == (3, 2)
