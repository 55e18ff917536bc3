"""Which slides need reading at all: not those that are done, sealed, or another process's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from beph_store.engine.plan import SlideTask
from beph_store.errors import BephStoreError
from beph_store.records import SlideOutcome
from beph_store.slides import fingerprint
from beph_store.store import RecipeWriter, SlideRow
from beph_store.store.known import Known

Finish = Callable[[SlideOutcome], None]


class Intake:
    """Decides task by task; what needs no reading is finished on the spot through ``finish``."""

    def __init__(self, writer: RecipeWriter, finish: Finish, *, replace: bool) -> None:
        self._writer = writer
        self._finish = finish
        self._replace = replace
        self._known = Known(writer.registry, writer.key)
        self.busy: list[SlideTask] = []
        self.replaced: dict[str, str | None] = {}

    def triage(self, tasks: Sequence[SlideTask]) -> list[SlideTask]:
        """The tasks that are left once the finished and the hopeless ones are told off."""
        known = self._known.rows()
        return [task for task in tasks if not self._settled(task, known.get(task.slide_id))]

    def admit(self, task: SlideTask) -> bool:
        """Claim the slide for reading. False if there is nothing to read, or another process has it."""
        claim = self._writer.claim(task.slide_id)
        if claim is None:
            self.busy.append(task)
            return False
        # Another process may have finished it since the tasks were triaged.
        if self._settled(task, self._known.get(task.slide_id)):
            self._writer.release(task.slide_id)
            return False
        sealed = self._writer.recover(claim)
        if sealed is not None:
            self._finish(SlideOutcome(task.slide_id, sealed.status, sealed.tiles, sealed.seconds or 0.0))
            return False
        return True

    def take_busy(self, wait_seconds: float = 1.0) -> list[SlideTask]:
        """The tasks that another process had, after a pause; they come back through ``triage``."""
        tasks, self.busy = self.busy, []
        if tasks:
            time.sleep(wait_seconds)
        return tasks

    def _settled(self, task: SlideTask, row: SlideRow | None) -> bool:
        if task.error is not None:
            self._refuse(task, task.error)
            return True
        if row is None or not row.complete:
            return False
        if self._replace:
            self.replaced[task.slide_id] = row.ingest_id
            return False
        why = self._why_not_the_same(task, row)
        if why is not None:
            self._refuse(
                task, f"{why}: pass --replace to ingest it anew, or give it another slide_id", record=False
            )
        else:
            self._finish(SlideOutcome(task.slide_id, "skipped", row.tiles))
        return True

    def _why_not_the_same(self, task: SlideTask, row: SlideRow) -> str | None:
        if task.mpp is not None and row.mpp_x is not None and abs(task.mpp - row.mpp_x) > 1e-6:
            return f"the store has it at {row.mpp_x:g} µm/px, not at {task.mpp:g}"
        try:
            # Reading a sample of every slide of a large cohort takes minutes on network storage.
            if task.file_state() == (row.file_bytes, row.file_mtime_ns):
                return None
            return (
                None
                if fingerprint(task.source) == row.fingerprint
                else "the file differs from the one in the store"
            )
        except (BephStoreError, OSError):
            return None  # it cannot be read now, but what the store has of it is whole

    def _refuse(self, task: SlideTask, why: str, *, record: bool = True) -> None:
        if record:
            row = SlideRow(
                self._writer.key,
                task.slide_id,
                "failed",
                error=why,
                path=str(task.path),
                case_id=task.case_id,
            )
            self._writer.fail(task.slide_id, row)
        self._finish(SlideOutcome(task.slide_id, "failed", error=why))
