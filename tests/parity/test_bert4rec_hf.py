"""Our BERT4Rec against Hugging Face's BERT for masked words, with copied weights."""

import numpy as np
import pytest
import torch

from semid_lib.data import Interactions, leave_one_out
from semid_lib.recommenders import BERT4Rec

transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")

ITEMS = 12
OURS = {  # our names -> Hugging Face's, inside a block
    "out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "inner": "intermediate.dense", "outer": "output.dense", "norm2": "output.LayerNorm",
    "query": "attention.self.query",
}  # fmt: skip


def translate(state, num_layers):
    """Hugging Face's weights under our names."""
    result = {
        "table.weight": state["bert.embeddings.word_embeddings.weight"],
        "position": state["bert.embeddings.position_embeddings.weight"],
        "item_bias": state["cls.predictions.bias"][:ITEMS],
    }
    head = "cls.predictions.transform."
    whole = {"encoder.norm": "bert.embeddings.LayerNorm"}
    whole |= {"head.0": head + "dense", "head.2": head + "LayerNorm"}
    for layer in range(num_layers):
        theirs, ours = f"bert.encoder.layer.{layer}.", f"encoder.blocks.{layer}."
        whole |= {ours + name: theirs + other for name, other in OURS.items()}
        for kind in ("weight", "bias"):
            both = [state[f"{theirs}attention.self.{n}.{kind}"] for n in ("key", "value")]
            result[f"{ours}key_value.{kind}"] = torch.cat(both)
    for name, other in whole.items():
        for kind in ("weight", "bias"):
            result[f"{name}.{kind}"] = state[f"{other}.{kind}"]
    return result


@pytest.fixture(scope="module")
def pair():
    """A BERT with random weights and our model with the same; row N + 1 is the mask, in both."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 7)
    data = Interactions(users, rng.integers(ITEMS, size=len(users)), 30, ITEMS)
    ours = BERT4Rec(
        dim=16, num_layers=2, num_heads=2, ffn_dim=24, max_history=6, epochs=1, dropout=0.0,
        precision="float64", mask_ratio=0.5, ft_ratio=0.2,
    ).fit(leave_one_out(data))  # fmt: skip
    config = transformers.BertConfig(
        vocab_size=ITEMS + 2, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, hidden_act="relu", max_position_embeddings=7, layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=ITEMS,
    )  # fmt: skip
    theirs = transformers.BertForMaskedLM(config).double().eval()
    theirs.cls.predictions.transform.transform_act_fn = torch.nn.GELU()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.zeros_(theirs.bert.embeddings.token_type_embeddings.weight)  # we have no segments
    ours.network_.load_state_dict(translate(theirs.state_dict(), 2))
    return ours, theirs, leave_one_out(data)


def padded(rows):
    """Left-padded word ids and attention mask `[B, 7]`; BERT's positions then end like ours."""
    ids = torch.tensor([[ITEMS] * (7 - len(row)) + list(row) for row in rows])
    seen = torch.tensor([[0] * (7 - len(row)) + [1] * len(row) for row in rows])
    return dict(input_ids=ids, attention_mask=seen)


def test_scores_are_berts(pair):
    """A history is asked by a mask behind its newest item; at most six items are read."""
    ours, theirs, split = pair
    histories = [[3], [1, 2, 5, 7, 7, 0, 11], [4, 4], [9, 8, 0, 3, 1]]
    with torch.no_grad():
        logits = theirs(**padded([[*h[-6:], ITEMS + 1] for h in histories])).logits
    np.testing.assert_allclose(ours.score_items(histories), logits[:, -1, :ITEMS], rtol=1e-9)


@pytest.mark.parametrize("ft_ratio", [0.0, 0.2, 1.0])
def test_loss_and_gradients_are_berts(pair, ft_ratio, monkeypatch):
    """Of cloze samples, of those that only hide the newest item, and of both."""
    ours, theirs, split = pair
    monkeypatch.setattr(ours, "ft_ratio", ft_ratio)
    rows = np.stack(ours._sequences(split))
    rows = rows[:, np.argsort(rows[1] - rows[0], kind="stable")]  # as they are read, in one group
    monkeypatch.setattr("semid_lib.recommenders._sequence._GROUP", {"cpu": rows.shape[1]})
    start, end = torch.as_tensor(rows)
    drawn = []
    choose = ours._choose
    monkeypatch.setattr(ours, "_choose", lambda valid: drawn.append(choose(valid)) or drawn[-1])
    torch.manual_seed(3)
    ours.network_.zero_grad()
    loss = ours._loss(torch.as_tensor(split.items), start, end, per_row=1.0) * len(start)
    loss.backward()
    newest = drawn[0][:, -1] & (drawn[0].sum(1) == 1)
    assert newest.all() if ft_ratio == 1 else 0 < newest.sum() < len(newest)
    width = drawn[0].shape[1]
    chosen = torch.nn.functional.pad(drawn[0], (7 - width, 0))
    batch = padded([split.items[a : b + 1].tolist() for a, b in zip(start, end)])
    wanted = batch["input_ids"][chosen]
    batch["input_ids"] = batch["input_ids"].masked_fill(chosen, ITEMS + 1)
    logits = theirs(**batch).logits[chosen][:, :ITEMS]
    expected = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
    theirs.zero_grad()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, gradient in translate(gradients, 2).items():
        torch.testing.assert_close(ours.network_.get_parameter(name).grad, gradient)
