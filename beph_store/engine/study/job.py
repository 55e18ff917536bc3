"""What a worker process does for a request to train. Everything that it writes is in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beph_store.engine.study.asked import epoch_event, steps, train_request
from beph_store.engine.study.data import load_study
from beph_store.engine.study.feasible import without_flags
from beph_store.engine.study.kept import kept_table
from beph_store.engine.study.run import TrainReport, train_to
from beph_store.errors import BephStoreError, CohortError
from beph_store.heads import Progress
from beph_store.store import Store

Count = Callable[[int, int], None]


def train_job(
    store: str | Path,
    recipe: str,
    options: Mapping[str, Any],
    out: str | Path,
    *,
    reading: Count | None = None,
    progress: Count | None = None,
    event: Callable[[dict[str, Any]], None] | None = None,
) -> TrainReport:
    """Train as ``options`` say (see ``train_request``) and write what `train` writes to ``out``.

    ``reading`` hears (tiles copied, tiles) while the flat copy is made, ``progress`` (done, in all) in ``asked.unit``,
    ``event`` every epoch as plain data. Raises UsageError for the options, and what ``load_study`` and ``train_to``
    raise; in their messages a table is called by its owner's name, and options are fields instead of flags.
    """
    asked = train_request(options)
    table = kept_table(Store.open(store), asked.cohort)

    def heard(at: Progress) -> None:
        if progress is not None:
            progress(*steps(at, asked.options, asked.task))
        told = epoch_event(at, asked.options, asked.task)
        if event is not None and told is not None:
            event(told)

    try:
        study = load_study(
            store, table.path, asked.task, recipe=recipe, columns=asked.columns, progress=reading
        )
        request = {**options, "cohort_name": table.name}
        return train_to(out, study, asked.options, progress=heard, asked=request)
    except CohortError as error:
        said = without_flags(str(error).replace(str(table.path), table.name))
        raise type(error)(said) from error


def failure(error: BaseException) -> str:
    """One line for people about why a job failed."""
    text = " ".join(str(error).split())
    if isinstance(error, BephStoreError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
