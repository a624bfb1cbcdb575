"""Terms of Eq. 2 and 3, Table 10 and rank, against loops over pairs, closed forms and toys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, multivariate_normal
from sklearn.metrics import r2_score

from semid_lib import plain
from semid_lib.codes import SemanticIds
from semid_lib.diagnostics import (
    code_means,
    code_terms,
    effective_rank,
    preference_discrimination,
    reconstruction_error,
    semantic_cohesion,
    within_code_cosine,
)
from semid_lib.errors import CodesError, InputError
from semid_lib.quantizers import GAOQ, HierarchicalKMeans, KMeans

PREFIX, CODE, AMBIGUITY = "H(z|C<=l)", "H(z|c_l)", "I(z;C<l|c_l)"


@st.composite
def coded_vectors(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, levels = draw(st.integers(2, 30)), draw(st.integers(1, 4))
    vectors = rng.normal(size=(n, draw(st.integers(1, 5)))) * 10.0 ** rng.integers(-3, 4)
    return vectors + rng.normal(), rng.integers(0, 3, size=(n, levels))


@pytest.fixture(scope="module")
def vectors():
    """480 points whose spread falls off from direction to direction."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(480, 24)) * np.linspace(2, 0.2, 24) + rng.normal(size=24)


@pytest.fixture(scope="module", params=[GAOQ, HierarchicalKMeans])
def tree(request, vectors):
    return request.param(branching=(6, 8, "auto")).fit_transform(vectors)


def groups_of(rows):
    """Group name -> its items."""
    found = {}
    for item, row in enumerate(rows):
        found.setdefault(tuple(np.atleast_1d(row).tolist()), []).append(item)
    return found.values()


def pairwise(Z, rows):
    """Mean over items of half their mean squared distance to their group's items, all pairs."""
    total = 0.0
    for items in groups_of(rows):
        for i in items:
            total += sum(((Z[i] - Z[j]) ** 2).sum() for j in items) / (2 * len(items))
    return total / len(Z)


# ------------------------------------------------------------------ terms by variance


def check_against_pairs(Z, codes):
    found, total = code_terms(Z, codes), pairwise(Z, np.zeros(len(Z), int))
    assert found["H(z)"] == pytest.approx(1, abs=1e-12)
    for level in range(codes.shape[1]):
        prefix = pairwise(Z, codes[:, : level + 1]) / total
        code = pairwise(Z, codes[:, level]) / total
        np.testing.assert_allclose(found[PREFIX][level], prefix, atol=1e-12)
        np.testing.assert_allclose(found[CODE][level], code, atol=1e-12)
        np.testing.assert_allclose(found[AMBIGUITY][level], code - prefix, atol=1e-12)


@given(coded_vectors())
@settings(max_examples=60, deadline=None)
def test_variance_terms_equal_the_pairwise_distances(drawn):
    check_against_pairs(*drawn)


def test_variance_terms_of_trees_equal_the_pairwise_distances(vectors, tree):
    check_against_pairs(vectors[:120], tree[:120])


def test_equation_3_is_an_identity_of_the_three_terms(vectors, tree):
    # The three are computed apart: by distances to two kinds of means, and between those means.
    random = np.random.default_rng(0).integers(0, 5, size=(len(vectors), 4))
    for codes in (tree, random):
        found = code_terms(vectors, codes)
        np.testing.assert_allclose(
            found[CODE], found[PREFIX] + found[AMBIGUITY], rtol=0, atol=1e-12
        )
    assert found[AMBIGUITY][-1] > 0.1


def test_terms_of_a_toy():
    # 0 and 2 under one parent, 10 and 12 under the other; variance 26, 1 left within a parent.
    z = np.array([[0.0], [2.0], [10.0], [12.0]])
    low_low = code_terms(z, [[0, 0], [0, 1], [1, 0], [1, 1]])  # "1" is the larger child twice
    low_high = code_terms(z, [[0, 0], [0, 1], [1, 1], [1, 0]])  # "1" is the inner child
    np.testing.assert_allclose(low_low[PREFIX], [1 / 26, 0])
    np.testing.assert_allclose(low_low[CODE], [1 / 26, 25 / 26])
    np.testing.assert_allclose(low_high[CODE], [1 / 26, 1])
    np.testing.assert_allclose(low_high[AMBIGUITY], [0, 1])
    # one dimension: (1/2) log2(1 + W / (noise T)) for the within-variance W
    bits = code_terms(z, [[0, 0], [0, 1], [1, 0], [1, 1]], form="gaussian", noise=0.5)
    assert bits["H(z)"] == pytest.approx(np.log2(3) / 2)
    np.testing.assert_allclose(bits[CODE], np.log2([1 + 1 / 13, 1 + 25 / 13]) / 2)
    np.testing.assert_allclose(bits[AMBIGUITY], [0, np.log2(1 + 25 / 13) / 2])


