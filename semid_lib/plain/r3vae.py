"""R3-VAE's equations, one item, codeword and pair at a time.

`settings` is the model, of which `reference`, `temperature`, `top_k`, `renormalise`, `sc_vectors`,
`sc_weight` and `pd_weight` are read.
"""

from __future__ import annotations

import numpy as np

from semid_lib.plain.metrics import cosine, preference_discrimination, semantic_cohesion


def r3vae_weights(e, book, settings) -> np.ndarray:
    """The ratings `[M]` of a residual: softmax of its cosines to the codewords (Eq. 3 and 4).

    `top_k` keeps the highest ones, and with `renormalise` they sum to 1 again.

    Args: e `[d]`; book `[M, d]`.
    """
    scores = np.array([cosine(e, codeword) for codeword in book])
    exps = np.exp(scores / settings.temperature)
    if settings.top_k is None:
        return exps / exps.sum()
    top = sorted(range(len(book)), key=lambda k: -scores[k])[: settings.top_k]
    total = sum(exps[k] for k in top) if settings.renormalise else exps.sum()
    return np.array([exps[k] / total if k in top else 0 for k in range(len(book))])


def r3vae_item(x, reference, books, settings):
    """Code one item (Eq. 1 to 7).

    e^0 = x - alpha r with alpha = <x, r> / ||r||^2; level by level the part is the sum of the
    weighted codewords, the code the largest weight, and the part is taken off the residual.

    Args: x, reference r `[d]`; books: L arrays `[M, d]`.
    Returns: alpha r `[d]`, and a list of L of each: residuals, weights, codes, parts.
    """
    r = reference
    along = sum(x * r) / sum(r * r) * r if settings.reference else 0 * x
    e = x - along
    residuals, weights, codes, parts = [], [], [], []
    for book in books:
        w = r3vae_weights(e, book, settings)
        part = sum(w[k] * codeword for k, codeword in enumerate(book))
        residuals.append(e)
        weights.append(w)
        codes.append(int(np.argmax(w)))
        parts.append(part)
        e = e - part
    return along, residuals, weights, codes, parts


def r3vae_cohesion(items, settings) -> float:
    """The SC term of training: Eq. 8 and 9 of each level's clusters in the batch, mean over levels.

    A cluster holds the items that share the level's code; its vectors are their residuals, or with
    `sc_vectors="quantized"` the sums of their parts so far.

    Args: items: what `r3vae_item` returned for each item of the batch.
    """
    levels = []
    for level in range(len(items[0][3])):
        if settings.sc_vectors == "residual":
            q = [residuals[level] for _, residuals, _, _, _ in items]
        else:
            q = [sum(parts[: level + 1]) for _, _, _, _, parts in items]
        levels.append(semantic_cohesion(q, [codes[level] for _, _, _, codes, _ in items]))
    return np.mean(levels)


def r3vae_loss(X, reference, books, settings) -> float:
    """Mean squared error - sc_weight SC + pd_weight PD (Eq. 13), PD the mean over the levels.

    Args: X `[B, d]`; reference `[d]`; books: L arrays `[M, d]`.
    """
    items = [r3vae_item(x, reference, books, settings) for x in X]
    errors = [((x - along - sum(parts)) ** 2).sum() for x, (along, *_, parts) in zip(X, items)]
    pd = np.mean([preference_discrimination(book) for book in books])
    sc = r3vae_cohesion(items, settings)
    return np.mean(errors) - settings.sc_weight * sc + settings.pd_weight * pd
