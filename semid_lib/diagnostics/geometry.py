"""What the vectors behind the codes show: the terms of ReSID's Eq. 2 and 3, Table 10, rank."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from semid_lib.diagnostics._inputs import as_ids, as_matrix
from semid_lib.errors import InputError

FORMS = ("variance", "gaussian")
PAIRS = ("all", "cross_prefix")


def code_terms(vectors, codes, form: str = "variance", noise: float = 0.1) -> dict:
    """Compute every term about z of ReSID's Eq. 2 and 3, level by level, in one of two forms.

    Eq. 3 splits what code l leaves open into what its whole prefix leaves open and what the
    prefix alone would have told, the ambiguity of an index that means different things under
    different prefixes:

        H(z | c_l) = H(z | c_l, C_<l) + I(z; C_<l | c_l)

    Entropies of continuous vectors have to be stood in for. With S_g the covariance of the items
    of group g, weighted by its share of the items p_g, and T = tr S the variance of all:

    - "variance": H = sum_g p_g tr(S_g) / T, the mean squared distance to the group's mean as a
      share of T; I = the squared distance of the prefixes' means to their code's mean, as a
      share of T. Eq. 3 is then the law of total variance, an identity.
    - "gaussian": H = sum_g p_g (1/2) log2 det(I + S_g / s), s = `noise` T / D: the entropy of
      z + e above that of e, for Gaussian groups and white noise e of variance s: the bits that
      tell z up to an error of `noise` of its variance. I is the difference; it is never negative
      because log det is concave. The noise is the shrinkage: without it every group of at most D
      items has entropy minus infinity.

    Both are 0 for a group of one item, so the last level of unique codes says nothing: its
    H(z|C) is 0 and its I equals its H(z|c_l). Read prefixes up to level L-1. Small groups look
    tight by chance, too: G groups drawn at random leave a share (N - G) / (N - 1) of T within,
    so compare tokenizers at equal group sizes.

    Args:
        vectors: `[N, D]` z, any float dtype; computed in float64.
        codes: `[N, L]` integers, or a `SemanticIds`.
        form: "variance" or "gaussian".
        noise: for "gaussian", share of the mean variance per dimension, > 0.

    Returns:
        "H(z)": float (1 in the variance form). "H(z|C<=l)" (given the codes up to and with level
        l), "H(z|c_l)", "I(z;C<l|c_l)": `[L]` float64; shares of T, or bits.

    Raises:
        InputError: an unknown form, noise that is not above 0, fewer than two vectors, vectors
            that are not finite or all equal.
        CodesError: codes of another number of items.

    Deviates: the paper writes H and I of continuous z without saying how to compute them.

    Cost: O(N D L) for the variances; for the Gaussians O(D m^2 + m^3) a group, m the smaller of
        its size and D. Memory: two copies of the vectors in float64.
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}, but must be one of {FORMS}")
    if not 0 < noise < np.inf:
        raise InputError(f"noise is {noise}, but must be finite and above 0")
    Z, total = _centred(vectors)
    sids = as_ids(codes, len(Z))
    nodes = prefix_nodes(sids)
    if form == "variance":

        def left_open(group):
            return _distance_to_means(Z, group) / total
    else:

        def left_open(group):
            return _gaussian_bits(Z, group, noise * total / Z.shape[1])

    given_prefix = np.array([left_open(node) for node in nodes])
    given_code = np.array(given_prefix[:1].tolist() + [left_open(c) for c in sids.codes.T[1:]])
    ambiguity = given_code - given_prefix
    if form == "variance":
        between = [_between(Z, node, code) for node, code in zip(nodes, sids.codes.T)]
        ambiguity = np.array(between) / total
    return {
        "H(z)": float(left_open(np.zeros(len(Z), dtype=np.int64))),
        "H(z|C<=l)": given_prefix,
        "H(z|c_l)": given_code,
        "I(z;C<l|c_l)": np.maximum(ambiguity, 0.0),
    }


def reconstruction_error(vectors, reconstruction) -> float:
    """Compute mean ||x - x_hat||^2 / mean ||x - mean||^2: 0 if exact, 1 for the mean itself.

    Args:
        vectors, reconstruction: `[N, D]`, the second from a tokenizer's `inverse_transform`.

    Raises:
        InputError: other shapes, values that are not finite, vectors that are all equal.
    """
    X, X_hat = as_matrix(vectors), as_matrix(reconstruction, "reconstruction")
    if X.shape != X_hat.shape:
        raise InputError(f"vectors are {X.shape} but their reconstruction is {X_hat.shape}")
    _, total = _centred(X)
    return float(((X - X_hat) ** 2).sum(axis=1).mean() / total)


