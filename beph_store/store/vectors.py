"""What may enter the store as an embedding, and how a slide's rows are hashed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beph_store.errors import VectorInvalid
from beph_store.halves import narrowed
from beph_store.records import READ_FAILED, READ_OK, TileSet
from beph_store.store.layout import tiles_schema

_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, eq=False)
class SlideRows:
    """All rows of one slide in tile order.

    ``origin_l0`` (N, 2) int32; ``tissue`` (N,) float32; ``ok`` (N,) bool; ``vectors`` (N, D) float16,
    zero where not ``ok``.
    """

    origin_l0: NDArray[np.int32]
    tissue: NDArray[np.float32]
    ok: NDArray[np.bool_]
    vectors: NDArray[np.float16]

    def sha256(self) -> str:
        """Hash of everything a reader would see, in a fixed byte order."""
        digest = hashlib.sha256()
        for array, dtype in (
            (self.origin_l0, "<i4"),
            (self.tissue, "<f4"),
            (self.ok, "|u1"),
            (self.vectors, "<f2"),
        ):
            digest.update(np.ascontiguousarray(array, dtype=dtype).data)
        return digest.hexdigest()

    def to_table(self, slide_id: str, ingest_id: str) -> pa.Table:
        """The rows as the columns of ``tiles_schema``."""
        n, dim = self.vectors.shape
        flat = pa.array(np.ascontiguousarray(self.vectors).reshape(-1))
        status = np.where(self.ok, READ_OK, READ_FAILED)
        columns = [
            pa.array([slide_id] * n, pa.string()),
            pa.array(np.arange(n, dtype=np.int32)),
            pa.array(np.ascontiguousarray(self.origin_l0[:, 0], np.int32)),
            pa.array(np.ascontiguousarray(self.origin_l0[:, 1], np.int32)),
            pa.array(self.tissue.astype(np.float32, copy=False)),
            pa.array(status.tolist(), pa.string()),
            # Without a mask where none is needed: Lance then writes the values as they lie, in half the time.
            pa.FixedSizeListArray.from_arrays(flat, dim, mask=None if self.ok.all() else pa.array(~self.ok)),
            pa.array([ingest_id] * n, pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=tiles_schema(dim))

    @classmethod
    def from_table(cls, table: pa.Table) -> SlideRows:
        """The inverse of ``to_table``; rows are put into tile order."""
        table = table.combine_chunks().sort_by("tile")
        embedding = table.column("embedding").combine_chunks()
        dim = embedding.type.list_size
        ok = ~np.asarray(embedding.is_null().to_numpy(zero_copy_only=False), dtype=bool)
        values = embedding.values.to_numpy(zero_copy_only=False)
        start = embedding.offset * dim
        vectors = values[start : start + len(embedding) * dim].reshape(-1, dim)
        if not ok.all():
            vectors = np.where(ok[:, None], vectors, np.float16(0))
        origin = np.column_stack([table.column("x").to_numpy(), table.column("y").to_numpy()])
        return cls(origin.astype(np.int32, copy=False), table.column("tissue").to_numpy(), ok, vectors)


def assemble(tiles: TileSet, ok: NDArray[np.bool_], vectors: NDArray[np.float16]) -> SlideRows:
    """Rows of a slide whose every tile was encoded or found unreadable."""
    return SlideRows(tiles.origin_l0, tiles.tissue, ok, vectors)


def row_peaks(half: NDArray[np.float16]) -> NDArray[np.uint16]:
    """(N,) of (N, D) float16, the greatest magnitude in each row as its bits: 0 is a row of zeros, 0x7C00 and above one
    that is not finite. Several times as fast as asking for either by float16's own arithmetic.
    """
    if not half.shape[1]:
        return np.zeros(len(half), np.uint16)
    peaks: NDArray[np.uint16] = (np.ascontiguousarray(half).view(np.uint16) & 0x7FFF).max(axis=1)
    return peaks


def to_float16(vectors: NDArray[np.float32], *, slide_id: str) -> NDArray[np.float16]:
    """(B, D) float16, or VectorInvalid: a value that is not finite, does not fit, or a row of zeros."""
    if vectors.dtype == np.float16 and len(vectors):
        peaks = row_peaks(vectors)  # type: ignore[arg-type]
        if peaks.min() > 0 and peaks.max() < 0x7C00:
            return vectors  # type: ignore[return-value]
    if not np.isfinite(vectors).all():
        raise VectorInvalid(
            "the encoder returned a NaN or infinite value: run `beph-store encoder check` on the bundle",
            slide_id=slide_id,
        )
    if float(np.abs(vectors).max(initial=0.0)) > _FLOAT16_MAX:
        raise VectorInvalid(
            f"an embedding exceeds {_FLOAT16_MAX:g}, the largest float16: rescale the encoder's output",
            slide_id=slide_id,
        )
    half = narrowed(vectors)
    if not half.any(axis=1).all():
        raise VectorInvalid(
            "the encoder returned an all-zero embedding: run `beph-store encoder check` on the bundle",
            slide_id=slide_id,
        )
    return half
