"""The shared blocks against torch's own layers, plain cross-entropy and brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semid_lib.data import Interactions
from semid_lib.errors import InputError
from semid_lib.networks import (
    FieldTable,
    SequenceNetwork,
    Transformer,
    chunked_cross_entropy,
    item_fields,
    left_padded,
    losses,
    pairwise_loss,
    sampled_cross_entropy,
    target_ranks,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _torch_twin(block, dim, heads, ffn):
    """A `TransformerEncoderLayer` with the weights of our block."""
    twin = nn.TransformerEncoderLayer(dim, heads, ffn, 0.0, "relu", batch_first=True)
    with torch.no_grad():
        twin.self_attn.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        twin.self_attn.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
        twin.self_attn.out_proj.load_state_dict(block.out.state_dict())
        twin.linear1.load_state_dict(block.inner.state_dict())
        twin.linear2.load_state_dict(block.outer.state_dict())
        twin.norm1.load_state_dict(block.norm1.state_dict())
        twin.norm2.load_state_dict(block.norm2.state_dict())
    return twin


def _shake(module):
    """Random values everywhere, biases and layer norms included."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.double().eval()


def _left_padding(lengths, width):
    return torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("causal", [False, True])
def test_transformer_equals_torch_encoder_layers(causal):
    ours = _shake(Transformer(16, 3, 4, 24, 0.1, causal))
    x, lengths = torch.randn(5, 7, 16).double(), [7, 1, 3, 6, 2]
    # Causal models are padded on the right, bidirectional ones on the left.
    valid = _left_padding(lengths, 7).flip(1) if causal else _left_padding(lengths, 7)
    expected = ours.norm(x)
    past = nn.Transformer.generate_square_subsequent_mask(7).double() if causal else None
    ignored = torch.zeros(5, 7).double().masked_fill(~valid, -torch.inf)
    for block in ours.blocks:
        twin = _torch_twin(block, 16, 4, 24).double()  # in train mode: no fast path, dropout 0
        expected = twin(expected, src_mask=past, src_key_padding_mask=ignored)
    torch.testing.assert_close(ours(x, valid)[valid], expected[valid])
    if causal:  # padding right of everything that is read needs no mask
        torch.testing.assert_close(ours(x)[valid], expected[valid])


@pytest.mark.parametrize("causal", [False, True])
def test_reading_some_positions_equals_reading_all(causal):
    model = _shake(Transformer(8, 2, 2, 12, 0.0, causal))
    x, valid = torch.randn(4, 6, 8).double(), _left_padding([6, 2, 1, 4], 6)
    valid = valid.flip(1) if causal else valid
    at = torch.tensor([5, 1, 0, 3]) if causal else torch.full((4,), 5)
    whole = model(x, valid)[torch.arange(4), at]
    torch.testing.assert_close(model(x, valid, at), whole)
    if causal:
        torch.testing.assert_close(model(x, None, at), whole)
    some = valid & (torch.arange(6) % 2 == 0)
    torch.testing.assert_close(model(x, valid, some), model(x, valid)[some])
    if causal:
        torch.testing.assert_close(model(x, None, some), model(x)[some])


def test_left_padded_sequences_end_together():
    items, start, last = torch.arange(10, 20), torch.tensor([0, 3, 9]), torch.tensor([3, 4, 10])
    rows, valid = left_padded(items, start, last)
    assert valid.tolist() == [[True] * 4, [False, False, True, True], [False, False, True, True]]
    assert rows[0].tolist() == [10, 11, 12, 13] and rows[1, 2:].tolist() == [13, 14]
    assert rows[2, 2] == 19 and rows[2, 3] in items  # one past the end: any item, to be masked


def test_attention_weights_equal_torch_multihead_attention():
    model = _shake(Transformer(16, 2, 4, 24, 0.0))
    x, valid = torch.randn(3, 5, 16).double(), _left_padding([5, 2, 3], 5)
    twins = [_torch_twin(block, 16, 4, 24).double() for block in model.blocks]
    state = model.norm(x)
    for twin, weights in zip(twins, model.attention(x, valid)):
        _, expected = twin.self_attn(
            state, state, state, key_padding_mask=~valid, average_attn_weights=False
        )
        torch.testing.assert_close(weights, expected)
        state = twin(state, src_key_padding_mask=torch.where(valid, 0.0, -torch.inf).double())
        assert (weights[:, :, :, :][~valid[:, None, None].expand_as(weights)] == 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 5).double())


def test_causal_attention_weights_do_not_look_ahead():
    model = _shake(Transformer(8, 2, 2, 12, 0.0, causal=True))
    for weights in model.attention(torch.randn(2, 5, 8).double()):
        assert (weights.triu(1) == 0).all() and (weights.tril() > 0).sum() == 2 * 2 * 15


