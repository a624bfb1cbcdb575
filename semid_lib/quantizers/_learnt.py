"""What all tokenizers share that gradient steps train: the run, its last good state, collapse."""

from __future__ import annotations

import hashlib
import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.compute.device import resolve_device, resolve_precision
from semid_lib.compute.precision import PRECISIONS
from semid_lib.compute.threads import one_thread
from semid_lib.errors import CollapseWarning, InputError
from semid_lib.quantizers.balanced_kmeans import check_clusters
from semid_lib.quantizers.base import Quantizer, check_vectors
from semid_lib.settings import check_seed
from semid_lib.training import Hook, TrainSettings, train

STEPS = 20_000  # optimiser steps of a fit with epochs=None
CHUNK = 8192  # rows that are coded or decoded at once


class Run(Hook):
    """One training of a tokenizer: network and data on the device, and the last good state."""

    monitor = ""  # what chooses the epoch that is kept: the last

    def __init__(self, model: LearntQuantizer, X, seed: int):
        self.model = model
        self.seed = seed
        self.good = None  # the weights at the end of the last epoch, where the loss was finite
        self.device = resolve_device(model.device)
        dtype = PRECISIONS[resolve_precision(model.precision, self.device)][0]
        torch.manual_seed(seed)
        wide = X.astype(np.float64) if dtype == torch.float64 else X  # its k-means start, too
        self.network = model._build(wide, seed).to(self.device, dtype)
        self.data = torch.tensor(X, dtype=dtype, device=self.device)
        self.digest = hashlib.sha256(X).hexdigest()

    def __len__(self) -> int:
        """How many rows are trained on."""
        return len(self.data)

    def loss(self, index: Tensor, known=None) -> Tensor:
        """Mean loss of some rows."""
        return self.network.loss(self.data[index])

    def report(self) -> dict:
        """What the history holds of an epoch besides its loss."""
        return self.network.report(self.data)

    def end_epoch(self, entry) -> dict:
        """Report, and keep the state: here the loss was finite."""
        found = self.report()
        self.good = {name: t.clone() for name, t in self.network.state_dict().items()}
        return found

    def train(self, **keywords):
        """Train with the settings of the model; keywords go to `training.train`."""
        model = self.model
        epochs = model.epochs
        if epochs is None:
            epochs = math.ceil(STEPS / math.ceil(len(self) / model.batch_size))
        identity = {k: v for k, v in model.get_params().items() if k != "device"}
        settings = TrainSettings.of(
            model, epochs=epochs, schedule="constant", monitor=self.monitor, seed=self.seed
        )
        return train(
            self.network, self.loss, len(self), settings, hooks=[self], device=self.device,
            label=type(model).__name__, identity={**identity, "data": self.digest}, shared=False,
            **keywords,
        )  # fmt: skip


class LearntQuantizer(Quantizer):
    """A tokenizer whose network is trained by gradient steps.

    A subclass checks its settings in `_check()`, makes the network in `_build(X, seed)` (for
    `Run`: with `loss(rows)` and `report(rows)`), takes what it learnt in `_adopt(network, X)`
    and codes rows in `_encode(X)`. It has the settings num_levels, num_codes, epochs,
    batch_size, learning_rate, weight_decay, device, precision and random_state.
    """

    _run = Run

    def _check(self) -> None:
        """Settings that must fit each other or the rows."""

    def fit(self, X, y=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the rows of X, `[N, d]`; `y` is ignored.

        Args:
            checkpoint: file to resume from and write to. deadline, progress: see `training.train`.

        Raises:
            InputError: a bad setting, fewer rows than codes, non-finite or all-equal rows; or a
            loss that is not finite: the message names epoch and step, and the estimator keeps the
            state at the end of the epoch before, if there is one. TrainingPaused,
            CheckpointError: see `training.train`.

        Warns:
            CollapseWarning: a level gives every row the same code.

        On a CPU it computes in one thread, so that a seed decides the codes.
        """
        seed = check_seed(self.random_state)
        X = check_vectors(self, X, reset=True)
        check_clusters(self.num_codes, len(X))
        self._check()
        run = self._run(self, X, seed)
        keywords = dict(checkpoint=checkpoint, deadline=deadline, progress=progress)
        with one_thread(run.device):
            try:
                self.history_ = run.train(**keywords)
            except InputError:
                if run.good is not None:
                    run.network.load_state_dict(run.good)
                    self._finish(run.network, X)
                raise
            return self._finish(run.network, X)

    def _finish(self, network, X):
        self._adopt(network.eval(), X)
        self.codes_ = self._encode(X)
        for level, column in enumerate(self.codes_.T):
            if self.num_codes > 1 and len(X) > 1 and (column == column[0]).all():
                warnings.warn(
                    f"level {level} collapsed: all {len(X)} rows have code {column[0]} of "
                    f"{self.num_codes}. Start from k-means, restart dead codes, or use fewer "
                    "levels.", CollapseWarning, stacklevel=3,
                )  # fmt: skip
        return self

    def transform(self, X) -> np.ndarray:
        """The code of each level in turn, as at the end of `fit`, `[N, L]` int64."""
        self.check_fitted()
        X = check_vectors(self, X, reset=False)
        with one_thread(resolve_device(self.device)):
            return self._encode(X)


@torch.no_grad()
def in_chunks(function, rows: np.ndarray, like: Tensor) -> np.ndarray:
    """What a function makes of rows, on the device of `like`, floats in its precision."""
    rows = torch.tensor(rows, device=like.device)
    if rows.is_floating_point():
        rows = rows.to(like.dtype)
    return torch.cat([function(part) for part in rows.split(CHUNK)]).cpu().numpy()


def load_weights(network, arrays) -> None:
    """Load a network's state; files of earlier versions hold tallies of its training, too."""
    names = network.state_dict().keys()
    network.load_state_dict({n: torch.as_tensor(a) for n, a in arrays.items() if n in names})


def squared_error(rows: Tensor, targets: Tensor) -> Tensor:
    """Squared differences, summed over all dimensions but the first, averaged over the first."""
    return F.mse_loss(rows, targets, reduction="sum") / len(rows)
