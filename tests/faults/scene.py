"""An action on copies of one state directory, the states before and after it, and what must hold when it is cut off."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tests.faults.actions import ACTIONS, log_of, open_memory, prepare
from tests.faults.driver import Driver, Request
from tests.faults.picture import Picture, embedded_twice, is_sound, picture

CREATION = "creation"
RECOVERIES = {"recovery from a commit": "commit", "recovery from a rollback": "rollback"}  # killed before the last step
SCENES = (*ACTIONS, CREATION, *RECOVERIES)


class Scene:
    """`steps` are the calls of an undisturbed run; the states are pictures (see `picture.py`)."""

    def __init__(self, folder: Path, driver: Driver, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.driver = folder, driver
        self.action = None if name == CREATION else RECOVERIES.get(name, name)
        self.origin = folder / "origin"
        self._copies = 0
        if self.action is None:
            log_of(self.origin).touch()
        else:
            with open_memory(self.origin, month=1) as memory:
                prepare(memory)
                ACTIONS[self.action].before(memory)
            with open_memory(self.origin, month=1, write=False) as memory:
                self.before = picture(memory)
        self.request = Request(self.origin, self.action)
        undisturbed = self.copy()
        self.steps = driver.run(replace(self.request, state=undisturbed)).taken
        with open_memory(undisturbed) as memory:
            self.after = picture(memory)
        if name == CREATION:
            self.before = self.after
        if name in RECOVERIES:
            driver.run(replace(self.request, state=self.origin, step=len(self.steps)))
            self.request = Request(self.origin, None)
            self.steps = driver.run(replace(self.request, state=self.copy())).taken
        assert self.steps

    def copy(self, folder: Path | None = None) -> Path:
        """A state directory of its own, as it is before the action."""
        self._copies += 1
        state = (folder or self.folder) / f"state-{self._copies}"
        if self.origin.exists():
            shutil.copytree(self.origin, state)
        shutil.copyfile(log_of(self.origin), log_of(state))
        return state

    def kill(self, request: Request) -> bool:
        """Do the action on a copy and be killed where the request says (False: it ended before); then all must hold."""
        state = self.copy()
        answer = self.driver.run(replace(request, state=state))
        assert answer.killed, answer
        self.holds(state, answer.acknowledged)
        assert embedded_twice(state) == []
        shutil.rmtree(state)
        return not answer.acknowledged

    def holds(self, state: Path, acknowledged: bool) -> None:
        """The next start finds the state before or the one after, and doing it again reaches what it should."""
        with open_memory(state) as memory:
            found = picture(memory)
        acknowledged = acknowledged and self.request.action is not None  # an opening acknowledges only itself
        expected = (self.after,) if acknowledged else (self.before, self.after)
        assert found in expected, self.differences(found)
        is_sound(state)
        if self.action is not None and found == self.before:
            with open_memory(state, month=4) as memory:
                ACTIONS[self.action].act(memory, ACTIONS[self.action].ready(memory))
                assert picture(memory) == self.after
            is_sound(state)

    def differences(self, found: Picture) -> str:
        return f"from before: {found.differences(self.before)}\nfrom after: {found.differences(self.after)}"
