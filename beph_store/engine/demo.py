"""The whole job on a small sample, offline: slides, embeddings, a check, a head, a heatmap, a search, pictures."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.heatmap import HeatmapStyle, slide_overlay
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.picture import overview
from beph_store.engine.report import IngestReport, Progress
from beph_store.engine.search.ask import SearchOptions, ask_at, find
from beph_store.engine.search.sheet import contact_sheet, query_picture
from beph_store.engine.search.table import open_table
from beph_store.engine.study.attention import tile_values
from beph_store.engine.study.data import load_study
from beph_store.engine.study.run import TrainReport, train_to
from beph_store.engine.study.train import SplitOptions, TrainOptions
from beph_store.engine.study.trained import TrainedRun
from beph_store.errors import UsageError
from beph_store.halves import widened
from beph_store.store import Store, verify
from beph_store.testing.synthetic import DemoSlide, demo_cohort, demo_plans, truth

_REAL_URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
_REAL_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Where everything lies. ``separation`` is the AUC with which a direction learned on the other cases' tiles
    tells the two kinds of drawn tissue apart (0.5 = not at all); see ``separation``.
    """

    out: Path
    store: Path
    picture: Path
    ingest: IngestReport
    verified: bool
    separation: float | None
    training: TrainReport
    heatmap: Path
    hits: Path


def demo(
    out: str | Path,
    *,
    real: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> DemoReport:
    """Run the demo into ``out``; running it again takes up what is there. ``real`` fetches one real slide more."""
    out = Path(out)
    slides = out / "slides"
    plans = demo_plans()
    if not all((slides / plan.slide_id).exists() for plan in plans):
        say(f"drawing {len(plans)} slides into {slides}")
        demo_cohort(slides)
    if real:
        say("fetching OpenSlide's CMU-1-Small-Region.svs")
        fetch_real(slides / "CMU-1-Small-Region.svs")
    say("embedding every tile of tissue with beph-mini")
    report = ingest(
        [slides], out / "store", options=IngestOptions(), manifest=slides / "labels.csv", progress=progress
    )
    store = Store.open(out / "store")
    say("reading the store again to verify it")
    checked = verify(store)
    picture = overview(store, report.recipe, out / "demo.png", captions={p.slide_id: p.label for p in plans})
    say("training a linear head on the cases, three folds, and searching")
    training = train_to(
        out / "head",
        load_study(out / "store", slides / "labels.csv", "classify"),
        TrainOptions(split=SplitOptions(folds=3)),
    )
    heatmap, hits = _look(out, store, plans)
    found = separation(store, report.recipe, plans)
    return DemoReport(out, out / "store", picture, report, checked.ok, found, training, heatmap, hits)


def _look(out: Path, store: Store, plans: list[DemoSlide]) -> tuple[Path, Path]:
    """The drawn slide with most tumour, seen by the head that was trained without its case; and of each slide of other
    cases what looks most like the tile of it that scores highest, slides without tumour among them.
    """
    plan = max(plans, key=lambda each: each.plan.tumour)
    found = tile_values(TrainedRun.open(out / "head"), store, plan.slide_id, of_class="tumour")
    style = HeatmapStyle(
        title=plan.slide_id, legend=found.what, caption=f"{found.said}; the head had not seen this case"
    )
    slide_overlay(store, found.bag, found.values, style=style, width=900).save(out / "heatmap.png")
    table = open_table(out / "store")
    x, y = (int(v) + table.footprint(0) // 2 for v in found.bag.origin_l0[int(found.values.argmax())])
    question = ask_at(table, plan.slide_id, x, y)
    # Among all rows, or a slide that is unlike would be missing, and a nearest tile of each is what is promised.
    hits = find(table, question, SearchOptions(top=len(table.flat), per_slide=1))[:9]
    with_tumour = {each.slide_id for each in plans if each.label == "tumour"}
    title = f"Like {question.name}: of each slide of other cases the nearest tile"
    title += f"; {sum(hit.slide_id in with_tumour for hit in hits)} have tumour"
    picture = query_picture(table, question.row, None)
    contact_sheet(table, hits, title=title, query=picture).save(out / "hits.png")
    return out / "heatmap.png", out / "hits.png"


def separation(store: Store, key: str, plans: list[DemoSlide]) -> float | None:
    """AUC for 'mostly tumour' against 'no tumour': each slide's tiles along the line between the two means of the
    tiles of the other cases.
    """
    vectors, tumour = [], []
    for plan in plans:
        bag = store.bag(key, plan.slide_id)
        drawn = truth(plan.plan)
        side = store.slide(key, plan.slide_id).footprint_l0 or 1
        share = np.array([drawn.share("tumour", int(x), int(y), side) for x, y in bag.origin_l0])
        clear = (share > 0.5) | (share == 0)
        vectors.append(widened(bag.vectors[clear]))
        tumour.append(share[clear] > 0.5)
    scores = []
    for own, plan in enumerate(plans):
        others = [i for i, other in enumerate(plans) if other.case_id != plan.case_id]
        seen, is_tumour = (np.concatenate([part[i] for i in others]) for part in (vectors, tumour))
        if not 0 < is_tumour.sum() < len(is_tumour):
            return None
        middle, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
        direction = (seen[is_tumour].mean(axis=0) - seen[~is_tumour].mean(axis=0)) / spread
        scores.append(((vectors[own] - middle) / spread) @ direction)
    return auc(np.concatenate(scores), np.concatenate(tumour))


def auc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve of (N,) scores; None without both classes. Ties have no say here."""
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return None
    ranks = np.empty(len(score))
    ranks[np.argsort(score)] = np.arange(1, len(score) + 1)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def fetch_real(path: Path) -> None:
    """Fetch the real slide unless it is there; refuse any bytes but the known ones."""
    if not path.exists():
        try:
            with urllib.request.urlopen(_REAL_URL, timeout=60) as reply:
                data = reply.read()
        except (URLError, OSError) as error:
            raise UsageError(
                f"the real slide cannot be fetched ({error}): run the demo without --real"
            ) from error
        _check_real(data)
        path.write_bytes(data)
    _check_real(path.read_bytes())


def _check_real(data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != _REAL_SHA256:
        raise UsageError(
            "the real slide is not the one this demo knows (its SHA-256 differs): run without --real"
        )
