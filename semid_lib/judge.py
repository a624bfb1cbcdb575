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
        so, else the first one) and "community". "label_field" names the field. JSON-able.

    Cost: O(N^2 D), and a k-means with as many clusters as labels.
    """
    from semid_lib.diagnostics import chance_purity, cluster_nmi, effective_rank, neighbour_purity

    fields, labels = split.data.fields, {"community": communities}
    names = [*(name for name in fields if name.startswith("category")), *fields]
    if names:
        labels["category"] = fields[names[0]]
    labels = {name: rows for name, rows in labels.items() if (rows >= 0).sum() > 20}
    found = {"effective_rank": effective_rank(vectors), "label_field": (names or [None])[0]}
    for key, measure in (("purity", neighbour_purity), ("nmi", cluster_nmi)):
        found[key] = {name: measure(vectors, rows) for name, rows in labels.items()}
    found["chance"] = {name: chance_purity(rows) for name, rows in labels.items()}
    return plain(found)


def judge_codes(sids, vectors: np.ndarray, split) -> dict:
    """Measure codes as ReSID does: Eq. 2 and 3, Tables 9 and 10, and how evenly they are used.

    Args:
        sids: `SemanticIds` of the N items. vectors: `[N, D]`, which they stand for.
        split: its validation part gives the overlap of target and history.

    Returns:
        What is named below, one value a level in lists; JSON-able, not finite is None.
    """
    from semid_lib import diagnostics as d

    forms, pairs = ("variance", "gaussian"), ("all", "cross_prefix")
    named = d.collision_rate, d.gini, d.prefix_entropy, d.marginal_entropy, d.code_usage
    found = {f.__name__: f(sids) for f in named} | {"level_sizes": list(sids.level_sizes)}
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