def test_outputs_do_not_depend_on_padding():
    model = _shake(Transformer(8, 2, 2, 12, 0.0))
    x = torch.randn(1, 3, 8).double()
    padded = torch.cat([torch.full((1, 4, 8), 1e3).double(), x], dim=1)
    with_padding = model(padded, _left_padding([3], 7))[:, 4:]
    torch.testing.assert_close(with_padding, model(x, torch.ones(1, 3, dtype=torch.bool)))


def test_dropout_acts_in_training_only():
    model = Transformer(8, 1, 2, 12, 0.5)
    x = torch.randn(2, 3, 8)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_width_must_divide_by_heads():
    with pytest.raises(InputError, match="dim 10 is not a multiple of num_heads 4"):
        Transformer(10, 1, 4, 8, 0.0)


# --- losses


@pytest.mark.parametrize("chunk", [1, 40, 90, 10_000])
def test_chunked_cross_entropy_equals_plain(chunk, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK", chunk)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(13, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 3, 0, 12, 5, 3, 1])  # one class several times
    (2.5 * chunked_cross_entropy(hidden, table, targets)).backward()
    found = hidden.grad, table.grad
    hidden.grad = table.grad = None
    plain = F.cross_entropy(hidden @ table.T, targets, reduction="sum")
    (2.5 * plain).backward()
    torch.testing.assert_close(chunked_cross_entropy(hidden, table, targets), plain)
    torch.testing.assert_close(found, (hidden.grad, table.grad))
    assert torch.autograd.gradcheck(
        lambda h, t: chunked_cross_entropy(h, t, targets), (hidden, table)
    )


def test_chunked_cross_entropy_with_huge_logits_and_no_rows():
    hidden, table = torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]])
    assert float(chunked_cross_entropy(hidden, table, torch.tensor([1]))) == 2e4
    hidden = torch.zeros(0, 3, requires_grad=True)
    table = torch.randn(4, 3, requires_grad=True)
    loss = chunked_cross_entropy(hidden, table, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0 and not table.grad.any() and hidden.grad.shape == (0, 3)


def test_chunked_cross_entropy_with_one_side_fixed():
    hidden, table = torch.randn(6, 4), torch.randn(9, 4, requires_grad=True)
    targets = torch.randint(9, (6,))
    chunked_cross_entropy(hidden, table, targets).backward()
    expected = torch.autograd.grad(
        F.cross_entropy(hidden @ table.T, targets, reduction="sum"), table
    )[0]
    torch.testing.assert_close(table.grad, expected)
    with torch.no_grad():
        chunked_cross_entropy(hidden, table, targets)


def test_chunked_cross_entropy_under_autocast():
    hidden, table = torch.randn(50, 16, requires_grad=True), torch.randn(80, 16, requires_grad=True)
    targets = torch.randint(80, (50,))
    plain = F.cross_entropy(hidden @ table.T, targets, reduction="sum")
    exact = torch.autograd.grad(plain, (hidden, table))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(hidden, table, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=0.01, atol=0)
    for ours, wanted in zip(torch.autograd.grad(loss, (hidden, table)), exact):
        assert float((ours - wanted).norm() / wanted.norm()) < 0.02


@pytest.mark.parametrize("cosine", [False, True])
def test_sampled_cross_entropy_equals_a_loop(cosine):
    hidden, table = torch.randn(6, 4).double(), torch.randn(5, 4).double()
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.manual_seed(3)
    found = sampled_cross_entropy(hidden, table, targets, 8, cosine)
    torch.manual_seed(3)
    drawn = torch.randint(5, (8,)).tolist()
    rows = table.numpy() / (np.linalg.norm(table, axis=1)[:, None] if cosine else 1)
    total = 0.0
    for h, target in zip(hidden.numpy(), targets.tolist()):
        wrong = sum(np.exp(h @ rows[n]) for n in drawn if n != target)
        assert any(n == target for n in drawn) or target not in drawn
        total -= np.log(np.exp(h @ rows[target]) / (np.exp(h @ rows[target]) + wrong))
    assert set(drawn) & set(targets.tolist())  # some accidental hits were masked
    np.testing.assert_allclose(float(found), total)


def test_sampled_cross_entropy_in_expectation_pulls_like_the_full_softmax():
    """With every class drawn about equally often the two gradients point the same way."""
    hidden = torch.randn(20, 8, requires_grad=True)
    table, targets = torch.randn(30, 8), torch.randint(30, (20,))
    full = torch.autograd.grad(chunked_cross_entropy(hidden, table, targets), hidden)[0]
    sampled = torch.autograd.grad(
        sampled_cross_entropy(hidden, table, targets, 3000, False), hidden
    )
    assert F.cosine_similarity(full.flatten(), sampled[0].flatten(), 0) > 0.9


# --- ranks


@pytest.mark.parametrize("kind", ["bce", "bpr"])
def test_pairwise_loss_draws_every_other_item_alike(kind):
    """20,000 rows with one target among four others; of two items the other is certain."""
    scores, target = np.array([0.3, -2.0, 1.1, 2.5, -0.4]), 2
    table, hidden = torch.tensor(scores)[:, None], torch.ones(1, 1, dtype=torch.float64)

    def by_hand(right, wrong):
        if kind == "bpr":
            return -np.log(1 / (1 + np.exp(wrong - right)))
        return -np.log(1 / (1 + np.exp(-right))) - np.log(1 - 1 / (1 + np.exp(-wrong)))

    each = [by_hand(scores[target], s) for i, s in enumerate(scores) if i != target]
    many = torch.full((20_000,), target)
    found = pairwise_loss(hidden.expand(20_000, 1), table, many, kind) / 20_000
    np.testing.assert_allclose(float(found), np.mean(each), rtol=0.02)
    found = pairwise_loss(hidden.expand(2, 1), table[:2], torch.tensor([0, 1]), kind)
    expected = by_hand(scores[0], scores[1]) + by_hand(scores[1], scores[0])
    np.testing.assert_allclose(float(found), expected)


@pytest.mark.parametrize("chunk", [1, 2**21])
def test_target_ranks_equal_brute_force_with_ties(chunk, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK", chunk)
    hidden = torch.randint(-2, 3, (40, 3)).double()
    table = torch.randint(-2, 3, (25, 3)).double()
    targets = torch.randint(25, (40,))
    ranks = target_ranks(hidden, table, targets)
    for row, target in enumerate(targets.tolist()):
        scores = [float(hidden[row] @ v) for v in table]
        assert ranks.above[row] == sum(s > scores[target] for s in scores)
        assert ranks.ties[row] == scores.count(scores[target]) - 1


def test_a_target_without_a_score_ranks_last():
    table = torch.randn(10, 2)
    ranks = target_ranks(torch.full((1, 2), torch.nan), table, torch.tensor([4]))
    assert ranks.above[0] == 10 and ranks.recall(10)[0] == 0


# --- fields


def _catalogue(**fields):
    item = np.arange(4, dtype=np.int64)
    return Interactions(
        user=np.zeros(4, np.int64), item=item, num_users=1, num_items=4, fields=fields
    )


def test_item_fields_puts_the_item_first_and_counts_values():
    data = _catalogue(a=np.array([2, -1, 0, 2]), b=np.array([0, 0, 1, -1]))
    names, sizes, codes = item_fields(data)
    assert names == ("item", "a", "b") and sizes == (4, 3, 2)
    assert codes.tolist() == [[0, 2, 0], [1, -1, 0], [2, 0, 1], [3, 2, -1]]
    assert item_fields(data, ("b",))[0] == ("item", "b")
    assert item_fields(data, ())[1] == (4,)


def test_item_fields_refuses_unknown_and_empty_fields():
    with pytest.raises(InputError, match="no item field 'colour' in 'unnamed'; it has \\['a'\\]"):
        item_fields(_catalogue(a=np.array([0, 1, 0, 1])), ("colour",))
    with pytest.raises(InputError, match="field 'a' is missing for every item"):
        item_fields(_catalogue(a=np.full(4, -1)))


def test_field_table_sums_values_and_missing_rows():
    codes = np.array([[0, 1], [1, -1], [2, 0]])
    table = FieldTable((3, 2), codes, 4)
    items, fields = table.values()
    assert items.shape == (3, 4) and fields.shape == (2, 4) and table.weight.shape == (9, 4)
    missing, masked = table.weight[3 + 2 + 2], table.weight[table.masked[1]]
    expected = torch.stack([items[0] + fields[1], items[1] + missing, items[2] + fields[0]])
    torch.testing.assert_close(table(table.tokens), expected)
    assert table.absent.tolist() == [[False, False], [False, True], [False, False]]
    used = {tuple(r.tolist()) for r in (*items, *fields, missing, masked, table.weight[3])}
    assert len(used | {tuple(table.weight[table.masked[0]].tolist())}) == 9  # no row has two uses


def test_field_table_of_ids_alone():
    table = FieldTable((3,), np.array([[0], [1], [2]]), 4)
    torch.testing.assert_close(table(table.tokens), table.values()[0])
    torch.testing.assert_close(
        table(table.tokens[torch.tensor([[2, 0]])])[0, 0], table.values()[0][2]
    )


def test_positions_count_from_the_end_that_is_not_padded():
    settings = type("S", (), dict(dim=4, num_layers=1, num_heads=1, ffn_dim=4, dropout=0.0))
    codes = np.array([[0], [1]])
    for causal in (False, True):
        network = SequenceNetwork(settings, (2,), codes, 5, causal)
        placed = network.place(network.table.tokens[torch.tensor([[0, 1]])])[0]
        first = 0 if causal else 3
        wanted = network.table.values()[0] + network.position[first : first + 2]
        torch.testing.assert_close(placed, wanted)
        total = network.num_parameters()
        assert total - network.num_parameters(embeddings=False) == 4 * 4
