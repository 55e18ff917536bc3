"""Data sets of labelled tile images: which files there are, what each shows, and whose it is.

BreakHis and LC25000 as they are downloaded, any folder with a subfolder a class, and tables. Files are found by
their names alone; nothing is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beph_store.cohort.labels import Dropped, some
from beph_store.cohort.sheets import canonical, is_missing, read_sheet
from beph_store.errors import CohortError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
NOT_NAMED_SO = "its name is not of this layout"
NO_FOLDER = "lies in no folder of a class"
NO_VALUE = "no path, class or case"
ABSENT = "no such image"
OTHER_CLASS = "a class that was not asked for"

#: Each image its own case: what the figures then cannot say.
NO_PATIENTS = (
    "No patients are known: each image counts as a case of its own, so images of one patient may lie on both sides of "
    "a split and the figures flatter."
)
LC25000_COPIES = (
    "LC25000 names no patients, and its 25,000 images are rotated and flipped copies of 1,250: copies of one image lie "
    "on both sides of any split, so the figures say little about new patients."
)
_BREAKHIS = re.compile(
    r"(?P<procedure>SOB|CNB)_(?P<tumour>[BM])_(?P<type>[A-Z]{1,2})-(?P<year>\d{2})-(?P<slide>[0-9A-Z]+)"
    r"-(?P<magnification>40|100|200|400)X?-(?P<number>\d+)",
    re.IGNORECASE,
)
_TUMOUR = {"B": "benign", "M": "malignant"}
#: Subtypes by their letters in the file names; the first four are benign.
_TYPES = {
    "A": "adenosis",
    "F": "fibroadenoma",
    "PT": "phyllodes tumour",
    "TA": "tubular adenoma",
    "DC": "ductal carcinoma",
    "LC": "lobular carcinoma",
    "MC": "mucinous carcinoma",
    "PC": "papillary carcinoma",
}
_LC25000 = ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc")


@dataclass(frozen=True, slots=True)
class TileImage:
    """One image: ``path`` below the set's root, its class, whose it is, and ``group``, such as a magnification."""

    path: str
    label: str
    case_id: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images of a data set in the order of their paths; ``notes`` what a reader of its figures has to know.

    ``by_patient`` whether ``case_id`` names patients.
    """

    layout: str
    root: Path
    images: tuple[TileImage, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    by_patient: bool


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """What the user says about a set; None leaves it to the layout. Each field is a flag.

    ``target``: for breakhis ``class`` (benign, malignant) or ``type`` (eight), for a table its column. ``case``
    (``--case-column``) and ``group`` (``--group-column``) of a table; ``case_pattern`` (``--case-pattern``) a regular
    expression with one group that finds the case in a path of a folder. ``classes`` those to keep.
    """

    target: str | None = None
    classes: tuple[str, ...] = ()
    case: str | None = None
    group: str | None = None
    case_pattern: str | None = None


def read_image_set(path: str | Path, layout: str, choice: ImageChoice | None = None) -> ImageSet:
    """The images under a folder, or of a table, read as ``layout`` (a name of ``LAYOUTS``).

    Raises UsageError for an unknown layout or one that a flag does not serve, CohortError where nothing is found.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"--layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    root, wanted = Path(path), choice or ImageChoice()
    _check_flags(layout, wanted)
    if layout != "csv" and not root.is_dir():
        raise UsageError(f"no such folder: {root}", path=root)
    found = LAYOUTS[layout](root, wanted)
    if wanted.classes:
        found = _of_classes(found, wanted.classes)
    if not found.images:
        reasons = Counter(one.reason for one in found.dropped)
        told = "; ".join(f"{count} × {reason}" for reason, count in reasons.items()) or "it holds no images"
        raise CohortError(f"{root} has no image of layout {layout}: {told}; try another --layout", path=root)
    return found


def read_breakhis(root: Path, choice: ImageChoice) -> ImageSet:
    """BreakHis (Spanhol et al., IEEE TBME 2016): ``SOB_M_DC-14-2523-40-001.png``, in whatever folders.

    The case is the patient, ``year-slide`` of the name; the group is the magnification.
    """
    by = choice.target or "class"
    images, dropped = [], []
    for path in _image_files(root):
        found = _BREAKHIS.fullmatch(Path(path).stem)
        kind = found["type"].upper() if found else ""
        if found is None or kind not in _TYPES:
            dropped.append(Dropped(None, path, NOT_NAMED_SO))
            continue
        label = _TYPES[kind] if by == "type" else _TUMOUR[found["tumour"].upper()]
        patient = f"{found['year']}-{found['slide'].upper()}"
        images.append(TileImage(path, label, patient, found["magnification"]))
    return ImageSet("breakhis", root, tuple(images), tuple(dropped), _breakhis_notes(images), True)


def read_lc25000(root: Path, choice: ImageChoice) -> ImageSet:
    """LC25000 (Borkowski et al., arXiv 1912.12142): five folders ``lung_aca`` … ``colon_n``, wherever they lie."""
    images, dropped = [], []
    for path in _image_files(root):
        label = next((part for part in reversed(Path(path).parts[:-1]) if part.lower() in _LC25000), None)
        if label is None:
            dropped.append(Dropped(None, path, NO_FOLDER))
        else:
            images.append(TileImage(path, label.lower(), path))
    return ImageSet("lc25000", root, tuple(images), tuple(dropped), (LC25000_COPIES,), False)


