"""Read from an ONNX file, without the onnx package, where its tensors lie.

An ONNX graph may keep tensors in other files, at any path its author liked; those are looked up before
a runtime opens the graph. Only the few protobuf fields needed are walked.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from beph_store.errors import BundleInvalid

# Field numbers of onnx.proto: ModelProto.graph/functions, GraphProto.node/initializer/sparse_initializer,
# NodeProto.attribute, AttributeProto.t/g/tensors/graphs/sparse_tensor(s), SparseTensorProto.values/indices.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_MAX_DEPTH = 32


def external_locations(path: Path) -> set[str]:
    """Names of the files in which the graph at ``path`` keeps tensors; empty when it has them all itself.

    Raises BundleInvalid when the file is not a protobuf message.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise BundleInvalid(f"{path.name} is empty", path=path) from error
        with data, memoryview(data) as view:
            try:
                return set(_walk(view, 0, len(view), "model", 0))
            except (IndexError, ValueError) as error:
                raise BundleInvalid(f"{path.name} is not an ONNX graph", path=path) from error


def _walk(view: memoryview, at: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    inside = _INSIDE[kind]
    for number, start, stop in _fields(view, at, end):
        child = inside.get(number)
        if child == "entry":
            pair = {n: bytes(view[a:b]).decode() for n, a, b in _fields(view, start, stop)}
            if pair.get(_KEY) == "location":
                yield pair.get(_VALUE, "")
        elif child is not None:
            yield from _walk(view, start, stop, child, depth + 1)


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of every length-delimited field between two offsets; others are stepped over."""
    while at < end:
        tag, at = _varint(view, at)
        wire = tag & 7
        if wire == 2:
            length, at = _varint(view, at)
            if at + length > end:
                raise ValueError("field runs over its message")
            yield tag >> 3, at, at + length
            at += length
        elif wire == 0:
            _, at = _varint(view, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
    if at != end:
        raise ValueError("field runs over its message")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
