"""What every format of slide features is read into, and the table of those formats.

A format is one file of this room with up to three functions, and one row in `FORMATS`:

    find_<name>(root: Path) -> list[Found]            which slides are there; opens as little as it can
    open_<name>(found: Found) -> SlideFeatures        one of them, whole, checked; SlideError where it is broken
    write_<name>(root: Path, slide: SlideFeatures) -> Path     the inverse; written aside and renamed
    place_<name>(root: Path, slide: SlideFeatures) -> Path     the file that it returns, the vectors', before it is made

A field that a file does not state is None. Whoever asks for the import must say it then; nothing is invented here.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import MissingExtra, SlideUnreadable, UsageError
from beph_store.geometry import Size
from beph_store.objects import require_disk
from beph_store.regular import require_regular

Vectors = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """One slide's features, not opened yet.

    ``path`` is the file that holds the vectors, ``others`` what else is needed (coordinates, metadata). ``encoder`` and
    ``group`` tell sets of features of one slide apart where a folder holds several: the encoder's name, and
    the scale's (``20x_512px_0px_overlap``). Both None where there is but one.
    """

    slide_id: str
    path: Path
    others: Mapping[str, Path] = field(default_factory=dict)
    encoder: str | None = None
    group: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that an import reads, the vectors' first."""
        return (self.path, *self.others.values())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SlideFeatures:
    """The tiles of one slide as a file has them; rows align, in the file's order.

    ``vectors`` (N, D) float16 or float32 (D = 0 where a slide without tiles leaves it open); ``origin_l0`` (N, 2)
    int32, top-left (x, y) in level-0 px;
    ``footprint_l0`` side of a tile in level-0 px; ``tile_px`` its side in the encoder's px, ``stride_px`` the step of
    the grid in the same; ``mpp`` µm per encoder px, ``mpp_l0`` of level 0; ``size_l0`` (width, height) of the slide;
    ``tissue`` (N,) float32, share of a tile that is tissue, at least ``tissue_min``; ``attributes`` all else that the
    file states. ``coords_um`` (N, 2) float32 are the origins in µm, of a format that has them so: they are level-0 px
    once ``mpp_l0`` is known. None, except for the vectors, is what the file does not say.
    """

    slide_id: str
    vectors: Vectors
    path: Path
    origin_l0: NDArray[np.int32] | None = None
    footprint_l0: int | None = None
    tile_px: int | None = None
    mpp: float | None = None
    mpp_l0: float | None = None
    size_l0: Size | None = None
    encoder: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stride_px: int | None = None
    tissue: NDArray[np.float32] | None = None
    group: str | None = None
    coords_um: NDArray[np.float32] | None = None
    tissue_min: float | None = None

    def __post_init__(self) -> None:
        check_rows(self.slide_id, self.path, self.vectors, self.origin_l0)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])


@dataclass(frozen=True, slots=True)
class Format:
    """One row of the table. ``asks`` names the fields of `SlideFeatures` that files of this kind never state.

    ``module`` holds the functions; ``needs`` is the package, beyond the base install, that they import. ``coords``
    says that coordinates may lie in another folder, which ``find`` then takes; ``empty`` that slides without tiles have
    a file, too.
    """

    name: str
    title: str
    module: str
    asks: tuple[str, ...] = ()
    needs: str | None = None
    coords: bool = False
    empty: bool = False

    @property
    def reads(self) -> bool:
        """Whether it can be imported."""
        return hasattr(importlib.import_module(self.module), f"open_{self.name}")

    @property
    def writes(self) -> bool:
        """Whether it can be exported."""
        return hasattr(importlib.import_module(self.module), f"write_{self.name}")

    def find(self, root: Path, coords: Path | None = None) -> list[Found]:
        """Every slide at or under ``root``, by id, with coordinates from ``coords``. UsageError where there is none."""
        require_disk(root, "features are read")
        require_disk(coords, "coordinates are read")
        if not root.exists():
            raise UsageError(f"no such file or folder: {root}", path=root)
        if coords is not None and not (self.coords and coords.is_dir()):
            what = (
                f"no such folder: {coords}"
                if self.coords
                else f"{self.title} files hold their own coordinates"
            )
            raise UsageError(f"--coords: {what}", path=coords)
        find = self._function("find")
        found: list[Found] = find(root) if coords is None else find(root, coords)
        if not found:
            raise UsageError(
                f"{root} holds no {self.title} features: name the folder with {_LAYOUTS[self.name]}, "
                "see docs/interop.md",
                path=root,
            )
        return sorted(found, key=lambda one: (one.slide_id, one.group or "", one.encoder or ""))

    def open(self, found: Found) -> SlideFeatures:
        """One slide, checked. SlideError, in one line, where its files are damaged or do not fit each other."""
        for path in found.files:
            try:
                require_regular(path)
            except OSError as error:
                raise SlideUnreadable(str(error), slide_id=found.slide_id, path=path) from error
        return cast(SlideFeatures, self._function("open")(found))

    def read(self, root: Path) -> Iterator[SlideFeatures]:
        """All slides, one in memory at a time; the first that is broken ends it with its error."""
        return (self.open(found) for found in self.find(root))

    def write(self, root: Path, slide: SlideFeatures) -> Path:
        """One slide into the folder in this format's layout; the file that holds the vectors."""
        return cast(Path, self._function("write")(root, slide))

    def place(self, root: Path, slide: SlideFeatures) -> Path:
        """The file that ``write`` would return; of ``slide`` all but the arrays is looked at."""
        return cast(Path, self._function("place")(root, slide))

    def _function(self, verb: str) -> Callable[..., Any]:
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise MissingExtra(f"{self.title} needs {self.needs}: pip install 'beph-store[interop]'")
        function = getattr(importlib.import_module(self.module), f"{verb}_{self.name}", None)
        if function is None:
            what = "exported" if verb == "write" else "imported"
            raise UsageError(f"{self.title} cannot be {what}: see docs/interop.md")
        return cast(Callable[..., Any], function)


