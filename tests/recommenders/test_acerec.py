"""ACERec: the mask by its rule and by gradients, the merger and losses against plain versions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semid_lib import plain
from semid_lib.errors import InputError, NotFittedError
from semid_lib.evaluation import evaluate
from semid_lib.recommenders import RPG, ACERec
from semid_lib.recommenders._parallel import step_mask
from semid_lib.recommenders.acerec import ACERecNetwork, TokenMerger, alignment_loss
from semid_lib.runs import count_parameters
from tests.recommenders.parallel import (
    CODES,
    DIGITS,
    ITEMS,
    TINY,
    make_sids,
    make_split,
    shaken,
    training_loss,
    weights,
)

SMALL = dict(ratio=4, alignment=0.1)
VARIANTS = [
    dict(), dict(alignment=0.0), dict(merger="mlp"), dict(merger="mean"), dict(merger="conv"),
    dict(anchor="last", alignment=0.0), dict(anchor="mean"), dict(anchor="mlp"),
    dict(merger="mean", ratio=DIGITS), dict(merger="mean", ratio=DIGITS, alignment=0.0),
    dict(merger="mean", ratio=1, anchor="last", alignment=0.0), dict(head_norm="paper"),
]  # fmt: skip


@pytest.fixture(scope="module")
def split():
    return make_split()


def made(split, **settings):
    return shaken(ACERec, split, **{**SMALL, **settings})


# --- the mask


@pytest.mark.parametrize("steps, latents, intent", [(1, 1, True), (4, 3, True), (5, 2, False)])
def test_mask_position_by_position(steps, latents, intent):
    """The rule of 2.3.1: earlier steps whole; latents both ways; the intent sees its latents."""
    width = latents + intent
    mask = step_mask(steps, width, intent)
    assert mask.shape == (steps * width,) * 2
    for t in range(steps):
        for a in range(width):
            for u in range(steps):
                for b in range(width):
                    allowed = plain.may_look(t, a, u, b, latents)
                    assert bool(mask[t * width + a, u * width + b]) == allowed


@pytest.mark.parametrize("settings", VARIANTS)
def test_no_state_depends_on_a_later_item(split, settings):
    net = made(split, **settings).network_
    steps = 5
    vectors = torch.randn(1, steps, net.width, 8, dtype=torch.float64, requires_grad=True)
    states = net(vectors, torch.ones(1, steps, dtype=bool))
    for t in range(steps):
        gradient = torch.autograd.grad(states[t].sum(), vectors, retain_graph=True)[0]
        size = gradient[0].abs().sum((1, 2))
        assert (size[: t + 1] > 0).all() and (size[t + 1 :] == 0).all()


def test_latents_do_not_see_their_own_intent(split):
    net = made(split).network_
    x = torch.randn(1, 9, 8, dtype=torch.float64, requires_grad=True)
    y = net.blocks[0](x, step_mask(3, 3, True))
    for place in range(9):
        gradient = torch.autograd.grad(y[0, place].sum(), x, retain_graph=True)[0][0]
        seen = gradient.abs().sum(1) > 0
        step, kind = divmod(place, 3)
        own = [True, True, kind == 2]
        assert seen.tolist() == [True] * (3 * step) + own + [False] * (6 - 3 * step)


# --- the merger


def test_merger_equals_plain_attention():
    """torch's multi-head attention with the same weights, and with a bias of the keys."""
    torch.manual_seed(0)
    dim, heads, digits, latents = 12, 3, 7, 2
    merger = TokenMerger(dim, heads, 20, digits, latents).double()
    for parameter in merger.parameters():
        nn.init.normal_(parameter, std=0.7)
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([merger.query.weight, merger.key, merger.value.weight])
        )
        bias = torch.randn(dim, dtype=torch.float64)
        theirs.in_proj_bias.copy_(torch.cat([merger.query.bias, bias, merger.value.bias]))
        theirs.out_proj.weight.copy_(merger.out.weight)
        theirs.out_proj.bias.copy_(merger.out.bias)
    x, s = (torch.randn(5, *shape, dtype=torch.float64) for shape in ((digits, dim), (dim,)))
    z, weights = merger(x, s)
    queries = (s @ merger.ask.weight.T + merger.ask.bias).view(5, latents, dim) + merger.offset
    shifted = x + merger.position
    mixed, expected = theirs(queries, shifted, shifted, average_attn_weights=False)
    y = merger.norm1(queries + mixed)
    y = merger.norm2(y + merger.outer(F.gelu(merger.inner(y))))
    torch.testing.assert_close(z, y)
    torch.testing.assert_close(weights, expected.transpose(1, 2))


