"""S3-Rec against its four tasks written out in loops, SASRec, the draws' rules, structure."""

from math import exp, log

import numpy as np
import pytest
import torch

from semid_lib.errors import InputError
from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import S3Rec, SASRec

TINY = dict(
    dim=8, num_heads=2, ffn_dim=12, batch_size=16, epochs=2, learning_rate=0.01,
    pretrain_epochs=1, pretrain_batch_size=64,
)  # fmt: skip


@pytest.fixture
def shaken(shake):
    return lambda split, **settings: shake(S3Rec(**{**TINY, **settings}), split)


def sigmoid(x):
    return 1 / (1 + exp(-x))


# --- the truth: one sequence, one task, one attribute at a time


class Plain:
    """The losses of pre-training, in loops; torch's own layers read the sequences."""

    def __init__(self, model, split):
        self.model, self.network, self.split = model, model.network_, split
        self.names = () if model.attributes == () else tuple(split.data.fields)
        self.w = {n: t.detach().numpy() for n, t in self.network.state_dict().items()}
        self.blocks = []
        for block in self.network.encoder.blocks:
            twin = torch.nn.TransformerEncoderLayer(
                model.dim, model.num_heads, model.ffn_dim, 0.0, "relu", batch_first=True
            ).double()
            with torch.no_grad():
                both = (block.query, block.key_value)
                twin.self_attn.in_proj_weight.copy_(torch.cat([b.weight for b in both]))
                twin.self_attn.in_proj_bias.copy_(torch.cat([b.bias for b in both]))
            pairs = (
                (twin.self_attn.out_proj, block.out), (twin.linear1, block.inner),
                (twin.linear2, block.outer), (twin.norm1, block.norm1), (twin.norm2, block.norm2),
            )  # fmt: skip
            for theirs, ours in pairs:
                theirs.load_state_dict(ours.state_dict())
            self.blocks.append(twin.eval())

    def vector(self, item):
        """Sum over the fields of an item; of "masked" (None) too. Missing stands before it."""
        total, first = 0.0, 0
        fields = [np.arange(20), *(self.split.data.fields[n] for n in self.model.fields_[1:])]
        for field in fields:
            size = int(field.max()) + 1
            code = size + 1 if item is None else size if field[item] < 0 else field[item]
            total, first = total + self.w["table.weight"][first + code], first + size + 2
        return total

    @torch.no_grad()
    def read(self, sequence):
        """Outputs `[T, D]` that see the whole sequence; positions from the oldest."""
        x = [self.vector(item) + self.w["position"][t] for t, item in enumerate(sequence)]
        x = self.network.encoder.norm(torch.tensor(np.array(x)))[None]
        for block in self.blocks:
            x = block(x)
        return x[0].numpy()

    def f(self, task, h, v):
        return sigmoid((self.w[f"tasks.{task}.weight"] @ h + self.w[f"tasks.{task}.bias"]) @ v)

    def attributes(self, task, h, item):
        total, row = 0.0, 0
        for name in self.names:
            field = self.split.data.fields[name]
            for value in range(int(field.max()) + 1):
                p = self.f(task, h, self.w["attribute"][row])
                total -= log(p if field[item] == value else 1 - p)
                row += 1
        return total

    def contrast(self, task, h, right, wrong):
        return -log(sigmoid(self.f(task, h, right) - self.f(task, h, wrong)))

    def losses(self, sequence, masked, run, other, another):
        """AAP, MIP, MAP, SP of one sequence; `other`: items for the run, `another`: negatives."""
        found = np.zeros(4)
        out = self.read([None if m else i for i, m in zip(sequence, masked)])
        for h, item, gone, negative in zip(out, sequence, masked, another):
            if gone:
                vectors = self.vector(item), self.vector(negative)
                found[1] += self.contrast("mip", h, *vectors)
            found[2 if gone else 0] += self.attributes("map" if gone else "aap", h, item)
        context = self.read([None if r else i for i, r in zip(sequence, run)])[-1]
        right = self.read([i if r else None for i, r in zip(sequence, run)])[-1]
        wrong = self.read([i if r else None for i, r in zip(other, run)])[-1]
        found[3] = self.contrast("sp", context, right, wrong)
        return found


@pytest.mark.parametrize("change", [dict(), dict(field_names=None), dict(attributes=())])
def test_pretraining_loss_equals_the_tasks_in_loops(shaken, split, change):
    model = shaken(split, max_history=5, num_layers=1, **change)
    truth, rows = Plain(model, split), np.stack(split.windows(5))[:, 10:15]
    rows[0] = np.maximum(rows[0], rows[1] - 4)
    rows = rows[:, np.argsort(rows[1] - rows[0], kind="stable")]  # as they are read
    items, start, end = torch.as_tensor(split.items), *torch.as_tensor(rows)
    place, valid, _ = model._gather(items, start, end + 1)
    torch.manual_seed(2)
    drawn = model._draw(valid, end + 1 - start, items)
    model._draw = lambda *arguments: drawn
    totals = np.zeros(4)
    for row, (first, last) in enumerate(rows.T):
        sequence = split.items[first : last + 1]
        masked, run, other, step = (d[row, : len(sequence)].numpy() for d in drawn)
        totals += truth.losses(sequence, masked, run, split.items[other], (sequence + step) % 20)
    assert (totals[[1, 3]] > 0).all() and (totals[[0, 2]] > 0).all() == (model.attributes != ())
    np.testing.assert_allclose(
        float(model._pretraining_loss(items, start, end).detach()),
        totals @ [0.2, 1.0, 1.0, 0.5] / rows.shape[1], rtol=1e-9,
    )  # fmt: skip


