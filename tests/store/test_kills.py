"""kill -9 at each step of everything that memory does in several steps (invariant 3).

After each kill the next start finds the state before or the state after, exactly; what was acknowledged is there;
doing it again reaches what an undisturbed run reaches; nothing is embedded twice.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import disk
from tests.faults.driver import Driver, Request
from tests.faults.scene import SCENES, Scene

IN_SHORT = ("commit", "rollback", "promotion", "recovery from a rollback")


@pytest.mark.parametrize("name", IN_SHORT)
def test_killed_at_each_step(name: str, driver: Driver, tmp_path: Path) -> None:
    scene = Scene(tmp_path, driver, name)
    requests = [replace(scene.request, step=number) for number in range(1, len(scene.steps) + 1)]
    requests.append(replace(scene.request, step=len(scene.steps), when="after"))
    requests.append(scene.request)  # killed when all is done, before it could end as it would
    kill_each(scene, requests)


def kill_each(scene: Scene, requests: list[Request]) -> int:
    """Returns how many of them came before the action was done."""
    killed = 0
    for request in requests:
        try:
            killed += scene.kill(request)
        except Exception as error:
            raise AssertionError(f"{request} of {list(enumerate(scene.steps, 1))}") from error
    print(f"{len(requests)} kills, {killed} before it was done; its steps: {', '.join(scene.steps)}")
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_killed_before_and_after_each_step(name: str, driver: Driver, tmp_path: Path) -> None:
    scene = Scene(tmp_path, driver, name)
    steps = range(1, len(scene.steps) + 1)
    kill_each(
        scene, [replace(scene.request, step=number, when=when) for number in steps for when in ("before", "after")]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("name", SCENES)
def test_killed_at_each_system_call(name: str, driver: Driver, tmp_path: Path) -> None:
    """Within LanceDB's and SQLite's own commits too, and half way through every third write."""
    scene = Scene(tmp_path, driver, name)
    counted = driver.run(replace(scene.request, state=scene.copy(), call=0))
    calls = range(1, len(counted.taken) + 1)
    requests = [replace(scene.request, call=number, what=disk.KILL) for number in calls]
    torn = [number for number in calls if "write" in counted.taken[number - 1].split()[0]]
    requests += [replace(scene.request, call=number, what=disk.KILL_TORN) for number in torn[::3]]
    assert kill_each(scene, requests) > 0.9 * len(requests)