@pytest.mark.parametrize("form", ["variance", "gaussian"])
def test_unique_codes_leave_nothing_open_at_the_last_level(vectors, tree, form):
    found = code_terms(vectors, tree, form)
    assert found[PREFIX][-1] == 0
    assert found[AMBIGUITY][-1] == pytest.approx(found[CODE][-1])
    assert found[AMBIGUITY][0] == 0 and found[PREFIX][0] == found[CODE][0]


@given(coded_vectors(), st.sampled_from(["variance", "gaussian"]))
@settings(max_examples=60, deadline=None)
def test_terms_are_ordered(drawn, form):
    found = code_terms(*drawn, form)
    assert (found[AMBIGUITY] >= -1e-12).all() and (found[PREFIX] >= 0).all()
    assert (np.diff(found[PREFIX], prepend=found["H(z)"]) <= 1e-9).all()  # more codes, less open
    assert (found[CODE] <= found["H(z)"] + 1e-9).all()


@pytest.mark.parametrize("form", ["variance", "gaussian"])
def test_terms_do_not_change_with_place_size_and_direction(vectors, tree, form):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))
    here, there = code_terms(vectors, tree, form), code_terms(3 * vectors @ turn + 50, tree, form)
    wide = code_terms(vectors.astype(np.float32), SemanticIds(tree, (6, 8, 40)), form)
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, atol=1e-9)
        np.testing.assert_allclose(wide[name], value, atol=1e-4)


def test_random_groups_leave_the_stated_share():
    rng, left = np.random.default_rng(0), []
    z = rng.normal(size=(200, 8))
    for _ in range(200):
        groups = rng.permutation(np.repeat(np.arange(40), 5))
        left.append(code_terms(z, groups[:, None])[PREFIX][0])
    assert np.mean(left) == pytest.approx((200 - 40) / (200 - 1), abs=0.005)


# ------------------------------------------------------------------ terms by Gaussian entropies


@pytest.mark.parametrize("num_items", [12, 300])  # fewer and more items than dimensions
def test_gaussian_terms_equal_scipys_entropy_of_the_pooled_covariance(num_items):
    rng = np.random.default_rng(5)
    z, codes = rng.normal(size=(num_items, 20)) ** 3, rng.integers(0, 3, size=(num_items, 2))
    noise = 0.2 * z.var(axis=0).sum() / 20
    quiet = multivariate_normal(cov=noise * np.eye(20)).entropy()

    def bits(rows):
        pooled = noise * np.eye(20)
        for items in groups_of(rows):
            pooled += np.cov(z[items].T, bias=True) * len(items) / num_items
        return (multivariate_normal(cov=pooled).entropy() - quiet) / np.log(2)

    found = code_terms(z, codes, form="gaussian", noise=0.2)
    assert found["H(z)"] == pytest.approx(bits(np.zeros(num_items)), rel=1e-9)
    np.testing.assert_allclose(found[PREFIX], [bits(codes[:, :1]), bits(codes)], rtol=1e-9)
    np.testing.assert_allclose(found[CODE], [bits(codes[:, :1]), bits(codes[:, 1])], rtol=1e-9)


