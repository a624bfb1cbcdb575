"""What models of a catalogue share: the ids of its items, and saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from semid_lib.errors import NotFittedError
from semid_lib.settings import check_settings, kept_settings, of_python
from semid_lib.storage import load_tensors, restoring, save_tensors


class ItemModel(BaseEstimator):
    """A model fitted on a catalogue, which remembers whose it is and is saved without pickle.

    A subclass calls `self.remember(split)` in `fit` and writes `state()` and `restore(tensors)`.
    Inside, items are always 0..N-1.

    Attributes:
        reads_fields: capability; whether `fit` sets `fields_`, the names of the fields it reads.
        num_items_: N. item_ids_: `[N]` original ids, or None where they are 0..N-1.
    """

    reads_fields = False

    def remember(self, split) -> None:
        """Remember the catalogue of a split: how many items, and their original ids.

        Called by every `fit`. `split` is anything with `num_items` and `data.item_ids`.
        """
        self.num_items_ = split.num_items
        ids = split.data.item_ids
        self.item_ids_ = None if ids is None else ids_array(np.asarray(ids).tolist())
        self._index = None

    @property
    def num_items_fitted(self) -> int:
        """Catalogue size N; raises NotFittedError before `fit`."""
        if not hasattr(self, "num_items_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(split) first")
        return self.num_items_

    def save(self, path: str | Path) -> Path:
        """Write settings and learnt tensors into one safetensors file, atomically."""
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        meta = {
            "kind": type(self).__name__, "params": self.get_params(), "num_items": self.num_items_,
            "item_ids": None if self.item_ids_ is None else self.item_ids_.tolist(),
            "fields": self.fields_ if self.reads_fields else None,
        }  # fmt: skip
        if hasattr(self, "history_"):
            meta["history"] = {**vars(self.history_), "snapshots": {}}
        return save_tensors(path, self.state(), meta)

    @classmethod
    def load(cls, path: str | Path):
        """Read what `save` wrote. Raises CheckpointError for another model's or a cut file."""
        tensors, meta = load_tensors(path, cls.__name__)
        with restoring(path, cls.__name__):
            self = cls(**kept_settings(cls, meta["params"]))
            check_settings(self)
            self.num_items_ = meta["num_items"]
            self.item_ids_ = None if meta["item_ids"] is None else ids_array(meta["item_ids"])
            self._index = None
            if meta.get("fields"):
                self.fields_ = tuple(meta["fields"])
            if "history" in meta:
                from semid_lib.training import History

                self.history_ = History(**meta["history"])
            self.restore(tensors)
        return self

    def state(self) -> dict:
        """What was learnt, name -> tensor, for `save`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be saved: it has no state()")

    def restore(self, tensors: dict) -> None:
        """Take back what `state` returned; `load` has set settings and catalogue already."""
        raise NotImplementedError(f"{type(self).__name__} cannot be loaded: it has no restore()")


def ids_array(ids: list) -> np.ndarray:
    """Ids as they are: int64 `[N]` where all are such integers, else objects `[N]`.

    NumPy would make text of integers that stand beside text, and cut zeros off its end.
    """
    ids = of_python(ids)
    if all(type(item) is int and abs(item) < 2**63 for item in ids):
        return np.array(ids, dtype=np.int64)
    array = np.empty(len(ids), dtype=object)
    array[:] = ids
    return array
