"""Lance tables wherever they lie: every address with its storage options, every error of a bucket in one line.

A commit whose answer was lost is the trap here: the server has the manifest and says 500 until the client gives up. A
caller that then commits again has every row twice (one lost answer Lance finds out about by itself). `append` looks
before it commits, whatever was answered, counts afterwards, and takes out what is there twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from beph_store.errors import ObjectStorageError, StoreError
from beph_store.objects import explain, is_storage_error, storage_options
from beph_store.store.layout import LANCE_VERSION, is_dataset
from beph_store.store.place import ObjectPath, Place

#: How often a commit is tried again whose answer was an error, and a read that a compaction overtook.
_TRIES = 4
_ROWS_PER_FILE = 1 << 30  # never split a slide
_T = TypeVar("_T")


@contextmanager
def lance_errors(where: Place) -> Iterator[None]:
    """Turn what Lance says of a bucket into ObjectStorageError, one line; all else goes through."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(where, ObjectPath) and is_storage_error(error):
            raise ObjectStorageError(explain(error, where.url), path=where.url) from None
        raise


def open_table(where: Place) -> lance.LanceDataset:
    """The newest version of a table."""
    with lance_errors(where):
        return lance.dataset(str(where), storage_options=storage_options(str(where)))


def newest(where: Place, read: Callable[[lance.LanceDataset], _T]) -> _T:
    """``read`` of the newest version of a table, and of a newer one where `compact` took that away meanwhile."""
    for left in reversed(range(_TRIES)):
        version = None
        try:
            table = open_table(where)
            version = table.version
            with lance_errors(where):
                return read(table)
        except (OSError, ValueError, RuntimeError) as error:
            gone = "not found" in str(error).lower()
            if not (left and gone) or (version is not None and open_table(where).version == version):
                raise
    raise AssertionError("not reached")


def create_table(where: Place, schema: pa.Schema) -> None:
    """Make an empty table. Twice is once in a bucket, where the first answer may have been lost."""
    with lance_errors(where):
        try:
            lance.write_dataset(
                schema.empty_table(),
                str(where),
                mode="create",
                data_storage_version=LANCE_VERSION,
                storage_options=storage_options(str(where)),
            )
        except OSError:
            if not (isinstance(where, ObjectPath) and is_dataset(where)):
                raise


def write_rows(where: Place, rows: pa.Table) -> list[dict[str, Any]]:
    """Write one fragment of a table without committing it; its metadata as JSON data."""
    with lance_errors(where):
        fragments = write_fragments(
            rows,
            str(where),
            mode="append",
            max_rows_per_file=_ROWS_PER_FILE,
            data_storage_version=LANCE_VERSION,
            storage_options=storage_options(str(where)),
        )
    return [json.loads(json.dumps(fragment.to_json())) for fragment in fragments]


def append(where: Place, fragments: Sequence[dict[str, Any]], message: str) -> None:
    """Commit written fragments: those that the table does not list yet, each once, whatever was answered.

    Call under the commit lock. Raises StoreError where a data file is gone: another process took the slide for
    abandoned and cleaned up after it.
    """
    for left in reversed(range(_TRIES)):
        table = open_table(where)
        missing = _missing(table, fragments)
        if not missing:
            break
        _require_files(where, missing)
        try:
            with lance_errors(where):
                lance.LanceDataset.commit(
                    str(where),
                    lance.LanceOperation.Append(
                        [FragmentMetadata.from_json(json.dumps(fragment)) for fragment in missing]
                    ),
                    read_version=table.version,
                    commit_message=message,
                    storage_options=storage_options(str(where)),
                )
        except ObjectStorageError:
            if not left:
                raise
        if not isinstance(where, ObjectPath):
            return
    _drop_doubles(where, fragments)


def _missing(table: lance.LanceDataset, fragments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    wanted = {name for fragment in fragments for name in _files(fragment)}
    listed = (_name(file) for fragment in table.get_fragments() for file in fragment.data_files())
    present = wanted.intersection(listed)
    return [f for f in fragments if not present.issuperset(_files(f))]


def _name(file: Any) -> str:
    """What ``file.path`` says; pylance makes a class each time it is asked, 4 s for 100,000 files."""
    return getattr(file, "_path", None) or str(file.path)


def _files(fragment: dict[str, Any]) -> list[str]:
    return [file["path"] for file in fragment["files"]]


def _require_files(where: Place, fragments: Sequence[dict[str, Any]]) -> None:
    if not isinstance(where, ObjectPath):
        return
    wanted = {name for fragment in fragments for name in _files(fragment)}
    if all((where / "data" / name).exists() for name in wanted):  # a listing grows with the table
        return
    raise StoreError(
        "another process took this one for dead and removed what it had written: run the same command again"
    )


def _drop_doubles(where: Place, fragments: Sequence[dict[str, Any]]) -> None:
    """Take out fragments that list a data file which an earlier fragment lists already."""
    own = {name for fragment in fragments for name in _files(fragment)}

    def once() -> bool:
        table = open_table(where)
        seen: set[str] = set()
        doubled = []
        for fragment in sorted(table.get_fragments(), key=lambda f: int(f.fragment_id)):
            names = {_name(file) for file in fragment.data_files()} & own
            if names & seen:
                doubled.append(int(fragment.fragment_id))
            seen |= names
        if doubled:
            with lance_errors(where):
                lance.LanceDataset.commit(
                    str(where),
                    lance.LanceOperation.Delete([], doubled, "committed twice"),
                    read_version=table.version,
                    commit_message=f"{len(doubled)} fragments that a lost answer had committed twice",
                    storage_options=storage_options(str(where)),
                )
        return not doubled

    for _ in range(_TRIES):
        if again(where, once):
            return
    raise StoreError(f"{where.name} lists slides twice and cannot be corrected: run `beph-store compact`")


def again(where: Place, work: Callable[[], _T]) -> _T:
    """Do what has the effect of being done once however often it is done.

    Once more where a bucket said an error, and anywhere if another process changed the table meanwhile: indexes are
    built without a lock. StoreError if that went on.
    """
    for left in reversed(range(_TRIES)):
        try:
            with lance_errors(where):
                return work()
        except (OSError, ValueError, RuntimeError) as error:
            overtaken = "commit conflict" in str(error).lower()
            if left and (overtaken or isinstance(where, ObjectPath)):
                continue
            if overtaken:
                raise StoreError(
                    f"others keep changing {where.name}: run the same command again later"
                ) from error
            raise
    raise AssertionError("not reached")
