"""How much does beph-mini see? Six tissue classes of EBHI-Seg, by case.

    python benchmarks/probe_ebhi.py MANIFEST.csv --lite0 lite0.safetensors --tiles STORE|FOLDER…
                                    [--first BUNDLE] [--encoder beph-mini]

MANIFEST.csv has path, label and case_id; `lite0_weights.py` makes the teacher's file. A linear probe in five folds of
cases (`docs/probe.md`) with all, half and a quarter of the training cases, for beph-mini, its teacher
(EfficientNet-Lite0 of ImageNet, pooled), the same architecture with random weights, its first version where its bundle
is given, and the mean and spread of colour. The control is the architecture before its first step: the stem taken from
the teacher, its statistics from the ``--tiles`` that beph-mini was trained on. Intervals resample cases; differences
are paired, on the same draws.

beph-mini has seen these fields in its pre-training, without their labels: what is held out are labels and cases of the
probe. Its first version had not. And its scales and its pooling were chosen by probing these very fields, so its
figures here flatter it; nothing else at hand has labels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from numpy.typing import NDArray

from beph_store.cohort.image_sets import read_image_set
from beph_store.encoders.torch_side import mini
from beph_store.encoders.torch_side.export import ExportOptions, export_bundle, export_loaded
from beph_store.encoders.torch_side.loaded import Loaded
from beph_store.encoders.torch_side.timm_models import load_timm
from beph_store.encoders.torch_side.trunks import prepare_hybrid
from beph_store.engine.embed import read_image
from beph_store.engine.pretrain.options import STEM
from beph_store.engine.pretrain.sources import open_sources
from beph_store.engine.probe.images import Embedding, image_tiles
from beph_store.engine.probe.run import ProbeOptions, ProbeResult, probe
from beph_store.engine.probe.tiles import ProbeTiles
from beph_store.metrics import with_point
from beph_store.metrics.evaluate import summary
from beph_store.metrics.tiles import case_draws, tile_draws
from beph_store.pretrain.session import sample

FRACTIONS = (1.0, 0.5, 0.25)
SHOWN = ("balanced_accuracy", "accuracy", "auroc", "auroc[adenocarcinoma]")


def encoders(args: argparse.Namespace, work: Path) -> Iterator[tuple[str, str]]:
    """Name and bundle of each."""
    yield "beph-mini", args.encoder
    if args.first:
        yield "beph-mini, first version", str(args.first)
    export_bundle(STEM, work / "teacher", weights=args.lite0, options=ExportOptions(fp16_twin=False))
    yield "teacher: EfficientNet-Lite0, pooled", str(work / "teacher")
    pixels = sample(open_sources(args.tiles, None, None), mini.TILE_PX, 128, 0)
    start = prepare_hybrid("none", load_timm(STEM, args.lite0), pixels, 0).trunk
    spec = mini.load_mini_bundle(args.encoder).spec
    untrained = Loaded(mini.MeanAndSpread(start).eval(), spec, ())
    export_loaded(untrained, work / "start", ExportOptions(fp16_twin=False, force=True))
    yield "the teacher's stem, no step trained", str(work / "start")
    random = Loaded(
        mini.MeanAndSpread(mini.make_mini(seed=1)).eval(), mini.load_mini_bundle(args.encoder).spec, ()
    )
    export_loaded(random, work / "random", ExportOptions(fp16_twin=False, force=True))
    yield "random weights, same architecture", str(work / "random")


def colour(tiles: ProbeTiles, root: Path) -> NDArray[np.float32]:
    """(N, 6) mean and standard deviation of each channel."""
    pixels = (read_image(root / str(path)).reshape(-1, 3) for path in tiles.names["path"])
    return np.stack([np.concatenate([p.mean(0), p.std(0)]) for p in pixels]).astype(np.float32)


def differences(results: dict[str, ProbeResult]) -> dict[str, Any]:
    """beph-mini minus each other, balanced accuracy, with the 95 % interval over cases."""
    tiles = results["beph-mini"].tiles
    weights = with_point(case_draws(tiles.truth, tiles.case, 1000, 0))
    draws = {
        name: tile_draws(result.mean, tiles.truth, tiles.case, tiles.classes, weights)["balanced_accuracy"]
        for name, result in results.items()
    }
    own = draws.pop("beph-mini")
    return {name: _told(one) for name, one in summary({k: own - v for k, v in draws.items()}).items()}


def _told(one: Any) -> list[float]:
    return [round(float(value), 4) for value in (one.value, one.ci_low, one.ci_high)]


def main() -> None:
    """Embed, probe, write."""
    parser = command_line(__doc__, "probe_ebhi")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--lite0", type=Path, required=True)
    parser.add_argument("--tiles", type=Path, nargs="+", required=True)
    parser.add_argument("--first", type=Path)
    parser.add_argument("--encoder", default="beph-mini")
    args = parser.parse_args()
    images = read_image_set(args.manifest, "csv")
    found: dict[str, ProbeTiles] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, bundle in encoders(args, work):
            out = work / name.replace(" ", "-").replace(":", "")
            out.mkdir()
            found[name] = image_tiles(images, out, Embedding(bundle))
    found["colour: mean and spread"] = replace(
        found["beph-mini"], vectors=colour(found["beph-mini"], images.root)
    )
    table: dict[str, Any] = {}
    for fraction in FRACTIONS:
        options = ProbeOptions(train_fraction=fraction)
        results = {name: probe(tiles, options) for name, tiles in found.items()}
        table[f"{fraction:.0%} of the training cases"] = {
            "figures": {
                name: {"dim": result.tiles.vectors.shape[1]}
                | {metric: _told(result.metrics[metric]) for metric in SHOWN}
                for name, result in results.items()
            },
            "beph-mini minus, balanced accuracy": differences(results),
        }
        for name, result in results.items():
            print(f"{fraction:4.0%} {name:38} {_told(result.metrics['balanced_accuracy'])}", flush=True)
    data = {
        **conditions("scikit-learn", "onnxruntime", "torch", "timm"),
        "data": "EBHI-Seg, 994 fields of 165 cases, six classes; beph-mini saw the fields unlabelled",
        "figures": "value, low and high end of the 95 % interval over cases",
        "results": table,
    }
    write(args.name, data)


if __name__ == "__main__":
    main()
