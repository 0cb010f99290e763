"""The whole cycle through the command line, with the shipped models: the steps of the demo, on less."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import pytest

from tests import demo


@pytest.mark.models
def test_the_main_job_end_to_end(
    tmp_path: Path, smollm_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "MODULES", "bisect heapq textwrap shlex fnmatch queue sched shelve copy pprint")
    settings = f'[generator]\nmodel = "{smollm_path}"\n[refresh]\nminutes = 2.0\nmax_steps = 3\n'
    shown = demo.Demo(tmp_path, None, settings)
    try:
        for step in demo.STEPS:
            started = time.monotonic()
            step(shown)  # raises Failed with what was not as it must be
            with capsys.disabled():
                print(f"  {time.monotonic() - started:6.1f} s  {inspect.getdoc(step)}")
    finally:
        if shown.daemon is not None and shown.daemon.poll() is None:
            shown.daemon.kill()
            shown.daemon.wait()
    said = capsys.readouterr().out
    assert "decision: " in said
    assert "0 problems" in said
