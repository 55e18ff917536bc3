"""Which column of a table holds the slides, the cases and the classes. What could be meant in two ways is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from beph_store.cohort.ids import SlideIndex, is_slide_file, stem, tcga_patient, tcga_slide
from beph_store.cohort.labels import ColumnChoice, ColumnUse, some
from beph_store.cohort.sheets import Sheet, canonical, is_missing, read_sheet
from beph_store.errors import AmbiguousColumn, CohortError

#: Canonical names (lower case, ``_`` for anything but letters and digits), the surest first.
SLIDES = [
    "slide_id",
    "slide",
    "slides",
    "filename",
    "file_name",
    "slide_name",
    "slide_names",
    "slide_file",
    "slide_filename",
    "wsi",
    "wsi_id",
]
#: Holds slides where nothing else does and every cell is named like a slide's file.
FILES = ["file"]
CASES = [
    "case_id",
    "case",
    "cases",
    "patient",
    "patient_id",
    "patientid",
    "participant",
    "participants",
    "participant_id",
    "subject",
    "subject_id",
    "submitter_id",
    "case_submitter_id",
    "cases_submitter_id",
    "bcr_patient_barcode",
]
#: Either of the two; what the cells look like decides, or a flag.
SAMPLES = ["samples", "sample", "sample_id"]
CLASSES = [
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "oncotree_code",
    "subtype",
    "tumor_type",
    "tumour_type",
    "cancer_type",
]

_UUID = (8, 4, 4, 4, 12)
Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """``slides`` (None in a table of cases) and ``cases``, one a row, "" where missing."""

    slides: Cells | None
    cases: Cells
    used: tuple[ColumnUse, ...]


def find_ids(sheet: Sheet, choice: ColumnChoice) -> Ids:
    """The slides and cases of a table.

    A patient must never straddle a split: cases that are TCGA barcodes are cut to the patient's 12 characters, and
    cases that differ in capitals only are one.

    Raises:
        AmbiguousColumn: there is no such column, or several that differ.
    """
    slides, cases = _candidates(sheet, SLIDES), _candidates(sheet, CASES)
    slides, cases = _place_samples(sheet, slides or _files(sheet), cases, choice)
    slide = sheet.find(choice.slide, "--slide-column") if choice.slide else _slide(slides)
    if choice.case:
        case = sheet.find(choice.case, "--case-column")
    elif cases:
        case = _case(cases)
    else:
        case = _case_from_slides(sheet, slide)
    patients, how = _patients(case[1])
    used = [ColumnUse("slide", slide[0], "")] if slide else []
    return Ids(slide[1] if slide else None, patients, (*used, ColumnUse("case", case[0], how)))


def _patients(cells: Cells) -> tuple[Cells, str]:
    """The cells as patients, each in its first spelling, and what was done to them."""
    cut = tuple(tcga_patient(cell) or cell for cell in cells)
    first: dict[str, str] = {}
    alike = tuple(first.setdefault(cell.casefold(), cell) for cell in cut)
    merged = sorted({f"{cell} = {one}" for cell, one in zip(cut, alike, strict=True) if cell != one})
    notes = ["TCGA barcodes cut to the patient"] if cut != cells else []
    notes += [f"capitals aside, {some(merged)}"] if merged else []
    return alike, "; ".join(notes)


def find_classes(sheet: Sheet, choice: ColumnChoice) -> tuple[Cells, ColumnUse]:
    """The class of each row, "" where missing.

    Raises:
        CohortError: no column is known to hold classes.
        AmbiguousColumn: several may, or two classes differ by case only.
    """
    found = [sheet.find(choice.target, "--target")] if choice.target else _candidates(sheet, CLASSES)
    if not found:
        raise CohortError(
            f"{sheet.path}: no column is known to hold classes: name it with --target; it has {sheet.listing()}"
        )
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise AmbiguousColumn(f"{sheet.path}: {names} may each hold the classes: name one with --target")
    name, cells = found[0]
    values = tuple("" if is_missing(cell, words=False) else cell for cell in cells)
    spellings: dict[str, str] = {}
    for value in sorted({value for value in values if value}):
        if (other := spellings.setdefault(value.casefold(), value)) != value:
            raise AmbiguousColumn(
                f"{sheet.path}, column {name!r}: are {other!r} and {value!r} one class? spell it alike"
            )
    return values, ColumnUse("class", name, some(sorted(set(values) - {""}), 8))


def known(names: Sequence[str], choice: ColumnChoice) -> Callable[[str], bool]:
    """Whether a column is worth reading: its canonical name is among these or a flag names it."""
    wanted = {*names, *map(canonical, choice.columns())}
    return lambda name: canonical(name) in wanted


def _candidates(sheet: Sheet, names: Sequence[str]) -> list[tuple[str, Cells]]:
    """Columns of these canonical names, in the order of the names; a name twice is refused."""
    found = []
    for name in names:
        same = [column for column in sheet.columns if canonical(column[0]) == name]
        if len(same) > 1 and len({cells for _, cells in same}) > 1:
            raise AmbiguousColumn(
                f"{sheet.path} has {len(same)} different columns called {same[0][0]!r}: rename all but one"
            )
        found += same[:1]
    return found


def _files(sheet: Sheet) -> list[tuple[str, Cells]]:
    found = [(name, [cell for cell in cells if cell], cells) for name, cells in _candidates(sheet, FILES)]
    return [(name, cells) for name, given, cells in found if given and all(map(is_slide_file, given))]


def fitting_column(path: str, used: Iterable[ColumnUse], slides: SlideIndex) -> tuple[str, int] | None:
    """The column of a table, beside those in use, that names the most slides, and how many; None if none does."""
    taken = {use.column for use in used}
    try:
        sheet = read_sheet(path, lambda name: bool(name) and name not in taken)
    except CohortError:
        return None
    named = [
        (len({f for cell in cells if len(f := slides.find(cell)) == 1}), name)
        for name, cells in sheet.columns
    ]
    most, name = max(named, default=(0, ""), key=lambda pair: pair[0])
    return (name, most) if most else None


def _place_samples(
    sheet: Sheet, slides: list[tuple[str, Cells]], cases: list[tuple[str, Cells]], choice: ColumnChoice
) -> tuple[list[tuple[str, Cells]], list[tuple[str, Cells]]]:
    """Columns called "samples" put where their barcodes say they belong."""
    for name, cells in _candidates(sheet, SAMPLES):
        given = [cell for cell in cells if cell]
        if given and all(map(tcga_slide, given)):
            slides = [*slides, (name, cells)]
        elif given and all(map(tcga_patient, given)):
            cases = [*cases, (name, cells)]
        elif not (slides or choice.slide) or not (cases or choice.case):
            raise AmbiguousColumn(
                f"{sheet.path}: {name!r} may hold slides or cases: say so with --slide-column or --case-column"
            )
    return slides, cases


def _slide(found: list[tuple[str, Cells]]) -> tuple[str, Cells] | None:
    """The first; ``slide_id`` is the word for it, anything else must not be contradicted."""
    if not found or found[0][0].lower() == "slide_id":
        return found[0] if found else None
    for other in found[1:]:
        if any(a and b and not _same_slide(a, b) for a, b in zip(found[0][1], other[1], strict=True)):
            raise AmbiguousColumn(
                f"{found[0][0]!r} and {other[0]!r} name different slides: name the right one with --slide-column"
            )
    return found[0]


def _same_slide(a: str, b: str) -> bool:
    one, two = tcga_slide(a), tcga_slide(b)
    return stem(a).casefold() == stem(b).casefold() or (
        one is not None and two is not None and one[0] == two[0]
    )


def _case(found: list[tuple[str, Cells]]) -> tuple[str, Cells]:
    """The first; all others must name the same patients. UUIDs, the GDC's internal ids, stand back."""
    readable = [column for column in found if not all(_is_uuid(cell) for cell in column[1] if cell)]
    first, *others = readable or found
    for other in others:
        pairs = zip(first[1], other[1], strict=True)
        if any(a and b and (tcga_patient(a) or a) != (tcga_patient(b) or b) for a, b in pairs):
            raise AmbiguousColumn(
                f"{first[0]!r} and {other[0]!r} name different cases: name the column of patients with --case-column"
            )
    return first


def _case_from_slides(sheet: Sheet, slide: tuple[str, Cells] | None) -> tuple[str, Cells]:
    if slide is None:
        raise CohortError(
            f"{sheet.path}: no column is known to hold slides or cases: name it with --slide-column or "
            f"--case-column; it has {sheet.listing()}"
        )
    if all(tcga_patient(cell) for cell in slide[1] if cell):
        return slide
    raise AmbiguousColumn(
        f"{sheet.path} does not say which slides are of one patient: name the column with --case-column "
        f"(if each slide is a patient of its own: --case-column {slide[0]})"
    )


def _is_uuid(cell: str) -> bool:
    parts = cell.lower().split("-")
    return tuple(map(len, parts)) == _UUID and all(c in "0123456789abcdef" for part in parts for c in part)
