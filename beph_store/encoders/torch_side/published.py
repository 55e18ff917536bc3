"""Encoders of the catalogue, and a user's own of the same kind: the network timm builds, the weights of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beph_store.encoders.entry import POOLINGS, EncoderEntry, Network, Normalisation, Pooling, normalisation
from beph_store.encoders.table import ENCODERS, TIMM
from beph_store.encoders.torch_side.layouts import fit
from beph_store.encoders.torch_side.loaded import Loaded, read_tensors, tensors_sha256
from beph_store.encoders.torch_side.networks import build, pooled
from beph_store.encoders.torch_side.timm_models import require_architecture
from beph_store.encoders.weights import find
from beph_store.errors import UsageError, WeightsMismatch
from beph_store.records import EncoderSpec


def load_published(
    entry: EncoderEntry,
    weights: str | Path | None = None,
    *,
    variant: str | None = None,
    normalised_by: str | None = None,
    mpp: float | None = None,
) -> Loaded:
    """A row's encoder with the weights of a file: the one given, else the one on this machine, else the hub's.

    ``mpp`` only for networks of photographs. Raises WeightsMismatch unless every tensor of the file is accounted for,
    EncoderError that says how to come by the weights.
    """
    if entry.network is None:
        raise UsageError(f"{entry.name} is not built by timm")
    if mpp is not None and not entry.natural:
        raise UsageError(f"{entry.name} was trained at {entry.mpp} µm/px: ingest takes another --mpp")
    chosen = entry.variant(variant)
    path = Path(weights) if weights is not None else find(entry)
    trunk = build(entry.network, entry.tile_px)
    dropped = fit(trunk, read_tensors(path), path, resample=entry.network.grid is not None)
    statistics = normalisation(normalised_by or chosen.normalisation)
    name = chosen.name if normalised_by in (None, chosen.normalisation) else f"{chosen.name}, {normalised_by}"
    about = _About(
        entry.name, name, mpp or entry.mpp, entry.tile_px, chosen.pooling, statistics, entry.licence
    )
    loaded = _loaded(trunk, about, dropped)
    if loaded.spec.dim != chosen.dim:
        raise WeightsMismatch(
            f"{path.name} gives {loaded.spec.dim} numbers a tile, not {chosen.dim}", path=path
        )
    return loaded


@dataclass(frozen=True, slots=True)
class OwnEncoder:
    """A user's encoder: timm's ``architecture`` with ``arguments``, for tiles at ``mpp`` µm/px.

    ``tile_px`` None is the architecture's own side; for another one, positions are resampled. ``statistics`` None takes
    what timm says of the architecture.
    """

    name: str
    architecture: str
    mpp: float
    pooling: Pooling = "cls"
    tile_px: int | None = None
    statistics: Normalisation | None = None
    arguments: tuple[tuple[str, Any], ...] = ()
    licence: str = "not stated"


def load_own(own: OwnEncoder, weights: str | Path) -> Loaded:
    """A user's own encoder. Raises UsageError for a name that is taken, and as ``load_published``."""
    if own.name in ENCODERS or own.name.startswith(TIMM) or not own.name.strip() or "/" in own.name:
        raise UsageError(
            f"{own.name!r} cannot name your own encoder: take a name that `encoder list` does not have"
        )
    require_architecture(own.architecture)
    trunk, path = _sized(own), Path(weights)
    config: dict[str, Any] = trunk.pretrained_cfg  # type: ignore[assignment]
    dropped = fit(trunk, read_tensors(path), path, resample=own.tile_px is not None)
    mean, std = (tuple(255.0 * float(v) for v in config[key]) for key in ("mean", "std"))
    statistics = own.statistics or Normalisation(mean, std)  # type: ignore[arg-type]
    side = own.tile_px or _side_of(trunk) or int(config["input_size"][-1])
    about = _About(own.name, "default", own.mpp, side, own.pooling, statistics, own.licence)
    return _loaded(trunk, about, dropped)


def _sized(own: OwnEncoder) -> nn.Module:
    """The network for tiles of that side: a convolutional one takes any, a transformer is built for one."""
    network = Network(own.architecture, own.arguments, 0)
    trunk = build(network, own.tile_px or 224)
    if own.tile_px in (None, _side_of(trunk)) or _side_of(trunk) is None:
        return trunk
    arguments = (*own.arguments, ("img_size", own.tile_px))
    return build(Network(own.architecture, arguments, 0), own.tile_px or 224)


@dataclass(frozen=True, slots=True)
class _About:
    name: str
    variant: str
    mpp: float
    tile_px: int
    pooling: Pooling
    statistics: Normalisation
    licence: str


@torch.inference_mode()
def _loaded(trunk: nn.Module, about: _About, dropped: tuple[str, ...]) -> Loaded:
    model = pooled(trunk, about.pooling).eval()
    try:
        vectors = model(torch.zeros(1, 3, about.tile_px, about.tile_px))
    except (AssertionError, RuntimeError) as error:
        raise UsageError(f"{about.name} does not take tiles of {about.tile_px} px: {error}") from error
    if vectors.ndim != 2:
        raise UsageError(
            f"{about.name} does not pool its features to one vector a tile: it gives {tuple(vectors.shape)}"
        )
    spec = EncoderSpec(
        name=about.name,
        variant=about.variant,
        weights_sha256=tensors_sha256(dict(trunk.state_dict())),
        tile_px=about.tile_px,
        mpp=about.mpp,
        dim=int(vectors.shape[1]),
        pooling=POOLINGS[about.pooling],
        mean=about.statistics.mean,
        std=about.statistics.std,
        precision="fp32",
        licence=about.licence,
    )
    return Loaded(model, spec, dropped)


def _side_of(trunk: nn.Module) -> int | None:
    """Side of the tiles that a transformer was built for, px."""
    patch: Any = getattr(trunk, "patch_embed", None)
    size = getattr(patch, "img_size", None)
    return int(size[0]) if size else None
