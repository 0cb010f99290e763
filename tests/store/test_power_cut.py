"""A power cut at every few steps: what is written and not on the disk is gone, names may stay without their contents.

The state directory lies on ext4 on a loop device, and the kernel is told to forget what it has not written yet.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import disk, mounts
from tests.faults.driver import Driver
from tests.faults.scene import SCENES, Scene

EVERY = 3  # system calls, from another one on for each way to cut

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_power_cuts")]


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("how", [mounts.JOURNAL_KEPT, mounts.JOURNAL_LOST], ids=["journal kept", "journal lost"])
def test_power_cut_between_system_calls(name: str, how: int, driver: Driver, tmp_path: Path) -> None:
    scene = Scene(tmp_path / "scene", driver, name)
    calls = driver.run(replace(scene.request, state=scene.copy(), call=0)).taken
    cuts = 0
    blank = mounts.ext4(tmp_path / "before", 32)
    with mounts.mounted("-o", "loop", blank, at=tmp_path / "at") as at:
        state = scene.copy(at)
    for number in [*range(how, len(calls) + 1, EVERY), 0]:
        image, left = (shutil.copyfile(blank, tmp_path / f"{name}-{number}") for name in ("image", "left"))
        with mounts.mounted("-o", "loop", image, at=at):
            answer = driver.run(replace(scene.request, state=state, call=number, what=disk.CUT, value=how))
            if answer.acknowledged:
                mounts.cut(at, how)
            shutil.copyfile(image, left)  # for the kernel may still know `image` when it is mounted again
        with mounts.mounted("-o", "loop", left, at=at):
            try:
                scene.holds(state, answer.acknowledged)
            except Exception as error:
                raise AssertionError(f"cut at {calls[number - 1] if number else 'the end'}") from error
        image.unlink()
        left.unlink()
        cuts += 1
    print(f"{cuts} power cuts in {len(calls)} system calls")