def test_what_is_drawn(shaken, split):
    """20,000 sequences of 7 items (and one of 1): masks, runs of 1..3 anywhere, other rows."""
    model, length = shaken(split, mask_ratio=0.3), torch.full((20_000,), 7)
    length[0] = 1
    items = torch.arange(50)
    valid = torch.arange(9) < length[:, None]
    torch.manual_seed(0)
    masked, run, other, step = model._draw(valid, length, items)
    assert not (masked & ~valid).any() and not (run & ~valid).any()
    np.testing.assert_allclose(masked[1:, :7].double().mean(), 0.3, atol=0.005)
    size = run.sum(1)
    assert size[0] == 1
    shares = torch.bincount(size[1:], minlength=4) / 19_999
    np.testing.assert_allclose(shares, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.012)
    begin = run.int().argmax(1)
    for length in (1, 2, 3):
        seen = torch.bincount(begin[1:][size[1:] == length])
        assert len(seen) == 8 - length and seen.min() > 0.85 * seen.double().mean()
        taken = other[size == length][run[size == length]].view(-1, length)
        assert (taken.diff(dim=1) == 1).all() and taken.min() == 0 and taken.max() == 49
    assert set(step.flatten().tolist()) == set(range(1, 20))  # never N, which is the item itself


# --- the stages


def test_without_pretraining_it_is_sasrec(split):
    settings = {**TINY, "pretrain_epochs": 0, "epochs": 3}
    ours = S3Rec(**settings).fit(split)
    shared = {k: v for k, v in settings.items() if not k.startswith("pretrain")}
    theirs = SASRec(**shared).fit(split)
    state = ours.network_.state_dict()
    for name, tensor in theirs.network_.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert ours.pretraining_.epochs == [] and len(ours.history_.epochs) == 3


@pytest.mark.trained
def test_pretraining_teaches_attributes(make_split):
    """The four values of "group" come first; each item's own should then score highest."""
    split = make_split(num_items=20, num_users=100, surprise=0.0)
    model = S3Rec(**{**TINY, "dim": 32, "pretrain_epochs": 12, "epochs": 0}).fit(split)
    losses, network = [epoch["loss"] for epoch in model.pretraining_.epochs], model.network_
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        items = network.table.tokens[:, None]  # as sequences of one item
        hidden = network.both_ways(items, torch.ones(20, 1, dtype=torch.bool))[:, 0]
        scores = network.tasks["aap"](hidden) @ network.attribute[:4].T
    assert (scores.argmax(1).numpy() == split.data.fields["group"]).mean() >= 0.9


@pytest.mark.parametrize("kind", ["sliding", "sequences"])
def test_what_pretraining_reads(split, kind, monkeypatch):
    """Every beginning of two items or more, or the whole train part; the newest five of it."""
    rows = []
    monkeypatch.setattr(S3Rec, "_train", lambda self, split, loss, r, *a, **k: rows.append(r))
    model = S3Rec(**TINY, max_history=5, pretrain_samples=kind)
    model._pretrain(split)
    read = sorted(tuple(split.items[a : b + 1]) for a, b in rows[0].T)
    wanted = [
        tuple(s[max(0, t - 5) : t])
        for s in split.train_sequences()
        for t in range(2 if kind == "sliding" else len(s), len(s) + 1)
        if t >= 2
    ]
    assert read == sorted(wanted)


@pytest.mark.trained
@pytest.mark.parametrize("change", [dict(), dict(field_names=None), dict(loss="bce", epochs=25)])
def test_it_finds_successors(make_split, change):
    fields = {"group": np.arange(40) // 5}
    split = make_split(num_items=40, num_users=300, shortest=1, fields=fields)
    settings = dict(dim=32, ffn_dim=64, epochs=12, patience=40, batch_size=32)
    model = S3Rec(**{**TINY, **settings, **change}).fit(split)
    ranks = ranks_from_scores(model.score_items(split.histories("test")), split.targets["test"])
    assert ranks.recall(1).mean() > 0.6  # 0.9 + 0.1 / 40 at best, 0.03 by chance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(task_weights=(1, 1)), r"task_weights is \(1, 1\), but must be one for"),
        (dict(mask_ratio=1.5), r"mask_ratio is 1.5, but must lie in 0\.\.1"),
        (dict(pretrain_samples="all"), "pretrain_samples is 'all'"),
        (dict(attributes=("colour",)), "no item field 'colour'"),
    ],
)
def test_bad_settings(change, message, split):
    with pytest.raises(InputError, match=message):
        S3Rec(**{**TINY, **change}).fit(split)
