"""The plain data that travels through the house. Read this first.

All records are frozen; arrays are documented by shape, dtype and frame. Nothing here
touches a file, a model or the terminal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError
from beph_store.geometry import Size, to_level0

Status = Literal["done", "skipped", "empty", "failed"]
MppSource = Literal["manifest", "declared", "vendor", "tiff", "ome", "dicom"]

#: Values of a tile's ``read_status``.
READ_OK = "ok"
READ_FAILED = "unreadable"

#: Coarsest scale of tiles, µm/px: far beyond any encoder's, and a tile's footprint stays within int32.
TILE_MPP_MAX = 1000.0
#: Largest side of a tile and step of the grid, px: a hundred times an encoder's, and not yet all of the memory.
TILE_PX_MAX = 1 << 14


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """One scanned file.

    ``size_l0`` (width, height) in level-0 px; ``mpp_x``, ``mpp_y`` level-0 µm/px, square
    within 1 %; ``mpp_source`` who said so; ``level_sizes`` (width, height) of every
    pyramid level, level 0 first; ``fingerprint`` SHA-256 over the size and sampled
    blocks of the content, hex.
    """

    slide_id: str
    path: str
    size_l0: Size
    mpp_x: float
    mpp_y: float
    mpp_source: MppSource
    level_sizes: tuple[Size, ...]
    fingerprint: str

    @property
    def mpp(self) -> float:
        """Level-0 µm/px, the mean of the two axes."""
        return (self.mpp_x + self.mpp_y) / 2


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How a slide is cut: tiles of ``tile_px`` px at ``mpp`` µm/px, every ``stride_px`` px.

    ``stride_px`` larger than ``tile_px`` leaves gaps, smaller overlaps; both are legal.
    A tile is kept when at least ``tissue_min`` (0–1) of it is tissue by ``tissue_method``. ``limit`` keeps
    at most that many of a slide's tiles, evenly spread: for trials. It belongs to the spec so that a
    trial can never pass for the whole slide.
    """

    tile_px: int
    mpp: float
    stride_px: int
    tissue_min: float
    tissue_method: str
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 1 or self.stride_px < 1:
            raise UsageError("tile size and stride must be at least 1 px")
        if max(self.tile_px, self.stride_px) > TILE_PX_MAX:
            raise UsageError(f"tile size and stride must be at most {TILE_PX_MAX:,} px")
        if not 0 < self.mpp <= TILE_MPP_MAX:
            raise UsageError(f"tiles at {self.mpp:g} µm/px: must be above 0, and at most {TILE_MPP_MAX:g}")
        if self.limit is not None and self.limit < 1:
            raise UsageError("a limit of tiles must be at least 1")
        if not 0 <= self.tissue_min <= 1:
            raise UsageError("the tissue minimum is a share between 0 and 1")

    def footprint_l0(self, mpp_l0: float) -> int:
        """Side of a tile in whole level-0 px on a slide of ``mpp_l0`` (off by half a px at most)."""
        return max(1, round(to_level0(self.tile_px, self.mpp, mpp_l0)))

    def stride_l0(self, mpp_l0: float) -> float:
        """Step of the grid in level-0 px, not rounded, so that no error adds up along a slide."""
        return to_level0(self.stride_px, self.mpp, mpp_l0)


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """``mask`` (h, w) bool, True = tissue, covering the whole slide at ``mpp_x``, ``mpp_y`` µm per mask px."""

    mask: NDArray[np.bool_]
    mpp_x: float
    mpp_y: float
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class Rasters:
    """What the store keeps of a slide to look at: ``thumbnail`` (h, w, 3) uint8 RGB of all of it, and its tissue."""

    thumbnail: NDArray[np.uint8]
    tissue: TissueMask


