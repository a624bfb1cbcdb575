"""Our T5 and beam search against Hugging Face's, with copied weights."""

import numpy as np
import pytest
import torch

from semid_lib.codes import SemanticIds
from semid_lib.compute import products
from semid_lib.networks import T5, Decoding, t5_fused
from semid_lib.recommenders.decoding.beam import beam_search

transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")


def pair(sizes, attention="sdpa", **settings):
    """A Hugging Face T5 with random weights, and ours with the same."""
    if not transformers.T5ForConditionalGeneration._supports_sdpa:  # in releases of 2024
        attention = "eager"
    shape = dict(dim=32, num_layers=2, num_heads=4, head_dim=16, ffn_dim=64) | settings
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=2 + sum(sizes), d_model=shape["dim"], d_kv=shape["head_dim"],
        d_ff=shape["ffn_dim"], num_layers=shape["num_layers"], num_heads=shape["num_heads"],
        pad_token_id=0, decoder_start_token_id=0, eos_token_id=None, feed_forward_proj="relu",
        attn_implementation=attention,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    ours = T5(sizes, **shape).eval()
    ours.load_state_dict(translate(theirs.state_dict(), shape["num_layers"]))
    return theirs, ours


def translate(state, num_layers):
    """Hugging Face's weights under our names."""
    result = {"embedding.weight": state["shared.weight"]}
    for stack, last in (("encoder", 1), ("decoder", 2)):
        block = f"{stack}.block.{{}}.layer.{{}}."
        bias = block.format(0, 0) + "SelfAttention.relative_attention_bias.weight"
        result[f"{stack}_bias.weight"] = state[bias]
        result[f"{stack}_norm.weight"] = state[f"{stack}.final_layer_norm.weight"]
        for layer in range(num_layers):

            def take(part, *names, layer=layer, block=block):
                found = [state[block.format(layer, part) + n + ".weight"] for n in names]
                return torch.cat(found)

            ours = f"{stack}.{layer}."
            result[ours + "norm.weight"] = take(0, "layer_norm")
            result[ours + "qkv.weight"] = take(0, *(f"SelfAttention.{n}" for n in "qkv"))
            result[ours + "out.weight"] = take(0, "SelfAttention.o")
            if stack == "decoder":
                result[ours + "cross_norm.weight"] = take(1, "layer_norm")
                result[ours + "cross_q.weight"] = take(1, "EncDecAttention.q")
                result[ours + "cross_kv.weight"] = take(1, *(f"EncDecAttention.{n}" for n in "kv"))
                result[ours + "cross_out.weight"] = take(1, "EncDecAttention.o")
            result[ours + "ffn_norm.weight"] = take(last, "layer_norm")
            result[ours + "wide.weight"] = take(last, "DenseReluDense.wi")
            result[ours + "narrow.weight"] = take(last, "DenseReluDense.wo")
    return result


def batch(sizes, users=6, length=160, seed=0):
    """Histories longer than the largest distance of the bias, right-padded, and targets."""
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(1, 2 + sum(sizes), (users, length)))
    for row in range(1, users):
        tokens[row, rng.integers(1, length) :] = 0
    starts = np.cumsum((1, *sizes[:-1]))
    targets = torch.from_numpy(starts + rng.integers(0, sizes, (users, len(sizes))))
    return tokens, targets


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_logits(dtype, tolerance):
    sizes = (20, 30, 10)
    theirs, ours = (model.to(dtype) for model in pair(sizes))
    tokens, targets = batch(sizes)
    shifted = torch.cat([torch.zeros(len(targets), 1, dtype=torch.int64), targets[:, :-1]], 1)
    with torch.no_grad():
        mask = (tokens != 0).long()
        wanted = theirs(tokens, attention_mask=mask, decoder_input_ids=shifted).logits
        states = ours.decode(*ours.encode(tokens), targets)
        torch.testing.assert_close(ours.logits(states), wanted, rtol=0, atol=tolerance)
        for level, span in enumerate((slice(1, 21), slice(21, 51), slice(51, 61))):
            part = ours.logits(states[:, level], level)
            torch.testing.assert_close(part, wanted[:, level, span], rtol=0, atol=tolerance)


