"""How good is the encoder by now: a vote of neighbours on labelled images, by case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.grouped import capped, tile_folds
from beph_store.cohort.image_sets import read_image_set
from beph_store.engine.embed import fit_tile, read_image
from beph_store.engine.pretrain.options import ProbeSet
from beph_store.heads.tilewise import vote_among

#: Neighbours that vote, and folds of cases.
_K, _FOLDS = 20, 5


def make_probe(
    wanted: ProbeSet,
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    tile_px: int,
    seed: int,
) -> Callable[[], dict[str, float]]:
    """A function that embeds the images anew and tells accuracies of held-out cases (0–1).

    Raises as ``read_image_set``, UsageError for an image that cannot be read, CohortError for too few cases.
    """
    images = read_image_set(wanted.images, wanted.layout)
    labels, case_ids = [x.label for x in images.images], [x.case_id for x in images.images]
    classes, truth = np.unique(labels, return_inverse=True)
    case = np.unique(case_ids, return_inverse=True)[1]
    keep = capped(truth.astype(np.int64), case.astype(np.int64), wanted.most, seed)
    truth, case = truth[keep].astype(np.int64), np.unique(case[keep], return_inverse=True)[1].astype(np.int64)
    folds = tile_folds(truth, case, [str(name) for name in classes], _FOLDS, seed=(seed,))
    fold = folds.fold[case]
    tiles = np.stack(
        [fit_tile(read_image(images.root / images.images[i].path), tile_px, "squeeze") for i in keep]
    )

    def probe() -> dict[str, float]:
        vectors = embed(tiles)
        vectors = vectors - vectors.mean(0)
        said = np.empty((len(truth), len(classes)))
        for number in range(_FOLDS):
            test = fold == number
            said[test] = vote_among(vectors[~test], truth[~test], vectors[test], len(classes), _K)
        right = said.argmax(1) == truth
        recalls = [right[truth == number].mean() for number in range(len(classes))]
        return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(recalls))}

    return probe
