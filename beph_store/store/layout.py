"""Where everything in a store lies, and what its columns are.

    S/
      store.json                 {"format": 1, …}: what makes a folder a store
      recipes/<key>.json         one feature space each: the recipe, the encoder's parity figures
      slides.lance               the registry: one row a (recipe, slide), keyed; IT DECIDES what is complete
      tiles/<key>.lance          one row a tile, one fragment a slide
      rasters/<key>/<slide>.zarr thumbnail and tissue mask
      pixels/<key>/<slide>.<ingest id>.zarr   the tiles' pixels, where `ingest --keep-tiles` was asked for
      runs/<run>.json            what was run, on what, how fast, with what outcome
      annotations/<key>.jsonl    labels that people gave to tiles and slides, every one ever; only appended to
      classifiers/<key>/<name>/  heads of tile classes that were saved from such labels
      labels/<id>.csv, .json     tables of labels that were handed to a server, named by their content
      predictions/<head>/        what a head says of every slide, where it was applied to the store
      staging/<key>/<slide>/     work in progress: vectors of slides not finished yet
      locks/                     who is writing what right now: empty files, or leases (see `locks`)

What is of one machine only lies in its working folder: the store itself where that is on a disk, a folder of the
user's cache where it is in a bucket.

    W/
      jobs/<id>/                 what a server was asked to do: record, log, events, what came of it
      cache/<key>/<digest>/      flat copies of the vectors for training; may be deleted at any time
      staging/, runs/, locks/    pixels of slides in progress, progress of runs, locks within the machine

A row of ``tiles`` exists for the reader only if the registry names its ``ingest_id``. Whatever a
crash, a lost acknowledgement or a lost race leaves behind is therefore invisible, and harmless.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from beph_store.store.place import Place

#: Version of the layout and of every column below.
FORMAT = 1
#: Lance file version, pinned: a new default must be a decision, not an accident.
LANCE_VERSION = "2.2"

_PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}

#: The registry. ``key`` is declared a primary key: without it two stale merge_inserts insert twice.
REGISTRY = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False, metadata=_PRIMARY_KEY),
        pa.field("recipe", pa.string(), nullable=False),
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("case_id", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("tiles", pa.int64(), nullable=False),
        pa.field("unreadable", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("path", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("file_bytes", pa.int64()),
        pa.field("file_mtime_ns", pa.int64()),
        pa.field("width_l0", pa.int64()),
        pa.field("height_l0", pa.int64()),
        pa.field("mpp_x", pa.float64()),
        pa.field("mpp_y", pa.float64()),
        pa.field("mpp_source", pa.string()),
        pa.field("footprint_l0", pa.int32()),
        pa.field("reader", pa.string()),
        pa.field("ingest_id", pa.string()),
        pa.field("replaces", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("seconds", pa.float64()),
        pa.field("run", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        # Null where no pixels are kept. Stores made before there was such a column get it with the next ingest.
        pa.field("pixels_sha256", pa.string()),
    ]
)


def tiles_schema(dim: int) -> pa.Schema:
    """Columns of a tile table of ``dim``-long embeddings.

    ``x``, ``y`` top-left in level-0 px; ``tissue`` share 0–1; ``read_status`` 'ok' or 'unreadable';
    ``embedding`` float16, null exactly where ``read_status`` is not 'ok'.
    """
    return pa.schema(
        [
            pa.field("slide_id", pa.string(), nullable=False),
            pa.field("tile", pa.int32(), nullable=False),
            pa.field("x", pa.int32(), nullable=False),
            pa.field("y", pa.int32(), nullable=False),
            pa.field("tissue", pa.float32(), nullable=False),
            pa.field("read_status", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dim)),
            pa.field("ingest_id", pa.string(), nullable=False),
        ]
    )


def registry_key(recipe_key: str, slide_id: str) -> str:
    """Primary key of the registry."""
    return f"{recipe_key}/{slide_id}"


def quoted(text: object) -> str:
    """``text`` between quotes in a filter of Lance."""
    return "'" + str(text).replace("'", "''") + "'"


def slide_folder(slide_id: str) -> str:
    """A file name for a slide id: readable, and unique through a hash of the whole id."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", slide_id)[:48].strip("._") or "slide"
    return f"{readable}-{hashlib.sha256(slide_id.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def is_dataset(path: Place) -> bool:
    """Whether a Lance table is there; its folder alone proves nothing, a crash may have left it."""
    return any((path / "_versions").glob("*.manifest"))