def test_loss_and_gradients():
    sizes = (20, 30, 10)
    theirs, ours = pair(sizes)
    tokens, targets = batch(sizes, length=40)
    loss = theirs(tokens, attention_mask=(tokens != 0).long(), labels=targets).loss
    loss.backward()
    own = ours.loss(tokens, targets, normalize="vocabulary")
    own.backward()
    torch.testing.assert_close(own, loss, rtol=0, atol=1e-5)
    wanted = translate({n: p.grad for n, p in theirs.named_parameters()}, 2)
    for name, parameter in ours.named_parameters():
        scale = wanted[name].abs().max()
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=0, atol=2e-5 * scale)


def test_dropout_stands_where_theirs_does(monkeypatch):
    """With dropout replaced by a multiplication, both must still agree in training mode."""
    sizes = (8, 8)
    theirs, ours = pair(sizes, attention="eager")
    tokens, targets = batch(sizes, length=30)
    monkeypatch.setattr(
        torch.nn.functional, "dropout", lambda x, p=0.5, training=True, inplace=False:
        x * 0.75 if training else x,
    )  # fmt: skip
    monkeypatch.setattr(
        t5_fused, "compute_dtype", lambda model: None
    )  # its own test: test_t5_fused
    monkeypatch.setattr(
        products.Dropout, "forward", lambda self, x: x * 0.75 if self.training else x
    )
    mask = (tokens != 0).long()
    evaluated = ours.loss(tokens, targets, normalize="vocabulary")
    loss = theirs.train()(tokens, attention_mask=mask, labels=targets).loss
    own = ours.train().loss(tokens, targets, normalize="vocabulary")
    torch.testing.assert_close(own, loss, rtol=0, atol=1e-5)
    assert abs(own - evaluated) > 1e-3


def test_beams_equal_generate():
    """The 50 items of `generate` with a prefix function, on 3,000 items of 4 levels."""
    sizes = (64, 64, 64, 64)
    theirs, ours = pair(sizes, dim=64, ffn_dim=128)
    rng = np.random.default_rng(0)
    sids = SemanticIds(np.unique(rng.integers(0, 64, (3_000, 4)), axis=0), sizes)
    histories = torch.from_numpy(sids.tokens[rng.integers(0, len(sids), (4, 10))]).flatten(1)
    histories[1, 8:] = 0
    histories[2, 20:] = 0
    following = {}
    for code in sids.tokens.tolist():
        for level in range(4):
            following.setdefault(tuple(code[:level]), set()).add(code[level])
    found = theirs.generate(
        histories, attention_mask=(histories != 0).long(), num_beams=50, num_return_sequences=50,
        max_new_tokens=4, do_sample=False, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True,
        prefix_allowed_tokens_fn=lambda _, tokens: sorted(following[tuple(tokens.tolist()[1:])]),
    )  # fmt: skip
    with torch.no_grad():
        decoder = Decoding(ours, *ours.encode(histories), normalize="vocabulary")
        leaves, scores = beam_search(decoder, sids.trie, 50)
    items = sids.trie.leaf_items[sids.trie.leaf_ptr[leaves.numpy()]]
    item_of = {tuple(tokens): item for item, tokens in enumerate(sids.tokens.tolist())}
    wanted = [item_of[tuple(tokens)] for tokens in found.sequences[:, 1:].tolist()]
    for own, theirs_of in zip(items.tolist(), np.reshape(wanted, (4, 50)).tolist()):
        assert set(own) == set(theirs_of) and len(set(own)) == 50
    np.testing.assert_allclose(scores, found.sequences_scores.view(4, 50), rtol=0, atol=1e-4)
