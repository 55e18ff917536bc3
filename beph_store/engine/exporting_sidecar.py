"""What an export keeps beside the other tool's files, so that nothing is lost on the way back.

    DIR/beph-store/<recipe>/export.json              the recipe, its encoder's source, the format
    DIR/beph-store/<recipe>/<file of vectors>.npz    the slide's registry row, all its places and tissue, its rasters

Other tools do not look there. With it, an import of the untouched files makes the slide that was exported, byte for
byte, in the same feature space; without it the files are imported like anybody's.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.records import Rasters, Recipe, TissueMask
from beph_store.regular import require_regular
from beph_store.store import RecipeRecord, SlideRow
from beph_store.store.durable import write_atomic, write_json

FOLDER = "beph-store"
_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One slide: its registry row, (N, 2) int32 places, (N,) tissue and ok of all its tiles, its rasters."""

    row: SlideRow
    origin_l0: NDArray[np.int32]
    tissue: NDArray[np.float32]
    ok: NDArray[np.bool_]
    rasters: Rasters


@dataclass(frozen=True, slots=True)
class Export:
    """One recipe's export: ``root`` the folder that holds it, ``kind`` the format, ``encoder`` as it is called."""

    root: Path
    kind: str
    encoder: str
    record: RecipeRecord

    @property
    def folder(self) -> Path:
        """Where its entries lie."""
        return self.root / FOLDER / self.record.recipe.key

    def begin(self, written_by: str) -> None:
        """Record what is exported; the same again changes nothing."""
        data = {
            "format": _FORMAT,
            "written_by": written_by,
            "exported_as": self.kind,
            "encoder": self.encoder,
            "recipe": self.record.recipe.to_json(),
            "encoder_source": self.record.encoder_source,
            "parity": self.record.parity,
            "created_at": self.record.created_at,
        }
        write_json(self.folder / "export.json", data)

    def path(self, vectors: Path) -> Path:
        """The entry of the slide whose vectors are in that file."""
        inside = vectors.resolve().relative_to(self.root.resolve())
        return self.folder / inside.with_name(f"{inside.name}.npz")

    def write(self, vectors: Path, entry: Entry) -> None:
        """Write the entry of a slide aside and rename it."""
        mask = entry.rasters.tissue
        about = {"mpp_x": mask.mpp_x, "mpp_y": mask.mpp_y, "method": mask.method}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            row=_packed(entry.row.to_json()),
            origin=entry.origin_l0,
            tissue=entry.tissue,
            ok=entry.ok,
            thumbnail=entry.rasters.thumbnail,
            mask=mask.mask,
            about=_packed(about),
        )
        path = self.path(vectors)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())

    def row(self, vectors: Path) -> SlideRow | None:
        """The registry row in the entry of that file, None where there is no entry that can be read."""
        try:
            require_regular(self.path(vectors))
            with np.load(self.path(vectors), allow_pickle=False) as file:
                return SlideRow.from_json(_unpacked(file["row"]))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None

    def read(self, vectors: Path) -> Entry:
        """The entry of that file; SlideUnreadable where it is damaged."""
        path = self.path(vectors)
        try:
            require_regular(path)
            with np.load(path, allow_pickle=False) as file:
                about = _unpacked(file["about"])
                mask = TissueMask(file["mask"], about["mpp_x"], about["mpp_y"], about["method"])
                return Entry(
                    SlideRow.from_json(_unpacked(file["row"])),
                    file["origin"],
                    file["tissue"],
                    file["ok"],
                    Rasters(file["thumbnail"], mask),
                )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            why = f"{path} is damaged ({str(error).splitlines()[0]}): --no-sidecar imports without it"
            raise SlideUnreadable(why, path=path) from error


def exports_at(path: Path) -> list[Export]:
    """The exports that the folder, or one up to four above it, holds."""
    path = path.resolve()
    for root in (path, *path.parents[:4]):
        found = [_read(root, file) for file in sorted((root / FOLDER).glob("*/export.json"))]
        if found:
            return [one for one in found if one is not None]
    return []


def _read(root: Path, file: Path) -> Export | None:
    try:
        require_regular(file)
        data = json.loads(file.read_bytes())
        if data["format"] != _FORMAT:
            return None
        recipe = Recipe.from_json(data["recipe"])
        record = RecipeRecord(recipe, data["encoder_source"], data["parity"], data["created_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (
        Export(root, data["exported_as"], data["encoder"], record) if recipe.key == file.parent.name else None
    )


def _packed(data: dict[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def _unpacked(raw: NDArray[np.uint8]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(raw.tobytes())
    return data