def read_folders(root: Path, choice: ImageChoice) -> ImageSet:
    """A subfolder a class; what lies deeper in it is of its class too."""
    pattern = _pattern(choice.case_pattern)
    images, dropped = [], []
    for path in _image_files(root):
        parts = Path(path).parts
        found = pattern.search(path) if pattern else None
        if len(parts) < 2:
            dropped.append(Dropped(None, path, NO_FOLDER))
        elif pattern and (found is None or not found[1]):
            dropped.append(Dropped(None, path, "--case-pattern finds no case in its path"))
        else:
            images.append(TileImage(path, parts[0], found[1] if found else path))
    notes = () if pattern else (NO_PATIENTS + " --case-pattern finds them in the paths.",)
    return ImageSet("folders", root, tuple(images), tuple(dropped), notes, pattern is not None)


def read_image_table(file: Path, choice: ImageChoice) -> ImageSet:
    """A table with path, label, case_id and perhaps group; paths are relative to the table's folder."""
    names = {
        "path": None,
        "label": choice.target,
        "case_id": choice.case,
        "group": choice.group,
    }
    wanted = {canonical(name) for pair in names.items() for name in pair if name}
    sheet = read_sheet(file, lambda name: canonical(name) in wanted)
    flags = {"path": "path", "label": "--target", "case_id": "--case-column", "group": "--group-column"}
    cells = {}
    for role, given in names.items():
        if role == "group" and given is None and "group" not in map(canonical, sheet.names):
            continue
        if role == "case_id" and given is None and "case_id" not in map(canonical, sheet.names):
            raise CohortError(
                f"{file} does not say which images are of one patient: name the column with --case-column (if each "
                "image is a patient of its own: --case-column path)",
                path=file,
            )
        cells[role] = sheet.find(given or role, flags[role])[1]
    return _from_table(file, choice, cells, sheet.rows)


def _from_table(
    file: Path, choice: ImageChoice, cells: dict[str, tuple[str, ...]], rows: tuple[int, ...]
) -> ImageSet:
    images, dropped = [], []
    seen: dict[str, int] = {}
    for i, row in enumerate(rows):
        path, label, case = (cells[role][i] for role in ("path", "label", "case_id"))
        if is_missing(path) or is_missing(label, words=False) or is_missing(case):
            dropped.append(Dropped(row, path or case, NO_VALUE))
        elif not (file.parent / path).is_file():
            dropped.append(Dropped(row, path, ABSENT))
        elif seen.setdefault(path, row) != row:
            raise CohortError(f"{file}: rows {seen[path]} and {row} are one image, {path}", path=file)
        else:
            images.append(TileImage(path, label, case, cells["group"][i] if "group" in cells else ""))
    own = len({image.case_id for image in images}) == len(images) > 1
    own_case = own and canonical(choice.case or "") == "path"
    ordered = tuple(sorted(images, key=lambda image: image.path))
    return ImageSet(
        "csv", file.parent, ordered, tuple(dropped), (NO_PATIENTS,) if own_case else (), not own_case
    )


#: Layout by its name on the command line.
LAYOUTS: dict[str, Callable[[Path, ImageChoice], ImageSet]] = {
    "breakhis": read_breakhis,
    "lc25000": read_lc25000,
    "folders": read_folders,
    "csv": read_image_table,
}


def _image_files(root: Path) -> list[str]:
    """Paths of the images under a folder, relative, with forward slashes, sorted."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _breakhis_notes(images: list[TileImage]) -> tuple[str, ...]:
    """What is odd about its patients: letters after a number, and one patient in two subtypes."""
    patients = {image.case_id for image in images}
    numbers: dict[str, set[str]] = {}
    for patient in patients:
        numbers.setdefault(patient.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), set()).add(patient)
    alike = [sorted(same) for same in numbers.values() if len(same) > 1]
    types: dict[str, set[str]] = {}
    for image in images:
        types.setdefault(image.case_id, set()).add(Path(image.path).stem.split("_")[2].split("-")[0].upper())
    torn = sorted(patient for patient, kinds in types.items() if len(kinds) > 1)
    notes = []
    if alike:
        told = some((" = ".join(same) for same in sorted(alike)), 2)
        notes.append(
            f"{len(alike)} numbers occur with several letters ({told}): BreakHis counts these as different patients, "
            "and so do the splits here."
        )
    if torn:
        notes.append(
            f"{some(torn)} has images of several subtypes: it is one patient here, though BreakHis's count of 82 "
            "patients takes it for two."
        )
    return tuple(notes)


def _check_flags(layout: str, choice: ImageChoice) -> None:
    """A flag that the layout does not read is not passed over in silence."""
    if layout == "breakhis" and choice.target not in (None, "class", "type"):
        raise UsageError(f"--target {choice.target!r}: breakhis has class and type")
    serves = {
        "--target": (choice.target, ("breakhis", "csv")),
        "--case-column": (choice.case, ("csv",)),
        "--group-column": (choice.group, ("csv",)),
        "--case-pattern": (choice.case_pattern, ("folders",)),
    }
    for flag, (given, layouts) in serves.items():
        if given is not None and layout not in layouts:
            raise UsageError(f"{flag} is for layout {' and '.join(layouts)}, not for {layout}: leave it out")


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--case-pattern {text!r} is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise UsageError(
            f"--case-pattern {text!r} has {pattern.groups} groups: put brackets around the case, once"
        )
    return pattern


def _of_classes(found: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    have = {image.label for image in found.images}
    unknown = sorted(set(classes) - have)
    if unknown:
        raise CohortError(f"no image is of class {some(unknown)} (--classes); there are {some(have, 8)}")
    kept = tuple(image for image in found.images if image.label in classes)
    others = tuple(
        Dropped(None, image.path, OTHER_CLASS) for image in found.images if image.label not in classes
    )
    return ImageSet(found.layout, found.root, kept, (*found.dropped, *others), found.notes, found.by_patient)
