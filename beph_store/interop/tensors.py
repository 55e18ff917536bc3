"""``.pt`` files: the plain tensors in them, read and written without torch and without running a pickle.

A file that ``torch.save`` wrote since 1.6 is a zip archive, nothing in it compressed: ``<name>/data.pkl`` describes the
tensors, ``<name>/data/<key>`` holds the bytes of each. The description is a pickle; it is interpreted here with a table
of the few names that describe plain tensors, each standing for a record of ours, and anything else is refused.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.interop.hdf5 import write_aside

#: Storage class of torch → how its elements are read; bfloat16 is widened to float32, which is exact.
_DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BFloat16Storage": "bf16",
}
#: A description of a few tensors takes some hundred bytes.
_PICKLE_MAX = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Refused(Exception):
    pass


def read_pt(path: Path, slide_id: str) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The tensor of a ``.pt`` file, or the tensors of its dict by name. SlideUnreadable for anything else."""

    def refuse(why: str) -> SlideUnreadable:
        return SlideUnreadable(f"{path.name}: {why}", slide_id=slide_id, path=path)

    if not path.is_file():
        raise refuse("is not there, or no regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            found = _describe(archive)
            prefix = _prefix(archive)
            if isinstance(found, _Tensor):
                return _load(archive, prefix, found, path)
            if isinstance(found, dict):
                plain = {str(k): v for k, v in found.items() if isinstance(v, _Tensor)}
                if plain:
                    return {name: _load(archive, prefix, tensor, path) for name, tensor in plain.items()}
        raise refuse("holds neither a tensor nor a dict of tensors")
    except _Refused as error:
        raise refuse(str(error)) from None
    except zipfile.BadZipFile:
        raise refuse(
            "is cut off, or no file of torch.save since 1.6: load it with weights_only=True and save it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError) as error:
        raise refuse(f"cannot be read: {str(error).splitlines()[0] if str(error) else error!r}") from error
    except pickle.UnpicklingError as error:
        raise refuse(f"holds more than plain tensors: {error}") from None


def _prefix(archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise _Refused("is a zip archive, but not one of torch.save")
    return names[0].removesuffix("data.pkl")


def _describe(archive: zipfile.ZipFile) -> Any:
    prefix = _prefix(archive)
    order = f"{prefix}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise _Refused("was saved on a big-endian machine")
    info = archive.getinfo(f"{prefix}data.pkl")
    if info.file_size > _PICKLE_MAX:
        raise _Refused("holds more than a few plain tensors")
    return _Interpreter(io.BytesIO(archive.read(info))).load()


class _Interpreter(pickle.Unpickler):
    """Knows the names that describe plain tensors, as records; every other name ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not one, and nothing of it was run")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or not isinstance(dtype, str):
            raise pickle.UnpicklingError("its storages are of an unknown kind")
        return _Storage(dtype, str(key), int(numel))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _load(archive: zipfile.ZipFile, prefix: str, tensor: _Tensor, path: Path) -> NDArray[Any]:
    storage = tensor.storage
    info = archive.getinfo(f"{prefix}data/{storage.key}")
    wide = storage.dtype == "bf16"
    dtype = np.dtype("<u2") if wide else np.dtype(storage.dtype)
    count = storage.numel
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < count * dtype.itemsize or count < 0:
        raise _Refused("its data are shorter than it says, or compressed")
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
    empty = 0 in tensor.size
    if min((*tensor.size, *tensor.stride, tensor.offset), default=0) < 0 or (not empty and last >= count):
        raise _Refused("a tensor reaches beyond its data")
    if empty:
        flat = np.empty(0, np.float32 if wide else dtype)
        return flat.reshape(tensor.size)
    flat = np.fromfile(path, dtype, count, offset=_start(info, path))
    if wide:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    strides = tuple(s * flat.itemsize for s in tensor.stride)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.size, strides)


def _start(info: zipfile.ZipInfo, path: Path) -> int:
    """Where the bytes of a stored member begin: behind its own header, whose extra field pads them to 64."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if head[0] != b"PK\x03\x04":
        raise _Refused("its archive is damaged")
    return info.header_offset + _LOCAL_HEADER.size + int(head[9]) + int(head[10])


def write_pt(path: Path, tensors: NDArray[Any] | Mapping[str, NDArray[Any]]) -> None:
    """One contiguous tensor, or a dict of them, as ``torch.load(weights_only=True)`` opens it; aside and renamed."""
    write_aside(path, lambda aside: _write(aside, path.stem, tensors))


def _write(aside: Path, name: str, tensors: NDArray[Any] | Mapping[str, NDArray[Any]]) -> None:
    named = tensors if isinstance(tensors, Mapping) else {"": tensors}
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        parts = []
        for key, (label, array) in enumerate(named.items()):
            parts.append((label, _spell(array, str(key))))
        body = parts[0][1] if not isinstance(tensors, Mapping) else _spell_dict(parts)
        archive.writestr(f"{name}/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr(f"{name}/byteorder", b"little")
        for key, array in enumerate(named.values()):
            with archive.open(zipfile.ZipInfo(f"{name}/data/{key}"), "w", force_zip64=True) as member:
                member.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        archive.writestr(f"{name}/version", b"3\n")


def _spell(array: NDArray[Any], key: str) -> bytes:
    """The opcodes (protocol 2) of one tensor: _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())."""
    kinds = {np.dtype(code): kind for kind, code in _DTYPES.items() if code != "bf16"}
    storage = b"(" + _text("storage") + f"ctorch\n{kinds[array.dtype]}\n".encode() + _text(key) + _text("cpu")
    storage += _whole(array.size) + b"tQ"
    stride = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    size, step = (b"(" + b"".join(map(_whole, values)) + b"t" for values in (array.shape, stride))
    empty = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _whole(0) + size + step + b"\x89" + empty + b"tR"
    )


def _spell_dict(parts: list[tuple[str, bytes]]) -> bytes:
    return b"}(" + b"".join(_text(label) + body for label, body in parts) + b"u"


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _whole(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes((value.bit_length() // 8) + 1, "little")
    return b"\x8a" + bytes([len(raw)]) + raw
