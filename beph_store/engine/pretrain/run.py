"""From tiles to an encoder: the tokenizer, the masked modelling, the bundle."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beph_store.engine.pretrain.log import Log, Row
from beph_store.engine.pretrain.options import STEM, PretrainOptions
from beph_store.engine.pretrain.page import write_page
from beph_store.engine.pretrain.probing import make_probe
from beph_store.engine.pretrain.sources import JoinedSource, open_sources
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.errors import UsageError
from beph_store.store.durable import write_json

if TYPE_CHECKING:
    from beph_store.encoders.torch_side.loaded import Loaded
    from beph_store.encoders.torch_side.trunks import Prepared
    from beph_store.pretrain.parallel import Place
    from beph_store.pretrain.session import Plan

RESULT, LOG, PAGE, WEIGHTS, BUNDLE = "pretrain.json", "log.jsonl", "page.html", "encoder.pth", "bundle"
#: Tiles from which the teacher's statistics are taken.
_SAMPLE = 128
#: Seconds between drawings of the page.
_REDRAW = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """``out`` with its bundle; ``tiles`` it learned from, and what was ``left_out`` and why; ``rows`` of the log."""

    out: Path
    tiles: int
    left_out: tuple[tuple[str, str], ...]
    rows: list[Row]
    seconds: float

    @property
    def bundle(self) -> Path:
        """The encoder: `ingest --encoder` takes it."""
        return self.out / BUNDLE

    @property
    def weights(self) -> Path:
        """The checkpoint, in BEPH's layout where the trunk is a BEiT v2."""
        return self.out / WEIGHTS

    def to_json(self) -> dict[str, Any]:
        """JSON data; ``last`` rows of both stages."""
        last = {row["stage"]: row for row in self.rows}
        return {
            "out": str(self.out),
            "bundle": str(self.bundle),
            "weights": str(self.weights),
            "tiles": self.tiles,
            "left_out": [list(pair) for pair in self.left_out],
            "seconds": round(self.seconds, 1),
            "last": last,
        }


def pretrain(
    paths: Sequence[str | Path],
    out: str | Path,
    options: PretrainOptions | None = None,
    *,
    recipe: str | None = None,
    opened: Callable[[int, int], None] | None = None,
    progress: Callable[[Row], None] | None = None,
) -> Pretrained | None:
    """Train on the tiles of stores and folders; start again at will, it goes on from its last checkpoint.

    ``opened`` is told of images read while folders are looked through, ``progress`` each row of the log. Under torchrun
    all processes but the first return None.
    Raises UsageError, StoreError for a checkpoint of other tiles or options, EncoderError for weights.
    """
    from beph_store.pretrain import parallel

    options, out = options or PretrainOptions(), Path(out)
    began = time.perf_counter()
    source = open_sources(paths, recipe, opened)
    mpp = options.mpp or source.mpp
    if mpp is None:
        raise UsageError("the tiles do not all say their scale, or not the same: pass --mpp, µm/px")
    place = parallel.join(options.device)
    try:
        out.mkdir(parents=True, exist_ok=True)
        run = _Run(source, out, options, mpp, place)
        run.train(progress)
        if not place.first:
            return None
        run.export()
        done = Pretrained(out, len(source), source.left_out, run.log.rows, time.perf_counter() - began)
        run.draw(running=False)
        _write_result(done, options, mpp)
        return done
    finally:
        parallel.leave()


