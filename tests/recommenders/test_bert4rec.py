"""BERT4Rec against a forward pass written out in loops, masking by the book, planted structure."""

from math import erf, exp, log, sqrt

import numpy as np
import pytest
import torch

from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.errors import (
    InputError,
)
from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import BERT4Rec, Popularity

TINY = dict(dim=8, num_heads=2, ffn_dim=12, batch_size=64, epochs=2, learning_rate=3e-3)


@pytest.fixture
def shaken(shake):
    return lambda split, **settings: shake(BERT4Rec(**{**TINY, **settings}), split)


def samples(model, split):
    """The items of each training sample, oldest first."""
    return [split.items[a : b + 1] for a, b in zip(*model._sequences(split))]


# --- the truth: one position, one head, one item at a time


class Plain:
    """BERT4Rec in loops over NumPy arrays, from the weights of a fitted model."""

    def __init__(self, model, fields):
        self.model, self.fields = model, fields  # fields: codes of the items, -1 where missing
        self.w = {n: t.detach().numpy() for n, t in model.network_.state_dict().items()}
        sizes = [int(column.max()) + 1 for column in fields]
        self.offsets, self.sizes = np.cumsum([0] + [n + 2 for n in sizes]), sizes

    def row(self, k, code):
        """Field k's row of a code: its values, then "missing" (-1), then "masked" ("mask")."""
        place = {-1: self.sizes[k], "mask": self.sizes[k] + 1}.get(code, code)
        return self.w["table.weight"][self.offsets[k] + place]

    def token(self, item):
        """The sum over the fields of an item, or of mask tokens for None."""
        codes = ["mask" if item is None else int(field[item]) for field in self.fields]
        return sum(self.row(k, code) for k, code in enumerate(codes))

    def norm(self, x, name):
        x = (x - x.mean()) / sqrt(x.var() + 1e-5)
        return x * self.w[name + ".weight"] + self.w[name + ".bias"]

    def dense(self, x, name):
        return self.w[name + ".weight"] @ x + self.w[name + ".bias"]

    def block(self, x, name):
        heads, out = self.model.num_heads, []
        d = self.model.dim // heads
        query = [self.dense(v, name + "query") for v in x]
        key, value = zip(*[np.split(self.dense(v, name + "key_value"), 2) for v in x])
        for t, v in enumerate(x):
            mixed = []
            for h in range(heads):
                part = slice(h * d, (h + 1) * d)
                weights = [exp(query[t][part] @ k[part] / sqrt(d)) for k in key]
                mixed += list(sum(w * u[part] for w, u in zip(weights, value)) / sum(weights))
            v = self.norm(v + self.dense(np.array(mixed), name + "out"), name + "norm1")
            inner = np.maximum(self.dense(v, name + "inner"), 0)
            out.append(self.norm(v + self.dense(inner, name + "outer"), name + "norm2"))
        return out

    def scores(self, sequence):
        """The scores `[N]` at each position of a sequence; None stands for a mask."""
        position = self.w["position"][-len(sequence) :]
        x = [self.token(item) + p for item, p in zip(sequence, position)]
        x = [self.norm(v, "encoder.norm") for v in x]
        for layer in range(self.model.num_layers):
            x = self.block(x, f"encoder.blocks.{layer}.")
        return [self.answer(v) for v in x]

    def answer(self, x):
        dense = self.dense(x, "head.0")
        h = self.norm(np.array([v * (1 + erf(v / sqrt(2))) / 2 for v in dense]), "head.2")
        fused = self.model.score_with == "fused"
        scores = []
        for i, bias in enumerate(self.w["item_bias"]):
            v = self.token(i) if fused else self.row(0, i)
            if self.model.similarity == "cosine":
                v = sqrt(len(v)) * v / sqrt(v @ v) / sqrt(h @ h)
            scores.append(v @ h + bias)
        return np.array(scores)


def plain(model, split):
    names = list(split.data.fields) if model.field_names is None else model.field_names
    return Plain(model, [np.arange(split.num_items), *(split.data.fields[n] for n in names)])


VARIANTS = [
    dict(), dict(field_names=None), dict(field_names=("kind",), score_with="id"),
    dict(similarity="cosine", field_names=None), dict(similarity="cosine", num_layers=1),
]  # fmt: skip


@pytest.mark.parametrize("change", VARIANTS)
def test_scores_equal_a_forward_pass_in_loops(shaken, split, change):
    model = shaken(split, max_history=4, **change)
    truth = plain(model, split)
    for history in ([3], [3, 1, 4], [2, 7, 1, 8, 2, 8]):
        expected = truth.scores([*history[-4:], None])[-1]
        np.testing.assert_allclose(model.score_items([history])[0], expected, rtol=1e-9)


