"""Features of a slide in the layouts that the tools publish, written by hand: not with what is tested."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np


@dataclass
class Drawn:
    """A slide's features: ``vectors`` (N, D) float32, ``origin`` (N, 2) level-0 px of a grid of 512."""

    name: str
    vectors: np.ndarray
    origin: np.ndarray
    size: tuple[int, int] = (40000, 30000)
    mpp_l0: float = 0.25
    extra: dict = field(default_factory=dict)


def draw(name: str, n: int = 40, dim: int = 12, seed: int = 0) -> Drawn:
    rng = np.random.default_rng([seed, n, dim])
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(-(-n // 8)), indexing="ij"), -1).reshape(-1, 2)[:n]
    return Drawn(name, rng.normal(size=(n, dim)).astype(np.float32), grid * 512 + np.array([1024, 777]))


def resizable(file, key: str, data: np.ndarray, rows: int, attributes: dict | None = None):
    """A dataset as both CLAM's and TRIDENT's writers make them: chunked by rows, resizable, uncompressed."""
    made = file.create_dataset(
        key,
        shape=data.shape,
        maxshape=(None, *data.shape[1:]),
        chunks=(rows, *data.shape[1:]),
        dtype=data.dtype,
    )
    made[:] = data
    made.attrs.update(attributes or {})
    return made


def clam(root: Path, slide: Drawn, *, pt: bool = True, h5: bool = True) -> Path:
    """Tiles of 256 px of level 1, which is half of level 0; features appended batch by batch."""
    import torch

    for folder in ("patches", "h5_files", "pt_files"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    half = (slide.size[0] // 2, slide.size[1] // 2)
    with h5py.File(root / "patches" / f"{slide.name}.h5", "w") as file:
        resizable(
            file,
            "coords",
            slide.origin.astype(np.int64),
            1,
            {
                "patch_size": 256,
                "patch_level": 1,
                "downsample": (2.0, 2.0),
                "downsampled_level_dim": half,
                "level_dim": half,
                "name": slide.name,
                "save_path": str(root / "patches"),
            },
        )
    if h5:
        with h5py.File(root / "h5_files" / f"{slide.name}.h5", "w") as file:
            features = resizable(file, "features", slide.vectors[:7], 1)
            coords = resizable(file, "coords", slide.origin[:7].astype(np.int32), 1)
            for dataset, data in ((features, slide.vectors), (coords, slide.origin)):
                dataset.resize(len(data), axis=0)
                dataset[7:] = data[7:]
    if pt:
        torch.save(torch.from_numpy(slide.vectors), root / "pt_files" / f"{slide.name}.pt")
    return root


def trident(root: Path, slide: Drawn, *, encoder: str = "uni_v1", overlap: int = 0) -> Path:
    scale = root / f"20x_256px_{overlap}px_overlap"
    attributes = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": overlap,
        "name": slide.name,
        "savetodir": str(scale),
        "level0_width": slide.size[0],
        "level0_height": slide.size[1],
    }
    (scale / "patches").mkdir(parents=True, exist_ok=True)
    (scale / f"features_{encoder}").mkdir(exist_ok=True)
    with h5py.File(scale / "patches" / f"{slide.name}_patches.h5", "w") as file:
        resizable(file, "coords", slide.origin.astype(np.int64), 1, attributes)
    with h5py.File(scale / f"features_{encoder}" / f"{slide.name}.h5", "w") as file:
        about = {"name": slide.name, "savetodir": str(scale), "encoder": encoder}
        resizable(file, "features", slide.vectors, 1, about)
        resizable(file, "coords", slide.origin.astype(np.int64), 1, attributes)
    return root


def stamp(root: Path, slide: Drawn, *, extractor: str = "uni2") -> Path:
    folder = root / f"{extractor}-1a2b3c4d"
    path = folder / f"{slide.name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = (slide.origin * slide.mpp_l0).astype(np.float32)
        file["feats"] = slide.vectors.astype(np.float16)
        file.attrs.update(
            {
                "stamp_version": "2.5.0",
                "extractor": extractor,
                "unit": "um",
                "tile_size_um": 128.0,
                "tile_size_px": 256,
                "code_hash": "1a2b3c4d",
                "feat_type": "tile",
            }
        )
    return root


def slide2vec(root: Path, slide: Drawn, *, encoder: str = "virchow2", npz: bool = False) -> Path:
    import torch

    for folder in ("tiles", "tile_embeddings"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    n = len(slide.vectors)
    tissue = np.linspace(0.3, 1, n, dtype=np.float32)
    if n:
        np.savez_compressed(
            root / "tiles" / f"{slide.name}.coordinates.npz",
            tile_index=np.arange(n, dtype=np.int32),
            x=slide.origin[:, 0].astype(np.int64),
            y=slide.origin[:, 1].astype(np.int64),
            tissue_fractions=tissue,
        )
    tiling = {
        "provenance": {"sample_id": slide.name, "image_path": f"/slides/{slide.name}.svs"},
        "slide": {"dimensions": slide.size, "base_spacing_um": slide.mpp_l0, "level_downsamples": [1.0, 4.0]},
        "tiling": {
            "requested_tile_size_px": 256,
            "requested_spacing_um": 0.5,
            "tile_size_lv0": 512,
            "step_px_lv0": 512,
            "overlap": 0.0,
            "min_tissue_fraction": 0.25,
            "n_tiles": n,
        },
        "artifact": {"coordinate_space": "level0_px", "tile_order": "x_then_y"},
    }
    (root / "tiles" / f"{slide.name}.coordinates.meta.json").write_text(json.dumps(tiling))
    made = root / "tile_embeddings" / slide.name
    if n and npz:
        np.savez_compressed(f"{made}.npz", features=slide.vectors, tile_index=np.arange(n, dtype=np.int32))
    elif n:
        torch.save(torch.from_numpy(slide.vectors), f"{made}.pt")
    meta = {
        "sample_id": slide.name,
        "artifact_type": "tile_embeddings",
        "encoder_name": encoder,
        "feature_dim": slide.vectors.shape[1] if n else None,
        "feature_dtype": "fp32",
        "format": "npz" if npz else "pt",
        "image_path": f"/slides/{slide.name}.svs",
        "num_tiles": n,
        "requested_tile_size_px": 256,
        "requested_spacing_um": 0.5,
        "tile_size_lv0": 512,
    }
    Path(f"{made}.meta.json").write_text(json.dumps(meta))
    return root


def atlaspatch(root: Path, slide: Drawn, *, encoders: tuple[str, ...] = ("resnet50", "uni_v2")) -> Path:
    """One file; the vectors of the encoders differ by their sign."""
    (root / "patches").mkdir(parents=True, exist_ok=True)
    n = len(slide.origin)
    with h5py.File(root / "patches" / f"{slide.name}.h5", "w") as file:
        coords = np.column_stack([slide.origin, np.full((n, 3), (256, 256, 1))]).astype(np.int32)
        resizable(file, "coords", coords, 8192)
        file.create_dataset("passports", data=np.array([b"p"] * n, "S160"), maxshape=(None,), chunks=(64,))
        for number, encoder in enumerate(encoders):
            resizable(file, f"features/{encoder}", slide.vectors * (-1) ** number, 32)
        file.attrs.update(
            {
                "patch_size": 256,
                "patch_size_level0": 512,
                "level0_magnification": 40,
                "target_magnification": 20,
                "overlap": 0,
                "level0_width": slide.size[0],
                "level0_height": slide.size[1],
                "wsi_path": f"/slides/{slide.name}.svs",
                "num_patches": n,
            }
        )
    return root


def bags(root: Path, slide: Drawn, *, as_dict: bool = False) -> Path:
    import torch

    root.mkdir(parents=True, exist_ok=True)
    tensor = torch.from_numpy(slide.vectors)
    coords = torch.from_numpy(slide.origin.astype(np.int64))
    torch.save({"features": tensor, "coords": coords} if as_dict else tensor, root / f"{slide.name}.pt")
    return root
