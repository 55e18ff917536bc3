"""How fast does the head follow the labels, and how many labels does a proposal save?

    python benchmarks/bench_active.py [--world drawn|ebhi|both] [--fields EBHI_SEG] [--splits 10]
                                      [--labels 144] [--batch 12] [--encoder beph-mini] [--name active]

**Refit**: seconds from labels to a head with its held-out figure, 5 folds by case, on drawn 768-d vectors of 6 classes;
and the choice of 12 tiles, and 8 clusters, of 20,000 tiles.
**Labels**: somebody who labels truly, a batch at a time, first from nothing: which tiles do they need? By `propose`
(typical tiles, then uncertain and diverse), from k-centre and then as proposed, by uncertainty alone after the same
start, and at random. Two stores are labelled:
fields of EBHI-Seg (``--fields``, its folder; six classes of unequal size) assembled into slides and ingested, and drawn
slides, each tile by what was drawn on most of it. A third of the cases is never labelled and tests the head after each
batch; ``--splits`` draws of that third, the same for every way. Differences to random are paired by split; their
intervals resample splits, which share cases, so they are no intervals over patients.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from numpy.typing import NDArray

from beph_store.engine.active.labels import Label, Labels
from beph_store.engine.active.picking import badge, directions, k_centre, typical, uncertainty
from beph_store.engine.active.places import marks_of
from beph_store.engine.active.proposals import POOL, propose
from beph_store.engine.active.refit import TileHead, refit
from beph_store.engine.active.threads import one_thread
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.search.table import SearchTable, open_table
from beph_store.errors import HeadError
from beph_store.heads.tile_refit import refit as refit_vectors
from beph_store.search.clustering import cluster
from beph_store.testing.assemble import assemble_ebhi
from beph_store.testing.synthetic import KINDS, SlidePlan, write_slide

Rows = NDArray[np.int64]
DIM, CLASSES, FOLDS = 768, 6, 5
SIZES = (20, 50, 100, 200, 500, 1000, 2000)


def refit_times(repeats: int = 7) -> list[dict[str, Any]]:
    """Seconds of a refit with its held-out figure, by number of labels."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, DIM))
    found = []
    for count in SIZES:
        truth = np.arange(count) % CLASSES
        case = np.arange(count) // CLASSES % 20
        shift = 0.7 * rng.normal(size=(20, DIM))
        vectors = (means[truth] * 0.12 + shift[case] + rng.normal(size=(count, DIM))).astype(np.float32)
        fold = None if case.max() < 1 else (case % FOLDS).astype(np.int64)
        seconds: list[float] = []
        cpu: list[float] = []
        for _ in range(repeats):
            start, spent = time.perf_counter(), time.process_time()
            with one_thread():
                fitted = refit_vectors(vectors, truth.astype(np.int64), CLASSES, fold)
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - spent)
        right = None if fitted.held_out is None else float((fitted.held_out.argmax(1) == truth).mean())
        found.append(
            {
                "labels": count,
                "seconds": {"median": round(statistics.median(seconds), 4), "worst": round(max(seconds), 4)},
                "cpu_seconds": round(statistics.median(cpu), 4),
                "held_out_accuracy": right,
            }
        )
        print(found[-1], flush=True)
    return found


def choosing_times(repeats: int = 3) -> dict[str, Any]:
    """Seconds to choose 12 tiles of a pool of 20,000, without and with a head, and to cluster as many."""
    rng = np.random.default_rng(1)
    means = rng.normal(size=(40, DIM)).astype(np.float32)
    vectors = means[rng.integers(0, 40, POOL)] + rng.standard_normal((POOL, DIM), dtype=np.float32)
    vectors = (vectors + 3 * rng.normal(size=DIM)).astype(np.float16)
    chances = rng.dirichlet(np.full(CLASSES, 0.3), POOL).astype(np.float32)

    def seen() -> NDArray[np.float32]:
        return directions(vectors, vectors.mean(axis=0, dtype=np.float64))

    jobs: dict[str, Callable[[], object]] = {
        "12 proposals, no head": lambda: typical(pool := seen(), pool[:0], 12, 0),
        "12 proposals, head": lambda: badge(seen(), chances, 12, 0),
        "8 clusters": lambda: cluster(vectors, 8),
    }
    found: dict[str, Any] = {"tiles": POOL}
    for name, job in jobs.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            with one_thread():
                job()
            seconds.append(time.perf_counter() - start)
        found[name] = round(statistics.median(seconds), 3)
    print(found, flush=True)
    return found