@pytest.mark.parametrize("change", VARIANTS)
@pytest.mark.parametrize("kind", ["sliding", "sequences"])
def test_loss_of_fixed_masks_equals_the_cross_entropy_in_loops(shaken, split, change, kind):
    """Every second position counted back from the newest is masked."""
    model = shaken(split, max_history=4, samples=kind, **change)
    model._choose = lambda valid: valid & (torch.arange(valid.shape[1]).flip(0) % 2 == 0)
    truth, total = plain(model, split), 0.0
    for sample in samples(model, split)[:12]:
        hidden = (np.arange(len(sample))[::-1] % 2 == 0).tolist()
        read = [None if gone else item for item, gone in zip(sample, hidden)]
        for scores, item, gone in zip(truth.scores(read), sample, hidden):
            if gone:
                total += log(np.exp(scores).sum()) - scores[item]
    rows = torch.as_tensor(np.stack(model._sequences(split))[:, :12])
    found = float(model._loss(torch.as_tensor(split.items), *rows, per_row=1.0).detach())
    np.testing.assert_allclose(found * 12, total, rtol=1e-9)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_sampled_loss_equals_the_softmax_over_the_drawn_items(shaken, split, similarity):
    model = shaken(split, loss="sampled", num_negatives=6, similarity=similarity)
    model._choose = lambda valid: torch.arange(valid.shape[1]).flip(0).expand(valid.shape) == 0
    truth, rows = plain(model, split), np.stack(model._sequences(split))[:, :10]
    torch.manual_seed(5)
    drawn = torch.randint(20, (6,)).tolist()
    total = 0.0
    for a, b in rows.T:
        scores, target = truth.scores([*split.items[a:b], None])[-1], split.items[b]
        wrong = [scores[i] for i in drawn if i != target]
        total += log(sum(np.exp([scores[target], *wrong]))) - scores[target]
    torch.manual_seed(5)
    found = model._loss(torch.as_tensor(split.items), *torch.as_tensor(rows), per_row=1.0)
    np.testing.assert_allclose(float(found.detach()) * 10, total, rtol=1e-9)


# --- masks


def test_a_masked_item_leaves_no_trace(shaken, split):
    """Another item below the mask: the same output. No gradient reaches its row of the table."""
    model = shaken(split, field_names=None)
    table = model.network_.table
    items, chosen = torch.tensor([[3, 1, 4, 9, 5]]), torch.zeros(1, 5, dtype=torch.bool)
    chosen[0, 1] = chosen[0, 4] = True
    outputs = []
    for hidden in ((1, 5), (17, 2), (0, 0)):
        changed = items.clone()
        changed[chosen] = torch.tensor(hidden)
        outputs.append(model.network_(model._tokens(changed, chosen), at=chosen))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    (gradient,) = torch.autograd.grad(outputs[0].sum(), table.weight)
    reached = set(torch.nonzero(gradient.abs().sum(1))[:, 0].tolist())
    seen = set(table.tokens[items[~chosen]].flatten().tolist())
    assert reached == seen | set(table.masked.tolist())


def test_seen_items_on_both_sides_matter(shaken, split):
    model = shaken(split)
    chosen = torch.arange(5)[None] == 2
    base = model.network_(model._tokens(torch.tensor([[3, 1, 4, 9, 5]]), chosen), at=chosen)
    for other in ([[7, 1, 4, 9, 5]], [[3, 1, 4, 9, 7]]):
        output = model.network_(model._tokens(torch.tensor(other), chosen), at=chosen)
        assert not torch.allclose(base, output)


@pytest.mark.parametrize(
    ("mask_ratio", "ft_ratio"), [(0.2, 0.5), (0.2, 0.0), (0.6, 0.3), (0.2, 1.0), (1.0, 0.0), (0, 0)]
)
def test_masking_rates(mask_ratio, ft_ratio):
    """Of 20,000 samples of 6 items; a sample in which chance masks none asks for the newest."""
    model = BERT4Rec(mask_ratio=mask_ratio, ft_ratio=ft_ratio)
    valid = torch.arange(8).expand(20_000, 8) >= 2
    torch.manual_seed(0)
    chosen = model._choose(valid)
    assert not chosen[~valid].any() and chosen.any(1).all()
    rates = chosen.double().mean(0)[2:].numpy()
    random = (1 - ft_ratio) * mask_ratio
    newest = random + (1 - ft_ratio) * (1 - mask_ratio) ** 6 + ft_ratio
    np.testing.assert_allclose(rates, [random] * 5 + [newest], atol=0.012)
    np.testing.assert_allclose(model._per_row(np.array([5])), random * 5 + newest)
    alone = (chosen.sum(1) == 1) & chosen[:, -1]
    cloze = (1 - ft_ratio) * (1 - mask_ratio) ** 5  # none of the first five drawn
    np.testing.assert_allclose(float(alone.double().mean()), ft_ratio + cloze, atol=0.012)