@dataclass(frozen=True, slots=True)
class Layout:
    """Every place of a store. ``root`` and what is below it may be in a bucket; what is a Path is on this machine."""

    root: Place

    @property
    def is_remote(self) -> bool:
        """Whether the store is in a bucket."""
        return not isinstance(self.root, Path)

    @property
    def work(self) -> Path:
        """The working folder of this machine: the store itself on a disk, else in $BEPH_STORE_WORK or the cache."""
        if isinstance(self.root, Path):
            return self.root
        home = os.environ.get("BEPH_STORE_WORK")
        folder = Path(home).expanduser() if home else Path.home() / ".cache" / "beph-store"
        digest = hashlib.sha256(self.root.url.encode()).hexdigest()[:12]
        return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.root.name)}-{digest}"

    @property
    def marker(self) -> Place:
        """The file that makes a folder a store."""
        return self.root / "store.json"

    @property
    def registry(self) -> Place:
        """The keyed table of slides."""
        return self.root / "slides.lance"

    @property
    def recipes(self) -> Place:
        """Folder of recipe records."""
        return self.root / "recipes"

    @property
    def runs(self) -> Place:
        """Folder of run records."""
        return self.root / "runs"

    @property
    def live(self) -> Path:
        """Folder of how far the runs of this machine are."""
        return self.work / "runs"

    @property
    def jobs(self) -> Path:
        """Folder of what a server was asked to do."""
        return self.work / "jobs"

    @property
    def labels(self) -> Place:
        """Folder of kept tables of labels."""
        return self.root / "labels"

    @property
    def predictions(self) -> Place:
        """Folder of what heads say of every slide."""
        return self.root / "predictions"

    def annotations(self, key: str) -> Place:
        """The journal of labels given to tiles and slides of one recipe."""
        return self.root / "annotations" / f"{key}.jsonl"

    def classifiers(self, key: str) -> Place:
        """Folder of the saved heads of tile classes of one recipe."""
        return self.root / "classifiers" / key

    @property
    def locks(self) -> Path:
        """Folder of lock files of this machine; leases lie in the same folder of the store."""
        return self.work / "locks"

    def recipe(self, key: str) -> Place:
        """The record of one recipe."""
        return self.recipes / f"{key}.json"

    def tiles(self, key: str) -> Place:
        """The tile table of one recipe."""
        return self.root / "tiles" / f"{key}.lance"

    def raster(self, key: str, slide_id: str) -> Place:
        """The rasters of one slide."""
        return self.root / "rasters" / key / f"{slide_folder(slide_id)}.zarr"

    def pixels(self, key: str) -> Place:
        """Folder of the kept tiles of one recipe."""
        return self.root / "pixels" / key

    def slide_pixels(self, key: str, slide_id: str, ingest_id: str) -> Place:
        """The kept tiles of one ingest of a slide: named by it, so that the registry decides what is seen."""
        # A registry row may have been edited: its id must not lead out of the folder.
        return self.pixels(key) / f"{slide_folder(slide_id)}.{re.sub(r'[^0-9A-Za-z-]', '_', ingest_id)}.zarr"

    def staging(self, key: str) -> Place:
        """Work in progress of one recipe."""
        return self.root / "staging" / key

    def slide_staging(self, key: str, slide_id: str) -> Place:
        """Work in progress of one slide."""
        return self.staging(key) / slide_folder(slide_id)

    def slide_work(self, key: str, slide_id: str) -> Path:
        """What of a slide's work in progress is on this machine: its pixels."""
        return self.work / "staging" / key / slide_folder(slide_id)

    def slide_claim(self, key: str, slide_id: str) -> str:
        """Name of the lock, held by the process that ingests the slide."""
        return f"{key}-{slide_folder(slide_id)}"

    def cache(self, key: str) -> Path:
        """Flat copies of one recipe's vectors, each named by a digest of the registry rows it was made from."""
        return self.work / "cache" / key

    def cache_lock(self, key: str) -> Path:
        """Held by the process that makes a flat copy."""
        return self.locks / f"cache-{key}.lock"

    @property
    def commit_lock(self) -> Path:
        """Held for the moment of a commit."""
        return self.locks / "commit.lock"