@dataclass(frozen=True, slots=True, eq=False)
class TileSet:
    """The tiles of a slide in raster order; a tile's row here is its ``tile_index`` for ever.

    ``origin_l0`` (N, 2) int32, top-left (x, y) in level-0 px; ``footprint_l0`` side of a
    tile in level-0 px; ``tissue`` (N,) float32, share of the tile that is tissue.
    N = 0 is legal: a slide without tissue.
    """

    slide_id: str
    spec: TileSpec
    origin_l0: NDArray[np.int32]
    footprint_l0: int
    tissue: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.origin_l0)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All that is needed to use an encoder rightly, and to tell its vectors from any other's.

    ``mean``, ``std`` per RGB channel on the 0–255 scale; ``mpp`` the scale it was trained
    at; ``dim`` the length of an embedding; ``precision`` of the graph, fp32 or fp16.
    """

    name: str
    variant: str
    weights_sha256: str
    tile_px: int
    mpp: float
    dim: int
    pooling: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    licence: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EncoderSpec:
        """The inverse of ``to_json``; unknown and missing fields are refused by name."""
        return cast(EncoderSpec, _from_json(cls, data))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Names a feature space: equal ``key`` = the same space, anything else is refused."""

    tile: TileSpec
    encoder: EncoderSpec
    vector_dtype: str = "float16"
    format: int = 1

    @property
    def key(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return _key_of(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of ``to_json``."""
        parts = dict(data)
        parts["tile"] = _from_json(TileSpec, parts["tile"])
        parts["encoder"] = EncoderSpec.from_json(parts["encoder"])
        return cast(Recipe, _from_json(cls, parts))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _key_of(recipe: Recipe) -> str:
    canonical = json.dumps(recipe.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The stored tiles of one slide, unreadable ones left out; rows align.

    ``tile_index`` (N,) int32; ``origin_l0`` (N, 2) int32, (x, y) in level-0 px; ``tissue`` (N,) float32;
    ``vectors`` (N, D) float16.
    """

    slide_id: str
    recipe_key: str
    tile_index: NDArray[np.int32]
    origin_l0: NDArray[np.int32]
    tissue: NDArray[np.float32]
    vectors: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.tile_index)


@dataclass(frozen=True, slots=True)
class Case:
    """The unit of label and of split: one patient's tumour, with its slides in the order of the table."""

    case_id: str
    slide_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """What class a case is of."""

    case_id: str
    value: str


@dataclass(frozen=True, slots=True)
class SurvivalLabel:
    """``event`` True = the event was seen, False = censored; ``time_days`` from baseline to either, above 0."""

    case_id: str
    event: bool
    time_days: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassTarget:
    """Labels as heads learn them: ``index`` (n,) int64 into ``classes``, one a case."""

    classes: tuple[str, ...]
    index: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalTarget:
    """Outcomes as heads learn them: ``event`` (n,) bool, ``time_days`` (n,) float64, one a case."""

    event: NDArray[np.bool_]
    time_days: NDArray[np.float64]


Target = ClassTarget | SurvivalTarget


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """The embeddings of many cases, one bag a case, over one flat table.

    ``vectors`` (T, D) float16 or float32, usually a memory map; ``spans[i]`` the (start, stop) row ranges of case i,
    one a slide. A case without a span has an empty bag.
    """

    case_ids: tuple[str, ...]
    vectors: NDArray[np.float16] | NDArray[np.float32]
    spans: tuple[tuple[tuple[int, int], ...], ...]

    def __len__(self) -> int:
        return len(self.case_ids)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.vectors.shape[1])

    def tiles(self, case: int) -> int:
        """How many tiles the bag of that case holds."""
        return sum(stop - start for start, stop in self.spans[case])

    def bag(self, case: int) -> NDArray[np.float16] | NDArray[np.float32]:
        """(N, D), all tiles of a case: a view where they lie together, else a copy."""
        if not self.spans[case]:
            return self.vectors[:0]
        if len(self.spans[case]) == 1:
            ((start, stop),) = self.spans[case]
            return self.vectors[start:stop]
        return np.concatenate([self.vectors[start:stop] for start, stop in self.spans[case]])


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a head says of one bag.

    Classification: ``values`` (K,) float64 class probabilities in the order of the head's classes. Survival:
    ``values`` (1,) the log hazard (higher = worse), ``survival`` (M,) float64 the chance to be alive at each of
    the head's ``times``. ``tile_scores`` (N, K or 1) float32, what each tile says by itself, and ``attention`` (N,)
    float32 summing to 1, where the head has them; rows as in the bag.
    """

    values: NDArray[np.float64]
    survival: NDArray[np.float64] | None = None
    attention: NDArray[np.float32] | None = None
    tile_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """One division of a cohort; ``train``, ``val`` and ``test`` hold case ids. ``val`` may be empty."""

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored tile like the query: ``origin_l0`` (x, y) and ``footprint_l0``, its side, in level-0 px.

    Higher ``score`` = nearer; ``row`` is its place in the flat table that was searched.
    """

    slide_id: str
    case_id: str
    tile_index: int
    origin_l0: tuple[int, int]
    footprint_l0: int
    score: float
    row: int


@dataclass(frozen=True, slots=True)
class SlideOutcome:
    """What became of one slide in one run; every run ends with one of these a slide.

    ``seconds`` from the slide's opening to its last tile's vector. Slides overlap, so they sum to more than the run.
    """

    slide_id: str
    status: Status
    tiles: int = 0
    seconds: float = 0.0
    error: str | None = None


def _from_json(cls: Any, data: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    if set(data) != names:
        odd = ", ".join(sorted(set(data) ^ names))
        raise UsageError(f"{cls.__name__} record with missing or unknown fields: {odd}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
