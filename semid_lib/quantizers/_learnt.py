"""Around the equations of a tokenizer that is learnt in the space of its input: start, training."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import torch

from semid_lib.errors import CollapseWarning, InputError
from semid_lib.quantizers.kmeans import flat_kmeans
from semid_lib.runtime import resolve_device, resolve_precision
from semid_lib.training import PRECISIONS, train

CHUNK = 4096  # rows coded at once


def train_network(model, network, X, **keywords):
    """Train `network` with the settings of `model` on X, `[N, D]`; keywords go to `training.train`.

    The network has `loss(rows [B, D])`, and `soft` and `hard` of what it makes of rows. Each
    epoch of the history holds what `epoch_report` finds.

    Returns:
        `(History, None)`; or `(None, error)` where the loss was not finite and at least one epoch
        was: the network then holds the weights at that epoch's end.
    """
    device = resolve_device(model.device)
    precision = resolve_precision(model.precision, device)
    rows = torch.tensor(X, dtype=PRECISIONS[precision][0], device=device)
    good = {}

    def end_epoch():
        good.update({name: t.clone() for name, t in network.state_dict().items()})
        return epoch_report(network, rows)

    identity = {k: v for k, v in model.get_params().items() if k != "device"}
    try:
        history = train(
            network, lambda batch: network.loss(rows[batch]), len(rows), epochs=model.epochs,
            batch_size=model.batch_size, learning_rate=model.learning_rate,
            weight_decay=model.weight_decay, schedule="constant", validate=end_epoch,
            monitor="epoch", precision=precision, device=device, seed=model.random_state,
            label=type(model).__name__,
            identity={**identity, "data": hashlib.sha256(X.data).hexdigest()}, **keywords,
        )  # fmt: skip
    except InputError as error:
        if not good:
            raise
        network.load_state_dict(good)
        return None, error
    return history, None


def epoch_report(network, rows) -> dict:
    """Errors of all rows as shares of their variance, and usage and perplexity of each level."""
    total = float((rows - rows.mean(dim=0)).square().sum())
    soft, hard, entropy = rows.new_zeros(()), rows.new_zeros(()), 0
    used = torch.zeros(network.codebooks.shape[:2], device=rows.device)
    for x in rows.split(CHUNK):
        steps = network(x)
        soft += (x - network.soft(steps)).square().sum()
        hard += (x - network.hard(steps)).square().sum()
        used.scatter_(1, steps.codes.T, 1)
        shares = torch.stack([w / w.sum(dim=1, keepdim=True) for w in steps.weights])
        entropy = entropy + torch.special.entr(shares).sum(dim=(1, 2))
    return {
        "soft_error": float(soft) / total,
        "hard_error": float(hard) / total,
        "usage": used.mean(dim=1).tolist(),
        "perplexity": (entropy / len(rows)).exp().tolist(),
    }


def warn_collapsed(codes, num_codes: int) -> None:
    """Warn of every level that gives all items one code."""
    for level, column in enumerate(codes.T):
        if num_codes > 1 and len(codes) > 1 and (column == column[0]).all():
            warnings.warn(
                f"level {level} collapsed: all {len(codes)} rows have code {column[0]} of "
                f"{num_codes}. Start from k-means, restart dead codes, or use fewer levels.",
                CollapseWarning, stacklevel=3,
            )  # fmt: skip


def residual_centroids(X, num_levels, num_codes, seed, spherical=False, max_iter=25):
    """Cluster X, subtract each row's centroid, cluster again.

    Args:
        X: `[N, D]`, N >= K. seed: integer.
        spherical: assign by cosine (spherical k-means); centroids are means of whole rows still.

    Returns:
        `[L, K, D]` in the dtype of X. Where fewer than K distinct rows are left, some repeat.
    """
    find = _spherical if spherical else _euclidean
    codebooks, rest = np.empty((num_levels, num_codes, X.shape[1]), X.dtype), X
    for level in range(num_levels):
        start = int(np.random.SeedSequence([seed, level]).generate_state(1)[0])
        codebooks[level], code = find(rest, num_codes, start, max_iter)
        rest = rest - codebooks[level][code]
    return codebooks


def _euclidean(X, k, seed, max_iter):
    flat = flat_kmeans(X, k, max_iter, seed)
    return flat.cluster_centers_, flat.labels_


def _spherical(X, k, seed, max_iter):
    """Lloyd's steps by cosine from k-means centroids of the directions; an empty one stays."""
    U = _unit(X)
    centres, code = _unit(flat_kmeans(U, k, 2, seed).cluster_centers_), None
    for _ in range(max_iter):
        before, code = code, (U @ centres.T).argmax(axis=1)
        if before is not None and (code == before).all():
            break
        sums = _sums(U, code, k)
        centres = np.where(sums.any(axis=1, keepdims=True), _unit(sums), centres)
    size = np.bincount(code, minlength=k)[:, None]
    typical = np.linalg.norm(X, axis=1).mean()
    means = _sums(X, code, k) / np.maximum(size, 1)
    return np.where(size > 0, means, typical * centres).astype(X.dtype), code


def _sums(X, code, k):
    """Sum of the rows of each code, `[k, D]`."""
    from scipy import sparse

    rows = np.arange(len(X))
    return sparse.csr_array((np.ones(len(X), X.dtype), (code, rows)), (k, len(X))) @ X


def _unit(X):
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(length > 0, length, 1)
