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
import shutil
import time
from dataclasses import dataclass, field

from beph_store.errors import StoreError
from beph_store.records import Rasters, Recipe, SlideInfo, TileSet
from beph_store.store.durable import sync_lance
from beph_store.store.layout import Layout, is_dataset, quoted
from beph_store.store.locks import Hold, claim, held
from beph_store.store.pixels import PixelLog
from beph_store.store.place import Place, remove_tree
from beph_store.store.registry import Registry, SlideRow, forget_versions
from beph_store.store.sealing import Sealing, ensure_table, place_pixels, seal_spool
from beph_store.store.staging import Ready, Spool, discard, plan_of, read_ready
from beph_store.store.tables import again, append, open_table

#: A manifest lists every fragment, so history grows with the square of the commits: batch them.
SLIDES_PER_COMMIT = 64
#: So many times as many slides as a commit adds are listed already: all manifests together then grow with the slides.
_COMMITS_LISTED = 512
_COMMITS_BETWEEN_CLEANING = 64
#: Finished slides become visible at the latest after this many seconds.
SECONDS_PER_COMMIT = 300.0


@dataclass(slots=True)
class ClaimedSlide:
    """A slide that this process alone may write. ``spool`` is set once its tiles are known."""

    slide_id: str
    folder: Place
    lock: Hold
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
    _enough: int = SLIDES_PER_COMMIT
    _commits: int = 0

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
        lock = claim(self.layout, self.layout.slide_claim(self.key, slide_id))
        if lock is None:
            return None
        taken = ClaimedSlide(slide_id, self.layout.slide_staging(self.key, slide_id), lock)
        self._claims[slide_id] = taken
        return taken

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
        # Of a process that died after its commit: nothing waits, and a --replace must not take the old for the new.
        settled = _settled(self.registry.get(self.key, claim.slide_id), ready.row)
        there = all((data / name).exists() for name in ready.data_files())
        if settled or not there or not place_pixels(self.layout, ready):
            discard(claim.folder)
            return None
        self._ready.append(ready)
        return ready.row

    def open_spool(self, claim: ClaimedSlide, info: SlideInfo, tiles: TileSet) -> Spool:
        """Start to take vectors, or go on where an earlier run stopped; see ``Spool.done``."""
        claim.info, claim.tiles = info, tiles
        keep = self.keep_tiles and len(tiles) > 0
        here = self.layout.slide_work(self.key, claim.slide_id)
        log = PixelLog(here, len(tiles), tiles.spec.tile_px) if keep else None
        plan = plan_of(info, tiles, pixels=keep)
        claim.spool = Spool(claim.folder, plan, self.recipe.encoder.dim, pixels=log)
        return claim.spool

    def seal(self, claim: ClaimedSlide, rasters: Rasters, row: SlideRow) -> SlideRow:
        """Write the slide's fragment and rasters. ``row`` carries what only the engine knows.

        Raises StoreError when tiles are missing.
        """
        if claim.spool is None or claim.tiles is None or claim.info is None:
            raise StoreError("a slide was sealed before its tiles were known", slide_id=claim.slide_id)
        sealing = Sealing(claim.info, claim.tiles, rasters, row, self.run)
        return self.take(seal_spool(self.layout, self.recipe, sealing, claim.spool))

    def take(self, ready: Ready) -> SlideRow:
        """A slide of ours that was sealed, here or by `seal_slide` in another process: it goes with the next commit."""
        if ready.fragments:
            self._ready.append(ready)
        else:
            self._rows.append(ready.row)
        return ready.row

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
        if not waiting or not (force or due or waiting >= self._enough):
            return
        with held(self.layout, "commit"):
            known = self.registry.some(self.key, [r.row.slide_id for r in self._ready])
            fresh = [r for r in self._ready if not _settled(known.get(r.row.slide_id), r.row)]
            self._append(fresh)
            rows = [*(r.row for r in fresh), *self._rows]
            self.registry.put(rows)
            self.registry.tidy()
            self._forget([row for row in rows if row.replaces])
            self._keep_history_short()
        self._after_commit()

    def _keep_history_short(self) -> None:
        """Fewer and larger commits as the store grows, and old versions dropped: see ``SLIDES_PER_COMMIT``."""
        self._commits += 1
        self._enough = max(SLIDES_PER_COMMIT, self.registry.dataset().count_rows() // _COMMITS_LISTED)
        where = self.layout.tiles(self.key)
        if self._commits % _COMMITS_BETWEEN_CLEANING == 0 and is_dataset(where):
            forget_versions(where)

    def _append(self, ready: list[Ready]) -> None:
        if not ready:
            return
        where = ensure_table(self.layout, self.recipe)
        fragments = [fragment for r in ready for fragment in r.fragments]
        append(where, fragments, f"{len(ready)} slides, run {self.run}")
        sync_lance(where, [])

    def _forget(self, replacing: list[SlideRow]) -> None:
        """Drop what these rows replaced."""
        where = self.layout.tiles(self.key)
        if replacing and where.exists():
            listed = ", ".join(quoted(row.replaces) for row in replacing)
            again(where, lambda: open_table(where).delete(f"ingest_id IN ({listed})"))
        for row in replacing:
            remove_tree(self.layout.slide_pixels(self.key, row.slide_id, str(row.replaces)))

    def _after_commit(self) -> None:
        self._published = time.monotonic()
        finished = [r.row.slide_id for r in self._ready] + [r.slide_id for r in self._rows if r.complete]
        for slide_id in finished:
            discard(self.layout.slide_staging(self.key, slide_id))
            if self.layout.is_remote:
                shutil.rmtree(self.layout.slide_work(self.key, slide_id), ignore_errors=True)
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


def _settled(known: SlideRow | None, row: SlideRow) -> bool:
    return known is not None and known.settles(row)
