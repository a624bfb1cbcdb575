"""What a record says about vectors and codes, on cases where the truth is known."""

import numpy as np
import pytest

from semid_lib.codes import SemanticIds
from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.diagnostics import preference_discrimination
from semid_lib.diagnostics.judge import judge_codes, judge_quantizer, judge_vectors, plain
from semid_lib.quantizers import HierarchicalKMeans, KMeans, ResidualKMeans


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic_catalogue(60, 80, random_state=1)[0])


def cloud(rows=400, shift=3.0):
    """Vectors around a common direction, as text encoders give them."""
    X = np.random.default_rng(0).normal(size=(rows, 16))
    X[:, 0] += shift
    return X


def test_pd_of_cluster_means_is_that_of_the_codewords_of_residual_k_means():
    X = cloud()
    found = judge_quantizer(ResidualKMeans(num_levels=2, n_clusters=8, max_iter=300).fit(X), X)
    assert found["pd_means"]["levels"] == pytest.approx(found["pd"]["levels"], abs=1e-6)
    assert found["pd"]["mean"] == pytest.approx(np.mean(found["pd"]["levels"]))
    first, second = found["pd"]["levels"]
    assert first > -1 > second > -2.3  # the common direction is gone from the second level


def test_cluster_means_by_hand():
    """Two pairs, told apart by the first level; the second level halves what is left over."""
    X = np.array([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]])
    quantizer = KMeans(n_clusters=2).fit(X)
    quantizer.codes_ = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    quantizer.level_sizes_ = (2, 2)
    del quantizer.codebooks_
    quantizer.inverse_transform = lambda codes: X
    found = judge_quantizer(quantizer, X)
    # (4, 0) and (-4, 0), then (0, 1) and (0, -1): cosine -1, so log exp(-2 * 2) at both levels
    assert found["pd_means"]["levels"] == pytest.approx([-4, -4])
    assert found.keys() == {"pd_means", "reconstruction_error"}


def test_a_collapsed_level_has_no_pd():
    X = cloud()
    quantizer = ResidualKMeans(num_levels=2, n_clusters=8).fit(X)
    quantizer.codes_[:, 1] = 5
    found = judge_quantizer(quantizer, X)
    for key in ("pd", "pd_means"):
        assert found[key]["mean"] is None and found[key]["levels"][1] is None
        assert found[key]["levels"][0] < 0


def test_codes_are_judged_as_they_are(split):
    """60 items, 40 alone, 8 in pairs, 12 in one ID; the pairs point the same way."""
    codes = np.r_[np.arange(40), np.repeat([40, 41, 42, 43], 2), np.full(12, 44)][:, None]
    X = np.eye(60)
    X[41:48:2] = X[40:48:2]
    found = judge_codes(SemanticIds(codes, [50]), X, split)
    assert found["collision_rate"] == found["collisions"]["items_per_id"] == 60 / 45
    assert found["collisions"]["excess"] == pytest.approx(15 / 60)
    assert found["collisions"]["shared"] == pytest.approx(20 / 60)
    assert found["sc"] == pytest.approx((4 * 1 + 0) / 5)
    assert found["code_usage"] == [0.9]
    assert found["code_gini"][0] > found["gini"] > 0  # the five idle codes count in one of them
    unique = judge_codes(SemanticIds(np.arange(60)[:, None]), X, split)
    assert unique["sc"] is None and unique["collision_rate"] == 1


def test_centring_and_projection_take_the_common_direction_away(split):
    X = cloud(60, shift=20.0)
    found = judge_vectors(X, split, np.full(60, -1))["pd"]
    assert found["raw"] > -0.5 and found["centred"] < -1.7 and found["projected"] < -1.7
    mean = X.mean(axis=0)
    assert found["centred"] == pytest.approx(preference_discrimination(X - mean))
    u = mean / np.linalg.norm(mean)
    assert found["projected"] == pytest.approx(preference_discrimination(X - np.outer(X @ u, u)))


def test_plain_holds_what_json_holds():
    value = {"a": np.arange(2), "b": (np.float32(0.5), float("nan")), "c": [np.inf, None, "x"]}
    assert plain(value) == {"a": [0, 1], "b": [0.5, None], "c": [None, None, "x"]}


def test_a_level_of_one_code_is_judged():
    """Its codewords have no pair of directions, so it has no PD; the other level has."""
    X = cloud(6)
    quantizer = HierarchicalKMeans((6, "auto")).fit(X)
    assert quantizer.level_sizes_ == (6, 1)
    found = judge_quantizer(quantizer, X)
    assert found["pd_means"]["levels"][1] is None and found["pd_means"]["levels"][0] < 0
    assert found["reconstruction_error"] == pytest.approx(0, abs=1e-9)


def test_vectors_whose_mean_is_nothing_are_judged(split):
    X = np.vstack([np.eye(30), -np.eye(30)])
    found = judge_vectors(X, split, np.full(60, -1))["pd"]
    assert found["projected"] == pytest.approx(found["raw"])
