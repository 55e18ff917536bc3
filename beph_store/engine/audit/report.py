"""``audit.html``: what was found, shown, and how it was judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.audit import pictures
from beph_store.engine.audit.run import Audit, verdict
from beph_store.engine.audit.slides import SlideFinding
from beph_store.engine.audit.tissue import Duplicate
from beph_store.engine.search.table import NO_CASES
from beph_store.engine.study.page import Html, cards, folded, note, page, section, table, warning

#: So many of each are shown with pictures; tables have all.
_DUPLICATES, _TILES, _SLIDES = 12, 12, 60

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

_STYLE = """<style>
.cards { gap: .6rem; } .card { padding: .6rem .8rem; } .note .swatch { width: 122px; }
.strip + .scroll { margin-top: .8rem; }
.dup { border: 1px solid var(--line); border-radius: 8px; background: var(--card); padding: .9rem 1.1rem;
       margin: 1rem 0; }
.dup.leak { border-left: 4px solid var(--warn); } .dup p { margin: .15rem 0 .6rem; color: var(--soft); }
.dup b, .thumb b { overflow-wrap: anywhere; }
.pics { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: flex-start; } .pics img { display: block; }
.maps { display: flex; gap: .6rem; align-items: flex-start; } .maps img { border: 1px solid var(--line); }
.two { display: grid; grid-auto-flow: column; grid-template-rows: auto auto; gap: .3rem; }
.two img { width: 92px; height: 92px; border-radius: 3px; } .maps img { max-height: 190px; width: auto; }
.strip { display: flex; flex-wrap: wrap; gap: .7rem; } .strip figure { width: 132px; padding: .5rem; }
.strip img { display: block; width: 132px; height: 132px; }
.strip figcaption, .thumb { color: #636c76; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.thumbs { display: flex; flex-wrap: wrap; gap: .7rem; }
.thumb { width: 122px; border: 1px solid var(--line); border-radius: 8px; padding: .6rem; background: var(--card);
         color: var(--soft); } .thumb img { display: block; width: 120px; height: 120px; border-radius: 3px; }
.thumb b { display: block; color: var(--ink); font-weight: 600; margin-top: .35rem; }
.thumb.odd { border-color: var(--warn); }
.swatch { display: block; height: 14px; border-radius: 3px; margin: .3rem 0; border: 1px solid var(--line); }
.tag { display: inline-block; border-radius: 4px; padding: 0 .4rem; font-size: .8rem; font-weight: 600;
       color: var(--warn); background: var(--warnground); border: 1px solid var(--warn); }
.tag.calm { color: var(--soft); background: none; border-color: var(--line); }
@media print { .dup, .thumb { break-inside: avoid; } }
</style>"""


def render(found: Audit) -> str:
    """The page, self-contained."""
    recipe = found.table.record.recipe
    subtitle = (
        f"{len(found.slides):,} slides of {len(set(found.table.case_of)):,} cases · "
        f"{recipe.encoder.name} ({recipe.encoder.variant}), {recipe.tile.tile_px} px at {recipe.tile.mpp:g} µm/px · "
        f"up to {found.options.sample} tiles a slide, seed {found.options.seed}"
    )
    parts = [Html(_STYLE), *(warning(text) for text in _warnings(found)), _summary(found), _tissue(found)]
    if found.pixels is not None:
        parts += [_tiles(found, blurred=True), _tiles(found, blurred=False)]
    return page("Cohort audit", subtitle, [*parts, _slides(found), _rules()])


def _warnings(found: Audit) -> list[str]:
    said = []
    if found.leaks:
        said.append(
            f"{found.leaked}. A split by case puts it on "
            "both sides: give both slides one case_id, or leave one out, before anything is trained."
        )
    if found.table.lacks_cases:
        said.append(NO_CASES[0].upper() + NO_CASES[1:] + ".")
    return said + ([found.skipped[0].upper() + found.skipped[1:] + "."] if found.skipped else [])


def _summary(found: Audit) -> Html:
    within = len(found.tissue.duplicates) - len(found.leaks)
    items = [
        (f"{len(found.leaks):,}", "leaks", "same tissue in two cases"),
        (f"{within:,}", "within a case", "same tissue, one case"),
    ]
    if found.pixels is not None:
        read = len(found.pixels.rows)
        for name, kept in (("blurred tiles", found.pixels.blurred), ("blank tiles", found.pixels.blank)):
            share = f"{kept.sum() / read:.1%} of {read:,} read" if read else "none read"
            items.append((f"{int(kept.sum()):,}", name, share))
        stain = sum(one.stain_outlier for one in found.slides)
        items.append((f"{stain:,}", "stain outliers", "slides, z above 3.5"))
    items.append(
        (
            f"{sum(one.embedding_outlier for one in found.slides):,}",
            "embedding outliers",
            "slides, z above 3.5",
        )
    )
    return cards(items)


def _tissue(found: Audit) -> Html:
    duplicates = found.tissue.duplicates
    if not duplicates:
        return section(
            "Duplicated tissue",
            note(
                f"None found: {found.tissue.sampled:,} tiles were looked up in all other slides, and the places of "
                f"{found.tissue.judged:,} pairs of slides judged."
            ),
        )
    ids, cases = found.table.flat.slide_ids, found.table.case_of
    rows = [
        (
            ids[one.a],
            cases[one.a],
            ids[one.b],
            cases[one.b],
            "leak" if one.across_cases else "one case",
            len(one.rows),
            f"{one.share:.0%}",
            one.score,
            _evidence(one),
        )
        for one in duplicates
    ]
    columns = ("slide", "case", "slide", "case", "verdict", "#pairs", "#share", "#best score", "evidence")
    shown = [_duplicate(found, one) for one in duplicates[:_DUPLICATES]]
    more = len(duplicates) - len(shown)
    return section(
        "Duplicated tissue",
        note(
            "Each mark is a matched tile; marks of one colour on both slides belong together. Tiles below each other "
            "are a matched pair, the lower one turned as the first slide lies. Grids need not fall on the same pixels, "
            "so a pair may be shifted by up to half a tile."
        ),
        *shown,
        *([note(f"{more} more are in the table only.")] if more > 0 else []),
        folded(f"all {len(duplicates)} pairs of slides", table(columns, rows)),
    )


def _duplicate(found: Audit, one: Duplicate) -> Html:
    ids, cases = found.table.flat.slide_ids, found.table.case_of
    left, right = pictures.matched(found.table, one)
    pairs = pictures.tile_pairs(found.table, one)
    tag = '<span class="tag">leak</span>' if one.across_cases else '<span class="tag calm">one case</span>'
    named = ((ids[i], "" if ids[i] == cases[i] else f" ({cases[i]})") for i in (one.a, one.b))
    names = " ↔ ".join(f"<b>{escape(slide)}</b>{escape(case)}" for slide, case in named)
    evidence = f"{len(one.rows)} matched tiles, {one.share:.0%} of the tissue, best score {one.score:.3f}"
    said = verdict(found.table, one)
    two = "".join(_image(a, ids[one.a]) + _image(b, ids[one.b]) for a, b in pairs)
    return Html(
        f'<div class="dup{" leak" if one.across_cases else ""}">{tag} {names}'
        f"<p>{escape(said[0].upper() + said[1:])}.<br>{escape(evidence)}; {escape(_evidence(one))}.</p>"
        f'<div class="pics"><div class="maps">{_image(left, ids[one.a])}{_image(right, ids[one.b])}</div>'
        f'<div class="two">{two}</div></div></div>'
    )


def _evidence(one: Duplicate) -> str:
    if one.same_file:
        return "same fingerprint"
    if one.placing is None:
        return "tiles alike, places prove nothing"
    turn = round(one.placing.turn)
    words = ["flipped"] if one.placing.flipped else []
    words += [f"turned {turn}°"] if turn else []
    chance = one.placing.log10_nfa
    how = f" ({', '.join(words)})" if words else ""
    return f"places agree{how}, by chance in 1 of 10{str(round(-chance)).translate(_RAISED)}"


def _tiles(found: Audit, *, blurred: bool) -> Html:
    pixels = found.pixels
    assert pixels is not None
    flagged = np.flatnonzero(pixels.blurred if blurred else pixels.blank)
    name = "Blurred tiles" if blurred else "Blank tiles"
    if not len(flagged):
        return section(name, note(f"None among the {len(pixels.rows):,} tiles read."))
    order = flagged[np.argsort(pixels.focus_z[flagged], kind="stable")] if blurred else flagged
    worst = order[:_TILES]
    captions = [
        f"{found.table.flat.slide_ids[found.table.slide_of[row]]} at {_place(found, row)}"
        + (f", z {pixels.focus_z[i]:.1f}" if blurred else "")
        for i, row in zip(worst.tolist(), pixels.rows[worst].tolist(), strict=True)
    ]
    shown = zip(pictures.tiles(found.table, pixels.rows[worst].tolist()), captions, strict=True)
    counts = [
        (one.slide_id, one.blurred if blurred else one.blank, one.read)
        for one in found.slides
        if (one.blurred if blurred else one.blank)
    ]
    counts.sort(key=lambda row: -row[1] / max(1, row[2]))
    rows = [(slide, count, f"{count / read:.1%}", read) for slide, count, read in counts]
    return section(
        name,
        _strip(shown),
        table(("slide", "#" + name.lower(), "#share", "#tiles read"), rows[:_DUPLICATES]),
        *(
            [folded("all slides", table(("slide", "#tiles", "#share", "#read"), rows))]
            if len(rows) > _DUPLICATES
            else []
        ),
    )


def _place(found: Audit, row: int) -> str:
    x, y = found.table.flat.origin_l0[row].tolist()
    return f"{x}, {y}"


def _slides(found: Audit) -> Html:
    order = sorted(range(len(found.slides)), key=lambda i: _worst(found.slides[i]), reverse=True)
    median = _cohort_stain(found)
    thumbs = [_thumb(found, i) for i in order[:_SLIDES]]
    rows = [
        (
            one.slide_id,
            one.case_id,
            one.tiles,
            one.read,
            one.blank,
            one.blurred,
            _z(one.stain_z),
            _z(one.embedding_z),
        )
        for one in (found.slides[i] for i in order)
    ]
    columns = ("slide", "case", "#tiles", "#read", "#blank", "#blurred", "#stain z", "#embedding z")
    bar = f'<span class="swatch" style="background:{median}"></span>'
    cohort = [Html(f'<p class="note">The cohort\'s median stain: {bar}</p>')] if median else []
    more = (
        [note(f"The {_SLIDES} most unusual of {len(order):,} slides; the table has all.")]
        if len(order) > _SLIDES
        else []
    )
    return section(
        "Slides, the most unusual first",
        note(
            "The bar is the mean colour of what is stained. z counts how far a slide is from the cohort's median, in "
            "robust standard deviations; above 3.5 is an outlier, and below 5 slides nothing is said."
        ),
        *cohort,
        Html(f'<div class="thumbs">{"".join(thumbs)}</div>'),
        *more,
        folded("all slides", table(columns, rows)),
    )


def _thumb(found: Audit, number: int) -> str:
    one = found.slides[number]
    density = None if found.pixels is None else found.pixels.density[number]
    bar = (
        f'<span class="swatch" style="background:{pictures.rgb_of(density)}"></span>'
        if density is not None and np.isfinite(density).all()
        else ""
    )
    tags = [name for name, odd in (("stain", one.stain_outlier), ("embedding", one.embedding_outlier)) if odd]
    said = " ".join(f'<span class="tag">{name}</span>' for name in tags)
    picture = _image(pictures.thumbnail(found.table, number), one.slide_id)
    return (
        f'<div class="thumb{" odd" if tags else ""}">{picture}{bar}<b>{escape(one.slide_id)}</b>{escape(one.case_id)}'
        f"<br>stain z {_z(one.stain_z)}, embedding z {_z(one.embedding_z)} {said}</div>"
    )


def _cohort_stain(found: Audit) -> str | None:
    if found.pixels is None:
        return None
    known: NDArray[np.float64] = found.pixels.density[np.isfinite(found.pixels.density).all(axis=1)]
    return pictures.rgb_of(np.median(known, axis=0)) if len(known) else None


def _worst(one: SlideFinding) -> tuple[bool, float]:
    return one.outlier, max(one.stain_z or 0.0, one.embedding_z or 0.0)


def _strip(shown: Iterable[tuple[str, str]]) -> Html:
    boxes = (
        f"<figure>{_image(image, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
        for image, caption in shown
    )
    return Html(f'<div class="strip">{"".join(boxes)}</div>')


def _image(source: str, alt: str) -> str:
    return f'<img src="{source}" alt="{escape(alt)}">'


def _z(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


_RULES: Sequence[tuple[str, str, str]] = (
    (
        "same tissue",
        "sampled tiles are looked up in all other slides; many matches must agree on one turn, flip and shift, better "
        "than chance would in one of a million audits and 1.75 times as well as any other. Or at least 2 % of the "
        "tiles are over three times as near as any other",
        "RANSAC (Fischler & Bolles 1981), a-contrario matching (Moisan & Stival 2004), ratio test (Lowe 2004)",
    ),
    (
        "blank tile",
        "grey levels, blurred by 2 px, spread by less than 4",
        "measured: the emptiest of 560 real tissue tiles had 6.5",
    ),
    (
        "blurred tile",
        "variance of the Laplacian over that of the tile blurred, below the cohort's median by z 3.5",
        "Pech-Pacheco et al. 2000, Crete et al. 2007, Iglewicz & Hoaglin 1993",
    ),
    (
        "stain outlier",
        "density or one of two chromaticities of the stained pixels is z 3.5 from the cohort's median",
        "hue-saturation-density, van der Laak et al. 2000",
    ),
    (
        "embedding outlier",
        "the mean vector's distance to the nearest slide of another case, z above 3.5",
        "Iglewicz & Hoaglin 1993",
    ),
)


def _rules() -> Html:
    return section(
        "How it was judged",
        table(("finding", "rule", "source"), _RULES),
        note(
            "Often missed: copies of which the store has few tiles (of pieces of 29 tiles off the grid a third was "
            "found), slides with the same section several times, serial sections, which only resemble each other, and "
            "tiles that were not among those drawn. A clean audit is no proof. docs/audit.md has measured rates."
        ),
    )
