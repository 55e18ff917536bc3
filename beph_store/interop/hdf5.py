"""HDF5 files of other tools: opened without trust, read at the disk's speed, written aside and renamed.

h5py is imported inside the functions: the base install has none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable

#: Chunks above which their places are looked up and read as runs: HDF5 itself reads them one by one.
_MANY_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class H5Slide:
    """An opened file of one slide. Whatever is wrong with it becomes one SlideUnreadable that names slide and file."""

    slide_id: str
    path: Path
    file: Any

    def refuse(self, why: str) -> SlideUnreadable:
        """The error that says so."""
        return SlideUnreadable(f"{self.path.name}: {why}", slide_id=self.slide_id, path=self.path)

    def dataset(self, *names: str) -> Any:
        """The first dataset of these names that is there."""
        import h5py

        for name in names:
            if isinstance(found := self.file.get(name), h5py.Dataset):
                return found
        have = ", ".join(sorted(self.file)[:6]) or "nothing"
        raise self.refuse(f"no dataset {names[0]!r} (it has {have})")

    def read(self, *names: str) -> NDArray[Any]:
        """All of that dataset."""
        dataset = self.dataset(*names)
        if not isinstance(dataset.dtype, np.dtype) or dataset.dtype.kind not in "fiu":
            raise self.refuse(f"{names[0]} are {dataset.dtype}, not numbers")
        try:
            runs = _read_in_runs(dataset, self.path)
            return np.asarray(dataset[()]) if runs is None else runs
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise self.refuse(f"{names[0]} cannot be read: {_first_line(error)}") from error

    def whole(self, attributes: Mapping[str, Any], name: str) -> int | None:
        """An attribute that is a whole number above 0, None where it is absent or the word None."""
        value = self.number(attributes, name)
        if value is None:
            return None
        if value < 1 or value != int(value):
            raise self.refuse(f"the attribute {name} is {value:g}, not a whole number above 0")
        return int(value)

    def number(self, attributes: Mapping[str, Any], name: str) -> float | None:
        """An attribute that is a finite number, None where it is absent or the word None."""
        value = attributes.get(name)
        if value is None or value == "None":
            return None
        try:
            found = float(np.asarray(value, dtype=np.float64).reshape(()))
        except (TypeError, ValueError):
            found = float("nan")
        if not np.isfinite(found):
            raise self.refuse(f"the attribute {name} is {value!r}, not a number")
        return found


@contextlib.contextmanager
def open_slide_h5(path: Path, slide_id: str) -> Iterator[H5Slide]:
    """The file, closed at the end. SlideUnreadable where it is no HDF5 file, or a truncated one."""
    import h5py

    if not path.is_file():
        raise SlideUnreadable(f"{path.name} is not there, or no regular file", slide_id=slide_id, path=path)
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        why = f"{path.name} is no whole HDF5 file: {_first_line(error)}"
        raise SlideUnreadable(why, slide_id=slide_id, path=path) from error
    with file:
        yield H5Slide(slide_id, path, file)


def attributes_of(item: Any) -> dict[str, Any]:
    """The attributes of a file or dataset as plain Python values; arrays become lists."""
    return {str(name): _plain(value) for name, value in item.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_in_runs(dataset: Any, path: Path) -> NDArray[Any] | None:
    """A plain dataset in many small chunks of whole rows, read as few long runs of the file; None where it is not one.

    CLAM and TRIDENT append row by row, in chunks of 1 or 32 rows, which lie one after the other in the file.
    """
    rows, plain = (
        dataset.chunks,
        dataset.compression is None and not dataset.shuffle and not dataset.fletcher32,
    )
    if rows is None or not plain or dataset.ndim != 2 or rows[1] != dataset.shape[1] or not dataset.size:
        return None
    if dataset.scaleoffset is not None or not dataset.dtype.isnative:
        return None
    step, total = rows[0], -(-dataset.shape[0] // rows[0])
    if total < _MANY_CHUNKS or dataset.id.get_num_chunks() != total:
        return None  # few are quick anyway; a chunk that was never written reads as zeros
    at = np.zeros(total, np.int64)

    def note(info: Any) -> None:
        at[info.chunk_offset[0] // step] = info.byte_offset

    dataset.id.chunk_iter(note)
    size = step * dataset.shape[1] * dataset.dtype.itemsize
    found = np.empty((total * step, dataset.shape[1]), dataset.dtype)
    flat = found.reshape(-1).view(np.uint8).data
    starts = [0, *(np.flatnonzero(np.diff(at) != size) + 1).tolist(), total]
    with path.open("rb", buffering=0) as file:
        for first, last in itertools.pairwise(starts):
            file.seek(int(at[first]))
            _fill(file, flat[first * size : last * size])
    return found[: dataset.shape[0]]


def _fill(file: Any, part: memoryview) -> None:
    done = 0
    while done < len(part):
        count = file.readinto(part[done:])
        if not count:
            raise OSError("the file ends before its data")
        done += count


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """What ``write_h5`` writes: ``data``, rows to a chunk (None = contiguous), attributes; resizable if chunked."""

    data: NDArray[Any]
    chunk_rows: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def write_h5(
    path: Path, datasets: Mapping[str, Dataset], attributes: Mapping[str, Any] | None = None
) -> None:
    """A whole new file: written aside, flushed and renamed. Names with "/" make groups."""
    import h5py

    def fill(aside: Path) -> None:
        with h5py.File(aside, "w") as file:
            for name, dataset in datasets.items():
                data = dataset.data
                chunked = dataset.chunk_rows is not None
                rows = max(
                    1, min(dataset.chunk_rows or 1, len(data))
                )  # a chunk takes its room even where it is not full
                made = file.create_dataset(
                    name,
                    data=data,
                    chunks=(rows, *data.shape[1:]) if chunked else None,
                    maxshape=(None, *data.shape[1:]) if chunked else None,
                )
                for key, value in dataset.attributes.items():
                    made.attrs[key] = "None" if value is None else value
            for key, value in (attributes or {}).items():
                file.attrs[key] = "None" if value is None else value

    write_aside(path, fill)


def write_aside(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a file beside ``path``, then flush it to the disk and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        fill(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
