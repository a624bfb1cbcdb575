"""One thread or two: the same codes, the same recommendations, the same metrics."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

THREADS = ("1", "2")
START = """
    import json, warnings
    import numpy as np, torch
    from semid_lib.codes import SemanticIds
    from semid_lib.data import leave_one_out, synthetic_catalogue

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    found = {"threads": torch.get_num_threads()}
"""
TOKENIZERS = """
    from semid_lib import quantizers as Q

    groups = rng.normal(size=(40, 32))
    X = (groups[rng.integers(40, size=1200)] + 0.3 * rng.normal(size=(1200, 32))).astype("float32")
    rows = X[:300]
    small = dict(num_codes=16, batch_size=1024, epochs=4)
    net = dict(hidden=(64,), latent=16)
    kinds = {
        "KMeans": Q.KMeans(16), "ResidualKMeans": Q.ResidualKMeans(2, 16),
        "PQ": Q.PQ(4, 16), "OPQ": Q.OPQ(4, 16, num_rounds=5),
        "OPQ in float64": Q.OPQ(4, 16, num_rounds=5, precision="float64"),
        "VQVAE": Q.VQVAE(**small, **net), "RQVAE": Q.RQVAE(num_levels=2, **small, **net),
        "RQVAE, running means": Q.RQVAE(num_levels=2, update="ema", **small, **net),
        "R3VAE": Q.R3VAE(num_levels=2, top_k=3, **small),
        "MQ": Q.MQ(num_levels=2, hidden=(64, 64), latent=32, **small),
    }
    for name, kind in kinds.items():
        model = kind.fit(X)
        found[name] = [model.codes_.tolist(), model.transform(rows).tolist()]
    for kind in (Q.BalancedKMeans(16), Q.HierarchicalKMeans((4, 8, "auto")),
                 Q.GAOQ(branching=(4, 8, "auto"))):
        model = kind.fit(rows)
        codes = model.codes_ if hasattr(model, "codes_") else model.labels_
        found[type(kind).__name__] = codes.tolist()
"""
RECOMMENDERS = """
    from semid_lib.evaluation import evaluate
    from semid_lib.recommenders import SASRec, T5Recommender

    split = leave_one_out(synthetic_catalogue(300, 240)[0])
    sids = SemanticIds(rng.integers(0, 16, (300, 3)), (16, 16, 16))
    shared = dict(dim=32, num_heads=2, ffn_dim=64, dropout=0.1, epochs=3, learning_rate=3e-3,
                  max_history=12, precision="float64")
    models = {
        "SASRec": SASRec(batch_size=64, **shared).fit(split),
        "T5": T5Recommender(num_layers=1, head_dim=16, batch_size=256, **shared).fit(split, sids),
    }
    for name, model in models.items():
        items, scores = model.recommend(split.histories("test"), 10, return_scores=True)
        metrics = evaluate(model, split, "test", ks=(10,)).metrics()
        found[name] = [items.tolist(), scores.tolist(), metrics]
"""


def run(code: str) -> list[dict]:
    """What the code finds in a process of one thread and in one of two."""
    found = []
    for threads in THREADS:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads), "OMP_WAIT_POLICY": "passive"}
        text = textwrap.dedent(START) + textwrap.dedent(code) + "\nprint(json.dumps(found))"
        done = subprocess.run(
            [sys.executable, "-c", text], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def test_every_tokenizer_gives_the_same_codes():
    one, two = run(TOKENIZERS)
    assert (one.pop("threads"), two.pop("threads")) == (1, 2)
    assert len(one) == 13
    assert {name for name in one if one[name] != two[name]} == set()


@pytest.mark.parametrize("name", ["SASRec", "T5"])
def test_recommendations_and_metrics_are_the_same(recommended, name):
    """Items and metrics to the last digit; scores but for the rounding of float64."""
    one, two = (process[name] for process in recommended)
    assert one[0] == two[0]
    assert one[2] == two[2]
    np.testing.assert_allclose(one[1], two[1], rtol=1e-9)


@pytest.fixture(scope="module")
def recommended():
    found = run(RECOMMENDERS)
    assert [process["threads"] for process in found] == [1, 2]
    return found