class _Run:
    """One process's part."""

    def __init__(
        self, source: JoinedSource, out: Path, options: PretrainOptions, mpp: float, place: Place
    ) -> None:
        from beph_store.encoders.torch_side.tokens import TokenTeacher
        from beph_store.encoders.torch_side.trunks import prepare
        from beph_store.pretrain.session import sample

        self.source, self.out, self.options, self.mpp, self.place = source, out, options, mpp, place
        self.log = Log(out / LOG)
        self._drawn = 0.0
        loaded = load_teacher(options)
        if options.size == "mini" or options.init == "beph-mini":
            self.prepared = _hybrid(source, options, loaded)
        else:
            self.prepared = prepare(options.size, options.init, options.weights, options.seed)
        side = self.prepared.tile_px
        pixels = sample(source, loaded.spec.tile_px, _SAMPLE, options.seed)
        if loaded.spec.tile_px != side:
            raise UsageError(
                f"the teacher {loaded.spec.name} takes tiles of {loaded.spec.tile_px} px, the trunk of {side}: take "
                "another"
            )
        self.teacher = TokenTeacher(loaded, self.prepared.grid, pixels)

    def train(self, progress: Callable[[Row], None] | None) -> None:
        """Both stages, and the checkpoint of the trunk."""
        from beph_store.encoders.torch_side import trunks
        from beph_store.pretrain.loop import Watch
        from beph_store.pretrain.session import Parts, pretrain

        def tell(row: Row) -> None:
            self.log.add(row)
            if progress:
                progress(row)
            if time.perf_counter() - self._drawn > _REDRAW:
                self.draw(running=True)

        options, probe = self.options, None
        if options.probe is not None and self.place.first:
            probe = make_probe(
                options.probe, trunks.embedder(self.prepared), self.prepared.tile_px, options.seed
            )
        parts = Parts(self.prepared.trunk, self.prepared.encoder, self.teacher, self.teacher.dim)
        plan = make_plan(options, self.prepared)
        watch = Watch(tell, None if probe is None else lambda model: probe())
        trunk, mask_token = pretrain(parts, self.source, plan, self.out, self.place, watch)
        if self.place.first:
            trunks.save(trunk, mask_token, self.out / WEIGHTS)

    def export(self) -> None:
        """The bundle, made anew from the checkpoint, with its card."""
        from beph_store.encoders.torch_side.export import ExportOptions, export_loaded
        from beph_store.encoders.torch_side.trunks import Naming, is_hybrid, load_trained

        options = self.options
        used = "imagenet" if options.init == "timm" else "histology"
        naming = Naming(options.name, self.mpp, options.licence)
        loaded = load_trained(self.out / WEIGHTS, naming, normalised_by=used)
        shutil.rmtree(self.out / BUNDLE, ignore_errors=True)
        small = is_hybrid(self.prepared.trunk)
        export_loaded(loaded, self.out / BUNDLE, ExportOptions(compact=small, fp16_twin=not small))
        (self.out / BUNDLE / "MODEL_CARD.md").write_text(self._card(), encoding="utf-8")

    def draw(self, *, running: bool) -> None:
        """The page."""
        self._drawn = time.perf_counter()
        write_page(
            self.log.rows, self.out / PAGE, f"Pre-training {self.options.name}", self.about(), running=running
        )

    def about(self) -> list[str]:
        """What is trained, on what, in sentences."""
        o, s = self.options, self.options.schedule
        begin = {
            "none": "random weights",
            "beph": f"BEPH's weights ({o.weights})",
            "timm": "timm's BEiT v2 of ImageNet",
        }
        start = begin.get(o.init, "the beph-mini that ships")
        distil = f" The teacher's own tokens are told too, with weight {o.distil:g}." if o.distil else ""
        return [
            f"{len(self.source):,} tiles at {self.mpp:g} µm/px; {len(self.source.left_out)} slides or images left out.",
            f"From {start}; size {o.size or 'as it is'}; {s.tokenizer_steps:,} steps of tokenizer with "
            f"{o.codes.count:,} codes, teacher {self.teacher.name}, then {s.steps:,} steps of masked modelling with "
            f"{o.masked} of {self.prepared.grid**2} patches masked.{distil}",
            f"Batches of {s.batch} tiles, learning rate up to {s.peak:.2e}, {s.precision}, seed {o.seed}.",
        ]

    def _card(self) -> str:
        lines = "\n".join(f"* {line}" for line in self.about())
        return (
            f"# {self.options.name}\n\nPre-trained with BEiT v2's objective by `beph-store pretrain`; not a diagnostic "
            f"model.\n\n{lines}\n* Licence: {self.options.licence}.\n* Log: log.jsonl beside this bundle.\n"
        )


def load_teacher(options: PretrainOptions) -> Loaded:
    """The teacher: the bundled beph-mini, or an encoder by name with its weights."""
    from beph_store.encoders.torch_side.export import ExportOptions, load_encoder
    from beph_store.encoders.torch_side.mini import load_mini_bundle

    if options.teacher in (None, "beph-mini") and options.teacher_weights is None:
        return load_mini_bundle()
    return load_encoder(options.teacher or "", options.teacher_weights, ExportOptions())


def make_plan(options: PretrainOptions, prepared: Prepared) -> Plan:
    """The options in the words of the room that trains."""
    from beph_store.pretrain.data import ViewSpec
    from beph_store.pretrain.loop import LoopSpec
    from beph_store.pretrain.masking import MaskSpec
    from beph_store.pretrain.session import Plan
    from beph_store.pretrain.tokenizer import TokenizerSpec

    s, grid = options.schedule, prepared.grid

    def loop(steps: int) -> LoopSpec:
        return LoopSpec(
            steps=steps,
            lr=s.peak,
            least=min(1e-5, s.peak),
            warmup=round(s.warmup * steps),
            accumulate=s.accumulate,
            precision=s.precision,
            log_every=s.log_every,
            save_every=s.save_every,
            probe_every=s.probe_every,
        )

    return Plan(
        tokenizer=TokenizerSpec(codes=options.codes.count, decoder=options.codes.decoder),
        tokenizer_loop=loop(s.tokenizer_steps),
        masked_loop=loop(s.steps),
        view=ViewSpec(prepared.tile_px, options.scale, options.jitter),
        # BEPH's 75 of 196, in proportion on another grid.
        mask=MaskSpec(grid, round(options.masked * grid**2 / 196), max(1, round(16 * grid**2 / 196))),
        mean=prepared.mean,
        std=prepared.std,
        batch=s.batch,
        seed=options.seed,
        workers=options.workers,
        distil=options.distil,
    )


def _hybrid(source: JoinedSource, options: PretrainOptions, teacher: Loaded) -> Prepared:
    from beph_store.encoders.torch_side.trunks import prepare_hybrid
    from beph_store.pretrain.session import sample

    if options.init == "none" and options.teacher != STEM:
        raise UsageError(f"--size mini takes its stem from its teacher: pass --teacher {STEM}")
    return prepare_hybrid(options.init, teacher, sample(source, 224, _SAMPLE, options.seed), options.seed)


def _write_result(done: Pretrained, options: PretrainOptions, mpp: float) -> None:
    told = json.loads(json.dumps(asdict(options), default=str))
    packages = versions(("beph-store", "torch", "torchvision", "timm", "onnx", "onnxruntime"))
    made = {"written_by": WRITTEN_BY, "written_at": now(), "machine": machine(), "versions": packages}
    write_json(done.out / RESULT, {**made, "mpp": mpp, "options": told, **done.to_json()})
