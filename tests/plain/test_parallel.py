"""RPG and ACERec without blocks, two items of one digit, so that all can be worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from semid_lib.plain import (
    acerec_log_probs,
    acerec_loss,
    alignment_loss,
    digit_loss,
    may_look,
    rpg_log_probs,
    rpg_loss,
)

CODES = np.array([[0], [1]])
SETTINGS = SimpleNamespace(
    num_layers=0, num_heads=1, temperature=1.0, head_norm="rpg", max_history=2,
    alignment=0.5, alignment_temperature=1.0, debias=1.0,
)  # fmt: skip
# The last item's embedding (1, 0) is normalised to (1, -1): cosines 1/sqrt(2) and -1/sqrt(2).
OWN = np.log(1 / (1 + np.exp(-(2**0.5))))
OTHER = np.log(1 / (1 + np.exp(2**0.5)))


def norm(name):
    return {f"{name}.weight": np.ones(2), f"{name}.bias": np.zeros(2)}


def nothing(name, rows=2):
    return {f"{name}.weight": np.zeros((rows, 2)), f"{name}.bias": np.zeros(rows)}


RPG = {
    "table": np.eye(2), "position": np.zeros((2, 2)), "heads": np.zeros((1, 2, 2)),
    "head_bias": np.zeros((1, 2)), **norm("norm"),
}  # fmt: skip
ACEREC = {
    **RPG, "kind": np.zeros((2, 2)), "merger.offset": np.array([[1.0, 0.0]]),
    "merger.position": np.zeros((1, 2)), "merger.key": np.zeros((2, 2)),
}  # fmt: skip
for part in ("summary_norm", "merger.norm1", "merger.norm2"):
    ACEREC |= norm(part)
for part in ("summarise.0", "summarise.2", "merger.ask", "merger.query", "merger.value",
             "merger.out", "merger.inner", "merger.outer"):  # fmt: skip
    ACEREC |= nothing(part)


@pytest.mark.parametrize("log_probs, w", [(rpg_log_probs, RPG), (acerec_log_probs, ACEREC)])
def test_log_probs(log_probs, w):
    for history, expected in (([0], [OWN, OTHER]), ([0, 1], [OTHER, OWN])):
        found = log_probs(w, SETTINGS, history, CODES)
        np.testing.assert_allclose(found, [expected], atol=1e-4)


def test_the_loss_of_a_target_is_the_mean_of_its_digits():
    assert digit_loss(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 0]) == pytest.approx(1.5 * np.log(2))


def test_rpg_loss_is_that_of_every_step():
    found = rpg_loss(RPG, SETTINGS, [[0, 1, 1], [1]], CODES)  # 0 -> 1 and 1 -> 1
    assert found == pytest.approx(-OTHER - OWN, abs=1e-4)


def test_alignment_of_two_opposite_keys():
    """Cosines 1 and -1; shares 1/4 and 3/4 whose logarithms are taken off."""
    keys, share = np.array([[1.0, 0.0], [-2.0, 0.0]]), np.array([0.25, 0.75])
    hidden = np.array([[3.0, 0.0]])
    a, b = np.exp(1) / 0.25, np.exp(-1) / 0.75
    assert alignment_loss(hidden, keys, [1], share, 1.0, 1.0) == pytest.approx(-np.log(b / (a + b)))


def test_acerec_loss_adds_the_alignment():
    """Items 0 and 1 are opposite once normalised; both are a target once."""
    found = acerec_loss(ACEREC, SETTINGS, [[0, 1, 0]], CODES)
    aligned = 2 * np.log(1 + np.exp(2))  # each state has cosine -1 to its target, 1 to the other
    assert found == pytest.approx(-2 * OTHER + 0.5 * aligned, abs=1e-3)


def test_who_may_look_at_whom():
    """Two steps of one latent (l) and one intent (i): rows look at the columns l0 i0 l1 i1."""
    places = [(t, a) for t in range(2) for a in range(2)]
    found = [[int(may_look(*p, *q, 1)) for q in places] for p in places]
    assert found == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