def test_other_mergers_by_hand(split):
    codes = make_sids().codes
    items = torch.tensor([3, 17])
    for merger in ("mean", "conv", "mlp"):
        model = made(split, merger=merger, anchor="last", alignment=0.0)
        net = model.network_
        table = net.table.detach().view(DIGITS, CODES, 8)
        digits = torch.stack([table[range(DIGITS), codes[i]] for i in items])
        if merger == "mean":
            expected = torch.stack([digits[:, :4].mean(1), digits[:, 4:].mean(1)], 1)
        elif merger == "conv":
            kernel = net.merger.weight.view(8, 4, 8).transpose(1, 2)
            expected = F.conv1d(digits.transpose(1, 2), kernel, net.merger.bias, stride=4)
            expected = expected.transpose(1, 2)
        else:
            one, _, two = net.merger
            inner = F.gelu(digits.reshape(2, -1) @ one.weight.T + one.bias)
            expected = (inner @ two.weight.T + two.bias).view(2, 2, 8)
        torch.testing.assert_close(net.vectors(items)[0], expected + net.kind)


def test_attention_maps(split):
    model = made(split)
    maps = model.attention_maps()
    assert maps.shape == (ITEMS, 2, DIGITS) and maps.dtype == np.float32
    np.testing.assert_allclose(maps.sum(2), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.attention_maps([5, 2]), maps[[5, 2]])
    assert np.abs(maps[0] - maps[1]).max() > 0.01  # the queries depend on the item
    for items in ([ITEMS], [-1], [], [[1]]):
        with pytest.raises(InputError, match="0..29"):
            model.attention_maps(items)
    with pytest.raises(InputError, match="only 'atm'"):
        made(split, merger="mean").attention_maps()
    with pytest.raises(NotFittedError):
        ACERec().attention_maps()


# --- the whole, and the losses


@pytest.mark.parametrize("head_norm", ["rpg", "paper", "both"])
def test_forward_pass_and_loss_equal_the_plain_ones(split, head_norm):
    model, codes = made(split, head_norm=head_norm), make_sids().codes
    histories = [[3], [7, 1, 4], [5, 5, 9, 2, 20, 11]]
    for history, found in zip(histories, model.log_probs(histories).numpy()):
        expected = plain.acerec_log_probs(weights(model), model, history, codes)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    expected = plain.acerec_loss(weights(model), model, split.train_sequences(), codes)
    np.testing.assert_allclose(float(training_loss(model, split).detach()), expected)


def test_alignment_loss_equals_the_slow_one():
    rng = np.random.default_rng(0)
    hidden, keys = rng.normal(size=(9, 6)), rng.normal(size=(5, 6))
    wanted, share = rng.integers(0, 5, 9), rng.dirichlet(np.ones(5))
    for settings in ((0.07, 0.02), (1.0, 0.0), (0.3, 1.0)):
        found = alignment_loss(*map(torch.as_tensor, (hidden, keys, wanted, share)), *settings)
        expected = plain.alignment_loss(hidden, keys, wanted, share, *settings)
        np.testing.assert_allclose(float(found), expected)


@pytest.mark.parametrize("settings", VARIANTS)
def test_joint_loss_equals_the_slow_one(split, settings):
    """Every prefix of every train sequence by itself; candidates are the distinct targets."""
    model, codes = made(split, **settings), make_sids().codes
    net = model.network_
    mtp, states, targets = 0.0, [], []
    with torch.no_grad():
        for sequence in split.train_sequences():
            for n in range(1, len(sequence)):
                history = sequence[max(0, n - 6) : n]
                tokens = net.vectors(torch.as_tensor(history))[0][None]
                states.append(net(tokens, torch.arange(len(history))[None] == len(history) - 1)[0])
                log_probs = model.log_probs([sequence[:n]])[0].numpy()
                mtp -= log_probs[np.arange(DIGITS), codes[sequence[n]]].mean()
                targets.append(sequence[n])
        isa = 0.0
        if model.alignment:
            items, own, count = np.unique(targets, return_inverse=True, return_counts=True)
            keys = net.vectors(torch.as_tensor(items))[1].numpy()
            hidden, share = torch.stack(states).numpy(), count / count.sum()
            isa = plain.alignment_loss(hidden, keys, own, share, 0.07, 0.02)
    found = float(training_loss(model, split).detach())
    np.testing.assert_allclose(found, mtp + model.alignment * isa)


@pytest.mark.parametrize("kind", [ACERec, RPG])
@pytest.mark.parametrize("long_histories", ["rows", "windows"])
def test_the_loss_of_groups_is_that_of_the_padded_batch(split, kind, long_histories, monkeypatch):
    """With the terms that compare the states of a batch; gradients too."""
    model = shaken(kind, split, max_history=3, long_histories=long_histories)
    rows = torch.as_tensor(np.stack(model._sequences(split)))
    rows = rows[:, np.random.default_rng(3).permutation(rows.shape[1])[:33]]
    counts, found = torch.as_tensor(1 + np.arange(ITEMS)), []
    for sizes in ((1000, 1000), (8, 8), (1, 5), (1, 1)):
        monkeypatch.setattr("semid_lib.recommenders._parallel._ROWS", {"cpu": sizes})
        model.network_.zero_grad()
        value = model._loss(torch.as_tensor(split.items), rows, counts)
        value.backward()
        slopes = [p.grad.flatten() for p in model.network_.parameters() if p.grad is not None]
        found.append((value.detach(), torch.cat(slopes)))
    for value, slope in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-10, atol=0)
        torch.testing.assert_close(slope, found[0][1], rtol=1e-9, atol=1e-10)


