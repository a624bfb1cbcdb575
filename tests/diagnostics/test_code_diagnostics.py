"""Diagnostics of codes, against printed values and definitions written out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from semid_lib.codes import SemanticIds
from semid_lib.diagnostics import (
    code_gini,
    code_usage,
    collision_rate,
    gini,
    marginal_entropy,
    prefix_entropy,
)
from semid_lib.errors import CodesError, InputError

KINDS = ("items_per_id", "excess", "shared")
codes_lists = st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=30)


def with_distinct(num_items, distinct):
    return (np.arange(num_items) % distinct)[:, None]


@pytest.mark.parametrize(
    ("distinct", "printed"), [(200, 60.5), (247, 48.99), (256, 47.27), (135, 89.64)]
)
def test_collision_rate_of_r3vae_table_6(distinct, printed):
    # Beauty has 12,101 items; the printed rates are N / distinct to the last digit (SPEC 23).
    assert collision_rate(with_distinct(12101, distinct)) == pytest.approx(printed, abs=0.0051)


def test_collision_rate_of_unique_ids():
    unique = SemanticIds([[0, 1], [1, 0]])
    assert [collision_rate(unique, kind) for kind in KINDS] == [1, 0, 0]


@given(codes_lists)
@settings(max_examples=80, deadline=None)
def test_collision_rates_equal_their_definitions(rows):
    counts = Counter(map(tuple, rows))
    shared = sum(counts[tuple(row)] > 1 for row in rows) / len(rows)
    expected = [len(rows) / len(counts), 1 - len(counts) / len(rows), shared]
    assert [collision_rate(rows, kind) for kind in KINDS] == pytest.approx(expected)


def test_collision_rates_of_one_pair_in_four_items():
    # {a, a, b, c}: 4 / 3 items an ID; one of four too many; two of four share.
    codes = [[7], [7], [0], [3]]
    assert [collision_rate(codes, kind) for kind in KINDS] == pytest.approx([4 / 3, 0.25, 0.5])
    with pytest.raises(InputError, match="kind is 'mean', but must be one of"):
        collision_rate(codes, "mean")


# R3-VAE prints CR and Gini of one tokenizer side by side: where only pairs collide, one gives the
# other. Table 6: R-KMeans, R3-VAE; Table 4: R3-VAE, MQ, R-KMeans.
@pytest.mark.parametrize(
    ("rate", "printed", "places"),
    [(1.14, 0.11, 2), (1.11, 0.09, 2), (1.033, 0.0314, 3), (1.037, 0.0348, 3), (1.039, 0.0366, 3)],
)
def test_gini_fits_the_collision_rate_printed_beside_it(rate, printed, places):
    ids = 10_000
    codes = np.append(np.arange(ids), np.arange(round(ids * (rate - 1))))[:, None]
    assert collision_rate(codes) == pytest.approx(rate)
    assert gini(codes) == pytest.approx(printed, abs=10.0**-places)


def test_code_gini_counts_codes_without_items():
    # Level 0: counts (4, 0, 0, 0), all on one of four: 1 - 1/4. Level 1: (2, 2). Level 2: (1, 3).
    codes = [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 1]]
    assert code_gini(codes, (4, 2, 2)) == pytest.approx([0.75, 0, 0.25])
    assert code_gini(SemanticIds(codes, (4, 2, 2))) == pytest.approx([0.75, 0, 0.25])
    assert code_gini(codes) == pytest.approx([0, 0, 0.25])


@given(codes_lists)
@settings(max_examples=80, deadline=None)
def test_code_gini_equals_mean_absolute_difference(rows):
    for column, value in zip(np.transpose(rows), code_gini(rows, (4, 4, 4))):
        counts = np.array([(column == code).sum() for code in range(4)])
        pairs = np.abs(counts[:, None] - counts[None]).mean()
        assert value == pytest.approx(pairs / (2 * counts.mean()), abs=1e-12)


@pytest.mark.parametrize(("rate", "printed"), [(1.12, 0.11), (1.1, 0.09)])
def test_gini_of_pairs_only(rate, printed):
    # f of the IDs hold two items, the others one: G = f (1 - f) / CR with f = CR - 1 (SPEC 23).
    ids, pairs = 1000, round(1000 * (rate - 1))
    codes = np.concatenate([np.arange(ids), np.arange(pairs)])[:, None]
    assert collision_rate(codes) == pytest.approx(rate)
    assert gini(codes) == pytest.approx((rate - 1) * (2 - rate) / rate)


@given(codes_lists)
@settings(max_examples=80, deadline=None)
def test_gini_equals_mean_absolute_difference(rows):
    counts = np.array(list(Counter(map(tuple, rows)).values()))
    pairs = np.abs(counts[:, None] - counts[None]).mean()
    assert gini(rows) == pytest.approx(pairs / (2 * counts.mean()), abs=1e-12)


def test_gini_ignores_empty_ids():
    assert gini(SemanticIds([[0], [9], [0], [9]], (100,))) == 0


def test_prefix_entropy_of_a_worked_example():
    # Level 0: two codes of equal mass, 1 bit. Level 1: within code 0 one of two codes (1 bit),
    # within code 1 always the same (0 bits): 0.5 bits.
    assert prefix_entropy([[0, 0], [0, 1], [1, 2], [1, 2]]).tolist() == [1.0, 0.5]


@given(codes_lists, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_prefix_entropy_equals_its_definition(rows, random):
    weights = np.array([random.choice([0.0, 1.0, 2.5]) for _ in rows])
    weights[0] = 1.0
    truth = []
    for level in range(3):
        bits = 0.0
        for prefix in {tuple(row[:level]) for row in rows}:
            mass = Counter()
            for row, weight in zip(rows, weights):
                if tuple(row[:level]) == prefix:
                    mass[row[level]] += weight
            within = np.array(list(mass.values()))
            if within.sum() > 0:
                bits += within.sum() / weights.sum() * entropy(within, base=2)
        truth.append(bits)
    np.testing.assert_allclose(prefix_entropy(rows, weights), truth, atol=1e-12)


def test_prefix_entropy_of_a_full_balanced_tree():
    rows = [[a, b, c] for a in range(8) for b in range(4) for c in range(2)]
    np.testing.assert_allclose(prefix_entropy(rows), [3, 2, 1])
    assert prefix_entropy(rows).sum() == pytest.approx(np.log2(len(rows)))


@pytest.mark.parametrize("weights", [[1.0], [1, -1], [0, 0], [1, np.nan]])
def test_prefix_entropy_weights(weights):
    with pytest.raises(InputError, match="weights must be 2 finite numbers"):
        prefix_entropy([[0], [1]], weights)


def test_marginal_entropy_of_a_worked_example():
    # Level 0: shares 1/2, 1/4, 1/4: 1.5 bits. Level 1: always the same code. Level 2: 4 codes.
    codes = [[0, 7, 0], [0, 7, 1], [3, 7, 2], [9, 7, 3]]
    assert marginal_entropy(codes).tolist() == [1.5, 0.0, 2.0]
    assert marginal_entropy(SemanticIds(codes)).tolist() == [1.5, 0.0, 2.0]


@given(codes_lists)
@settings(max_examples=80, deadline=None)
def test_marginal_entropy_equals_its_definition_and_bounds_the_conditional(rows):
    truth = [entropy(list(Counter(column).values()), base=2) for column in zip(*rows)]
    np.testing.assert_allclose(marginal_entropy(rows), truth, atol=1e-12)
    assert (prefix_entropy(rows) <= marginal_entropy(rows) + 1e-12).all()


def test_code_usage_of_a_worked_example():
    codes = [[0, 1], [2, 1], [0, 3]]
    assert code_usage(codes, (4, 4)).tolist() == [0.5, 0.5]
    assert code_usage(SemanticIds(codes, (4, 8))).tolist() == [0.5, 0.25]
    assert code_usage(codes).tolist() == [2 / 3, 0.5]


@pytest.mark.parametrize(
    "measure", [collision_rate, gini, prefix_entropy, marginal_entropy, code_usage]
)
def test_malformed_codes(measure):
    with pytest.raises(CodesError):
        measure([[0.5]])
