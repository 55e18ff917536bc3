"""Writing: claim a slide, spool its vectors, seal a fragment, commit many at once.

The protocol, and what a crash at each point leaves behind:

1. ``claim`` takes the slide's lock (freed by the system when the process dies) and opens its spool.
   A crash here leaves parts, which the next run takes up.
2. ``seal`` writes one Lance fragment, flushes it and records it as ready. A crash between the two
   leaves an unreferenced data file, which ``compact`` removes. Kept pixels are on the disk before the
   slide is ready and moved into their place after it; a crash between lets ``recover`` move them.
3. ``publish``, under the commit lock: append the fragments that the table does not reference yet,
   then put the registry rows. A crash between the two leaves rows that no reader sees; the next
   publish finds the fragments by their file names, which are unique, and only puts the rows.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import lance
from filelock import FileLock, Timeout
from lance.fragment import FragmentMetadata, write_fragments

from beph_store.errors import StoreError
from beph_store.records import Rasters, Recipe, SlideInfo, TileSet
from beph_store.store.durable import sync_lance
from beph_store.store.kept import archive_of
from beph_store.store.layout import LANCE_VERSION, Layout, is_dataset, tiles_schema
from beph_store.store.pixels import PixelLog, place
from beph_store.store.rasters import write_rasters
from beph_store.store.registry import Registry, SlideRow, forget_versions
from beph_store.store.staging import Ready, Spool, discard, plan_of, read_ready, write_ready
from beph_store.store.vectors import assemble

#: A manifest lists every fragment, so history grows with the square of the commits: batch them.
SLIDES_PER_COMMIT = 64
#: Finished slides become visible at the latest after this many seconds.
SECONDS_PER_COMMIT = 300.0
_ROWS_PER_FILE = 1 << 30  # never split a slide


@dataclass(slots=True)
class ClaimedSlide:
    """A slide that this process alone may write. ``spool`` is set once its tiles are known."""

    slide_id: str
    folder: Path
    lock: FileLock
    spool: Spool | None = None
    info: SlideInfo | None = None
    tiles: TileSet | None = None


@dataclass(slots=True)
class RecipeWriter:
    """Writes slides of one recipe; safe beside other writers, of the same recipe too."""

    layout: Layout
    recipe: Recipe
    run: str
    keep_tiles: bool = False
    _claims: dict[str, ClaimedSlide] = field(default_factory=dict)
    _ready: list[Ready] = field(default_factory=list)
    _rows: list[SlideRow] = field(default_factory=list)
    _published: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """Key of the recipe."""
        return self.recipe.key

    @property
    def registry(self) -> Registry:
        """The store's registry."""
        return Registry(self.layout.registry)

    def known(self) -> dict[str, SlideRow]:
        """What the registry says of every slide of this recipe, by slide id."""
        return {row.slide_id: row for row in self.registry.rows(self.key)}

    def claim(self, slide_id: str) -> ClaimedSlide | None:
        """Take the slide's lock, or None while another process has it."""
        lock = FileLock(self.layout.slide_lock(self.key, slide_id), timeout=0, thread_local=False)
        try:
            with FileLock(self.layout.commit_lock):  # waits for `compact`, which must not meet a new claim
                lock.acquire()
        except Timeout:
            return None
        claim = ClaimedSlide(slide_id, self.layout.slide_staging(self.key, slide_id), lock)
        self._claims[slide_id] = claim
        return claim

    def claimed(self, slide_id: str) -> ClaimedSlide:
        """The claim on a slide; StoreError without one."""
        try:
            return self._claims[slide_id]
        except KeyError:
            raise StoreError("the slide was not claimed before it was written", slide_id=slide_id) from None

    def recover(self, claim: ClaimedSlide) -> SlideRow | None:
        """Take over a fragment that an earlier run sealed and did not commit; it needs no more work."""
        ready = read_ready(claim.folder)
        if ready is None:
            return None
        data = self.layout.tiles(self.key) / "data"
        if not all((data / name).exists() for name in ready.data_files()) or not self._placed(ready, claim):
            discard(claim.folder)
            return None
        self._ready.append(ready)
        return ready.row

    def open_spool(self, claim: ClaimedSlide, info: SlideInfo, tiles: TileSet) -> Spool:
        """Start to take vectors, or go on where an earlier run stopped; see ``Spool.done``."""
        claim.info, claim.tiles = info, tiles
        keep = self.keep_tiles and len(tiles) > 0
        log = PixelLog(claim.folder, len(tiles), tiles.spec.tile_px) if keep else None
        plan = plan_of(info, tiles, pixels=keep)
        claim.spool = Spool(claim.folder, plan, self.recipe.encoder.dim, pixels=log)
        return claim.spool

    def seal(self, claim: ClaimedSlide, rasters: Rasters, row: SlideRow) -> SlideRow:
        """Write the slide's fragment and rasters. ``row`` carries what only the engine knows.

        Raises StoreError when tiles are missing.
        """
        if claim.spool is None or claim.tiles is None or claim.info is None:
            raise StoreError("a slide was sealed before its tiles were known", slide_id=claim.slide_id)
        if not claim.spool.done.all():
            missing = int((~claim.spool.done).sum())
            raise StoreError(f"{missing} tiles were never encoded", slide_id=claim.slide_id)
        write_rasters(self.layout.raster(self.key, claim.slide_id), rasters)
        row = dataclasses.replace(
            row.with_info(claim.info),
            run=self.run,
            tiles=len(claim.tiles),
            footprint_l0=claim.tiles.footprint_l0,
        )
        if not len(claim.tiles):
            self._rows.append(dataclasses.replace(row, status="empty", ingest_id=uuid.uuid4().hex))
            return self._rows[-1]
        ready = self._write_fragment(claim.tiles, claim.spool, row)
        write_ready(claim.folder, ready)
        self._placed(ready, claim)
        self._ready.append(ready)
        return ready.row

    def _placed(self, ready: Ready, claim: ClaimedSlide) -> bool:
        """Whether the slide's kept pixels, if it has any, are where the registry will name them; moves them there."""
        archive = archive_of(self.layout, ready.row)
        return archive is None or place(claim.folder / "pixels.zarr", archive)

    def _write_fragment(self, tiles: TileSet, spool: Spool, row: SlideRow) -> Ready:
        rows = assemble(tiles, *spool.collect())
        ingest_id = uuid.uuid4().hex
        named = {"recipe": self.key, "slide_id": row.slide_id, "ingest_id": ingest_id}
        pixels = spool.finish_pixels(rows.ok, named)
        uri = self._ensure_table()
        fragments = write_fragments(
            rows.to_table(row.slide_id, ingest_id),
            str(uri),
            mode="append",
            max_rows_per_file=_ROWS_PER_FILE,
            data_storage_version=LANCE_VERSION,
        )
        row = dataclasses.replace(
            row,
            status="done",
            unreadable=int((~rows.ok).sum()),
            sha256=rows.sha256(),
            ingest_id=ingest_id,
            pixels_sha256=pixels,
        )
        ready = Ready(row, [json.loads(json.dumps(fragment.to_json())) for fragment in fragments])
        sync_lance(uri, ready.data_files())
        return ready

    def fail(self, slide_id: str, row: SlideRow) -> None:
        """Record why a slide could not be done; what was encoded of it stays for the next run."""
        claim = self._claims.get(slide_id)
        if claim is not None and claim.spool is not None:
            claim.spool.close()
        self._rows.append(dataclasses.replace(row, run=self.run))

    def release(self, slide_id: str) -> None:
        """Give a claimed slide back without a result."""
        claim = self._claims.pop(slide_id, None)
        if claim is not None:
            if claim.spool is not None:
                claim.spool.close()
            claim.lock.release()

    def publish(self, *, force: bool = False) -> None:
        """Commit what is sealed, when it is enough or old enough, or when forced."""
        waiting = len(self._ready) + len(self._rows)
        due = time.monotonic() - self._published > SECONDS_PER_COMMIT
        if not waiting or not (force or due or waiting >= SLIDES_PER_COMMIT):
            return
        with FileLock(self.layout.commit_lock):
            known = self.known()
            fresh = [r for r in self._ready if not _already(known.get(r.row.slide_id), r.row)]
            self._append(fresh)
            rows = [*(r.row for r in fresh), *self._rows]
            self.registry.put(rows)
            self.registry.tidy()
            self._forget([row for row in rows if row.replaces])
        self._after_commit()

    def _append(self, ready: list[Ready]) -> None:
        if not ready:
            return
        uri = self._ensure_table()
        dataset = lance.dataset(str(uri))
        present = {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}
        missing = [r for r in ready if not present.issuperset(r.data_files())]
        if not missing:
            return
        lance.LanceDataset.commit(
            str(uri),
            lance.LanceOperation.Append(
                [FragmentMetadata.from_json(json.dumps(f)) for r in missing for f in r.fragments]
            ),
            read_version=dataset.version,
            commit_message=f"{len(missing)} slides, run {self.run}",
        )
        sync_lance(uri, [])

    def _forget(self, replacing: list[SlideRow]) -> None:
        """Drop what these rows replaced."""
        uri = self.layout.tiles(self.key)
        if replacing and uri.exists():
            listed = ", ".join(f"'{row.replaces}'" for row in replacing)
            lance.dataset(str(uri)).delete(f"ingest_id IN ({listed})")
        for row in replacing:
            old = self.layout.slide_pixels(self.key, row.slide_id, str(row.replaces))
            shutil.rmtree(old, ignore_errors=True)

    def _after_commit(self) -> None:
        self._published = time.monotonic()
        finished = [r.row.slide_id for r in self._ready] + [r.slide_id for r in self._rows if r.complete]
        for slide_id in finished:
            discard(self.layout.slide_staging(self.key, slide_id))
        for slide_id in {*finished, *(r.slide_id for r in self._rows)}:
            claim = self._claims.pop(slide_id, None)
            if claim is not None:
                claim.lock.release()
        self._ready.clear()
        self._rows.clear()

    def close(self) -> None:
        """Commit everything that is sealed and give every claim back."""
        self.publish(force=True)
        uri = self.layout.tiles(self.key)
        if is_dataset(uri):
            forget_versions(uri)
        for slide_id in list(self._claims):
            self.release(slide_id)

    def _ensure_table(self) -> Path:
        uri = self.layout.tiles(self.key)
        if not is_dataset(uri):
            empty = tiles_schema(self.recipe.encoder.dim).empty_table()
            with FileLock(self.layout.locks / f"{self.key}-create.lock"):
                if not is_dataset(uri):
                    lance.write_dataset(empty, str(uri), mode="create", data_storage_version=LANCE_VERSION)
        return uri


def _already(known: SlideRow | None, row: SlideRow) -> bool:
    """Whether the registry holds a finished result that this row does not replace."""
    return known is not None and known.complete and known.ingest_id != row.replaces
