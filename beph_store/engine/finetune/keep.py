"""The model that is kept: weights, bundle and classifier, side by side in the folder.

encoder.safetensors   weights that `finetune --weights` and `encoder export --weights` take
bundle/               the exported encoder: `ingest --encoder OUT/bundle`
classifier.json/npz   the linear head on its embeddings; written last
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from beph_store.encoders import load_bundle
from beph_store.engine.finetune.result import Kept
from beph_store.errors import ParityFailed
from beph_store.heads.tile_classifier import SPEC_FILE, WEIGHTS_FILE, TileClassifier, save_classifier

if TYPE_CHECKING:
    from beph_store.encoders.torch_side.loaded import Loaded
    from beph_store.heads.torch_side.finetuning.train import Fitted

WEIGHTS, BUNDLE = "encoder.safetensors", "bundle"
FILES = (WEIGHTS, BUNDLE, SPEC_FILE, WEIGHTS_FILE)


def keep(
    out: Path,
    fit: str,
    fitted: Callable[[], Fitted],
    loaded: Loaded,
    classes: tuple[str, ...],
    mpp: float | None,
) -> Kept:
    """Write the files of a fit, or find them where an earlier run wrote them all.

    A graph in fp16 that does not reproduce the trained weights is left out.
    """
    if not (out / SPEC_FILE).is_file():
        _write(out, fitted(), loaded, classes, mpp)
    files = {"weights": WEIGHTS, "bundle": BUNDLE, "classifier": SPEC_FILE}
    return Kept(fit, load_bundle(out / BUNDLE).spec, {what: str(out / name) for what, name in files.items()})


def _write(out: Path, fitted: Fitted, loaded: Loaded, classes: tuple[str, ...], mpp: float | None) -> None:
    from beph_store.encoders.torch_side.export import ExportOptions, export_loaded
    from beph_store.encoders.torch_side.trainable import trained, write_weights

    encoder = trained(loaded, fitted.encoder, mpp=mpp)
    write_weights(encoder, out / WEIGHTS)
    shutil.rmtree(out / BUNDLE, ignore_errors=True)  # of a run that was stopped here
    try:
        export_loaded(encoder, out / BUNDLE)
    except ParityFailed:
        export_loaded(encoder, out / BUNDLE, ExportOptions(fp16_twin=False))
    spec = encoder.spec
    save_classifier(TileClassifier(classes, fitted.weight, fitted.bias, spec.name, spec.weights_sha256), out)