#: What ``find`` looks for in the folder that it is given.
_LAYOUTS = {
    "clam": "h5_files/*.h5 or pt_files/*.pt",
    "trident": "features_<encoder>/*.h5, up to two folders down",
    "stamp": "*.h5, however deep",
    "bags": "*.pt or pt_files/*.pt",
    "slide2vec": "tile_embeddings/…/*.meta.json",
    "atlaspatch": "patches/*.h5 or *.h5",
    "wsidata": "*.zarr that have tables/ and shapes/",
    "anndata": "*.h5ad",
    "anndata_zarr": "*.zarr that have X/ and obs/",
    "parquet": "*.parquet that have vectors",
    "parquet_list": "*.parquet that have vectors",
}

#: One row a format, in the order that `--help` shows.
FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("clam", "CLAM", "beph_store.interop.clam", ("encoder", "mpp"), "h5py", coords=True),
        Format("trident", "TRIDENT", "beph_store.interop.trident", ("mpp",), "h5py", empty=True),
        Format("stamp", "STAMP", "beph_store.interop.stamp", ("mpp_l0",), "h5py"),
        Format("bags", ".pt bag", "beph_store.interop.bags", ("encoder", "mpp", "origin_l0"), coords=True),
        Format("slide2vec", "slide2vec", "beph_store.interop.slide2vec", (), empty=True),
        Format("atlaspatch", "AtlasPatch", "beph_store.interop.atlaspatch", ("mpp",), "h5py", empty=True),
        Format("wsidata", "LazySlide", "beph_store.interop.wsidata", (), "anndata"),
        Format("anndata", "AnnData", "beph_store.interop.anndata", (), "anndata", empty=True),
        Format("anndata_zarr", "AnnData zarr", "beph_store.interop.anndata", (), "anndata", empty=True),
        Format("parquet", "Parquet", "beph_store.interop.parquet", (), empty=True),
        Format("parquet_list", "Parquet list", "beph_store.interop.parquet", (), empty=True),
    )
}


def format_named(name: str) -> Format:
    """The row of that name; UsageError that lists the others."""
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}: one of {', '.join(FORMATS)}")
    return FORMATS[name]


def check_rows(
    slide_id: str, path: Path, vectors: NDArray[Any], origin_l0: NDArray[Any] | None, name: str = "features"
) -> None:
    """Raise SlideUnreadable unless ``vectors`` are (N, D) floats, and ``origin_l0`` (N, 2) for the same N."""

    def refuse(why: str) -> SlideUnreadable:
        return SlideUnreadable(f"{path.name}: {why}", slide_id=slide_id, path=path)

    if vectors.ndim != 2 or (vectors.shape[1] < 1 <= len(vectors)):
        raise refuse(f"{name} of shape {vectors.shape}, not (tiles, values)")
    if vectors.dtype not in (np.float16, np.float32):
        raise refuse(f"{name} are {vectors.dtype}, not float16 or float32")
    if origin_l0 is None:
        return
    if origin_l0.ndim != 2 or origin_l0.shape[1] != 2:
        raise refuse(f"coordinates of shape {origin_l0.shape}, not (tiles, 2)")
    if len(origin_l0) != len(vectors):
        raise refuse(f"{len(vectors)} rows of {name} and {len(origin_l0)} of coordinates")
