"""RQVAE and VQVAE against vector-quantize-pytorch, with copied codebooks."""

import pytest
import torch

from semid_lib.quantizers.rqvae import ResidualAutoencoder, rotated, squared_error

peer = pytest.importorskip("vector_quantize_pytorch", reason="a test dependency")

WIDTH, CODES = 12, 16
CLOSE = dict(rtol=1e-5, atol=1e-5)


def words(levels, seed=0):
    """Codebooks that shrink from level to level, so that every level has something to do."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(levels, CODES, WIDTH, generator=rng) * 0.6 ** torch.arange(levels).view(
        -1, 1, 1
    )


def rows(n=200, seed=1):
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def ours(codebooks, update="gradient", **settings):
    network = ResidualAutoencoder(
        [WIDTH, WIDTH], len(codebooks), CODES, commitment=0.25, gradient="straight_through",
        update=update, **settings,
    )  # fmt: skip
    for level, table in enumerate(codebooks):
        network.set_words(level, slice(None), table)
    return network.train()


def theirs(codebooks, **settings):
    """Their module with our words; no restarts, no rotation unless asked for."""
    module = peer.ResidualVQ(
        dim=WIDTH, num_quantizers=len(codebooks), codebook_size=CODES, commitment_weight=1.0,
        threshold_ema_dead_code=0, **{"rotation_trick": False, **settings},
    )  # fmt: skip
    for layer, table in zip(module.layers, codebooks):
        layer._codebook.embed.data.copy_(table[None])
        layer._codebook.embed_avg.data.copy_(table[None])
    return module.train()


@pytest.mark.parametrize("levels", [1, 4])
def test_codes_quantised_output_and_commitment_loss(levels):
    z = rows()
    quantised, indices, losses = theirs(words(levels))(z[None], freeze_codebook=True)
    codes, chosen, inputs = ours(words(levels)).quantize(z[:, None])
    assert (codes == indices[0]).all() and codes.unique().numel() == CODES
    torch.testing.assert_close(chosen.sum(1), quantised[0], **CLOSE)
    per_level = [squared_error(inputs[:, i], chosen[:, i]) / WIDTH for i in range(levels)]
    torch.testing.assert_close(torch.stack(per_level), losses.reshape(-1), **CLOSE)


def test_gradients_of_the_two_losses():
    """Theirs with learnable words adds both up in one term; ours has them apart."""
    z = rows().requires_grad_()
    module = theirs(words(3), learnable_codebook=True, ema_update=False)
    module(z[None])[2].sum().backward()
    other = z.detach().clone().requires_grad_()
    network = ours(words(3))
    codes, chosen, inputs = network.quantize(other[:, None])
    (squared_error(inputs, chosen.detach()) + squared_error(chosen, inputs.detach())).backward()
    torch.testing.assert_close(other.grad / WIDTH, z.grad, **CLOSE)
    for level, layer in enumerate(module.layers):
        expected = layer._codebook.embed.grad[0]
        torch.testing.assert_close(network.codebooks.grad[level] / WIDTH, expected, **CLOSE)


def test_running_means_of_ema():
    """Three batches; they smooth the counts by eps, which is made small here."""
    tables = words(2)
    module = theirs(tables, decay=0.9)
    for layer in module.layers:
        layer._codebook.eps = 1e-12
    network = ours(tables, update="ema", ema_decay=0.9)
    for seed in range(3):
        batch = rows(seed=seed)
        _, indices, _ = module(batch[None])
        codes, _, _ = network.quantize(batch[:, None])
        assert (codes == indices[0]).all()
    torch.testing.assert_close(network.codebooks, module.codebooks, **CLOSE)


def test_rotation_trick():
    z = rows().requires_grad_()
    weight = rows(seed=3)
    quantised, _, _ = theirs(words(1), rotation_trick=True)(z[None], freeze_codebook=True)
    (quantised[0] * weight).sum().backward()
    other = z.detach().clone().requires_grad_()
    codes, chosen, _ = ours(words(1)).quantize(other[:, None].detach())
    passed = rotated(other, chosen[:, 0].detach())
    (passed * weight).sum().backward()
    torch.testing.assert_close(passed, quantised[0], **CLOSE)
    torch.testing.assert_close(other.grad, z.grad, **CLOSE)
