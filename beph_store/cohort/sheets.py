"""A table file as named columns of text: CSV and TSV (gzipped too) and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beph_store.cells import unescaped
from beph_store.errors import AmbiguousColumn, CohortError

#: What tables write for "no value", lower case; pandas, R, cBioPortal, the GDC's ``'--`` and Excel.
_MISSING = frozenset(
    [
        "",
        "na",
        "n/a",
        "nan",
        "null",
        "#n/a",
        "<na>",
        "'--",
        "--",
        "not reported",
        "not available",
        "not applicable",
    ]
)
_MISSING_TOO = frozenset(["none", "unknown", ".", "-", "?", "discrepancy", "not evaluated", "pending"])
_SEPARATORS = {".csv": ",\t;", ".tsv": "\t,;", ".txt": "\t,;"}
_CURE = "save it as CSV, TSV (.gz too) or Parquet"


def canonical(name: str) -> str:
    """A column name as aliases are compared: ``OS.time `` → ``os_time``."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def is_missing(text: str, *, words: bool = True) -> bool:
    """Whether a cell says nothing. ``words`` False: "none" and "unknown" are values, as they may be for a class."""
    plain = text.strip().lower().strip("[]")
    return plain in _MISSING or (words and plain in _MISSING_TOO)


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """The columns that were asked for, as text with the white space around it cut off.

    ``names`` all column names of the file in order; ``columns`` (name, cells) of those kept, in order, doubled
    names and all; ``rows`` the 1-based number of each row of cells, the header not counted, blank lines counted;
    ``notes`` what had to be decided to read the file.
    """

    path: str
    names: tuple[str, ...]
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def find(self, wanted: str, flag: str) -> tuple[str, tuple[str, ...]]:
        """The column that a flag names: exactly so, else regardless of case and punctuation."""
        found = [c for c in self.columns if c[0] == wanted] or [
            c for c in self.columns if canonical(c[0]) == canonical(wanted)
        ]
        if not found:
            raise CohortError(f"{self.path} has no column {wanted!r} ({flag}); it has {self.listing()}")
        if len(found) > 1:
            raise AmbiguousColumn(
                f"{self.path} has {len(found)} columns called {wanted!r} ({flag}): rename all but one"
            )
        return found[0]

    def listing(self, limit: int = 20) -> str:
        """The column names, for a message."""
        more = f" and {len(self.names) - limit} more" if len(self.names) > limit else ""
        return ", ".join(name or "''" for name in self.names[:limit]) + more


def read_sheet(path: str | Path, keep: Callable[[str], bool]) -> Sheet:
    """The columns of a table file whose name ``keep`` wants.

    Raises:
        CohortError: no such file, another format, empty, damaged, or rows of unequal length.
    """
    file = Path(path)
    if not file.is_file():
        raise CohortError(f"no such table: {file}", path=file)
    suffixes = [s.lower() for s in file.suffixes]
    if suffixes[-1:] in ([".parquet"], [".pq"]):
        return _read_parquet(file, keep)
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in _SEPARATORS:
        raise CohortError(f"{file} is no table that can be read here: {_CURE}", path=file)
    return parse_sheet(_content(file, suffixes[-1] == ".gz"), file, kind, keep)


def parse_sheet(data: bytes, file: Path, kind: str, keep: Callable[[str], bool]) -> Sheet:
    """The columns of a table that is at hand as bytes, of ``kind`` .csv, .tsv or .txt; ``file`` names it in messages.

    Raises:
        CohortError: no text, empty, or rows of unequal length.
    """
    text, note = _decode(data, file)
    return _parse(text, file, _SEPARATORS[kind], keep, (note,) if note else ())


def _content(file: Path, packed: bool) -> bytes:
    try:
        data = file.read_bytes()
        return gzip.decompress(data) if packed else data
    except (OSError, EOFError, zlib.error) as error:
        raise CohortError(f"{file} cannot be read: {error}", path=file) from error


def _decode(data: bytes, file: Path) -> tuple[str, str]:
    """The text, and a note where the encoding had to be found out."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16"), "the file is UTF-16"
        except UnicodeDecodeError as error:
            raise CohortError(f"{file} begins as UTF-16 but is not: {_CURE}", path=file) from error
    if b"\0" in data:
        raise CohortError(f"{file} is not text: {_CURE}", path=file)
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return data.decode("latin-1"), "the file is not UTF-8: read as Latin-1"


def _parse(
    text: str, file: Path, separators: str, keep: Callable[[str], bool], notes: tuple[str, ...]
) -> Sheet:
    separator, names = _header(text, file, separators)
    wanted = [i for i, name in enumerate(names) if keep(name)]
    cells: list[list[str]] = [[] for _ in wanted]
    rows: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(line for line in reader if any(cell.strip() for cell in line))
        for number, line in enumerate(reader, start=1):
            if not any(cell.strip() for cell in line):
                continue
            if len(line) != len(names):
                raise CohortError(
                    f"{file}, line {reader.line_num}: {len(line)} fields, but the header has {len(names)}: "
                    "quote fields that hold the separator",
                    path=file,
                )
            rows.append(number)
            for column, i in zip(cells, wanted, strict=True):
                column.append(unescaped(line[i].strip()))
    except csv.Error as error:
        raise CohortError(f"{file}, line {reader.line_num}: {error}", path=file) from error
    if not rows:
        raise CohortError(f"{file} has a header but no rows", path=file)
    columns = tuple((names[i], tuple(column)) for i, column in zip(wanted, cells, strict=True))
    return Sheet(str(file), names, columns, tuple(rows), notes)


def _header(text: str, file: Path, separators: str) -> tuple[str, tuple[str, ...]]:
    """The separator under which the first line with anything in it has several fields, and these."""
    names: tuple[str, ...] = ()
    for separator in separators:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            names = tuple(
                " ".join(cell.split())
                for cell in next(line for line in reader if any(c.strip() for c in line))
            )
        except StopIteration:
            raise CohortError(f"{file} is empty", path=file) from None
        except csv.Error as error:
            raise CohortError(f"{file}, line 1: {error}", path=file) from error
        if len(names) > 1:
            return separator, names
    return separators[0], names


def _read_parquet(file: Path, keep: Callable[[str], bool]) -> Sheet:
    import polars as pl

    try:
        names = tuple(pl.read_parquet_schema(file))
        wanted = [name for name in names if keep(name)]
        frame = pl.read_parquet(file, columns=wanted).select(pl.all().cast(pl.String))
    except (OSError, pl.exceptions.PolarsError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise CohortError(f"{file} cannot be read as Parquet: {first}", path=file) from error
    columns = tuple((name, tuple((cell or "").strip() for cell in frame[name])) for name in wanted)
    if wanted and not frame.height:
        raise CohortError(f"{file} has no rows", path=file)
    return Sheet(str(file), names, columns, tuple(range(1, frame.height + 1)))
