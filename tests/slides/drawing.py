"""Files for the tests of this folder."""

from pathlib import Path

import numpy as np
import pydicom
import pydicom.uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"


def dicom(path: Path, pixels: np.ndarray, *, frame=(128, 96), mpp=0.5, series="1.2.3", encode=None, **extra):
    """A VL WSI file of one level; ``encode`` a frame (h, w, 3) to bytes, None for uncompressed.

    Without an ImageType unless one is given, which OpenSlide refuses.
    """
    height, width = pixels.shape[:2]
    columns, rows = -(-width // frame[0]), -(-height // frame[1])
    padded = np.zeros((rows * frame[1], columns * frame[0], 3), np.uint8)
    padded[:height, :width] = pixels
    frames = (
        padded.reshape(rows, frame[1], columns, frame[0], 3).swapaxes(1, 2).reshape(-1, frame[1], frame[0], 3)
    )
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = WSI
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.file_meta.TransferSyntaxUID = extra.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "SM", series, "1.2"
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.Columns, data.Rows, data.NumberOfFrames = *frame, len(frames)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.DimensionOrganizationType = "TILED_FULL"
    if mpp:
        measures = Dataset()
        measures.PixelSpacing = [mpp / 1000, mpp / 1000]
        groups = Dataset()
        groups.PixelMeasuresSequence = [measures]
        data.SharedFunctionalGroupsSequence = [groups]
    for name, value in extra.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    if encode is None:
        data.PixelData = frames.tobytes()
        data["PixelData"].VR = "OB"
    else:
        data.PixelData = encapsulate([encode(image) for image in frames])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
    return path


def entry_of(data: bytes, tag: int, directory: int = 0) -> int:
    """Offset of the entry of ``tag`` in a little-endian classic TIFF's n-th directory."""
    at = int.from_bytes(data[4:8], "little")
    for _ in range(directory):
        at = int.from_bytes(data[link_of(data, at) :][:4], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if int.from_bytes(data[entry : entry + 2], "little") == tag:
            return entry
    raise KeyError(tag)


def link_of(data: bytes, at: int) -> int:
    """Offset of the link to the next directory, of the directory at ``at``."""
    return at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")


def set_tag(path: Path, tag: int, value: int, *, kind: int = 4, count: int | None = None) -> None:
    """Overwrite a tag that holds one number."""
    data = bytearray(path.read_bytes())
    entry = entry_of(data, tag)
    data[entry + 2 : entry + 4] = kind.to_bytes(2, "little")
    if count is not None:
        data[entry + 4 : entry + 8] = count.to_bytes(4, "little")
    data[entry + 8 : entry + 12] = value.to_bytes(4, "little")
    path.write_bytes(data)


def piece(path: Path, index: int) -> tuple[int, int]:
    """(offset, bytes) of a tile of the first level."""
    data = path.read_bytes()
    found = []
    for tag in (324, 325):
        entry = entry_of(data, tag)
        width = {3: 2, 4: 4}[int.from_bytes(data[entry + 2 : entry + 4], "little")]
        at = int.from_bytes(data[entry + 8 : entry + 12], "little") + width * index
        found.append(int.from_bytes(data[at : at + width], "little"))
    return found[0], found[1]


def set_piece(path: Path, index: int, *, offset: int | None = None, count: int | None = None) -> None:
    """Overwrite where a tile of the first level lies, or how long it is."""
    data = bytearray(path.read_bytes())
    for tag, value in ((324, offset), (325, count)):
        if value is not None:
            entry = entry_of(data, tag)
            width = {3: 2, 4: 4}[int.from_bytes(data[entry + 2 : entry + 4], "little")]
            at = int.from_bytes(data[entry + 8 : entry + 12], "little") + width * index
            data[at : at + width] = value.to_bytes(width, "little")
    path.write_bytes(data)
