"""What is to be done: slides found under paths, joined with a manifest, less what is done already."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from beph_store.engine.memory import DEFAULT_GB, limit_bytes
from beph_store.errors import ObjectStorageError, UsageError
from beph_store.geometry import MPP_HINT, MPP_RANGE
from beph_store.objects import is_url, parse
from beph_store.records import MppSource
from beph_store.regular import require_regular
from beph_store.slides import Remote, SlideReader, Staging, find_slides, open_slide
from beph_store.slides.listing import find as find_remote
from beph_store.slides.remote import heads

_ALIASES = {
    "path": ("path", "wsi", "filename", "file", "slide"),
    "slide_id": ("slide_id",),
    "mpp": ("mpp", "slide_mpp", "spacing"),
    "case_id": ("case_id", "patient_id", "patient"),
}


@dataclass(frozen=True, slots=True)
class SlideTask:
    """One slide to ingest. ``mpp`` level-0 µm/px if the user stated it; ``error`` if it cannot even be tried.

    ``path`` is the address where the slide is in object storage; ``remote`` then is the version to read, and
    ``staging`` says how. Whoever reads it may take ``memory_bytes``.
    """

    slide_id: str
    path: Path | str
    mpp: float | None = None
    mpp_source: MppSource = "declared"
    case_id: str | None = None
    error: str | None = None
    remote: Remote | None = None
    staging: Staging | None = None
    memory_bytes: int = int(DEFAULT_GB * 1e9)

    @property
    def source(self) -> Path | Remote | str:
        """What ``open_slide`` and ``fingerprint`` take: of an address, the version that was listed."""
        return self.remote or self.path

    def open(self, alive: Callable[[], None] | None = None) -> SlideReader:
        """The slide, for reading; ``alive`` is called while it is waited for. Raises as ``open_slide`` does."""
        staging = replace(self.staging or Staging(), alive=alive)
        return open_slide(
            self.source, slide_id=self.slide_id, mpp=self.mpp, mpp_source=self.mpp_source, staging=staging
        )

    def file_state(self) -> tuple[int, int]:
        """(bytes, time of the last change in ns) of the file, of an address as it was listed. Raises OSError."""
        if self.remote is not None:
            return self.remote.size, self.remote.mtime_ns
        status = Path(self.path).stat()
        return status.st_size, status.st_mtime_ns


def plan(
    paths: Sequence[str | Path],
    *,
    manifest: str | Path | None = None,
    slide_mpp: float | None = None,
    staging: Staging | None = None,
    memory_gb: float | None = None,
) -> list[SlideTask]:
    """The slides under ``paths`` (files, folders, globs, addresses in object storage) in order of their ids.

    The manifest is a CSV with a column ``path`` and any of ``slide_id``, ``mpp``, ``case_id``; its mpp
    goes before ``slide_mpp``. Without ``paths`` it says which slides there are, too. A manifest row
    whose slide is not found or whose mpp is no scale, two files of one id, and a name that is not UTF-8 become tasks
    with an ``error``. Raises UsageError; ObjectStorageError where a bucket cannot be listed.
    """
    if not paths and manifest is None:
        raise UsageError("nothing to ingest: name slides, folders or globs, or a --manifest")
    if slide_mpp is not None and (why := _not_a_scale(slide_mpp)):
        raise UsageError(f"--slide-mpp {slide_mpp:g}: {why}")
    tasks = [task for root in paths for task in _expand(root)]
    if manifest is not None:
        rows = _read_manifest(Path(manifest))
        tasks = _join(tasks, rows, None if paths else Path(manifest).parent)
    if not tasks:
        raise UsageError(
            f"no slides under {', '.join(map(str, paths))}: see `beph-store doctor` for the formats read"
        )
    if slide_mpp is not None:
        tasks = [task if task.mpp is not None else replace(task, mpp=slide_mpp) for task in tasks]
    memory_bytes = limit_bytes(memory_gb)
    placed = [replace(_placed(task, staging), memory_bytes=memory_bytes) for task in tasks]
    return _refuse_same_ids([_refuse_odd_name(task) for task in placed])


def _placed(task: SlideTask, staging: Staging | None) -> SlideTask:
    if isinstance(task.path, str):
        return replace(task, staging=staging)
    # Absolute, because the store outlives the folder in which the command was typed.
    return replace(task, path=task.path.absolute())


def _not_a_scale(mpp: float) -> str | None:
    """Why a stated level-0 µm/px cannot be meant, or None."""
    low, high = MPP_RANGE
    return None if low <= mpp <= high else f"a pixel of a slide measures {low} to {high} µm; it is {MPP_HINT}"


def _refuse_odd_name(task: SlideTask) -> SlideTask:
    """Tables hold UTF-8 only: a name in other bytes is refused, and told off with its bytes spelled out."""
    if _spelled(task.slide_id) == task.slide_id and _spelled(str(task.path)) == str(task.path):
        return task
    return replace(
        task,
        slide_id=_spelled(task.slide_id),
        path=type(task.path)(_spelled(str(task.path))),
        error="the name of the file or of its folder is not UTF-8: rename it",
    )


def _spelled(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _expand(root: str | Path) -> list[SlideTask]:
    if isinstance(root, str) and is_url(root):
        return [_of_remote(item, slide_id) for slide_id, item in find_remote(root)]
    return [SlideTask(slide_id, path) for slide_id, path in _expand_local(root)]


def _of_remote(item: Remote, slide_id: str) -> SlideTask:
    return SlideTask(slide_id, item.url, remote=item)


def _expand_local(root: str | Path) -> list[tuple[str, Path]]:
    path = Path(root)
    if path.exists() or path.is_symlink():
        return find_slides(path)
    if any(c in str(root) for c in "*?["):
        base = Path(*_before_wildcard(path))
        pattern = str(path.relative_to(base))
        found = sorted(base.glob(pattern))
        if found:
            return [
                (
                    match.relative_to(base).as_posix()
                    if match.is_file()
                    else f"{match.relative_to(base).as_posix()}/{sid}",
                    file,
                )
                for match in found
                for sid, file in find_slides(match)
            ]
        raise UsageError(f"nothing matches {root}")
    raise UsageError(f"no such file or folder: {root}")


def _before_wildcard(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if any(c in part for c in "*?["):
            break
        parts.append(part)
    return parts or ["."]


def _read_manifest(path: Path) -> list[dict[str, str]]:
    try:
        require_regular(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            rows, header = list(table), table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the manifest {path} cannot be read: {error}") from error
    if any("\0" in str(cell) for row in rows for cell in row.values()):
        raise UsageError(f"the manifest {path} is not text: save it as CSV in UTF-8")
    names = {name.strip().lower(): name for name in header if name}
    columns = {ours: names[a] for ours, aliases in _ALIASES.items() for a in aliases if a in names}
    if "path" not in columns:
        raise UsageError(f"the manifest {path} needs a column 'path' (also: slide_id, mpp, case_id)")
    if not rows:
        raise UsageError(f"the manifest {path} has no rows")
    return [{ours: (row[theirs] or "").strip() for ours, theirs in columns.items()} for row in rows]


def _join(tasks: list[SlideTask], rows: list[dict[str, str]], base: Path | None) -> list[SlideTask]:
    """The tasks with what the rows say of them. With ``base`` (no slides were named) the rows name the slides."""
    unreadable: dict[str, str] = {}
    if base is not None:
        tasks = [
            SlideTask(file.name, file)
            for row in rows
            if not is_url(row["path"]) and (file := base / row["path"]).exists()
        ]
        remote, unreadable = _remote_rows([row["path"] for row in rows if is_url(row["path"])])
        tasks += remote
    by_path = {task.path: task for task in tasks}
    seen: set[Path | str] = set()
    strays = []
    for row in rows:
        found = _matches(tasks, row["path"], base)
        if len(found) == 1 and found[0].path not in seen:
            seen.add(found[0].path)
            by_path[found[0].path] = _describe(found[0], row)
        else:
            why = (
                unreadable.get(row["path"], "in the manifest, but no such slide was found")
                if not found
                else f"the manifest's {row['path']!r} fits {len(found)} slides: give the path as it lies in the folder"
                if len(found) > 1
                else "the manifest has two rows for this slide"
            )
            path = row["path"] if is_url(row["path"]) else Path(row["path"])
            strays.append(SlideTask(row.get("slide_id") or row["path"], path, error=why))
    return [*by_path.values(), *strays]


def _remote_rows(urls: list[str]) -> tuple[list[SlideTask], dict[str, str]]:
    """A task for each address that is there, and why the others are not. Raises UsageError for one that is none."""
    addresses = [str(parse(url)) for url in urls]
    found = heads(addresses)
    tasks = [_of_remote(item, item.name) for item in found if isinstance(item, Remote)]
    refused = {
        url: str(item)
        for url, item in zip(urls, found, strict=True)
        if isinstance(item, Exception) and not isinstance(item, FileNotFoundError)
    }
    if refused and not tasks:
        raise ObjectStorageError(next(iter(refused.values())))
    return tasks, refused


def _matches(tasks: list[SlideTask], name: str, base: Path | None) -> list[SlideTask]:
    if is_url(name):
        return [task for task in tasks if task.path == str(parse(name))]
    file = ((base or Path()) / name).resolve()
    exact = [task for task in tasks if task.slide_id == name or _resolved(task.path) == file]
    return exact or [task for task in tasks if PurePosixPath(task.path).name == name]


def _resolved(path: Path | str) -> Path | str:
    return path.resolve() if isinstance(path, Path) else path


def _describe(task: SlideTask, row: dict[str, str]) -> SlideTask:
    task = replace(
        task, slide_id=row.get("slide_id") or task.slide_id, case_id=row.get("case_id") or task.case_id
    )
    if not row.get("mpp"):
        return task
    said = f"mpp {row['mpp']!r} in the manifest"
    try:
        mpp = float(row["mpp"])
    except ValueError:
        error = f"{said} is not a number: it is {MPP_HINT}; leave empty what the file says"
        return replace(task, error=error)
    if why := _not_a_scale(mpp):
        return replace(task, error=f"{said}: {why}")
    return replace(task, mpp=mpp, mpp_source="manifest")


def _refuse_same_ids(tasks: list[SlideTask]) -> list[SlideTask]:
    seen: dict[str, SlideTask] = {}
    for task in tasks:
        first = seen.get(task.slide_id)
        if first is None:
            seen[task.slide_id] = task
        elif _resolved(first.path) != _resolved(task.path):
            seen[task.slide_id] = replace(
                first,
                error=f"two files have this id ({first.path}, {task.path}): ingest their common folder, or name "
                "them apart in the slide_id column of --manifest",
            )
    return sorted(seen.values(), key=lambda task: task.slide_id)
