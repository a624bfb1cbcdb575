"""What the vectors behind the codes show: ReSID's Eq. 2, 3 and Table 10, SC and PD, rank."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from semid_lib.diagnostics._inputs import as_ids, as_matrix
from semid_lib.errors import CodesError, InputError

FORMS = ("variance", "gaussian")
PAIRS = ("all", "cross_prefix")
CHUNK = 8192  # rows at once where memory must not grow with N
KERNEL_ROWS = 1024  # rows of a matrix of all pairs


def code_terms(vectors, codes, form: str = "variance", noise: float = 0.1) -> dict:
    """Compute every term about z of ReSID's Eq. 2 and 3, level by level, in one of two forms.

    Eq. 3 splits what code l leaves open into what the whole prefix leaves open and what the codes
    before l would add, the ambiguity of an index that means other things under other prefixes:

        H(z | c_l) = H(z | c_l, C_<l) + I(z; C_<l | c_l)

    Entropies of continuous vectors need a stand-in. With W the covariance of the items around the
    means of their groups (pooled over the groups) and T the variance of all items, trace and all:

    - "variance": H = tr W / T, the mean squared distance to the group's mean as a share of T; I =
      the mean squared distance of the prefixes' means to their code's mean, as a share of T. Eq. 3
      is then the law of total variance, an identity.
    - "gaussian": H = (1/2) log2 det(1 + W / s) with s = `noise` T / D: the groups are Gaussians
      that share the covariance W, and H is the entropy of z + e less that of e, white noise of
      variance s a dimension; in bits, those that tell z up to `noise` of its variance. I is the
      difference: never negative, since a finer grouping has the smaller W.

    What makes groups of fewer than D items bearable is that they share W (shrinkage of each
    group's own covariance, all the way) and the noise: an own covariance of 9 items in 640
    dimensions has no determinant. A proxy it remains: no true I exceeds H(C_<l | c_l), this may.

    Degenerate: where every group has one item, as at the last level of unique codes, W = 0, so
    H(z | C) is 0 and I equals H(z | c_l), whatever the codes. Read H(z | C_<=l) and I up to level
    L-1. Small groups look tight by chance too (G random groups leave (N - G) / (N - 1) of T), so
    compare tokenizers of equal group sizes.

    Args:
        vectors: `[N, D]` z; computed in float64.
        codes: `[N, L]` integers, or a `SemanticIds`.
        form: "variance" or "gaussian".
        noise: of the Gaussian form, a share of the variance, above 0.

    Returns:
        "H(z)": float (1 in the variance form); "H(z|C<=l)" (given the codes up to and with level
        l), "H(z|c_l)", "I(z;C<l|c_l)": `[L]` float64. Shares of T, or bits.

    Raises:
        InputError: an unknown form, noise that is not above 0, fewer than two vectors, vectors
            that are not finite or all equal.
        CodesError: codes of another number of items.

    Deviates: the paper defines none of these for vectors.

    Cost: variance O(L N D), Gaussian O(L (N D^2 + D^3)), N and D exchanged if N < D; memory four
        copies of the vectors in float64. 12,101 x 640 with three levels: 0.7 s of one core, and
        0.8 s; the common covariance makes that one Gram matrix a level, not one a group.
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}, but must be one of {FORMS}")
    if not 0 < noise < np.inf:
        raise InputError(f"noise is {noise}, but must be finite and above 0")
    Z, total = _centred(vectors)
    sids = as_ids(codes, len(Z))
    nodes = prefix_nodes(sids)
    columns = [_numbered(column) for column in sids.codes.T]

    def entropy(group):
        R = Z - _group_means(Z, group)[group]
        if form == "variance":
            return _mean_square(R) / total
        return _gaussian_bits(R, noise * total / Z.shape[1])

    given_prefix = np.array([entropy(node) for node in nodes])
    given_code = np.array([given_prefix[0], *map(entropy, columns[1:])])
    ambiguity = given_code - given_prefix
    if form == "variance":
        for level, (node, code) in enumerate(zip(nodes, columns)):
            apart = _group_means(Z, node)[node] - _group_means(Z, code)[code]
            ambiguity[level] = _mean_square(apart) / total
    return {
        "H(z)": entropy(np.zeros(len(Z), dtype=np.int64)),
        "H(z|C<=l)": given_prefix,
        "H(z|c_l)": given_code,
        "I(z;C<l|c_l)": ambiguity,
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
    return _mean_square(X.astype(np.float64) - X_hat) / _centred(X)[1]


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
    X = as_matrix(vectors).astype(np.float64)
    sids = as_ids(codes, len(X))
    if level not in range(sids.num_levels):
        raise InputError(f"level is {level!r}, but codes have the levels 0..{sids.num_levels - 1}")
    if pairs not in PAIRS or (pairs == "cross_prefix" and level == 0):
        raise InputError(
            f"pairs is {pairs!r}, but must be 'all' or, above level 0, 'cross_prefix': "
            "at level 0 all items share the empty prefix"
        )
    nodes, code = prefix_nodes(sids), _numbered(sids.codes[:, level])
    prefix = nodes[level - 1] if level else np.zeros(len(X), dtype=np.int64)
    X = X - X.mean(axis=0)
    V = X - _group_means(X, prefix)[prefix]
    length = np.linalg.norm(V, axis=1)
    kept = length > 1e-12 * np.linalg.norm(X, axis=1).max()
    items, code = np.flatnonzero(kept), code[kept]
    cosines, count = _pair_sums(V, items, code)
    if pairs == "cross_prefix":
        node = nodes[level][items]
        code_of = np.zeros(node.max(initial=0) + 1, dtype=np.int64)
        code_of[node] = code
        for every, siblings in zip((cosines, count), _pair_sums(V, items, node)):
            every -= np.bincount(code_of, siblings, len(every))
    some = count > 0
    return float((cosines[some] / count[some]).mean()) if some.any() else float("nan")


def semantic_cohesion(vectors, codes) -> float:
    """Compute SC: how alike the items of one ID are, the mean over IDs of their mean cosine.

    R3-VAE Eq. 8 and 9 for evaluation: for every full ID that at least two items have, the mean of
    cos(x_i, x_j) over its pairs of items; mean over those IDs, each counted once.

    Args:
        vectors: `[N, D]`, what the tokenizer was given (a vector of 0 has no direction and is
            left out). codes: `[N, L]` integers, or a `SemanticIds`.

    Returns:
        -1..1, higher is better; NaN where no two items share an ID: unique IDs have no SC. It
        rises when IDs get finer, so compare it beside the collision rate.

    Raises:
        InputError: vectors that are not finite or fewer than two. CodesError: codes of another
        number of items.

    Deviates: Eq. 8's vectors are "quantitative embeddings" of undefined origin. Quantised ones
        are equal within an ID (SC = 1); the inputs, and IDs of two items and more, are the
        reading that Table 6 fits. The factor of Eq. 8 is the one for unordered pairs.

    Cost: O(N D + N log N) and O(N) memory beside the vectors; a million items with 128 dimensions
        take seconds and 1.2 GB in all.
    """
    X = as_matrix(vectors)
    sids = as_ids(codes, len(X))
    items = np.flatnonzero((X != 0).any(axis=1))
    leaf = sids.leaf_of[items]
    several = np.bincount(leaf, minlength=1)[leaf] > 1
    if not several.any():
        return float("nan")
    cosines, count = _pair_sums(X, items[several], _numbered(leaf[several]))
    return float((cosines / count).mean())


def preference_discrimination(
    vectors, codes=None, *, t: float = 2.0, per_level: bool = False, max_vectors: int = 20_000,
    random_state: int = 0,
):  # fmt: skip
    """Compute PD: how far apart the directions of codewords are; lower is better.

    R3-VAE Eq. 10: log of the mean over pairs a < b of exp(-t (1 - cos(p_a, p_b))); for several
    levels the mean of theirs. 0 if all point the same way, -t for orthogonal vectors. M vectors
    reach -t (1 + 1 / (M - 1)) at the least, as a regular simplex does, which needs M <= D + 1.

    Args:
        vectors: `[M, D]`, or a list of such, one a level: `tokenizer.codebooks_`, `code_means` of
            tokenizers without codewords, or embeddings. Vectors of 0 have no direction and are
            left out.
        codes: `[N, L]` of the items; if given, only codewords that some item has count.
        t: above 0.
        per_level: return the levels' values, not their mean.
        max_vectors: of a level with more vectors, so many are drawn at random and stand for all.
        random_state: seed of that draw.

    Returns:
        float, or `[L]` float64. NaN for a level with fewer than two directions.

    Raises:
        InputError: vectors that are not finite matrices, t or max_vectors out of range.
        CodesError: codes of another number of levels, or beyond the codewords.

    Deviates: the paper says "clusters"; Table 1 fits the codewords of each level, averaged.

    Cost: O(M^2 D), a block of rows at a time; whatever the number of items where the vectors are
        codewords. 20,000 embeddings with 128 dimensions: 5 s of one core, off by less than 0.01.
    """
    if not 0 < t < np.inf or max_vectors < 2:
        raise InputError(f"t is {t} and max_vectors {max_vectors}, but must be above 0 and 1")
    levels = [as_matrix(level) for level in _levels(vectors)]
    if codes is not None:
        sids = as_ids(codes)
        sizes = tuple(map(len, levels))
        if len(sizes) != sids.num_levels or np.any(sids.codes.max(axis=0) >= sizes):
            raise CodesError(f"codes up to {sids.codes.max(axis=0)} for codebooks of {sizes}")
        levels = [book[np.unique(column)] for book, column in zip(levels, sids.codes.T)]
    values = np.full(len(levels), np.nan)
    for i, level in enumerate(levels):
        if len(level) > max_vectors:
            rng = np.random.default_rng([random_state, i])
            level = level[rng.choice(len(level), max_vectors, replace=False)]
        U = level[(level != 0).any(axis=1)]
        U = U / np.linalg.norm(U, axis=1, keepdims=True)
        if len(U) > 1:
            values[i] = np.log(_mean_kernel(U, t))
    return values if per_level else float(values.mean())


def code_means(vectors, codes) -> list[np.ndarray]:
    """Compute the mean vector of the items of each used code, level by level.

    They stand for codewords in `preference_discrimination` where a tokenizer has none.

    Args:
        vectors: `[N, D]`, or a list of L such: what each level was given (residuals, sub-vectors).
        codes: `[N, L]` integers, or a `SemanticIds`.

    Returns:
        list of L arrays `[used codes, D]` float64, by code.
    """
    inputs = [as_matrix(level) for level in _levels(vectors)]
    sids = as_ids(codes, len(inputs[0]))
    if len(inputs) == 1:
        inputs = inputs * sids.num_levels
    if [len(X) for X in inputs] != [sids.num_items] * sids.num_levels:
        raise InputError(
            f"vectors of {[len(X) for X in inputs]} items for {sids.num_levels} levels of codes of "
            f"{sids.num_items}: one matrix for all levels or one for each is needed"
        )
    return [_group_means(X, _numbered(column)) for X, column in zip(inputs, sids.codes.T)]


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


def _numbered(code) -> np.ndarray:
    """The codes of a level as 0, 1, ... without gaps."""
    return np.unique(code, return_inverse=True)[1]


def _levels(vectors) -> list:
    """One matrix a level: `vectors` as it is if it holds matrices, else as the only one."""
    matrices = isinstance(vectors, (list, tuple)) and len(vectors) and np.ndim(vectors[0]) == 2
    return list(vectors) if matrices or np.ndim(vectors) == 3 else [vectors]


def _mean_kernel(U, t) -> float:
    """Mean of exp(-t (1 - u_a . u_b)) over the pairs a < b of unit vectors."""
    total = 0.0
    for start in range(0, len(U), KERNEL_ROWS):
        stop = min(start + KERNEL_ROWS, len(U))
        block = np.exp(t * (U[start:stop] @ U[start:].T - 1))
        within = block[:, : stop - start]
        total += block[:, stop - start :].sum(dtype=np.float64)
        total += (within.sum(dtype=np.float64) - np.trace(within, dtype=np.float64)) / 2
    return 2 * total / (len(U) * (len(U) - 1))


def _centred(vectors) -> tuple[np.ndarray, float]:
    """The vectors minus their mean, and their variance T: mean squared distance to the mean."""
    X = as_matrix(vectors).astype(np.float64)
    Z = X - X.mean(axis=0)
    total = _mean_square(Z)
    if total == 0 or (X == X[0]).all():
        raise InputError(
            f"all {len(X)} vectors are equal, so there is no variance to explain. Was the encoder "
            "trained?"
        )
    return Z, total


def _pair_sums(V, items, group) -> tuple[np.ndarray, np.ndarray]:
    """Sum of cos(v_i, v_j) over the pairs i != j of each group, and their number: `[G]` each.

    `group` `[n]` are those of the rows `items` `[n]` of V, none of which may be 0. The sum of all
    u_i . u_j is the squared length of the sum of the u; rows go by in chunks, sorted by group.
    """
    size = np.bincount(group, minlength=1).astype(np.float64)
    order, squares = np.argsort(group, kind="stable"), np.zeros(len(size))
    last, carried = -1, 0.0
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        U = V[items[rows]].astype(np.float64)
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        opens = np.flatnonzero(np.diff(group[rows], prepend=-1))
        sums = np.add.reduceat(U, opens, axis=0)
        if group[rows[0]] == last:  # the chunk before ended within this group
            sums[0] += carried
        squares[group[rows[opens]]] = (sums**2).sum(axis=1)
        last, carried = group[rows[-1]], sums[-1]
    return squares - size, size**2 - size


def _group_sums(Z, group) -> np.ndarray:
    """Sum of the rows of each group 0..max: `[G, D]`."""
    shape = (group.max(initial=0) + 1, len(group))
    return sparse.csr_array((np.ones(len(group)), (group, np.arange(len(group)))), shape) @ Z


def _group_means(Z, group) -> np.ndarray:
    """Mean of the rows of each group; 0 where a group is empty."""
    return _group_sums(Z, group) / np.maximum(np.bincount(group), 1)[:, None]


def _mean_square(R) -> float:
    """Mean squared length of the rows."""
    return float(np.vdot(R, R) / len(R))


def _gaussian_bits(R, noise) -> float:
    """(1/2) log2 det(1 + R^T R / (N noise)), from the smaller of the two Gram matrices."""
    gram = R.T @ R if R.shape[1] <= len(R) else R @ R.T
    scaled = np.eye(len(gram)) + gram / (len(R) * noise)
    return float(np.log2(np.linalg.cholesky(scaled).diagonal()).sum())