def within_code_cosine(vectors, codes, level: int = 1, pairs: str = "all") -> float:
    """Compute the mean cosine of two items that share a code, each seen from its prefix's mean.

    ReSID Table 10 and App. K.1: v_i = z_i - mean of the items with i's prefix C_<l; mean of
    cos(v_i, v_j) over the pairs i != j with c_l(i) = c_l(j); mean over the codes, each counted
    once. If a code stands for one direction under every prefix this is high.

    In a balanced tree a share of about 1 / b_1 of these pairs has the same prefix too: they are
    siblings that lie close together however the children are numbered. `pairs="cross_prefix"`
    leaves them out, and random numbering then gives about 0.

    Args:
        vectors: `[N, D]`. codes: `[N, L]` integers, or a `SemanticIds`.
        level: of the shared code, from 0: the paper's "second level" is 1.
        pairs: "all", or "cross_prefix" (level >= 1).

    Returns:
        -1..1; NaN where no code has a pair. An item whose v is 0 (alone under its prefix) has no
        direction and is left out.

    Raises:
        InputError: a level or pairs that do not exist, vectors that are not finite or fewer
            than two. CodesError: codes of another number of items.

    Cost: O(N D): the sum of all products u_i . u_j is the squared length of the sum of the u.
    """
    X = as_matrix(vectors)
    sids = as_ids(codes, len(X))
    if level not in range(sids.num_levels):
        raise InputError(f"level is {level!r}, but codes have the levels 0..{sids.num_levels - 1}")
    if pairs not in PAIRS or (pairs == "cross_prefix" and level == 0):
        raise InputError(
            f"pairs is {pairs!r}, but must be 'all' or, above level 0, 'cross_prefix': "
            "at level 0 all items share the empty prefix"
        )
    nodes, code = prefix_nodes(sids), sids.codes[:, level]
    prefix = nodes[level - 1] if level else np.zeros(len(X), dtype=np.int64)
    V = X - _group_means(X, prefix)[prefix]
    length = np.linalg.norm(V, axis=1)
    kept = length > 1e-12 * np.linalg.norm(X - X.mean(axis=0), axis=1).max()
    U, code, node = V[kept] / length[kept, None], code[kept], nodes[level][kept]
    size = np.bincount(code).astype(np.float64)
    products = (_group_sums(U, code) ** 2).sum(axis=1)
    if pairs == "all":
        count, inner = size**2 - size, products - size
    else:
        same, (_, first) = np.bincount(node), np.unique(node, return_index=True)
        squares = (_group_sums(U, node) ** 2).sum(axis=1)
        owner = np.zeros(len(same), dtype=np.int64)
        owner[np.unique(node)] = code[first]
        count = size**2 - np.bincount(owner, same.astype(np.float64) ** 2, len(size))
        inner = products - np.bincount(owner, squares, len(size))
    some = count > 0
    return float((inner[some] / count[some]).mean()) if some.any() else float("nan")


def effective_rank(vectors) -> float:
    """Compute how many directions the vectors use: exp of the entropy of their variances.

    With lambda_d the eigenvalues of the covariance and p = lambda / sum lambda:
    exp(-sum_d p_d ln p_d), 1 for points on a line, D for equal variance in all directions.

    Deviates: Roy and Vetterli (2007), who named it, take singular values instead of their squares,
        which gives a larger number.

    Raises:
        InputError: fewer than two vectors, not finite, or all equal.

    Cost: O(N D min(N, D)).
    """
    Z, total = _centred(vectors)
    Z = Z / np.sqrt(total * len(Z))
    gram = Z.T @ Z if len(Z) >= Z.shape[1] else Z @ Z.T
    p = np.linalg.eigvalsh(gram)
    p = p[p > 0] / p[p > 0].sum()
    return float(np.exp(-(p @ np.log(p))))


def prefix_nodes(sids) -> list[np.ndarray]:
    """Number the prefix of each item at every level: L arrays `[N]`, equal where C_<=l is."""
    nodes = [sids.leaf_of]
    for parent in reversed(sids.trie.parent[1:]):
        nodes.append(parent[nodes[-1]])
    return nodes[::-1]


def _centred(vectors) -> tuple[np.ndarray, float]:
    """The vectors minus their mean, and their variance T: mean squared distance to the mean."""
    X = as_matrix(vectors)
    Z = X - X.mean(axis=0)
    total = float((Z**2).sum() / len(Z))
    if total == 0 or (X == X[0]).all():
        raise InputError(
            f"all {len(X)} vectors are equal, so there is no variance to explain. Was the encoder "
            "trained?"
        )
    return Z, total


def _group_sums(Z, group) -> np.ndarray:
    """Sum of the rows of each group 0..max: `[G, D]`."""
    rows = np.arange(len(group))
    member = sparse.csr_array((np.ones(len(group)), (group, rows)), (group.max() + 1, len(group)))
    return member @ Z


def _group_means(Z, group) -> np.ndarray:
    """Mean of the rows of each group; 0 where a group is empty."""
    return _group_sums(Z, group) / np.maximum(np.bincount(group), 1)[:, None]


def _distance_to_means(Z, group) -> float:
    """Mean over the rows of the squared distance to the mean of their group."""
    return float(((Z - _group_means(Z, group)[group]) ** 2).sum() / len(Z))


def _between(Z, fine, coarse) -> float:
    """Mean over the rows of the squared distance from their fine to their coarse group's mean."""
    apart = _group_means(Z, fine)[fine] - _group_means(Z, coarse)[coarse]
    return float((apart**2).sum() / len(Z))


def _gaussian_bits(Z, group, noise) -> float:
    """Mean over the rows of (1/2) log2 det(I + S_g / noise) of their group."""
    order = np.argsort(group, kind="stable")
    bits = 0.0
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(rows) > 1:
            Y = Z[rows] - Z[rows].mean(axis=0)
            gram = Y @ Y.T if len(Y) < Y.shape[1] else Y.T @ Y
            scaled = np.eye(len(gram)) + gram / (len(rows) * noise)
            bits += len(rows) * np.log2(np.linalg.cholesky(scaled).diagonal()).sum()
    return float(bits / len(Z))
