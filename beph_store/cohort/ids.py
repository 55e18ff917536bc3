"""Names of slides and cases as tables write them, and how they find a slide of the store.

A store's slide id is a relative path (``sub/TCGA-AA-1234-01Z-00-DX1.<uuid>.svs``). A table may give the path, the
file name, the name without its suffix, or a TCGA barcode. ``SlideIndex`` tries these from the most to the least
exact and stops at the first that fits anything; more than one fit is handed back as such, never chosen from.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

#: Suffixes of slides, and of the feature files that split tables are named after.
_SUFFIXES = {
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".svslide",
    ".bif",
    ".vms",
    ".vmu",
    ".vsi",
    ".czi",
}
_SUFFIXES |= {".dcm", ".isyntax", ".png", ".jpg", ".jpeg", ".bmp", ".ome", ".pt", ".h5", ".zarr"}
#: What BEPH's tables carry where the file's UUID belongs: ``.hhhh`` with four to six h's.
_PLACEHOLDER = re.compile(r"\.h{3,}$")
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)
#: 23 characters; a tenth slide (``DX10``) makes it 24.
_SLIDE = re.compile(
    r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}-\d{2}[A-Z]-\d{2}-[A-Z]{2}[A-Z0-9]{1,2})(?:\.(.+))?$", re.I
)


def parts_of(name: str) -> tuple[str, ...]:
    """Folders and file name, either kind of slash, without empty parts and ``.``."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def stem(name: str) -> str:
    """The file name without folders, slide and feature suffixes, and BEPH's placeholder: ``a/S1.ome.tif`` → ``S1``."""
    base = (parts_of(name) or ("",))[-1]
    while (suffix := _suffix(base)).lower() in _SUFFIXES:
        base = base[: -len(suffix)]
    return _PLACEHOLDER.sub("", base)


def _suffix(base: str) -> str:
    """As of a path; a tenth of its time, of which a table of a million rows took half."""
    at = base.rfind(".")
    return base[at:] if 0 < at < len(base) - 1 else ""


def is_slide_file(name: str) -> bool:
    """Whether the name ends like the file of a slide or of a slide's features."""
    return _suffix((parts_of(name) or ("",))[-1]).lower() in _SUFFIXES


def slide_key(name: str) -> str:
    """Folders and stem, without case: what makes two names of a slide the same name."""
    return "/".join((*parts_of(name)[:-1], stem(name))).casefold()


def tcga_patient(name: str) -> str | None:
    """The 12 characters that name a TCGA patient, in capitals, if the file name begins with them."""
    found = _PATIENT.match(stem(name))
    return found.group().upper() if found else None


def tcga_slide(name: str) -> tuple[str, str | None] | None:
    """(slide barcode in capitals, UUID in lower case or None) if the file name is a TCGA slide's."""
    found = _SLIDE.match(stem(name))
    return (found[1].upper(), found[2].lower() if found[2] else None) if found else None


def tcga_site(name: str) -> str | None:
    """The tissue source site of a TCGA barcode: its second field."""
    patient = tcga_patient(name)
    return patient.split("-")[1] if patient else None


class SlideIndex:
    """Finds the slides of a store by the names that tables use."""

    def __init__(self, slide_ids: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        self._base: dict[str, list[str]] = defaultdict(list)
        self._stem: dict[str, list[str]] = defaultdict(list)
        self._barcode: dict[str, list[str]] = defaultdict(list)
        for slide_id in dict.fromkeys(slide_ids):
            self._exact["/".join(parts_of(slide_id))] = slide_id
            self._base[parts_of(slide_id)[-1]].append(slide_id)
            self._stem[stem(slide_id).casefold()].append(slide_id)
            if barcode := tcga_slide(slide_id):
                self._barcode[barcode[0]].append(slide_id)

    def find(self, name: str) -> tuple[str, ...]:
        """The slides that the name fits: none, one, or several where it is ambiguous.

        In this order: the same path; the same file name; the same name without suffixes and without case; the
        same TCGA slide barcode where one of the two lacks the UUID. Folders that both give must not contradict
        each other, except for TCGA barcodes, which are unique by themselves.
        """
        parts = parts_of(name)
        if not parts:
            return ()
        if exact := self._exact.get("/".join(parts)):
            return (exact,)
        by_base = _same_folders(name, self._base.get(parts[-1], ()))
        if by_base:
            return by_base
        by_stem = _same_folders(name, self._stem.get(stem(name).casefold(), ()))
        return by_stem or self._by_barcode(name)

    def near(self, name: str) -> tuple[str, ...]:
        """Slides of the same stem or barcode that ``find`` refuses: other folders, another UUID."""
        barcode = tcga_slide(name)
        return tuple(
            self._barcode.get(barcode[0], ()) if barcode else self._stem.get(stem(name).casefold(), ())
        )

    def _by_barcode(self, name: str) -> tuple[str, ...]:
        barcode = tcga_slide(name)
        if barcode is None:
            return ()
        found = self._barcode.get(barcode[0], ())
        return tuple(s for s in found if None in (barcode[1], _uuid(s)) or barcode[1] == _uuid(s))


def _uuid(slide_id: str) -> str | None:
    barcode = tcga_slide(slide_id)
    return barcode[1] if barcode else None


def _same_folders(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """Those whose folders do not contradict the name's: ``P1/1.svs`` must never find ``P2/1.svs``."""
    mine = parts_of(name)[:-1]
    fits = []
    for candidate in candidates:
        theirs = parts_of(candidate)[:-1]
        shared = min(len(mine), len(theirs))
        if not shared or mine[-shared:] == theirs[-shared:]:
            fits.append(candidate)
    return tuple(fits)
