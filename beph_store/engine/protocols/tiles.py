"""Tile level: a set of images through each encoder's linear probe, on the same folds of cases."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from beph_store.cohort import Dropped, count_reasons
from beph_store.cohort.image_sets import ImageSet, read_image_set
from beph_store.engine.probe import report as written
from beph_store.engine.probe.draws import draws_by_group, mean_draws
from beph_store.engine.probe.images import LISTED, UNREADABLE, Embedding, image_tiles
from beph_store.engine.probe.run import HEADLINES, ProbeOptions, ProbeResult, estimates_json, probe
from beph_store.engine.probe.tiles import ProbeTiles
from beph_store.engine.protocols.keeping import keep
from beph_store.engine.protocols.options import Job, Tell
from beph_store.engine.protocols.results import Comparison, Data, Outcome, Result, compared, difference
from beph_store.engine.protocols.subjects import OF_ONE, Subject, resolve, warnings_of
from beph_store.errors import CohortError
from beph_store.metrics import Difference, paired_bootstrap, with_point
from beph_store.metrics.tiles import case_draws

PROBABILITIES = "probabilities.npz"


def run(job: Job, tell: Tell) -> Outcome:
    """The whole protocol; CohortError for a set without one of the classes, or with too few cases for the folds."""
    assert job.options.images is not None
    images = read_image_set(job.options.images, job.protocol.layout)
    counts = _checked(job, images)
    subjects, made = _vectors(job, images, resolve(job, tell), tell)
    results: list[Result] = []
    comparisons: list[Comparison] = []
    for share in job.fractions:
        found = [_one(job, one, made[one.name], share, tell) for one in subjects if one.name in made]
        results += found
        comparisons += _against_first(job, subjects, made, found)
    dropped = next((tiles.dropped for tiles in made.values()), images.dropped)
    notes = [*warnings_of(job, subjects), *_notes(job, images)]
    notes += list(dict.fromkeys(note for tiles in made.values() for note in tiles.notes))
    data = Data(counts, count_reasons(dropped), (), _unread(dropped), tuple(notes))
    return Outcome(job, tuple(subjects), data, tuple(results), tuple(comparisons))


def _checked(job: Job, images: ImageSet) -> dict[str, int]:
    """Images of each class, all of which must be there."""
    counts = Counter(image.label for image in images.images)
    absent = [name for name in job.protocol.classes if not counts[name]]
    if absent:
        raise CohortError(
            f"{images.root} has no image of {', '.join(absent)}; {job.protocol.name} needs "
            f"{', '.join(job.protocol.classes)}: name the folder that holds all of {job.protocol.cohort}"
        )
    return {name: counts[name] for name in job.protocol.classes}


def _notes(job: Job, images: ImageSet) -> list[str]:
    have = {image.group for image in images.images}
    absent = [group for group in job.protocol.groups if group not in have]
    return [f"There are no images at {', '.join(f'{group}x' for group in absent)}."] if absent else []


def _unread(dropped: Sequence[Dropped]) -> tuple[str, ...]:
    return tuple(f"{one.id}: {one.reason}" for one in dropped if one.reason == UNREADABLE)


def _vectors(
    job: Job, images: ImageSet, subjects: Sequence[Subject], tell: Tell
) -> tuple[list[Subject], dict[str, ProbeTiles]]:
    """The vectors of each encoder by its name; those that could not make any have their reason."""
    out, made = [], {}
    for subject in subjects:
        if not subject.ok or subject.source is None:
            out.append(subject)
            continue
        try:
            made[subject.name] = image_tiles(
                images,
                _place(job, subject) / "vectors",
                Embedding(subject.source, "crop"),
                classes=job.protocol.classes,
                seed=job.options.seed,
                progress=partial(tell, f"embedding with {subject.name}"),
            )
            out.append(subject)
        except OF_ONE as error:
            out.append(subject.failed(error))
    return out, made


def _place(job: Job, subject: Subject) -> Path:
    return job.out / "results" / subject.slug


def _one(job: Job, subject: Subject, tiles: ProbeTiles, share: int, tell: Tell) -> Result:
    folder = _place(job, subject) / f"p{share}"
    options = ProbeOptions(
        folds=job.folds,
        repeats=job.draws,
        train_fraction=share / 100,
        seed=job.options.seed,
        draws=job.options.bootstrap,
    )

    def make() -> dict[str, Any]:
        result = probe(tiles, options, progress=partial(tell, f"probing {subject.name}, {share} %"))
        written.write(result, folder)
        np.savez(folder.with_name(f"p{share}-{PROBABILITIES}"), said=result.probabilities)
        return _figures(result)

    listed = (_place(job, subject) / "vectors" / LISTED).read_text(encoding="utf-8")
    path = folder.with_suffix(".json")
    if not (folder / written.RESULT).is_file():
        path.unlink(missing_ok=True)  # figures without what they are of
    value, again = keep(path, {"vectors": listed, "options": dataclasses.asdict(options)}, make)
    return Result(
        subject.name,
        share,
        value["metrics"],
        value["parts"],
        value["over"],
        value["cases"],
        value["tested"],
        str(folder.relative_to(job.out)),
        again,
    )


def _figures(result: ProbeResult) -> dict[str, Any]:
    if result.groups:
        parts = {name: [found[name].value for found in result.groups.values()] for name in HEADLINES}
        over = f"{len(result.groups)} magnifications"
    else:
        parts = {
            name: [value for fold in result.folds if (value := fold.metrics[name]) is not None]
            for name in HEADLINES
        }
        over = f"{len(result.folds)} folds"
    return {
        "metrics": estimates_json(result.metrics),
        "parts": parts,
        "over": over,
        "cases": len(result.tiles.case_ids),
        "tested": {},
    }


def _against_first(
    job: Job, subjects: Sequence[Subject], made: Mapping[str, ProbeTiles], found: Sequence[Result]
) -> list[Comparison]:
    """The first encoder that is no baseline against each other one, on the same images of the same folds."""
    ran = [subject for subject in subjects if subject.name in made]
    first = next((subject for subject in ran if not subject.role), None)
    if first is None or not found:
        return []
    share = found[0].fraction
    return [_compared(job, (first, other), made, share) for other in ran if other is not first]


def _compared(
    job: Job, pair: tuple[Subject, Subject], made: Mapping[str, ProbeTiles], share: int
) -> Comparison:
    first, other = pair
    path = _place(job, first) / f"p{share}-{other.slug}.json"
    key = [(_place(job, one) / f"p{share}.json").read_text(encoding="utf-8") for one in pair]
    value, _ = keep(
        path,
        [key, job.options.seed, job.options.bootstrap],
        lambda: _difference(job, pair, made, share).to_json(),
    )
    return compared(job, other, first.name, share, difference(value))


def _difference(
    job: Job, pair: tuple[Subject, Subject], made: Mapping[str, ProbeTiles], share: int
) -> Difference:
    """Both on the same draws of cases; CohortError where they saw other images."""
    one, two = (made[subject.name] for subject in pair)
    if list(one.names["path"]) != list(two.names["path"]):
        raise CohortError(
            f"{pair[0].name} and {pair[1].name} saw other images: see which could not be read, and run again"
        )
    weights = with_point(case_draws(one.truth, one.case, job.options.bootstrap, job.options.seed))
    metric = job.protocol.headline[0]
    drawn = []
    for subject, tiles in zip(pair, (one, two), strict=True):
        with np.load(_place(job, subject) / f"p{share}-{PROBABILITIES}", allow_pickle=False) as file:
            drawn.append(mean_draws(draws_by_group(tiles, file["said"], weights))[metric])
    return paired_bootstrap(metric, drawn[0], drawn[1])
