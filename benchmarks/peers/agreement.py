"""Whether a system embedded the same tiles as ours, and what it does where a slide is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from peers.bench import Bench, System
from peers.job import TILE_PX, Job


@dataclass(frozen=True, eq=False)
class Reference:
    """By slide's stem: ``coords`` (N, 2) int64 in raster order and ``vectors`` (N, D) float64 beside them."""

    coords: dict[str, NDArray[np.int64]]
    vectors: dict[str, NDArray[np.float64]]

    @classmethod
    def read(cls, out: Path) -> Reference:
        """What a driver read back from what its system stored."""
        coords, vectors = {}, {}
        for file in sorted(out.glob("*.stored.npz")):
            stem = file.name.removesuffix(".stored.npz")
            with np.load(file, allow_pickle=False) as data:
                places, rows = np.asarray(data["coords"], np.int64), np.asarray(data["vectors"], np.float64)
            order = np.lexsort((places[:, 0], places[:, 1]))
            coords[stem], vectors[stem] = places[order], rows[order]
        return cls(coords, vectors)

    @classmethod
    def given(cls, slides: Sequence[str], coords: Sequence[str]) -> Reference:
        """The coordinates that everybody is handed, without vectors."""
        return cls({Path(s).stem: np.load(c) for s, c in zip(slides, coords, strict=True)}, {})

    def places(self) -> dict[str, list[list[int]]]:
        """For comparing."""
        return {stem: coords.tolist() for stem, coords in self.coords.items()}

    def matrix(self) -> NDArray[np.float64]:
        """All vectors, slide after slide."""
        return np.concatenate([self.vectors[stem] for stem in sorted(self.vectors)])


def compare(reference: Reference, out: Path, system: System) -> dict[str, Any]:
    """Centred cosine of each vector with ours, mean and least. OSError where tiles or vectors differ."""
    found = Reference.read(out)
    if found.places() != reference.places():
        wanted, got = ({s: len(c) for s, c in r.coords.items()} for r in (reference, found))
        raise OSError(
            f"other tiles than ours: {got} instead of {wanted}" if wanted != got else "tiles elsewhere"
        )
    a, b = reference.matrix(), found.matrix()
    if system.softmax:
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    centre = a.mean(0)
    a, b = a - centre, b - centre
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    if not cosine.mean() >= system.agrees:
        raise OSError(
            f"other vectors than ours: centred cosine {cosine.mean():.4f}, least {cosine.min():.4f}"
        )
    return {
        "centred_cosine": {"mean": round(float(cosine.mean()), 6), "least": round(float(cosine.min()), 6)}
    }


def damaged_copy(slide: Path, coords: Path, folder: Path) -> tuple[Path | None, set[tuple[int, int]]]:
    """A copy with the macro-tile under the middle tile all zeros, and the tiles that touch it."""
    places = np.load(coords)
    with tifffile.TiffFile(slide) as tiff:
        page: Any = tiff.pages[0]
        if not page.is_tiled:
            return None, set()
        width, height = page.tilewidth, page.tilelength
        x, y = (places[len(places) // 2] + TILE_PX // 2).tolist()
        column, line = x // width, y // height
        number = line * -(-page.imagewidth // width) + column
        at, size = page.dataoffsets[number], page.databytecounts[number]
    folder.mkdir()
    copy = folder / slide.name
    shutil.copyfile(slide, copy)
    copy.chmod(0o644)
    with copy.open("r+b") as file:
        file.seek(at)
        file.write(bytes(size))
    hit = (places + TILE_PX > (column * width, line * height)) & (
        places < ((column + 1) * width, (line + 1) * height)
    )
    return copy, {(int(a), int(b)) for a, b in places[hit.all(1)]}


def damaged(bench: Bench, system: System, job: Job, bad: set[tuple[int, int]]) -> str:
    """In words, what the system made of the damaged slide."""
    try:
        bench.run(system, job)
    except OSError as error:
        return f"the run ends: {error}"
    found = Reference.read(Path(job.out))
    if not found.coords:
        return "nothing stored for the slide"
    places = {tuple(place) for coords in found.coords.values() for place in coords.tolist()}
    kept = len(bad & places)
    if not kept:
        return f"{len(places)} tiles embedded, the {len(bad)} unreadable ones left out"
    return f"{len(places)} tiles embedded, {kept} of the {len(bad)} unreadable ones among them, not marked"
