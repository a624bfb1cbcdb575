"""ReSID's Table 3: how long our tokenizers take at its three sizes, on this machine.

One run each (the largest takes minutes); CPU time is what chapter 12 shows, as other programs
stretch the wall time of long runs. The vectors are drawn: their number and width decide the time.
"""

from __future__ import annotations

import pytest

from harness import require, store, timed
from inputs import clustered_embeddings
from semid_lib.diagnostics import collision_rate
from semid_lib.quantizers import GAOQ, RQVAE
from semid_lib.reports import paper_table

SETS = {"ACS": 4, "HH": 7, "BPC": 8}  # rows of Table 6
BATCH, EPOCHS = 1024, (2, 12)


def row(job, what, quality, ours, raw):
    store({
        "job": job, "input": what, "peer": "none", "quality": quality, "peer s": "",
        "our s": ours, "ratio": "", "target": "none", "met": "", "raw": raw,
    })  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_table3_gaoq(name):
    """GAOQ with the printed branching on vectors of 5 fields of 128."""
    n = int(paper_table("resid", 6)["n_items"][SETS[name]])
    first, second = paper_table("resid", 7).set_index("dataset").loc[name, ["b1", "b2"]]
    GAOQ((4, 4, "auto")).fit(clustered_embeddings(500, 640))  # compiles
    tree = (int(first), int(second), "auto")
    model, wall, cpu = timed(GAOQ(tree, max_iter=20, random_state=0).fit,
                             (clustered_embeddings(n, 640),))  # fmt: skip
    require(collision_rate(model.codes_) == 1, "codes collide")
    ours = f"{wall:.3g} (CPU {cpu:.3g})"
    what = f"R1 {n:,} x 640, tree {model.level_sizes_}, 20 iterations"
    raw = {"dataset": name, "wall": wall, "cpu": cpu}
    row(f"table3_gaoq_{name.lower()}", what, "codes distinct; one run", ours, raw)


def test_table3_rqvae():
    """An RQ-VAE's batch, from the difference of two trainings (start and report drop out)."""
    X = clustered_embeddings(8 * BATCH, 768)
    times = [timed(RQVAE(epochs=e, random_state=0).fit, (X,))[1:] for e in EPOCHS]
    batches = 8 * (EPOCHS[1] - EPOCHS[0])
    wall, cpu = ((b - a) / batches for a, b in zip(*times))
    what = f"a batch of {BATCH:,} x 768 in RQ-VAE 512, 256, 128, 32, codes 3 x 256"
    raw = {"batch": BATCH, "wall": wall, "cpu": cpu}
    row("table3_rqvae", what, "one run", f"{wall:.3g} (CPU {cpu:.3g})", raw)