def test_alignment_of_many_states_is_estimated(split, monkeypatch):
    monkeypatch.setattr("semid_lib.recommenders.acerec._ALIGNED", 60)
    model = made(split)
    torch.manual_seed(0)
    drawn = [float(training_loss(model, split).detach()) for _ in range(60)]
    monkeypatch.undo()
    exact = float(training_loss(model, split).detach())
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / 60**0.5 and np.std(drawn) > 0


# --- one model, many variants


def test_without_its_parts_it_is_rpg(split):
    """Row 1 of Table 3: one mean-pooled vector, no intent token, no alignment."""
    rpg = shaken(RPG, split)
    model = made(split, merger="mean", ratio=DIGITS, anchor="last", alignment=0.0)
    assert count_parameters(model) == count_parameters(rpg)
    model.network_.load_state_dict(rpg.network_.state_dict())
    histories = split.histories("test")
    np.testing.assert_allclose(model.score_items(histories), rpg.score_items(histories))
    one, other = (training_loss(m, split).detach() for m in (model, rpg))
    np.testing.assert_allclose(one, other)


def test_digits_as_they_are(split):
    """The direct baseline of Fig. 4: as many tokens an item as it has digits."""
    net = made(split, merger="mean", ratio=1, anchor="last", alignment=0.0).network_
    digits = F.embedding(net.rows[torch.tensor([7])], net.table)
    torch.testing.assert_close(net.vectors(torch.tensor([7]))[0], digits + net.kind)


@pytest.mark.parametrize("settings", VARIANTS)
def test_every_variant_trains_and_is_saved(split, settings, tmp_path):
    settings = {**TINY, **SMALL, **settings, "dropout": 0.2}
    model = ACERec(**settings).fit(split, make_sids())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.network_.parameters())
    again = ACERec.load(model.save(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(model.score_items([[1, 2]]), again.score_items([[1, 2]]))
    assert not model.network_.training and model.history_.epochs[0]["ndcg@10"] >= 0


def test_every_parameter_learns(split):
    for settings in VARIANTS:
        model = made(split, **settings)
        model.network_.zero_grad()
        training_loss(model, split).backward()
        for name, parameter in model.network_.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, (settings, name)


@pytest.mark.trained
def test_learns_the_successor():
    split = make_split(120)
    settings = dict(TINY, dim=16, temperature=0.1, precision="float32", epochs=25)
    model = ACERec(**settings, ratio=4, learning_rate=0.01).fit(split, make_sids())
    assert evaluate(model, split, "test").metrics()["recall@5"] > 0.4  # chance: 0.17


def test_rows_are_as_long_as_their_histories(monkeypatch):
    """What the network reads in an epoch hangs on the items, whatever `max_history`.

    Batches are random; a group of like length ends where a sample is 0.6 of the longest, so little
    more than 1 / 0.6 of the items is read where groups are not too small to be cut.
    """
    split, read = make_split(200, longest=20), []
    forward = ACERecNetwork.forward

    def spy(self, vectors, keep):
        if self.training:
            read.append(vectors.shape[0] * vectors.shape[1])
        return forward(self, vectors, keep)

    monkeypatch.setattr(ACERecNetwork, "forward", spy)
    model = ACERec(**{**TINY, "max_history": 50}, ratio=4).fit(split, make_sids())
    start, end, _ = model._sequences(split)
    assert sum(read) < (end - start).sum() / 0.6 and (end - start).sum() < 0.3 * 50 * len(start)


def test_batch_mates_do_not_matter(split):
    model, histories = made(split), split.histories("test")
    together = model.score_items(histories)
    for history, scores in zip(histories, together):
        np.testing.assert_allclose(model.score_items([history])[0], scores)


# --- bad settings; for bad codes and histories see test_long_codes_input.py


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(merger="max"), "merger"), (dict(anchor="first"), "anchor"), (dict(ratio=0), "ratio"),
        (dict(alignment=-0.1), "alignment"), (dict(alignment_temperature=0), "alignment_temp"),
        (dict(debias=-1), "debias"),
    ],
)  # fmt: skip
def test_bad_settings(split, settings, message):
    with pytest.raises(InputError, match=message):
        ACERec(**{**TINY, **settings}).fit(split, make_sids())