def test_gaussian_terms_of_large_gaussian_groups():
    # z = mean of its group + correlated noise: what each code leaves open is known exactly.
    rng = np.random.default_rng(0)
    within = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 0.5]])
    means = np.array([[0, 0, 0], [5, 0, 0], [0, 4, 0], [5, 4, 0]], dtype=float)
    group = np.repeat(np.arange(4), 20_000)
    z = means[group] + rng.multivariate_normal(np.zeros(3), within, size=len(group))
    codes = np.column_stack([group // 2, group % 2])  # 1st code: 2nd dimension; 2nd code: 1st
    every = within + np.diag([6.25, 4.0, 0])
    by_second = within + np.diag([0, 4.0, 0])
    s = 0.05 * np.trace(every) / 3
    quiet = multivariate_normal(cov=s * np.eye(3)).entropy()

    def truth(covariance):
        return (multivariate_normal(cov=covariance + s * np.eye(3)).entropy() - quiet) / np.log(2)

    found = code_terms(z, codes, form="gaussian", noise=0.05)
    assert found["H(z)"] == pytest.approx(truth(every), abs=0.02)
    assert found[PREFIX][1] == pytest.approx(truth(within), abs=0.02)
    assert found[CODE][1] == pytest.approx(truth(by_second), abs=0.02)
    assert found[AMBIGUITY][1] == pytest.approx(truth(by_second) - truth(within), abs=0.02)


# ------------------------------------------------------------------ reconstruction, rank


def test_reconstruction_error_is_the_unexplained_share(vectors):
    model = KMeans(16).fit(vectors)
    centres = model.inverse_transform(model.codes_)
    explained = r2_score(vectors, centres, multioutput="variance_weighted")
    assert reconstruction_error(vectors, centres) == pytest.approx(1 - explained)
    assert reconstruction_error(vectors, vectors) == 0
    assert reconstruction_error(vectors, np.tile(vectors.mean(0), (480, 1))) == pytest.approx(1)
    # the centre of the deepest cluster leaves what the prefix leaves
    assert code_terms(vectors, model.codes_)[PREFIX][0] == pytest.approx(1 - explained, abs=1e-4)


def test_effective_rank_of_known_spectra():
    rng = np.random.default_rng(0)
    plane, _ = np.linalg.qr(rng.normal(size=(50, 6)) - rng.normal(size=6))
    plane -= plane.mean(axis=0)
    plane, _ = np.linalg.qr(plane)  # orthonormal columns of mean 0
    assert effective_rank(plane + 3) == pytest.approx(6)
    assert effective_rank(plane[:, :1] * [1, 2, 3]) == pytest.approx(1)
    variance = np.array([8, 4, 2, 1, 1, 0])
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    skewed = effective_rank((plane * np.sqrt(variance)) @ turn)
    assert skewed == pytest.approx(2 ** (1 / 2 + 2 / 4 + 3 / 8 + 4 / 16 + 4 / 16))


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_effective_rank_equals_numpys_covariance(shape):
    z = np.random.default_rng(2).normal(size=shape) ** 3
    values = np.linalg.eigvalsh(np.cov(z.T)).clip(0)
    assert effective_rank(z) == pytest.approx(np.exp(entropy(values)))


# ------------------------------------------------------------------ cosine within a code


def brute_cosine(Z, codes, level, cross):
    v = np.stack([
        Z[i] - Z[(codes[:, :level] == codes[i, :level]).all(axis=1)].mean(axis=0)
        for i in range(len(Z))
    ])  # fmt: skip
    means = []
    for code in np.unique(codes[:, level]):
        cosines = []
        items = [i for i in np.flatnonzero(codes[:, level] == code) if np.linalg.norm(v[i]) > 1e-9]
        for i in items:
            for j in items:
                together = (codes[i, :level] == codes[j, :level]).all()
                if i != j and not (cross and together):
                    cosines.append(v[i] @ v[j] / np.linalg.norm(v[i]) / np.linalg.norm(v[j]))
        if cosines:
            means.append(np.mean(cosines))
    return np.mean(means) if means else np.nan


@given(coded_vectors(), st.booleans(), st.data())
@settings(max_examples=80, deadline=None)
def test_within_code_cosine_equals_the_loop_over_pairs(drawn, cross, data):
    Z, codes = drawn
    level = data.draw(st.integers(0, codes.shape[1] - 1))
    cross = cross and level > 0
    found = within_code_cosine(Z, codes, level, "cross_prefix" if cross else "all")
    truth = brute_cosine(Z, codes, level, cross)
    np.testing.assert_allclose(found, truth, atol=1e-9)


def test_within_code_cosine_of_a_toy():
    # Two parents, each with a child to the right and one to the left of its centre.
    z = np.array([[1.0, 0], [-1, 0], [6, 5], [4, 5]])
    for pairs in ("all", "cross_prefix"):
        assert within_code_cosine(z, [[0, 0], [0, 1], [1, 0], [1, 1]], pairs=pairs) == 1
        assert within_code_cosine(z, [[0, 0], [0, 1], [1, 1], [1, 0]], pairs=pairs) == -1
    # an item alone under its prefix is its own centre: no direction, no pair left
    assert np.isnan(within_code_cosine(z, [[0, 0], [1, 0], [2, 0], [3, 0]]))


def test_large_and_few_codes_cost_nothing():
    z, codes = (
        np.random.default_rng(0).normal(size=(4, 2)),
        np.array([[0, 0], [0, 1], [1, 0], [1, 1]]),
    )
    far = codes * (10**9)
    assert within_code_cosine(z, far) == within_code_cosine(z, codes)
    assert code_terms(z, far)[CODE].tolist() == code_terms(z, codes)[CODE].tolist()


def test_siblings_are_one_pair_in_b1_and_the_rest_is_zero_under_random_numbers():
    # SPEC 5: this explains the values that Table 10 prints for hierarchical k-means.
    z = np.random.default_rng(0).normal(size=(2880, 48))
    found, pairs = {}, ("all", "cross_prefix")
    for model in (HierarchicalKMeans, GAOQ):
        codes = model(branching=(12, 20, "auto")).fit_transform(z)
        found[model] = [within_code_cosine(z, codes, pairs=kind) for kind in pairs]
    every, cross = found[HierarchicalKMeans]
    siblings = []
    for prefix in range(12):
        inside = codes[:, 0] == prefix
        v = z[inside] - z[inside].mean(axis=0)
        siblings.append(within_code_cosine(v, codes[inside, 1:], level=0))
    share = (12 * 12 * 11) / (144 * 143)  # of the ordered pairs of a code's 12 x 12 items
    assert share == pytest.approx(1 / 12, abs=0.01)
    assert abs(cross) < 0.002
    assert every == pytest.approx(share * np.mean(siblings), abs=0.002)
    assert found[GAOQ][1] > 0.008  # alignment shows across prefixes, nowhere else


# ------------------------------------------------------------------ input


@pytest.mark.parametrize(
    "measure", [code_terms, within_code_cosine, lambda z, c: code_terms(z, c, form="gaussian")]
)
def test_vectors_and_codes_of_other_lengths(measure):
    with pytest.raises(CodesError, match="codes of 3 items for 2 items"):
        measure([[0.0], [1.0]], [[0, 0], [0, 1], [1, 0]])


@pytest.mark.parametrize(
    "measure",
    [
        effective_rank,
        lambda z: code_terms(z, np.zeros((len(z), 2), int)),
        lambda z: within_code_cosine(z, np.zeros((len(z), 2), int)),
        lambda z: reconstruction_error(z, z),
    ],
)
def test_vectors_that_cannot_be_judged(measure):
    with pytest.raises(InputError, match="row 1 of vectors .of 3. holds NaN or inf"):
        measure([[0.0], [np.nan], [1.0]])
    with pytest.raises(InputError, match="at least 2 items"):
        measure([[0.0]])
    with pytest.raises(InputError, match="numeric"):
        measure([["a"], ["b"]])


@pytest.mark.parametrize(
    "measure",
    [effective_rank, lambda z: code_terms(z, [[0], [1]]), lambda z: reconstruction_error(z, z)],
)
def test_equal_vectors_have_no_variance_to_explain(measure):
    with pytest.raises(InputError, match="all 2 vectors are equal"):
        measure([[0.1, 0.2], [0.1, 0.2]])


def test_settings_out_of_range():
    z, codes = [[0.0], [1.0]], [[0, 0], [0, 1]]
    with pytest.raises(InputError, match="form is 'entropy'"):
        code_terms(z, codes, form="entropy")
    for noise in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="noise is"):
            code_terms(z, codes, form="gaussian", noise=noise)
    for level in (-1, 2, 0.5):
        with pytest.raises(InputError, match="levels 0..1"):
            within_code_cosine(z, codes, level=level)
    for level, pairs in ((1, "same"), (0, "cross_prefix")):
        with pytest.raises(InputError, match="cross_prefix"):
            within_code_cosine(z, codes, level, pairs)
    with pytest.raises(InputError, match=r"\(2, 1\) but their reconstruction is \(2, 2\)"):
        reconstruction_error(z, [[0.0, 1.0], [1.0, 2.0]])
    with pytest.raises(InputError, match="row 0 of reconstruction"):
        reconstruction_error(z, [[np.inf], [1.0]])


# ------------------------------------------------------------------ SC and PD of R3-VAE


@given(coded_vectors())
@settings(max_examples=60, deadline=None)
def test_cohesion_equals_its_pairs(case):
    Z, rows = case
    expected = plain.semantic_cohesion(Z, rows)
    assert semantic_cohesion(Z, rows) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_cohesion_of_a_worked_example():
    # ID (0,): cosines 1, 0, 0, mean 1/3. ID (1,): -1. ID (2,) has one item and does not count.
    Z = np.array([[1, 0], [2, 0], [0, 3], [1, 1], [-1, -1], [5, 5]])
    assert semantic_cohesion(Z, [[0], [0], [0], [1], [1], [2]]) == pytest.approx(-1 / 3)
    assert np.isnan(semantic_cohesion(Z, np.arange(6)[:, None]))  # unique IDs


def test_cohesion_leaves_out_vectors_without_direction():
    Z = np.array([[1.0, 0], [0, 1], [0, 0], [0, 0], [1, 2]])
    assert semantic_cohesion(Z, [[0], [0], [0], [1], [1]]) == pytest.approx(0)


def test_cohesion_does_not_depend_on_chunks(monkeypatch):
    rng = np.random.default_rng(5)
    Z, rows = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 2, size=(60, 2))
    rows[:25] = 0  # one ID over several chunks
    expected = plain.semantic_cohesion(Z.astype(np.float64), rows)
    for chunk in (1, 7, 1000):
        monkeypatch.setattr("semid_lib.diagnostics.geometry.CHUNK", chunk)
        assert semantic_cohesion(Z, rows) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_discrimination_equals_its_pairs(monkeypatch, rows_at_once):
    monkeypatch.setattr("semid_lib.diagnostics.geometry.KERNEL_ROWS", rows_at_once)
    rng = np.random.default_rng(6)
    books = [rng.normal(size=(m, 4)) + 0.5 for m in (12, 2, 7)]
    expected = [plain.preference_discrimination(book) for book in books]
    assert preference_discrimination(books, per_level=True) == pytest.approx(expected)
    assert preference_discrimination(books) == pytest.approx(np.mean(expected))
    assert preference_discrimination(books[0]) == pytest.approx(expected[0])
    assert preference_discrimination(books[2], t=0.3) == pytest.approx(
        plain.preference_discrimination(books[2], 0.3)
    )


