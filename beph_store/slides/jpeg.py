"""One JPEG macro-tile to pixels, strictly.

Pixels equal OpenSlide's (the same libjpeg-turbo, exact DCT, fancy upsampling). Damage is an error here:
most decoders paint over it in grey without a word, and such a tile must not be encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beph_store.geometry import Size

_SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"


class JpegError(ValueError):
    """A stream that cannot be decoded without loss; the message is one line."""


@dataclass(frozen=True, slots=True)
class JpegReader:
    """Decodes streams of ``size`` (width, height) px whose components are RGB, or YCbCr.

    ``tables`` is TIFF's JPEGTables: a stream of quantisation and Huffman tables that the tiles leave out.
    """

    size: Size
    rgb: bool
    tables: bytes = b""
    _head: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tables = _without_application_data(self.tables).removesuffix(_EOI) if self.tables else b""
        object.__setattr__(self, "_head", _SOI + _adobe(0 if self.rgb else 1) + tables)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB. Raises JpegError."""
        import simplejpeg

        stream = self._head + _without_application_data(data)
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(stream)
            # Before decoding: the header of a hostile tile may promise 65,535 × 65,535 px.
            if (width, height) != self.size:
                raise JpegError(
                    f"a JPEG of {width} × {height} px where {self.size[0]} × {self.size[1]} belong"
                )
            image: NDArray[np.uint8] = simplejpeg.decode_jpeg(stream)
        except ValueError as error:
            raise JpegError(str(error).splitlines()[0]) from error
        return image


def has_jfif(data: bytes) -> bool:
    """Whether the stream says that it is JFIF, whose components are YCbCr whatever the container claims."""
    return data[2:4] == b"\xff\xe0" and data[6:10] == b"JFIF"


def _without_application_data(data: bytes) -> bytes:
    """The stream after SOI, without the APPn and comment segments at its head.

    The container says what the components are; a JFIF or Adobe segment would overrule it.
    """
    if data[:2] != _SOI:
        raise JpegError("no JPEG where one should be")
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and (0xE0 <= data[at + 1] <= 0xEF or data[at + 1] == 0xFE):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[at:]


def _adobe(transform: int) -> bytes:
    """Adobe's APP14 segment: transform 0 = the components are RGB, 1 = they are YCbCr."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
