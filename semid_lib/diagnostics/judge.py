"""What a record says about an encoder's vectors and a quantizer's codes."""

from __future__ import annotations

import math

import numpy as np


def judge_vectors(vectors: np.ndarray, split, communities: np.ndarray) -> dict:
    """Measure whether near items are alike, in kind and in behaviour (ReSID, App. I.1).

    Args:
        vectors: `[N, D]`. split: its side fields give the kind.
        communities: `[N]` int64, -1 for none: `diagnostics.louvain` of the train part.

    Returns:
        "effective_rank", and "purity" (of the 20 nearest), "chance" (that of vectors that know
        nothing) and "nmi", each label -> value; the labels are "category" (the first field named
        so, else the first one) and "community". "label_field" names the field. "pd": PD of the
        vectors "raw", "centred" (minus their mean) and "projected" (without their part along the
        mean), as in R3-VAE, Fig. 3. JSON-able.

    Cost: O(N^2 D), and a k-means with as many clusters as labels.
    """
    from semid_lib.diagnostics import (
        chance_purity,
        cluster_nmi,
        effective_rank,
        neighbour_purity,
        preference_discrimination,
    )  # fmt: skip

    fields, labels = split.data.fields, {"community": communities}
    names = [*(name for name in fields if name.startswith("category")), *fields]
    if names:
        labels["category"] = fields[names[0]]
    labels = {name: rows for name, rows in labels.items() if (rows >= 0).sum() > 20}
    found = {"effective_rank": effective_rank(vectors), "label_field": (names or [None])[0]}
    for key, measure in (("purity", neighbour_purity), ("nmi", cluster_nmi)):
        found[key] = {name: measure(vectors, rows) for name, rows in labels.items()}
    found["chance"] = {name: chance_purity(rows) for name, rows in labels.items()}
    mean = vectors.mean(axis=0, dtype=np.float64).astype(vectors.dtype)
    along = np.outer(vectors @ mean / max(mean @ mean, np.finfo(mean.dtype).tiny), mean)
    views = {"raw": vectors, "centred": vectors - mean, "projected": vectors - along}
    found["pd"] = {name: preference_discrimination(view) for name, view in views.items()}
    return plain(found)


def judge_quantizer(quantizer, vectors: np.ndarray) -> dict:
    """Measure a fitted quantizer on the vectors that it was given.

    Args:
        vectors: `[N, D]`, of the items that `quantizer.codes_` are of.

    Returns:
        "reconstruction_error"; "pd" of the codewords in use (R3-VAE, Eq. 10), where it has any, and
        "pd_means" of cluster means, which every tokenizer has: of the vectors at the first level,
        then of what those means leave over, and so on. Both hold "levels" and their "mean", None
        where all items have one code.
        "alignment" and "coherence" where it has them. JSON-able.
    """
    from semid_lib.diagnostics import code_means, preference_discrimination, reconstruction_error

    codes, rest, means = quantizer.codes_, vectors, []
    for column, size in zip(codes.T, quantizer.level_sizes_):
        means.append(np.zeros((size, vectors.shape[1])))
        means[-1][np.unique(column)] = code_means(rest, column[:, None])[0]
        rest = rest - means[-1][column]
    spread = {"pd_means": preference_discrimination(_two(means), per_level=True)}
    if hasattr(quantizer, "codebooks_"):
        books = _two(quantizer.codebooks_)
        spread["pd"] = preference_discrimination(books, codes, per_level=True)
    found = {key: {"mean": v.mean(), "levels": v} for key, v in spread.items()}
    for key in ("alignment", "coherence"):
        if hasattr(quantizer, f"{key}_"):
            found[key] = getattr(quantizer, f"{key}_")
    again = quantizer.inverse_transform(codes)
    found["reconstruction_error"] = reconstruction_error(vectors, again)
    return plain(found)


def _two(levels) -> list[np.ndarray]:
    """The levels' vectors; a level of one gets a vector of 0, which has no direction."""
    return [np.pad(v, ((0, 1), (0, 0))) if len(v) == 1 else v for v in map(np.asarray, levels)]


def judge_codes(sids, vectors: np.ndarray, split) -> dict:
    """Measure codes: ReSID's Eq. 2 and 3, Tables 9 and 10; R3-VAE's SC; how evenly they are used.

    Args:
        sids: `SemanticIds` of the N items. vectors: `[N, D]`, which they stand for.
        split: its validation part gives the overlap of target and history.

    Returns:
        What is named below, one value a level in lists; JSON-able, not finite is None. "sc" is None
        where no two items share an ID. "collision_rate" is that of R3-VAE, and "collisions" holds
        it in all its definitions.
    """
    from semid_lib import diagnostics as d

    forms, pairs = ("variance", "gaussian"), ("all", "cross_prefix")
    named = (
        d.collision_rate, d.gini, d.code_gini, d.prefix_entropy, d.marginal_entropy, d.code_usage,
    )  # fmt: skip
    found = {f.__name__: f(sids) for f in named} | {"level_sizes": list(sids.level_sizes)}
    kinds = ("items_per_id", "excess", "shared")
    found["collisions"] = {kind: d.collision_rate(sids, kind) for kind in kinds}
    found["sc"] = d.semantic_cohesion(vectors, sids)
    found["terms"] = {form: d.code_terms(vectors, sids, form) for form in forms}
    found["overlap"] = d.code_overlap(split, sids, "validation")
    if sids.num_levels > 1:
        found["within_code_cosine"] = {p: d.within_code_cosine(vectors, sids, 1, p) for p in pairs}
    return plain(found)


def plain(value):
    """Return `value` as JSON holds it: arrays as lists, numbers of Python, None if not finite."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
