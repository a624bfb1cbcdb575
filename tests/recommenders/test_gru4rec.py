"""GRU4Rec against its cell written out in NumPy, one pass against one row a prefix, structure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import GRU4Rec

TINY = dict(dim=8, hidden_dim=6, batch_size=16, epochs=2, learning_rate=0.01)


@pytest.fixture
def shaken(shake):
    return lambda split, **settings: shake(GRU4Rec(**{**TINY, **settings}), split)


def by_hand(model, vectors, history):
    """Scores `[N]` by Cho et al.'s cell: gates in torch's order reset, update, new."""
    w = {name: t.detach().numpy() for name, t in model.network_.state_dict().items()}
    inputs = [vectors[item] for item in history]
    for layer in range(model.num_layers):
        state, outputs = np.zeros(model.hidden_dim), []
        for x in inputs:
            from_x = np.split(w[f"gru.weight_ih_l{layer}"] @ x, 3)
            from_state = np.split(w[f"gru.weight_hh_l{layer}"] @ state, 3)
            reset, update = (1 / (1 + np.exp(-a - b)) for a, b in zip(from_x[:2], from_state[:2]))
            new = np.tanh(from_x[2] + reset * from_state[2])
            state = (1 - update) * new + update * state
            outputs.append(state)
        inputs = outputs
    return vectors @ (w["dense.weight"] @ inputs[-1] + w["dense.bias"])


@pytest.mark.parametrize("change", [dict(), dict(num_layers=2), dict(field_names=None)])
def test_scores_equal_the_cell_in_loops(shaken, split, change):
    model = shaken(split, max_history=4, **change)
    with torch.no_grad():
        vectors = model._vectors().numpy()
    for history in ([3], [3, 1, 4], [2, 7, 1, 8, 2, 8]):
        truth = by_hand(model, vectors, history[-4:])
        np.testing.assert_allclose(model.score_items([history])[0], truth, rtol=1e-9)


@pytest.mark.parametrize("targets", ["all", "last"])
def test_loss_equals_cross_entropy_of_scores(shaken, split, targets):
    model, total = shaken(split, targets=targets), 0.0
    for sequence in split.train_sequences():
        for n in range(1, len(sequence)):
            scores = torch.tensor(model.score_items([sequence[:n]]))
            total += float(F.cross_entropy(scores, torch.tensor(sequence[n : n + 1])))
    start, end = model._sequences(split)
    per_row = model._per_row(end - start)
    rows = torch.as_tensor(np.stack([start, end]))
    found = model._loss(torch.as_tensor(split.items), *rows, per_row=per_row)
    np.testing.assert_allclose(float(found.detach()) * len(start) * per_row, total)


@pytest.mark.trained
@pytest.mark.parametrize(
    "change",
    [
        dict(), dict(loss="bpr", epochs=40), dict(similarity="cosine", field_names=None),
        dict(num_layers=2, epochs=30), dict(precision="bfloat16"),
    ],
)  # fmt: skip
def test_it_finds_successors(make_split, change):
    fields = {"group": np.arange(40) // 5}
    split = make_split(num_items=40, num_users=300, shortest=1, fields=fields)
    settings = dict(dim=32, hidden_dim=32, epochs=15, patience=40, batch_size=32)
    model = GRU4Rec(**{**TINY, **settings, **change}).fit(split)
    ranks = ranks_from_scores(model.score_items(split.histories("test")), split.targets["test"])
    assert ranks.recall(1).mean() > 0.6  # 0.9 + 0.1 / 40 at best, 0.03 by chance
