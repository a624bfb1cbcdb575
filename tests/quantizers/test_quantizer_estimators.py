"""scikit-learn's own estimator checks; every deviation stands here with its reason."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from semid_lib.quantizers import (
    GAOQ,
    MQ,
    OPQ,
    PQ,
    R3VAE,
    RQVAE,
    VQVAE,
    BalancedKMeans,
    HierarchicalKMeans,
    KMeans,
    ResidualKMeans,
)

DEVIATIONS = {}  # check -> reason; none is needed
SHORT = {"num_codes": 3, "hidden": (8,), "latent": 4, "epochs": 2}  # one learnt tokenizer's fit


@pytest.mark.filterwarnings("ignore::semid_lib.errors.CollapseWarning")  # two epochs of a few rows
@parametrize_with_checks(
    [
        BalancedKMeans(n_clusters=3),
        KMeans(n_clusters=3),
        ResidualKMeans(num_levels=2, n_clusters=3),
        ResidualKMeans(num_levels=2, n_clusters=3, balanced=True, normalize_residuals=True),
        HierarchicalKMeans((2, 2, 200)),  # "auto" leaves no room for a check's new rows
        GAOQ((2, 2, 200)),
        PQ(num_blocks=1, num_codes=4),
        OPQ(num_blocks=1, num_codes=4, num_rounds=3),
        VQVAE(**SHORT),
        RQVAE(num_levels=2, **SHORT),
        R3VAE(num_levels=2, num_codes=3, epochs=2),
        MQ(num_levels=2, dropout=(0.1,), **SHORT),
    ],
    expected_failed_checks=lambda estimator: DEVIATIONS,
)
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)
