"""RPG's forward pass and loss (Hou et al. 2025), one history at a time.

`w` holds the parameters of a `ParallelNetwork` as arrays: name -> array. `settings` is the model,
of which `num_heads`, `num_layers`, `temperature` and `head_norm` are read.
"""

from __future__ import annotations

import numpy as np

from semid_lib.plain.layers import gpt2_block, layer_norm, silu, softmax, unit


def rpg_log_probs(w, settings, history, codes) -> np.ndarray:
    """Log-probabilities of every code of every digit of the next item, `[m, M]`.

    An item is the mean of its digits' embeddings plus its place; GPT-2 reads them from left to
    right; the last state goes to the heads.

    Args: history: item indices, newest last; codes `[N, m]`.
    """
    digits = codes.shape[1]
    table = w["table"].reshape(digits, -1, w["table"].shape[1])
    vectors = [np.mean([table[k, c] for k, c in enumerate(codes[i])], axis=0) for i in history]
    x = np.stack(vectors) + w["position"][: len(history)]
    causal = np.tri(len(history), dtype=bool)
    for layer in range(settings.num_layers):
        x = gpt2_block(w, f"blocks.{layer}", x, settings.num_heads, causal)
    state = layer_norm(w, "norm", x[-1])
    return np.log(digit_probs(w, settings, state, table))


def digit_probs(w, settings, state, table) -> np.ndarray:
    """p(c_k = v) = softmax_v(cos(h^(k), e_v^(k)) / T) with h^(k) = h + silu(W_k h + b_k).

    RPG's heads; ACERec, Eq. 3, is the same. `head_norm` says what gets length 1: "rpg" h^(k) and
    e_v, "paper" h before the heads, "both" all of them.

    Args: state h `[D]`; table `[m, M, D]`. Returns: `[m, M]`.
    """
    if settings.head_norm != "rpg":
        state = unit(state)
    found = []
    for weight, bias, book in zip(w["heads"], w["head_bias"], table):
        own = state + silu(weight @ state + bias)
        if settings.head_norm != "paper":
            own, book = unit(own), unit(book)
        found.append(softmax(book @ own / settings.temperature))
    return np.array(found)


def digit_loss(log_probs, codes) -> float:
    """L_MTP of one target: -1/m sum_k log p(c_k) (ACERec, Eq. 4; RPG's loss).

    Args: log_probs `[m, M]`; codes `[m]`, those of the target.
    """
    return -sum(log_probs[k, code] for k, code in enumerate(codes)) / len(codes)


def rpg_loss(w, settings, sequences, codes) -> float:
    """The sum of `digit_loss` over every item of every sequence but its first.

    Each is predicted from the `settings.max_history` items before it.

    Args: sequences: lists of item indices; codes `[N, m]`.
    """
    total = 0.0
    for sequence in sequences:
        for n in range(1, len(sequence)):
            history = sequence[max(0, n - settings.max_history) : n]
            log_probs = rpg_log_probs(w, settings, history, codes)
            total += digit_loss(log_probs, codes[sequence[n]])
    return total
