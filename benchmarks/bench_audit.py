"""How much duplicated tissue does `audit` find, by kind of copy, and how often does it cry wolf?

    python benchmarks/bench_audit.py DATA [--work DIR] [--name audit]

DATA holds wsi_atlas (seven real slides of five cases) and ebhi_seg (994 fields of 165 patients, assembled to slides).
Copies of three of the slides are written under other names and cases: compressed harder, cropped off the grid, turned
by 90 and by 17 degrees, flipped, rescanned at another scale and tone, and with a pixel size misstated by 20 %. Each
copy is put beside the seven originals by itself: is it found, and is anything else? False pairs are counted where no
tissue is shared: between the originals, between quarters of them, which are as alike as tissue gets, and between the
patients of EBHI. Blur is drawn on real tiles. --work keeps slides and stores, which are taken up again.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from beph_store.engine.audit.slides import judge_slides, look_at_pixels
from beph_store.engine.audit.tissue import TissueFindings, find_duplicates, sample_rows
from beph_store.engine.ingest import ingest
from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import SearchTable, open_table
from beph_store.search.quality import FOCUS_FLOOR, OUTLIER_Z, measure, robust_z
from beph_store.slides import open_slide
from beph_store.testing.assemble import assemble_ebhi
from beph_store.testing.pyramid import WHITE, write_pyramid
from beph_store.testing.tiff import Coding, TiledTiff

Pixels = NDArray[np.uint8]
BASES = {
    "lung": "lung_scc_HE3_20x.tif",
    "stomach": "stomach_erosive_gastritis_HE_20x.tif",
    "pancreas": "pancreas_pdac_trucut_HE3_20x.tif",
}
KINDS = ("reencoded", "crop", "rot90", "flip", "turned17", "rescan", "misstated")
SAMPLES, SEEDS = (50, 200), range(5)
WINDOWS = (3, 4, 5, 6, 8)


def whole(path: Path) -> Pixels:
    """Level 0 of a slide."""
    with open_slide(path, slide_id=path.name) as slide:
        w, h = slide.info.size_l0
        return np.concatenate([slide.read_level(0, 0, y, w, min(1024, h - y)) for y in range(0, h, 1024)])


def save(path: Path, pixels: Pixels, mpp: float, quality: int = 85) -> None:
    """A pyramidal TIFF of ``pixels``."""

    def region(x: int, y: int) -> Pixels:
        out = np.full((256, 256, 3), WHITE, np.uint8)
        part = pixels[y : y + 256, x : x + 256]
        out[: part.shape[0], : part.shape[1]] = part
        return out

    size = pixels.shape[1], pixels.shape[0]
    with TiledTiff(path, mpp) as tiff:
        write_pyramid(tiff, size, (1, 4, 16), Coding(quality=quality), region)


def tone(pixels: Pixels) -> Pixels:
    """Another scanner's gamma, lamp and white balance."""
    table = np.clip(255 * 1.02 * (np.arange(256) / 255) ** 1.15 + 2, 0, 255).astype(np.uint8)
    out = table[pixels]
    out[..., 0] = np.maximum(out[..., 0], 5) - 5
    return out