def test_the_mean_loss_of_an_epoch_is_a_mean_over_masked_items(split):
    """With every item masked nothing is random; short samples must not weigh more."""
    model = BERT4Rec(
        **{**TINY, "epochs": 1, "learning_rate": 0.0, "dropout": 0.0, "batch_size": 7},
        mask_ratio=1.0, ft_ratio=0.0, samples="sequences",
    ).fit(split)  # fmt: skip
    model.network_.double()
    truth, losses = plain(model, split), []
    for sample in samples(model, split):
        for scores, item in zip(truth.scores([None] * len(sample)), sample):
            losses.append(log(np.exp(scores).sum()) - scores[item])
    np.testing.assert_allclose(model.history_.epochs[0]["loss"], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("max_history", [1, 3, 100])
def test_samples(make_split, max_history):
    split = make_split(longest=14)
    users = [s.tolist() for s in split.train_sequences()]
    settings = dict(max_history=max_history)
    sliding = [s.tolist() for s in samples(BERT4Rec(**settings), split)]
    newest = [s[max(0, t - max_history) : t + 1] for s in users for t in range(1, len(s))]
    assert sliding == newest
    last = [s.tolist() for s in samples(BERT4Rec(**settings, samples="sequences"), split)]
    assert last == [s[-max_history - 1 :] for s in users if len(s) > 1]
    cut = BERT4Rec(**settings, samples="sequences", long_histories="windows")
    start, end = cut._sequences(split)
    assert ((end > start) & (end - start <= max_history)).all()
    covered = np.concatenate([np.arange(a, b + 1) for a, b in zip(start, end)])
    wanted = np.concatenate(
        [np.arange(a, b) for a, b in zip(split.indptr[:-1], split.indptr[1:]) if b - a > 1]
    )
    assert set(covered) == set(wanted)


# --- as a recommender


def recall(model, split, k=1):
    scores = model.score_items(split.histories("test"))
    return ranks_from_scores(scores, split.targets["test"]).recall(k).mean()


@pytest.mark.trained
@pytest.mark.parametrize(
    "change",
    [
        dict(), dict(similarity="cosine"), dict(field_names=None), dict(precision="bfloat16"),
        dict(loss="sampled", num_negatives=20, epochs=32),
        dict(samples="sequences", epochs=60, batch_size=32),
    ],
)  # fmt: skip
def test_it_finds_successors(make_split, change):
    split = make_split(num_users=300, surprise=0.0)
    settings = dict(dim=32, num_layers=1, ffn_dim=64, epochs=16, patience=60, learning_rate=1e-2)
    model = BERT4Rec(**{**TINY, **settings, **change}).fit(split)
    assert recall(model, split) > 0.85
    best = model.history_.epochs[model.history_.best_epoch - 1]
    scores = model.score_items(split.histories("validation"))
    ranks = ranks_from_scores(scores, split.targets["validation"])
    np.testing.assert_allclose(best["ndcg@10"], ranks.ndcg(10).mean())
    assert best["ndcg@10"] == max(e["ndcg@10"] for e in model.history_.epochs) > 0.85


@pytest.mark.trained
def test_side_information_helps_on_the_planted_catalogue():
    """The next leaf category is planted; ids alone see each item too rarely to learn it."""
    data, _ = synthetic_catalogue(num_items=300, num_users=400)
    split, found = leave_one_out(data), {}
    settings = dict(dim=32, num_layers=1, ffn_dim=64, epochs=8, learning_rate=5e-3, batch_size=128)
    for fields in ((), None):
        model = BERT4Rec(**{**TINY, **settings}, field_names=fields, max_history=4).fit(split)
        found[fields] = recall(model, split, 10)
    popularity = recall(Popularity().fit(split), split, 10)
    assert found[None] > 4 * popularity and found[None] > found[()] + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(samples="some"), "samples is 'some'"),
        (dict(mask_ratio=1.5), r"mask_ratio is 1.5, but must lie in 0\.\.1"),
        (dict(ft_ratio=-0.1), r"ft_ratio is -0.1, but must lie in 0\.\.1"),
        (dict(ft_ratio=float("nan")), "ft_ratio is nan"),
    ],
)
def test_bad_settings(change, message, split):
    with pytest.raises(InputError, match=message):
        BERT4Rec(**{**TINY, **change}).fit(split)
