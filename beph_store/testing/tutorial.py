"""What the tutorials use: twelve small slides that are drawn, the tables that belong to them, and one tile."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from beph_store.errors import UsageError
from beph_store.testing.synthetic import SlidePlan, draw, write_slide

CASES = 12
_SIZE = (2048, 2048)


def tutorial(folder: str | Path, *, say: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Write ``slides/``, ``labels.csv``, ``clinical.tsv``, ``manifest.csv`` and ``tile.png`` into ``folder``.

    Returns their paths, the slides' first. What is there already stays, and a table of the same name that is another
    one raises ``UsageError`` before anything is drawn.
    """
    folder = Path(folder)
    tables, tile = {folder / name: text for name, text in _tables().items()}, folder / "tile.png"
    for path, text in tables.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise UsageError(
                f"{path} is there already and is not the tutorials' own: choose an empty folder, or move it away"
            )
    say(f"drawing {CASES} slides into {folder / 'slides'}")
    slides = tutorial_slides(folder / "slides")
    for path, text in tables.items():
        path.write_bytes(text.encode())
    if not tile.exists():
        Image.fromarray(draw(SlidePlan(size=_SIZE, seed=50, nuisances=()), 896, 896, 224, 224)).save(tile)
    return [*slides, *tables, tile]


def tutorial_slides(folder: str | Path, count: int = CASES) -> list[Path]:
    """Draw ``case-1.svs`` and on into ``folder``: odd ones are mostly tumour, even ones hardly.

    2048 px a side at 0.5 µm/px. A file that is there already is left as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"case-{case}.svs" for case in range(1, count + 1)]
    for case, path in enumerate(paths, 1):
        if not path.exists():
            plan = SlidePlan(size=_SIZE, seed=case, tumour=0.75 if case % 2 else 0.05, nuisances=())
            part = path.with_suffix(".part")
            write_slide(part, plan)
            part.replace(path)
    return paths


def _tables() -> dict[str, str]:
    """Name -> text. ``label`` says what ``grade`` says, in other words."""
    cases = range(1, CASES + 1)
    classes = {case: ("high", "tumour") if case % 2 else ("low", "normal") for case in cases}
    labels = [[f"case-{case}.svs", f"case-{case}", *classes[case]] for case in cases]
    clinical = [
        [f"case-{case}", "Dead", 100 + 37 * case, "'--"]
        if case % 2
        else [f"case-{case}", "Alive", "'--", 900 + 41 * case]
        for case in cases
    ]
    manifest = [[f"slides/case-{case}.svs", f"case-{case}.svs", f"case-{case}"] for case in cases]
    times = ["case_submitter_id", "vital_status", "days_to_death", "days_to_last_follow_up"]
    return {
        "labels.csv": _text([["slide_id", "case_id", "grade", "label"], *labels]),
        "clinical.tsv": _text([times, *clinical], "\t"),
        "manifest.csv": _text([["path", "slide_id", "case_id"], *manifest]),
    }


def _text(rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()
