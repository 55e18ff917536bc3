"""AnnData, one file a slide: ``X`` the embeddings, ``obs`` the tiles, ``obsm["spatial"]`` their corners.

``anndata`` is ``.h5ad``, ``anndata_zarr`` a folder ``.zarr``. Both are read alike, files of several slides
(``obs["slide_id"]``) and what LazySlide's ``features_anndata`` makes too. The package is imported in the functions.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import write_aside
from beph_store.interop.places import no_places
from beph_store.interop.scales import read_stated, slide_properties, tile_spec
from beph_store.records import READ_OK
from beph_store.regular import require_regular

#: What a damaged file makes the package raise.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, MemoryError)
_SLIDES = ("slide_id", "slide_name")


def find_anndata(root: Path) -> list[Found]:
    """Every slide of ``root``, a ``.h5ad`` file or a folder of some."""
    paths = [root] if root.is_file() else sorted(root.glob("[!.]*.h5ad"))
    return [one for path in paths for one in _found(path, path, {})]


def find_anndata_zarr(root: Path) -> list[Found]:
    """Every slide of ``root``, a ``.zarr`` folder or a folder of some."""
    folders = (
        [root]
        if (root / "zarr.json").is_file() or (root / ".zattrs").is_file()
        else sorted(root.glob("*.zarr"))
    )
    return [one for folder in folders if is_anndata(folder) for one in _found(folder, *zarr_files(folder))]


def is_anndata(folder: Path) -> bool:
    """Whether a zarr folder holds one AnnData."""
    return (folder / "X").is_dir() and (folder / "obs").is_dir()


def zarr_files(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The file that stands for an AnnData in a folder, and those of its vectors."""
    head = next(
        (folder / name for name in ("zarr.json", ".zattrs") if (folder / name).is_file()),
        folder / "zarr.json",
    )
    chunks = sorted(path for path in (folder / "X").rglob("*") if path.is_file())
    return head, {path.relative_to(folder).as_posix(): path for path in chunks}


def _found(source: Path, path: Path, others: Mapping[str, Path]) -> Iterator[Found]:
    """One a slide; a file that cannot be opened is one, so that it fails by its name. Only ``obs`` is read."""
    try:
        with opened(source) as data:
            names = sorted(set(_slide_names(data.frame("obs")) or [source.stem]))
    except BROKEN:
        names = [source.stem]
    for name in names:
        yield Found(name, path, others)


def _slide_names(obs: Any) -> list[str] | None:
    """Of each row, where the table says."""
    column = next((name for name in _SLIDES if name in obs), None)
    return None if column is None else [str(value) for value in obs[column]]