@dataclass(frozen=True)
class World:
    """A store whose truth is known: ``truth`` (T,) class names and ``case`` (T,) of the rows of its table."""

    name: str
    table: SearchTable
    truth: NDArray[np.str_]
    case: NDArray[np.str_]

    @property
    def classes(self) -> dict[str, int]:
        """How many tiles there are of each class."""
        names, counts = np.unique(self.truth, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def labels(self, rows: Sequence[int]) -> Labels:
        """What a person who labels truly has said of the rows."""
        tiles = {}
        for number, row in enumerate(rows):
            (mark,) = marks_of(self.table, [row], str(self.truth[row]))
            tiles[mark.subject] = Label(f"1.{number}", "truth", "", mark)
        names = dict.fromkeys(str(self.truth[row]) for row in rows)
        return Labels(len(rows), tiles, classes=tuple(names))


def ebhi(fields: Path, work: Path, encoder: str) -> World:
    """Real fields of six classes, one tile each."""
    labels = assemble_ebhi(fields, work / "ebhi")
    options = IngestOptions(encoder=encoder)
    ingest([work / "ebhi"], work / "E", manifest=work / "ebhi" / "labels.csv", options=options)
    table = open_table(work / "E")
    label = dict(labels.select("slide_id", "label").iter_rows())
    truth = np.array([label[name] for name in table.flat.slide_ids])[table.slide_of]
    return World("EBHI-Seg", table, truth, np.array(table.case_of)[table.slide_of])


def drawn(work: Path, encoder: str, slides: int = 12) -> World:
    """Drawn slides: what lies on most of a tile is what it is."""
    truths = {}
    for number in range(slides):
        tumour = (0.05, 0.3, 0.1)[number % 3]
        plan = SlidePlan(size=(4096, 4096), seed=100 + number, tumour=tumour, stain=0.9)
        (work / "drawn").mkdir(exist_ok=True)
        truths[f"{number:02d}.tif"] = write_slide(work / "drawn" / f"{number:02d}.tif", plan)
    ingest([work / "drawn"], work / "D", options=IngestOptions(encoder=encoder))
    table = open_table(work / "D")
    names = []
    for slide, (x, y) in zip(table.slide_of.tolist(), table.flat.origin_l0.tolist(), strict=True):
        seen, side = truths[table.flat.slide_ids[slide]], table.footprint(slide)
        names.append(KINDS[int(np.argmax([seen.share(kind, x, y, side) for kind in KINDS]))])
    truth = np.array(names)
    return World("drawn slides", table, truth, np.array(table.flat.slide_ids)[table.slide_of])


#: The world, rows that may be labelled, rows that are, the head or None, and a seed, to the next rows to label.
Way = Callable[[World, Rows, Labels, TileHead | None, int, int], list[int]]


def by_proposal(
    world: World, pool: Rows, labels: Labels, head: TileHead | None, count: int, seed: int
) -> list[int]:
    """What the product does."""
    slides = np.unique(world.table.slide_of[pool]).tolist()
    return [one.row for one in propose(world.table, labels, head, count, slides=slides, seed=seed).found]


def by_chance(
    world: World, pool: Rows, labels: Labels, head: TileHead | None, count: int, seed: int
) -> list[int]:
    """Tiles at random."""
    return (
        np.random.default_rng((seed, labels.version))
        .choice(_free(world, pool, labels), count, False)
        .tolist()
    )


def by_uncertainty(
    world: World, pool: Rows, labels: Labels, head: TileHead | None, count: int, seed: int
) -> list[int]:
    """The least certain, whether alike or not; before there is a head, as proposed."""
    if head is None:
        return by_proposal(world, pool, labels, head, count, seed)
    free = _free(world, pool, labels)
    unsure = uncertainty(head.probabilities(world.table.flat.vectors[free]))
    return free[np.argsort(-unsure, kind="stable")[:count]].tolist()


def by_k_centre(
    world: World, pool: Rows, labels: Labels, head: TileHead | None, count: int, seed: int
) -> list[int]:
    """Begins with tiles as unlike each other as can be; with a head, as proposed."""
    if head is not None:
        return by_proposal(world, pool, labels, head, count, seed)
    free = _free(world, pool, labels)
    vectors = world.table.flat.vectors
    centre = vectors[free].mean(axis=0, dtype=np.float64)
    known = np.array([mark_row(world, label) for label in labels.tiles.values()], np.int64)
    return free[
        k_centre(directions(vectors[free], centre), directions(vectors[known], centre), count)
    ].tolist()


def _free(world: World, pool: Rows, labels: Labels) -> Rows:
    known = {mark_row(world, label) for label in labels.tiles.values()}
    return np.setdiff1d(pool, np.fromiter(known, np.int64, len(known)))


def mark_row(world: World, label: Label) -> int:
    """The row of a label of `World.labels`, by its tile's number."""
    mark: Any = label.mark
    span = world.table.span(world.table.slide(mark.slide_id))
    return int(span.start + np.searchsorted(world.table.flat.tile_index[span], mark.tile))


WAYS: dict[str, Way] = {
    "proposed": by_proposal,
    "uncertain only": by_uncertainty,
    "begun by k-centre": by_k_centre,
    "random": by_chance,
}


def parts(world: World, seed: int) -> tuple[Rows, Rows]:
    """Rows that may be labelled, and those of a third of the cases, which are not; every class is on both sides."""
    cases = np.unique(world.case)
    for trial in range(100):
        rng = np.random.default_rng((seed, trial))
        test = np.isin(world.case, rng.permutation(cases)[: len(cases) // 3])
        if set(world.truth[test]) == set(world.truth[~test]):
            return np.flatnonzero(~test), np.flatnonzero(test)
    raise SystemExit("no division has every class on both sides")


def curve(world: World, way: Way, seed: int, most: int, batch: int) -> NDArray[np.float64]:
    """(steps, 2) accuracy and balanced accuracy on the test cases after each batch."""
    pool, test = parts(world, seed)
    vectors = world.table.flat.vectors[test]
    rows: list[int] = []
    found = []
    head: TileHead | None = None
    while len(rows) < min(most, len(pool)):
        rows += way(world, pool, world.labels(rows), head, batch, seed)
        try:
            head = refit(world.table, world.labels(rows))
        except HeadError:
            head = None
        found.append(judged(world, head, vectors, test))
    return np.array(found)


def judged(world: World, head: TileHead | None, vectors: Any, test: Rows) -> tuple[float, float]:
    """Accuracy and mean recall."""
    if head is None:
        return 0.0, 0.0
    truth = world.truth[test]
    right = np.array(head.classes)[head.probabilities(vectors).argmax(axis=1)] == truth
    return float(right.mean()), float(np.mean([right[truth == name].mean() for name in np.unique(truth)]))


def ceiling(world: World, splits: int) -> list[float]:
    """What labelling every tile that may be labelled gives, as a mean over splits."""
    found = []
    for seed in range(splits):
        pool, test = parts(world, seed)
        head = refit(world.table, world.labels(pool.tolist()))
        found.append(judged(world, head, world.table.flat.vectors[test], test))
    return np.mean(found, axis=0).round(4).tolist()


def compared(world: World, splits: int, most: int, batch: int) -> dict[str, Any]:
    """Curves of every way, and what they gain over chance."""
    curves = {}
    for name, way in WAYS.items():
        start = time.perf_counter()
        curves[name] = np.stack([curve(world, way, seed, most, batch) for seed in range(splits)])
        print(
            world.name,
            name,
            curves[name].mean(0)[:, 1].round(3).tolist(),
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    at = (np.arange(curves["random"].shape[1]) + 1) * batch
    top = ceiling(world, splits)
    target = 0.9 * top[1]
    return {
        "tiles": len(world.table.flat),
        "cases": len(np.unique(world.case)),
        "classes": world.classes,
        "all labels": {"accuracy": top[0], "balanced_accuracy": top[1]},
        "labels": at.tolist(),
        "accuracy": {name: each[:, :, 0].mean(0).round(4).tolist() for name, each in curves.items()},
        "balanced_accuracy": {name: each[:, :, 1].mean(0).round(4).tolist() for name, each in curves.items()},
        "balanced_accuracy minus random": {
            name: [_gain(a, b) for a, b in zip(each[:, :, 1].T, curves["random"][:, :, 1].T, strict=True)]
            for name, each in curves.items()
            if name != "random"
        },
        f"labels until the mean balanced accuracy is {target:.3f}, 90 % of that with all labels": {
            name: _reached(each[:, :, 1].mean(0), at, target) for name, each in curves.items()
        },
    }


def _gain(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[float]:
    """Mean paired difference with the 95 % interval over resampled splits."""
    difference = ours - theirs
    draws = np.random.default_rng(0).choice(difference, (2000, len(difference))).mean(axis=1)
    return [round(float(v), 4) for v in (difference.mean(), *np.quantile(draws, (0.025, 0.975)))]


def _reached(means: NDArray[np.float64], at: NDArray[np.int64], target: float) -> int | None:
    there = np.flatnonzero(means >= target)
    return int(at[there[0]]) if len(there) else None


def main() -> None:
    """Measure, write."""
    parser = command_line(__doc__, "active")
    parser.add_argument("--world", choices=("drawn", "ebhi", "both"), default="drawn")
    parser.add_argument("--fields", type=Path, help="folder of EBHI-Seg, for ebhi and both")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--labels", type=int, default=144)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--encoder", default="beph-mini")
    args = parser.parse_args()
    data = {
        **conditions("scikit-learn", "onnxruntime"),
        "encoder": args.encoder,
        "splits": args.splits,
        "batch": args.batch,
        "refit": {"dim": DIM, "classes": CLASSES, "folds": FOLDS, "times": refit_times()},
        "seconds on one core": choosing_times(),
    }
    with tempfile.TemporaryDirectory() as folder:
        worlds = [drawn(Path(folder), args.encoder)] if args.world != "ebhi" else []
        worlds += [ebhi(args.fields, Path(folder), args.encoder)] if args.world != "drawn" else []
        for world in worlds:
            data[world.name] = compared(world, args.splits, args.labels, args.batch)
    write(args.name, data)


if __name__ == "__main__":
    main()
