"""Every error this library raises on purpose.

    BephStoreError
    ├── UsageError            an argument that cannot be meant; the caller must change it
    │   └── MissingExtra      an optional dependency is not installed
    ├── SlideError            one slide cannot be used; the run goes on without it
    │   ├── SlideUnreadable   no reader opens the file, or a reader crashed on it
    │   ├── MppMissing        the file does not say how large a pixel is
    │   ├── MppImplausible    it says something that cannot be true
    │   └── SlideChanged      the file differs from the one the store knows by this id
    ├── EncoderError
    │   ├── UnknownEncoder
    │   ├── WeightsMismatch   tensors missing, left over, or of the wrong shape
    │   ├── BundleInvalid     the folder is not an encoder bundle, or was altered
    │   └── ParityFailed      an exported encoder does not reproduce its reference
    ├── CohortError           a table of labels or a split cannot be used as it is
    │   └── AmbiguousColumn   it can be read in two ways; a flag decides
    ├── HeadError             a head cannot be trained, loaded or applied
    ├── SearchError           a search or its index cannot be done as asked
    ├── RuntimeUnavailable    the inference runtime cannot be used on this machine
    ├── ObjectStorageError    a bucket cannot be reached, or refuses; an OSError as well, as a disk's would be
    ├── ClusterUnavailable    no Ray cluster can be reached, or it has no room for what was asked
    └── StoreError
        ├── NotAStore
        ├── FormatUnknown     written by a version that this one does not know
        ├── RecipeMismatch    vectors of another feature space
        ├── VectorInvalid     a non-finite or all-zero embedding
        ├── UnknownSlide
        └── QueryError

A message says what, which, and the cure, in one line. Messages come first and
context is keyword-only, so that an error survives the way back from a worker process.
"""

from __future__ import annotations


class BephStoreError(Exception):
    """Base of every error raised on purpose."""

    def __init__(self, message: str, *, slide_id: str | None = None, path: object = None) -> None:
        super().__init__(message)
        self.slide_id = slide_id
        self.path = None if path is None else str(path)


class UsageError(BephStoreError):
    """An argument that cannot be meant."""


class MissingExtra(UsageError):
    """An optional dependency is not installed."""


class SlideError(BephStoreError):
    """One slide cannot be used."""


class SlideUnreadable(SlideError):
    """No reader opens the file, or a reader crashed on it."""


class MppMissing(SlideError):
    """The file does not say how large a pixel is."""


class MppImplausible(SlideError):
    """The stated pixel size cannot be true."""


class SlideChanged(SlideError):
    """The file differs from the one the store knows by this id."""


class EncoderError(BephStoreError):
    """An encoder cannot be loaded, exported or trusted."""


class UnknownEncoder(EncoderError):
    """No encoder of that name."""


class WeightsMismatch(EncoderError):
    """The tensors of a checkpoint do not fit the architecture one to one."""


class BundleInvalid(EncoderError):
    """The folder is not an encoder bundle, or was altered."""


class ParityFailed(EncoderError):
    """An exported encoder does not reproduce its reference."""


class CohortError(BephStoreError):
    """A table of labels or a split cannot be used as it is."""


class AmbiguousColumn(CohortError):
    """A table can be read in two ways; a flag decides."""


class HeadError(BephStoreError):
    """A head cannot be trained, loaded or applied."""


class SearchError(BephStoreError):
    """A search or its index cannot be done as asked."""


class RuntimeUnavailable(BephStoreError):
    """The inference runtime cannot be used on this machine."""


class ClusterUnavailable(BephStoreError):
    """No Ray cluster can be reached, or it has no room for what was asked."""


class ObjectStorageError(BephStoreError, OSError):
    """A bucket cannot be reached, or refuses what was asked; handled wherever an error of a disk is."""


class StoreError(BephStoreError):
    """The store cannot do what was asked."""


class NotAStore(StoreError):
    """The folder is not a beph-store."""


class FormatUnknown(StoreError):
    """Written by a version that this one does not know."""


class RecipeMismatch(StoreError):
    """Vectors of another feature space."""


class VectorInvalid(StoreError):
    """A non-finite or all-zero embedding."""


class UnknownSlide(StoreError):
    """The store holds no slide of that id."""


class QueryError(StoreError):
    """A query that cannot be run."""
