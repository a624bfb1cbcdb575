"""Every error that the library raises on purpose, and its warnings.

Errors are `ValueError` subclasses, raised where the caller's input enters, and their
message names the value, the limit and the likely cause.
"""


class SemidError(ValueError):
    """Base of the library's errors."""


class DataError(SemidError):
    """A dataset that is malformed, cut short, or lacks what was asked of it."""


class ChecksumError(DataError):
    """A file whose bytes are not the pinned ones."""


class DownloadError(DataError):
    """A file that could not be fetched, or a dataset that must be fetched by hand."""


class UnorderedError(DataError):
    """Sequential use of data that carries no order."""


class InputError(SemidError):
    """Vectors or settings that a method cannot work with."""


class DeviceMemoryError(SemidError):
    """A training step that does not fit into the device's memory; the message says what does."""


class CodesError(SemidError):
    """Codes that are out of range, of the wrong shape, or not those of the catalogue."""


class CapacityError(CodesError):
    """Codes, a prefix or a cluster that cannot hold the items given."""


class UnknownItemError(SemidError):
    """An item id that was not in the catalogue at fit time."""


class EmptyHistoryError(SemidError):
    """A history with no item where at least one is needed."""


class NotFittedError(SemidError):
    """A method called before `fit` (or `load`)."""


class CheckpointError(SemidError):
    """A checkpoint or model file that is corrupt, or that belongs to another model."""


class StorageError(SemidError, OSError):
    """A file or folder that cannot be written, such as on a full disk."""


class RecordError(SemidError):
    """A run record that is corrupt, incomplete or contradicts an existing one."""


class MissingPackageError(SemidError, ImportError):
    """A feature whose optional package is not installed; the message says what to install."""


class CollapseWarning(UserWarning):
    """A level of a trained tokenizer that gives every item the same code."""
