"""HGN against its gates written out in loops, whose history it is, planted structure."""

from math import exp

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid_lib.data import Interactions, leave_one_out
from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import HGN

TINY = dict(dim=8, batch_size=64, epochs=2, learning_rate=0.01)


@pytest.fixture
def shaken(shake):
    return lambda split, **settings: shake(HGN(**{**TINY, **settings}), split)


def sigmoid(x):
    return 1 / (1 + exp(-x))


def rows(weights, fields):
    """Sums over the fields' rows of each item; -1 is the row behind the values."""
    total, first = 0.0, 0
    for field in fields:
        size = int(field.max()) + 1
        total = total + weights[first + np.where(field < 0, size, field)]
        first += size + 2
    return total


def by_hand(model, fields, user, history):
    """The scores `[N]`, one gate of one item at a time."""
    w = {name: t.detach().numpy() for name, t in model.network_.state_dict().items()}
    answers, x = rows(w["table.weight"], fields), rows(w["read.weight"], fields)[history]
    u = w["user"].mean(0) if user is None else w["user"][user]
    mean, total = 0.0, 0.0
    for t, item in enumerate(x):
        gate = w["by_item.weight"] @ item + w["by_item.bias"] + w["by_user.weight"] @ u
        gated = np.array([value * sigmoid(g) for value, g in zip(item, gate)])
        place = model.max_history - len(x) + t  # the newest stands last
        share = sigmoid(w["item_weight.weight"][0] @ gated + w["user_weight.weight"][place] @ u)
        mean, total = mean + share * gated, total + share
    return answers @ (u + mean / total + x.sum(0))


def owners(model, split):
    """Each user's row of the table, None for users without a sample."""
    whole, numbers = [tuple(s) for s in split.train_sequences()], {}
    for start, _, number in zip(*model._sequences(split)):
        user = int(np.flatnonzero(split.indptr <= start)[-1])
        assert numbers.setdefault(whole[user], int(number)) == number
    assert len(set(numbers.values())) == len(numbers)  # other train parts have other rows
    return [numbers.get(w) for w in whole]


@pytest.mark.parametrize("fields", [(), None])
def test_scores_equal_the_gates_in_loops(shaken, split, fields):
    model = shaken(split, field_names=fields, max_history=4)
    codes = [np.arange(20), *(split.data.fields.values() if fields is None else ())]
    owner = owners(model, split)
    for part in ("validation", "test"):
        scores = model.score_items(split.histories(part))
        for user, history, found in [*zip(split.users, split.histories(part), scores)][::3]:
            truth = by_hand(model, codes, owner[user], history[-4:])
            np.testing.assert_allclose(found, truth, rtol=1e-9)
    for stranger in ([3], [3, 1, 4], [2, 7, 1, 8, 2, 8]):
        truth = by_hand(model, codes, None, np.array(stranger[-4:]))
        np.testing.assert_allclose(model.score_items([stranger])[0], truth, rtol=1e-9)


def test_loss_is_the_cross_entropy_of_each_item_after_its_window(shaken, split):
    model = shaken(split, max_history=3)
    owner, codes, total, count = owners(model, split), [np.arange(20)], 0.0, 0
    for user, sequence in enumerate(split.train_sequences()):
        for t in range(1, len(sequence)):
            window = sequence[max(0, t - 3) : t]
            scores = torch.tensor(by_hand(model, codes, owner[user], window))
            total += float(F.cross_entropy(scores, torch.tensor(sequence[t])))
            count += 1
    samples = torch.as_tensor(np.stack(model._sequences(split)))
    found = model._loss(torch.as_tensor(split.items), *samples, per_row=1.0)
    np.testing.assert_allclose(float(found.detach()), total / count, rtol=1e-9)


def test_a_user_is_known_by_the_longest_train_part(shake):
    """Users 0 and 1 begin alike, 2 is 1's double; the validation and test items come last."""
    parts = [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7]]
    whole = [[*part, 8, 9] for part in parts]
    users = np.repeat(np.arange(4), [len(w) for w in whole])
    split = leave_one_out(Interactions(users, np.concatenate(whole), 4, 10))
    model = shake(HGN(**TINY), split)
    about = model._about(
        [np.array(h) for h in (*parts, [1, 2, 9], [1, 2, 3], [1, 2, 3, 4, 9], [5])]
    )
    first, second, third, fourth, *rest = about[0].tolist()
    assert second == third and len({first, second, fourth}) == 3 == len(model.network_.known)
    assert rest == [first, first, second, -1]


def test_a_saved_model_still_knows_its_users(shaken, split, tmp_path):
    model = shaken(split)
    again = HGN.load(model.save(tmp_path / "m"))
    histories = split.histories("test")
    np.testing.assert_array_equal(again.score_items(histories), model.score_items(histories))
    np.testing.assert_array_equal(again._about(histories), model._about(histories))
    assert (again._about(histories)[0] >= 0).any()


@pytest.mark.trained
@pytest.mark.parametrize(
    "change",
    [
        dict(), dict(loss="sampled", num_negatives=20), dict(loss="bpr", epochs=40, max_history=5),
        dict(similarity="cosine", field_names=None), dict(precision="bfloat16"),
    ],
)  # fmt: skip
def test_it_finds_successors(make_split, change):
    """It has no order of items but for the gate: two items of history name the next."""
    fields = {"group": np.arange(40) // 5}
    split = make_split(num_items=40, num_users=300, shortest=1, fields=fields)
    settings = dict(dim=32, max_history=2, epochs=15, patience=40, learning_rate=0.02)
    model = HGN(**{**TINY, **settings, **change}).fit(split)
    ranks = ranks_from_scores(model.score_items(split.histories("test")), split.targets["test"])
    assert ranks.recall(3).mean() > 0.7  # 0.9 + 0.1 / 40 at best with the order