@dataclass(frozen=True, slots=True)
class Opened:
    """The group that an AnnData is, in HDF5 or zarr; parts of it are read when they are asked for."""

    group: Any

    def frame(self, name: str) -> Any:
        """``obs`` or ``var`` as a DataFrame."""
        from anndata.io import read_elem

        return read_elem(self.group[name])

    def said(self, name: str) -> dict[str, Any]:
        """A dictionary of ``uns``, empty where there is none of that name."""
        from anndata.io import read_elem

        if "uns" not in self.group or name not in self.group["uns"]:
            return {}
        found = read_elem(self.group["uns"][name])
        return dict(found) if isinstance(found, Mapping) else {}

    def vectors(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Rows of ``X``, dense or sparse: a run of them is all that is read of a dense one."""
        from anndata.io import read_elem

        matrix = self.group["X"]
        if isinstance(rows, slice) and hasattr(matrix, "dtype"):
            return dense(matrix[rows])
        return dense(read_elem(matrix)[rows])


@contextlib.contextmanager
def opened(source: Path) -> Iterator[Opened]:
    """An AnnData, closed at the end; one of ``BROKEN`` where it is none."""
    with quiet():
        if source.is_dir():
            import zarr

            for path in source.rglob("*"):
                require_regular(path)
            yield Opened(zarr.open_group(source, mode="r"))
        else:
            import h5py

            require_regular(source)
            with h5py.File(source, "r") as file:
                yield Opened(file)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the package's warnings, of which none is about the data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_anndata(found: Found) -> SlideFeatures:
    """One slide of a ``.h5ad`` file."""
    return read_anndata(found, found.path)


def open_anndata_zarr(found: Found) -> SlideFeatures:
    """One slide of a ``.zarr`` folder."""
    return read_anndata(found, found.path.parent)


def read_anndata(found: Found, source: Path) -> SlideFeatures:
    """The rows of the slide. SlideUnreadable where they are damaged, or their corners are not stated."""
    try:
        with opened(source) as data:
            return _slide(found, data)
    except BROKEN as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SlideUnreadable(f"{source.name}: {why}", slide_id=found.slide_id, path=source) from error


def _slide(found: Found, data: Opened) -> SlideFeatures:
    obs, ours = data.frame("obs"), data.said("beph_store")
    names = _slide_names(obs)
    rows = slice(None) if names is None else np.flatnonzero(np.array(names) == found.slide_id)
    if isinstance(rows, np.ndarray) and len(rows) and len(rows) == rows[-1] - rows[0] + 1:
        rows = slice(int(rows[0]), int(rows[-1]) + 1)  # one run of the file
    vectors, obs = data.vectors(rows), obs.iloc[rows]
    keep = np.ones(len(obs), bool) if "read_status" not in obs else (obs["read_status"] == READ_OK).to_numpy()
    stated = read_stated(data.said("tile_spec"), data.said("slide_properties"))
    tissue = obs["tissue"].to_numpy(np.float32)[keep] if "tissue" in obs else None
    least = ours.get("tissue_min")
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors[keep],
        origin_l0=_corners(obs)[keep],
        footprint_l0=stated.footprint_l0,
        tile_px=stated.tile_px,
        mpp=stated.mpp,
        mpp_l0=stated.mpp_l0,
        size_l0=stated.size_l0,
        encoder=_text(ours.get("encoder")),
        path=found.path,
        attributes={name: value for name, value in ours.items() if isinstance(value, (str, int, float))},
        stride_px=stated.stride_px,
        tissue=tissue,
        tissue_min=None if least is None else float(least),
    )


def dense(matrix: Any) -> NDArray[Any]:
    """(N, D) float16 or float32; ValueError for vectors that are neither, doubles that float32 holds apart."""
    made = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
    if made.dtype == np.float64 and (made.astype(np.float32) == made).all():
        made = made.astype(np.float32)
    return made


def _corners(obs: Any) -> NDArray[np.int32]:
    if not {"x", "y"} <= set(obs.columns):
        raise ValueError("obs has no x and y, the tiles' top-left corners in level-0 px")
    return whole_corners(np.stack([obs["x"].to_numpy(np.float64), obs["y"].to_numpy(np.float64)], axis=1))


def whole_corners(xy: NDArray[np.float64]) -> NDArray[np.int32]:
    """(N, 2) int32; ValueError for corners that are no whole px, or beyond any slide."""
    if not np.isfinite(xy).all() or (xy != np.rint(xy)).any() or np.abs(xy).max(initial=0) >= 1 << 31:
        raise ValueError("x and y are no whole level-0 px")
    return xy.astype(np.int32)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def place_anndata(root: Path, slide: SlideFeatures) -> Path:
    """The file of the slide."""
    return root / f"{slide.slide_id}.h5ad"


def place_anndata_zarr(root: Path, slide: SlideFeatures) -> Path:
    """The file that stands for the slide's folder."""
    return root / f"{slide.slide_id}.zarr" / "zarr.json"


def write_anndata(root: Path, slide: SlideFeatures) -> Path:
    """One ``.h5ad``. The vectors are float32, which holds all that float16 does and every tool takes."""
    path, made = place_anndata(root, slide), annotated(slide)

    def fill(aside: Path) -> None:
        with quiet():
            made.write_h5ad(aside)

    write_aside(path, fill)
    return path


def write_anndata_zarr(root: Path, slide: SlideFeatures) -> Path:
    """One ``.zarr`` of format 3."""
    import zarr
    from anndata.io import write_elem

    made = annotated(slide)

    def fill(folder: Path) -> None:
        write_elem(zarr.open_group(folder, mode="w", zarr_format=3), "/", made)

    path = place_anndata_zarr(root, slide)
    write_folder(path.parent, fill)
    return path


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a folder beside ``path``, then put it in the place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        with quiet():
            fill(aside)
        if path.exists():
            path.rename(old)
        aside.rename(path)
    finally:
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def annotated(slide: SlideFeatures) -> Any:
    """The slide as an AnnData object. SlideError for one whose tiles have no places."""
    from anndata import AnnData

    pd: Any = importlib.import_module("pandas")  # it comes with anndata, without types

    if slide.origin_l0 is None or slide.footprint_l0 is None:
        raise no_places(slide)
    n = len(slide)
    names = pd.Index([f"{slide.slide_id}:{number}" for number in range(n)], dtype=object)
    columns: dict[str, Any] = {
        "slide_id": pd.Categorical.from_codes(np.zeros(n, np.int8), [slide.slide_id]),
        "tile": np.arange(n, dtype=np.int32),
        "x": slide.origin_l0[:, 0].astype(np.int32),
        "y": slide.origin_l0[:, 1].astype(np.int32),
        "read_status": pd.Categorical.from_codes(np.zeros(n, np.int8), [READ_OK]),
    }
    if slide.tissue is not None:
        columns["tissue"] = slide.tissue.astype(np.float32)
    plain = {k: v for k, v in slide.attributes.items() if isinstance(v, (str, bool, int, float))}
    least = {} if slide.tissue_min is None else {"tissue_min": slide.tissue_min}
    ours = {**plain, **least, "encoder": slide.encoder or "", "slide_id": slide.slide_id}
    spec = {name: value for name, value in tile_spec(slide).items() if value is not None}
    return AnnData(
        np.asarray(slide.vectors, np.float32),
        obs=pd.DataFrame(columns, index=names),
        var=pd.DataFrame(index=pd.Index([f"e{i}" for i in range(slide.dim)], dtype=object)),
        obsm={"spatial": slide.origin_l0.astype(np.float64)},
        uns={"beph_store": ours, "tile_spec": spec, "slide_properties": slide_properties(slide)},
    )
