"""The driver's loop: slides are surveyed, spans handed out, what was written is marked, whole slides sealed, committed.

It computes nothing and sees no pixel. All of it is one thread that waits for answers; whatever is lost out there is
handed out again from what the board and the spools say. If this process is lost the next run goes on from the store,
as it does on one machine.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from beph_store.engine.cluster import spans
from beph_store.engine.cluster.crew import Crew, Member
from beph_store.engine.cluster.encoding import Heard, Wrote
from beph_store.engine.cluster.inbox import Inbox
from beph_store.engine.cluster.reading import Surveyed, survey_slide, work_of
from beph_store.engine.cluster.sealing import seal
from beph_store.engine.intake import Finish, Intake
from beph_store.engine.messages import Failed
from beph_store.engine.plan import SlideTask
from beph_store.engine.reader_process import one_line
from beph_store.engine.report import Progress, ReadStats
from beph_store.engine.storing import failed_row, finished_row
from beph_store.errors import BephStoreError, ClusterUnavailable, StoreError
from beph_store.records import SlideOutcome
from beph_store.store import RecipeWriter
from beph_store.store.sealing import ensure_table
from beph_store.store.staging import Ready, Spool

#: Longest time for which nothing at all may come of the whole cluster.
STALL_SECONDS = 1800.0
#: How often a slide is sealed anew, or surveyed anew because what was known of it is lost.
TRIES = 3
#: Slides that are open beyond four an encoder.
_MORE_SLIDES = 8
_WAIT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Slide:
    task: SlideTask
    surveyed: Surveyed
    rasters: Any  # a reference: they go from the node that surveyed to the one that seals
    spool: Spool
    began: float
    tries: int
    sealing: bool = False


class Dispatch:
    """One pass over some slides with a crew that has begun, or is about to."""

    def __init__(
        self,
        ray: Any,
        inbox: Inbox,
        crew: Crew,
        writer: RecipeWriter,
        intake: Intake,
        *,
        finish: Finish,
        progress: Progress,
    ) -> None:
        self._ray = ray
        self._inbox = inbox
        self._crew = crew
        self._writer = writer
        self._intake = intake
        self._finish = finish
        self._progress = progress
        self._board = spans.Board(spans.MOST_TILES, spans.FEWEST_TILES)
        self._todo: deque[SlideTask] = deque()
        self._surveys: dict[str, tuple[SlideTask, int]] = {}
        self._slides: dict[str, _Slide] = {}
        self._turn = 0
        self._moved = time.monotonic()
        self.stats = ReadStats()  # of surveys
        self.encoded = 0
        crew.heard, crew.lost = self._heard, self._lost

    def run(self, tasks: list[SlideTask]) -> None:
        """Until every task is over. The first error that concerns the run is raised."""
        ensure_table(self._writer.layout, self._writer.recipe)  # else all encoders would try to make it
        self._todo.extend(tasks)
        while self._todo or self._surveys or self._slides:
            self._crew.look()
            self._survey_more()
            self._feed()
            self._inbox.take(_WAIT_SECONDS)
            self._writer.publish()
            self._alarm()

    # Slides are opened somewhere.

    def _survey_more(self) -> None:
        encoders = max(1, len(self._crew.at_work))
        while (
            self._todo
            and len(self._surveys) <= len(self._crew.nodes)
            and len(self._slides) < 4 * encoders + _MORE_SLIDES
            and self._board.waiting < 2 * encoders * self._board.most
        ):
            task = self._todo.popleft()
            if self._intake.admit(task):
                self._survey(task, 1)

    def _survey(self, task: SlideTask, tries: int) -> None:
        self._surveys[task.slide_id] = (task, tries)
        survey = self._ray.remote(survey_slide).options(num_returns=2, max_retries=2, **self._somewhere())
        known, rasters = survey.remote(task, self._writer.recipe.tile)
        self._inbox.ask(known, lambda value, error: self._surveyed(task, value, rasters, error))

    def _surveyed(
        self, task: SlideTask, value: Surveyed | Failed, rasters: Any, error: BaseException | None
    ) -> None:
        self._moved = time.monotonic()
        _, tries = self._surveys.pop(task.slide_id)
        if error is not None:
            self._fail(task, _crashed(error) if self._inbox.lost(error) else one_line(error))
        elif isinstance(value, Failed):
            self._fail(task, value.error)
        else:
            try:
                self._open(task, value, rasters, tries)
            except BephStoreError as trouble:
                self._fail(task, str(trouble))

    def _open(self, task: SlideTask, value: Surveyed, rasters: Any, tries: int) -> None:
        self.stats.add(value.stats)
        claim = self._writer.claimed(task.slide_id)
        spool = self._writer.open_spool(claim, value.info, value.tiles)
        slide = _Slide(task, value, rasters, spool, time.perf_counter(), tries)
        self._slides[task.slide_id] = slide
        if tries == 1:
            self._progress.started(task.slide_id, len(value.tiles), spool.resumed)
        self._hand_out(slide)

    def _hand_out(self, slide: _Slide) -> None:
        order = slide.surveyed.order
        self._board.add(slide.task.slide_id, order[~slide.spool.done[order]])
        self._seal_if_whole(slide)

    # Spans go to encoders, and come back as parts in the store.

    def _feed(self) -> None:
        """One span to each in turn, so that what is little is shared."""
        members = self._crew.at_work
        sharers = None if self._todo or self._surveys else len(members)
        for count in range(max((member.spans for member in members), default=0)):
            for member in members:
                if len(self._board.hand(member.name)) <= count < member.spans:
                    span = self._board.take(member.name, sharers=sharers)
                    if span is None:
                        return
                    slide = self._slides[span.slide_id]
                    tiles = slide.surveyed.tiles
                    member.give([work_of(slide.task, tiles, span.tile_index, span.before)])

    def _heard(self, member: Member, heard: Heard) -> None:
        for news in heard.news:
            self._moved = time.monotonic()
            slide = self._slides.get(news.slide_id)
            if isinstance(news, Failed):
                if slide is not None:
                    self._fail(slide.task, news.error)
            elif slide is not None:
                self._wrote(member, slide, news)

    def _wrote(self, member: Member, slide: _Slide, news: Wrote) -> None:
        self._crew.progress(member)
        fresh = self._board.encoded(member.name, news.slide_id, news.tile_index)
        slide.spool.mark(fresh)
        self.encoded += min(news.good, len(fresh))
        self._progress.advanced(news.slide_id, len(fresh))
        self._seal_if_whole(slide)

    def _lost(self, member: Member) -> None:
        self._board.lost(member.name)

    # A whole slide is sealed somewhere, and committed here.

    def _seal_if_whole(self, slide: _Slide) -> None:
        if slide.sealing or not slide.spool.done.all():
            return
        slide.sealing = True
        task = slide.task
        seconds = time.perf_counter() - slide.began
        key = self._writer.key
        row = finished_row(
            key, task, slide.surveyed.backend, self._intake.replaced.get(task.slide_id), seconds
        )
        sealing = self._ray.remote(seal).options(max_retries=TRIES, **self._somewhere())
        ready = sealing.remote(
            self._writer.layout,
            self._writer.recipe,
            (slide.surveyed.info, slide.surveyed.tiles, row, self._writer.run),
            slide.rasters,
        )
        self._inbox.ask(ready, lambda value, error: self._sealed(slide, value, error))

    def _sealed(self, slide: _Slide, ready: Ready, error: BaseException | None) -> None:
        self._moved = time.monotonic()
        if error is not None:
            self._not_sealed(slide, error)
            return
        del self._slides[slide.task.slide_id]
        row = self._writer.take(ready)
        self._finish(SlideOutcome(row.slide_id, row.status, row.tiles, row.seconds or 0.0))

    def _not_sealed(self, slide: _Slide, error: BaseException) -> None:
        """Parts that cannot be read are encoded again; what was lost of the survey is surveyed again."""
        slide.tries += 1
        slide.sealing = False
        del self._slides[slide.task.slide_id]
        if slide.tries > TRIES and (self._inbox.lost(error) or isinstance(error, StoreError)):
            self._fail(slide.task, one_line(error))
        elif self._inbox.lost(error) or isinstance(error, StoreError):
            self._survey(slide.task, slide.tries)
        else:
            raise error

    def _fail(self, task: SlideTask, why: str) -> None:
        slide = self._slides.pop(task.slide_id, None)
        self._board.drop(task.slide_id)
        self._crew.drop(task.slide_id)
        info = slide.surveyed.info if slide else None
        self._writer.fail(task.slide_id, failed_row(self._writer.key, task, why, info))
        self._finish(SlideOutcome(task.slide_id, "failed", error=why))

    def _somewhere(self) -> dict[str, Any]:
        """Options of a short task: on the nodes with encoders in turn, without a core of its own to wait for."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = self._crew.nodes
        self._turn += 1
        if not nodes:
            return {"num_cpus": 0}
        here = NodeAffinitySchedulingStrategy(nodes[self._turn % len(nodes)], soft=True)
        return {"num_cpus": 0, "scheduling_strategy": here}

    def _alarm(self) -> None:
        quiet = time.monotonic() - max(self._moved, self._crew.moved)
        if quiet > STALL_SECONDS:
            raise ClusterUnavailable(
                f"nothing came of the cluster for {quiet / 60:.0f} minutes, with {len(self._slides)} slides open and "
                f"{len(self._crew.at_work)} encoders at work: see Ray's logs, and run the same command again to go on"
            )


def _crashed(error: BaseException) -> str:
    how = type(error).__name__
    return f"the reader crashed or hung on this file ({how}): check it with another viewer, or convert it"