@pytest.mark.parametrize("m", [2, 3, 8, 256])
def test_discrimination_lies_between_a_simplex_and_one_direction(m):
    """The simplex of m directions is the least: -2 (1 + 1 / (m - 1)), -2.008 for 256 codes."""
    simplex = np.eye(m) - 1 / m
    floor = -2 * (1 + 1 / (m - 1))
    assert preference_discrimination(simplex) == pytest.approx(floor)
    assert preference_discrimination(np.eye(m)) == pytest.approx(-2)
    rays = np.outer(np.arange(1, m + 1), [0.6, 0.8])
    assert preference_discrimination(rays) == pytest.approx(0, abs=1e-12)
    if m == 256:
        assert round(floor, 3) == -2.008
    other = np.random.default_rng(m).normal(size=(m, m))
    assert floor <= preference_discrimination(other) <= 0


def test_discrimination_of_used_codewords_and_of_means():
    book = np.array([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    codes = np.array([[0], [1], [1], [3]])  # codeword 2 is unused, 3 has no direction
    assert preference_discrimination([book], codes) == pytest.approx(-2)
    assert preference_discrimination(book) == pytest.approx(
        plain.preference_discrimination(book[:3])
    )
    assert np.isnan(preference_discrimination(book[[0, 3]]))
    with pytest.raises(CodesError, match="codes up to"):
        preference_discrimination([book], [[4]])
    vectors = np.array([[1.0, 0], [3, 0], [0, 1], [0, 5], [9, 9]])
    codes = [[0, 2], [0, 2], [4, 2], [4, 0], [4, 0]]
    first, second = code_means(vectors, codes)
    assert first == pytest.approx(np.array([[2, 0], [3, 5]]))
    assert second == pytest.approx(np.array([[4.5, 7], [4 / 3, 1 / 3]]))
    assert code_means([vectors, -vectors], codes)[1] == pytest.approx(-second)
    with pytest.raises(InputError, match="one matrix for all levels or one for each"):
        code_means([vectors] * 3, codes)


def test_discrimination_of_many_vectors_is_that_of_a_sample():
    Z = np.random.default_rng(8).normal(size=(3000, 16)) + 0.4
    exact = preference_discrimination(Z)
    sampled = [preference_discrimination(Z, max_vectors=1000, random_state=s) for s in (0, 1, 1)]
    assert sampled == pytest.approx([exact] * 3, abs=0.03)
    assert sampled[1] == sampled[2] != sampled[0]


@pytest.mark.parametrize("settings_", [{"t": 0}, {"t": np.nan}, {"max_vectors": 1}])
def test_discrimination_names_bad_settings(settings_):
    with pytest.raises(InputError, match="must be above 0 and 1"):
        preference_discrimination(np.eye(3), **settings_)


def test_cohesion_and_discrimination_name_bad_vectors():
    bad = np.eye(3)
    bad[1, 1] = np.inf
    for call in (lambda: semantic_cohesion(bad, [[0]] * 3), lambda: preference_discrimination(bad)):
        with pytest.raises(InputError, match="row 1 of vectors"):
            call()
    with pytest.raises(CodesError, match="codes of 2 items for 3"):
        semantic_cohesion(np.eye(3), [[0], [1]])