def resized(pixels: Pixels, factor: float) -> Pixels:
    """``factor`` times as large."""
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def copy(path: Path, pixels: Pixels, kind: str) -> None:
    """Write one copy."""
    match kind:
        case "reencoded":
            save(path, pixels, 0.5, 40)
        case "crop":
            save(path, pixels[pixels.shape[0] // 4 + 77 :, 101:], 0.5)
        case "rot90":
            save(path, np.rot90(pixels), 0.5)
        case "flip":
            save(path, pixels[:, ::-1], 0.5)
        case "turned17":
            turned = Image.fromarray(pixels).rotate(
                17, Image.Resampling.BICUBIC, expand=True, fillcolor=(WHITE,) * 3
            )
            save(path, np.asarray(turned), 0.5)
        case "rescan":
            again = resized(pixels, 0.5 / 0.46)
            glass = np.full((90, again.shape[1], 3), WHITE, np.uint8)
            save(path, tone(np.concatenate([glass, again])), 0.46)
        case "misstated":
            save(path, resized(pixels, 1.2), 0.5)


def part(table: SearchTable, keep: Iterable[tuple[str, str, NDArray[np.int64]]]) -> SearchTable:
    """A table of some rows: (id, id of the slide that they are of, rows) each."""
    kept = list(keep)
    rows = np.concatenate([own for _, _, own in kept])
    stops = np.cumsum([len(own) for _, _, own in kept])
    starts = np.concatenate([[0], stops[:-1]])
    flat = dataclasses.replace(
        table.flat,
        slide_ids=tuple(name for name, _, _ in kept),
        spans=np.stack([starts, stops], 1).astype(np.int64),
        tile_index=np.asarray(table.flat.tile_index)[rows],
        origin_l0=np.asarray(table.flat.origin_l0)[rows],
        vectors=np.asarray(table.flat.vectors)[rows],
    )
    return SearchTable(table.store, table.record, flat, {name: table.rows[of] for name, of, _ in kept}, None)


def slides(table: SearchTable, names: Sequence[str]) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Whole slides for ``part``."""
    spans = [table.span(table.slide(name)) for name in names]
    return [(name, name, np.arange(s.start, s.stop)) for name, s in zip(names, spans, strict=True)]


def quarters(table: SearchTable, names: Sequence[str]) -> SearchTable:
    """Each slide as four that share no tile, divided at the middle of its tissue."""
    kept = []
    for name, _, rows in slides(table, names):
        right, below = (table.flat.origin_l0[rows] > np.median(table.flat.origin_l0[rows], axis=0)).T
        for number in range(4):
            own = rows[(right == bool(number % 2)) & (below == bool(number // 2))]
            kept.append((f"{name}#{number}", name, own))
    anew = part(table, [one for one in kept if len(one[2])])
    # The pieces are as good as files of their own: their common fingerprint says nothing.
    rows_of = {k: dataclasses.replace(row, fingerprint=None, case_id=None) for k, row in anew.rows.items()}
    return dataclasses.replace(anew, rows=rows_of)


def look(table: SearchTable, sample: int, seed: int = 0) -> TissueFindings:
    """Duplicates."""
    return find_duplicates(table, sample_rows(table, sample, seed), seed=seed)


def copies(table: SearchTable, originals: list[str]) -> dict[str, Any]:
    """Each copy beside the originals."""
    result: dict[str, Any] = {}
    for kind in KINDS:
        for sample in SAMPLES:
            found, false, weakest, share = 0, 0, -300.0, []
            for base, original in BASES.items():
                name = f"{base}-{kind}.tif"
                one = part(table, slides(table, [*originals, name]))
                for duplicate in look(one, sample).duplicates:
                    pair = {one.flat.slide_ids[duplicate.a], one.flat.slide_ids[duplicate.b]}
                    right = pair == {original, name}
                    found, false = found + right, false + (not right)
                    if right and duplicate.placing is not None:
                        weakest = max(weakest, duplicate.placing.log10_nfa)
                        share.append(round(duplicate.share, 3))
            row = {"copies": len(BASES), "found": found, "false_pairs": false}
            result[f"{kind}, {sample} tiles a slide"] = row | {
                "log10_chance_of_the_weakest": round(weakest, 1) if share else None,
                "share": share,
            }
    return result


def small(table: SearchTable, originals: list[str]) -> dict[str, Any]:
    """Windows of n × n tiles of the copies that were cropped off the grid: how small may a piece be?"""
    rng = np.random.default_rng(0)
    result = {}
    for n in WINDOWS:
        tries = found = tiles = 0
        for base, original in BASES.items():
            name = f"{base}-crop.tif"
            ((_, _, rows),) = slides(table, [name])
            where, side = table.flat.origin_l0[rows], n * table.footprint(table.slide(name))
            for corner in where[rng.choice(len(where), 4, replace=False)]:
                own = rows[((where >= corner) & (where < corner + side)).all(axis=1)]
                one = part(table, [*slides(table, originals), (name, name, own)])
                hits = [
                    {one.flat.slide_ids[d.a], one.flat.slide_ids[d.b]} == {name, original}
                    for d in look(one, 200).duplicates
                ]
                tries, found, tiles = tries + 1, found + any(hits), tiles + len(own)
        result[f"{n} × {n}"] = {"pieces": tries, "mean_tiles": round(tiles / tries, 1), "found": found}
    return result


def false_pairs(table: SearchTable, sample: int = 200) -> dict[str, Any]:
    """Pairs reported across cases where none shares tissue."""
    false = sum(d.across_cases for seed in SEEDS for d in look(table, sample, seed).duplicates)
    count = len(table.flat.slide_ids)
    pairs = len(SEEDS) * count * (count - 1) // 2
    return {"slides": count, "pairs": pairs, "false": false, "per_thousand": round(1000 * false / pairs, 4)}


def blur(table: SearchTable) -> dict[str, Any]:
    """Share of real tiles called blurred, by the Gaussian blur (px) drawn on them."""
    rows = np.concatenate(sample_rows(table, 60, 1))
    tiles = [tile for tile, _ in tile_pixels(table, [table.hit(int(row), 0.0) for row in rows])]
    reference = measure(np.stack(tiles)).focus
    result = {}
    for sigma in (0.0, 0.7, 1.0, 1.5, 2.0, 3.0):
        blurred = np.stack([ndimage.gaussian_filter(tile, (sigma, sigma, 0)) for tile in tiles])
        z = robust_z(measure(blurred).focus, floor=FOCUS_FLOOR, reference=reference)
        result[f"{sigma:g}"] = round(float((z < -OUTLIER_Z).mean()), 3)
    return {"tiles": len(tiles), "called_blurred": result}


def outliers(table: SearchTable) -> list[dict[str, Any]]:
    """What is said of the seven slides."""
    found = judge_slides(table, look_at_pixels(table, sample_rows(table, 200, 0)))
    return [
        {
            "slide": one.slide_id,
            "stain_z": one.stain_z and round(one.stain_z, 2),
            "embedding_z": one.embedding_z and round(one.embedding_z, 2),
            "blurred": one.blurred,
            "blank": one.blank,
            "tiles": one.read,
        }
        for one in found
    ]


def prepare(data: Path, work: Path) -> tuple[SearchTable, SearchTable, list[str]]:
    """Both stores: the slides with their copies, and EBHI."""
    (work / "copies").mkdir(parents=True, exist_ok=True)
    for base, original in BASES.items():
        missing = [kind for kind in KINDS if not (work / "copies" / f"{base}-{kind}.tif").exists()]
        pixels = whole(data / "wsi_atlas" / original) if missing else None
        for kind in missing:
            assert pixels is not None
            copy(work / "copies" / f"{base}-{kind}.tif", pixels, kind)
    ingest([data / "wsi_atlas"], work / "S", manifest=data / "wsi_atlas" / "slides.csv")
    ingest([work / "copies"], work / "S")
    if not (work / "ebhi" / "labels.csv").exists():
        assemble_ebhi(data / "ebhi_seg", work / "ebhi")
    ingest([work / "ebhi"], work / "E", manifest=work / "ebhi" / "labels.csv")
    originals = sorted(path.name for path in (data / "wsi_atlas").glob("*.tif"))
    return open_table(work / "S"), open_table(work / "E"), originals


def main() -> None:
    """Run it all."""
    parser = command_line(__doc__, "audit")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, ebhi, originals = prepare(options.data, options.work or Path(folder))
        alone = part(table, slides(table, originals))
        result = {
            "conditions": conditions("scipy"),
            "encoder": table.record.recipe.encoder.name,
            "copies": copies(table, originals),
            "small_pieces": small(table, originals),
            "false_pairs": {
                "originals": false_pairs(alone),
                "quarters of the originals": false_pairs(quarters(table, originals)),
                "EBHI": false_pairs(ebhi),
            },
            "blur_px": blur(alone),
            "slides": outliers(alone),
        }
    write(options.name, result)


if __name__ == "__main__":
    main()
