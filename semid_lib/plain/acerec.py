"""ACERec's forward pass and loss (Xia et al. 2026) in its full form, one history at a time.

`w` holds the parameters of an `ACERecNetwork` with `merger="atm"` and `anchor="intent"` as arrays:
name -> array. `settings` is the model, whose settings are read.
"""

from __future__ import annotations

import numpy as np

from semid_lib.plain.layers import affine, attention, gelu, gpt2_block, layer_norm
from semid_lib.plain.metrics import cosine
from semid_lib.plain.rpg import digit_loss, digit_probs


def acerec_tokens(w, settings, digits) -> tuple[np.ndarray, np.ndarray]:
    """Merge an item's m digits into k latents, and put its intent token behind them.

    Eqs. 1 and 2: Q = f_q(s) + offsets; Z = f_out(Q + attention(Q, E + P, E + P)). The summary
    s = LN(e + W2 gelu(W1 e)), e the mean of the digits, is the intent token.

    Args: digits `[m, D]`, their embeddings E. Returns: tokens `[k + 1, D]`, summary `[D]`.
    """
    mean = digits.mean(axis=0)
    hidden = gelu(affine(w, "summarise.0", mean))
    summary = layer_norm(w, "summary_norm", mean + affine(w, "summarise.2", hidden))
    placed = digits + w["merger.position"]
    offset = w["merger.offset"]
    queries = affine(w, "merger.ask", summary).reshape(offset.shape) + offset
    asked = affine(w, "merger.query", queries)
    keys, values = placed @ w["merger.key"].T, affine(w, "merger.value", placed)
    mixed = attention(asked, keys, values, settings.num_heads)
    z = layer_norm(w, "merger.norm1", queries + affine(w, "merger.out", mixed))
    hidden = gelu(affine(w, "merger.inner", z))
    z = layer_norm(w, "merger.norm2", z + affine(w, "merger.outer", hidden))
    return np.vstack([z, summary]) + w["kind"], summary


def may_look(t: int, a: int, u: int, b: int, latents: int) -> bool:
    """Whether token a of step t may look at token b of step u (ACERec, section 2.3.1).

    Tokens 0..latents-1 of a step are its latents, token `latents` is its intent. Earlier steps are
    seen whole, the own step's latents by all, the own intent by itself alone.
    """
    of_intent = b == latents
    return u < t or (u == t and (not of_intent or a == b))


def acerec_states(w, settings, history, codes) -> np.ndarray:
    """The intent tokens' states h after each item of a history, `[T, D]`.

    Args: history: item indices, newest last; codes `[N, m]`.
    """
    table = w["table"].reshape(codes.shape[1], -1, w["table"].shape[1])
    blocks = []
    for step, item in enumerate(history):
        digits = np.stack([table[k, c] for k, c in enumerate(codes[item])])
        blocks.append(acerec_tokens(w, settings, digits)[0] + w["position"][step])
    x, width = np.concatenate(blocks), len(w["kind"])
    places = [(t, a) for t in range(len(history)) for a in range(width)]
    allowed = np.array([[may_look(*p, *q, width - 1) for q in places] for p in places])
    for layer in range(settings.num_layers):
        x = gpt2_block(w, f"blocks.{layer}", x, settings.num_heads, allowed)
    return layer_norm(w, "norm", x[width - 1 :: width])


def acerec_log_probs(w, settings, history, codes) -> np.ndarray:
    """Log-probabilities of every code of every digit of the next item, `[m, M]` (Eq. 3)."""
    table = w["table"].reshape(codes.shape[1], -1, w["table"].shape[1])
    state = acerec_states(w, settings, history, codes)[-1]
    return np.log(digit_probs(w, settings, state, table))


def alignment_loss(hidden, keys, wanted, share, temperature: float, debias: float) -> float:
    """L_ISA (Eqs. 5 and 6), one state and one candidate at a time, summed over the states.

    phi(h, s_j) = cos(h, s_j) / temperature - debias log P(j).

    Args: hidden `[P, D]`, states h; keys `[C, D]`, summaries s_j of the candidates; wanted `[P]`,
    which of them is each state's target; share `[C]`, P(j).
    """
    total = 0.0
    for h, own in zip(hidden, wanted):
        phi = [cosine(h, s) / temperature - debias * np.log(p) for s, p in zip(keys, share)]
        total -= np.log(np.exp(phi[own]) / np.sum(np.exp(phi)))
    return total


def acerec_loss(w, settings, sequences, codes) -> float:
    """L_MTP + alignment L_ISA (Eq. 7), summed over every item of the sequences but their first.

    The candidates are the distinct targets, P(j) their shares of all targets.

    Args: sequences: lists of item indices; codes `[N, m]`.
    """
    table = w["table"].reshape(codes.shape[1], -1, w["table"].shape[1])
    mtp, states, targets = 0.0, [], []
    for sequence in sequences:
        for n in range(1, len(sequence)):
            history = sequence[max(0, n - settings.max_history) : n]
            states.append(acerec_states(w, settings, history, codes)[-1])
            targets.append(sequence[n])
            log_probs = np.log(digit_probs(w, settings, states[-1], table))
            mtp += digit_loss(log_probs, codes[targets[-1]])
    items, wanted, count = np.unique(targets, return_inverse=True, return_counts=True)
    digits = [np.stack([table[k, c] for k, c in enumerate(codes[i])]) for i in items]
    keys = [acerec_tokens(w, settings, rows)[1] for rows in digits]
    temperature, debias = settings.alignment_temperature, settings.debias
    isa = alignment_loss(states, keys, wanted, count / count.sum(), temperature, debias)
    return mtp + settings.alignment * isa
