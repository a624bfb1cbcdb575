# %% [markdown]
r"""
(ch-cost)=
# Cost and scale
"""

# %% tags=["hide-cell", "colab-setup"]
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

if importlib.util.find_spec("semid_lib") is None:
    told = os.environ.get("SEMID_SOURCE", "")
    places = [told] if told else [".", "/content"]
    wheels = [w for p in places for w in Path(p).glob("semid_lib*.whl")]
    release = ""
    source = str(max(wheels, default=told or release))
    if source.startswith("https://") and not source.endswith(".whl"):
        source = f"git+{source}"
    elif source and "://" not in source:
        source = Path(source).resolve().as_uri()
    have = {d.name: d.version for d in reversed([*distributions()])}
    keep = {"torch", "numpy", "pandas", "scipy", "scikit-learn"}
    wanted = [f"{name}=={have[name]}" for name in keep & set(have)]
    wanted.append(f"semid-lib[fast] @ {source}")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    pip += ["install", "-q", *wanted]
    if source:
        done = subprocess.run(pip, capture_output=True, text=True)
        source += ": " + done.stderr.strip().split("\n")[-1]
        importlib.invalidate_caches()
    if importlib.util.find_spec("semid_lib") is None:
        fault = ModuleNotFoundError(
            f"The library is not here ({source or 'no source set'}): "
            "upload its wheel, or set os.environ['SEMID_SOURCE'] to a "
            "repository's address, a wheel or a folder; run this again."
        )
        fault._render_traceback_ = lambda: [str(fault)]
        raise fault

from semid_lib import setup

run = setup(chapter="17")

# %% [markdown]
r"""
::::{admonition} You will
:class: tip
- turn the papers' orders of magnitude into exact counts, and check each
  against a counter inside PyTorch;
- find what the orders of magnitude leave out, and when that is most of
  the work;
- price a full run on Beauty, on a laptop, a T4 and an H200;
- say in advance how much memory a training step will take;
- split a training among processes without changing its losses, and know
  when that is worth it.
::::

::::{admonition} Cost
:class: note
Quick profile: about 40 seconds of one CPU core, 1 GB of memory; Amazon
Beauty and MovieLens-100K (fetched by themselves). Nothing here
trains for long. It helps to know {ref}`ch-famae`, {ref}`ch-gaoq`,
{ref}`ch-generate` and {ref}`ch-acerec`, but the counting can be followed
without.
::::

## The problem

"How long will it take, and what machine do I need?" comes before
every experiment, and papers answer with $O(\cdot)$. ReSID's appendix L and
ACERec's section 2.5.2 are careful pages of this kind. But an order of
magnitude hides its constant, drops its "lower-order" terms, and has no
unit. It cannot say whether a run takes a minute or a week.

In this chapter we make calculators of these formulas: a few lines each,
without a hidden constant. They are only trustworthy if something
independent agrees, so each is compared with a counter that sits inside
PyTorch and sees every matrix product that the library's own networks make.
Counts of operations are the same on every machine; seconds are not.
So we count first, and turn to seconds last.
"""

# %%
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from semid_lib.codes import SemanticIds
from semid_lib.compute.scoring import table_rows
from semid_lib.data import (
    leave_one_out,
    load_dataset,
    synthetic_catalogue,
)
from semid_lib.encoders import FAMAE
from semid_lib.networks import T5, Decoding, chunked_cross_entropy
from semid_lib.quantizers import GAOQ
from semid_lib.quantizers.balanced_kmeans import lloyd
from semid_lib.recommenders import ACERec, SASRec
from semid_lib.recommenders.decoding.beam import beam_search
from semid_lib.reports import paper_table, plotting, table
from semid_lib.runs import (
    estimate,
    is_smaller,
    load_records,
    records_folder,
)
from semid_lib.systems import plan
from semid_lib.training.batches import batches_of_epoch

# %% [markdown]
r"""
## One product, one unit

All heavy work in these models is matrix products. To multiply an
$[n, a]$ matrix by an $[a, b]$ matrix takes $n a b$ multiply-accumulates
(MAC for short); one MAC is two floating-point operations (FLOPs), a
multiplication and an addition. Everything below is built from two kinds of
product: a layer applied to rows, and attention of queries to keys, which is
two products, one for the scores and one for the weighted sum:

$$
\begin{aligned}
\text{dense}(n;\, a, b) &= n\,a\,b \\
\text{attend}(q, k;\, D) &= 2\,q\,k\,D .
\end{aligned}
$$ (eq-cost-product)
"""


# %%
def dense(rows, *widths):
    """MAC of rows through layers of these widths."""
    return rows * sum(a * b for a, b in zip(widths, widths[1:]))


def attend(queries, keys, width):
    """MAC of scores and weighted sums, all heads together."""
    return 2 * queries * keys * width


def macs(function, **custom):
    """MAC that PyTorch's counter sees while the function runs."""
    counter = FlopCounterMode(display=False, **custom)
    with sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() // 2


a, b = torch.ones(30, 20), torch.ones(20, 50)
assert macs(lambda: a @ b) == dense(30, 20, 50)
print(dense(30, 20, 50), "MAC, counted the same")

# %% [markdown]
r"""
Two precautions. The counter knows the plain attention of PyTorch but not
every fused one, so we switch the fused ones off; and we count in float64,
because in float32 on a CPU this library calls another product
(`semid_lib/compute/products.py`) that the counter does not know. Neither changes what
is computed.

## FAMAE: what the formula says

ReSID's appendix L.1 gives, with $T_e$ tokens of width $d_e$, $J$ fields and
$L_e$ layers,

$$
\begin{aligned}
\text{FLOPs}_\text{FAMAE} = O\big(&T_e J d_e \\
  + &L_e (T_e^2 d_e + T_e d_e^2)\big).
\end{aligned}
$$ (eq-cost-famae)

Let us restore the constants. A layer of width $D$ with a feed-forward net
of width $F$ makes queries, keys, values and outputs ($4 D^2$ a token), the
net ($2 D F$ a token) and the attention:

$$
C_\text{layer} = T\,(4 D^2 + 2 D F) + 2\,T^2 D .
$$ (eq-cost-layer)

In the last layer of FAMAE only the target's position is read. The
keys and values of all tokens are still needed, everything else for one
token only; our network makes use of that.
"""


# %%
def layer(T, D, F, read=None):
    """MAC of one layer over T tokens; `read` outputs of it."""
    q = T if read is None else read
    return (
        dense(T, D, 2 * D)  # keys and values
        + dense(q, D, D)  # queries
        + attend(q, T, D)
        + dense(q, D, D)  # outputs
        + dense(q, D, F, D)  # feed-forward
    )


def famae(T, D, F, layers):
    """MAC of FAMAE's encoder for one sample of T tokens."""
    return (layers - 1) * layer(T, D, F) + layer(T, D, F, read=1)


assert layer(9, 16, 32) == 9 * (4 * 16**2 + 2 * 16 * 32) + 2 * 81 * 16

# %% [markdown]
r"""
Now the truth: FAMAE on a small planted catalogue, once with all five fields
and once with the item id alone.
"""

# %%
party = leave_one_out(synthetic_catalogue(60, 50)[0])
SMALL = dict(dim=16, num_heads=2, ffn_dim=32, dropout=0.0, epochs=0)
B, T = 8, 6
for names in (None, ()):
    model = FAMAE(**SMALL, field_names=names, precision="float64")
    net = model.fit(party).network_
    tokens = net.table.tokens[torch.arange(B * T).view(B, T)]
    last = torch.full((B,), T - 1)
    seen = macs(lambda net=net, t=tokens, at=last: net(t, None, at))
    print(f"{tokens.shape[2]} fields: counted {seen:,} MAC")
    assert seen == B * famae(T, 16, 32, layers=2)
print(f"by formula: {B * famae(T, 16, 32, 2):,}")

# %% [markdown]
r"""
The same to the last digit. And a first surprise: the term $T_e J d_e$ is
not there. To sum the embeddings of $J$ fields takes additions, no
product, so the number of fields costs nothing that the counter can see.
(It costs memory traffic, which no FLOP formula shows.)

How do the parts compare at ReSID's size? Appendix L omits "loss
computation" as a lower-order component. Let us put it back: a softmax over
$V$ values is a product of $D V$ MAC.
"""

# %%
D, F, T, layers = 128, 512, 32, 2
items = paper_table("resid", 6).set_index("dataset").n_items
full = layers * layer(T, D, F)
parts = {
    "attention, the term in T²": layers * attend(T, T, D),
    "layers on tokens, the term in T": full - layers * attend(T, T, D),
    "both, last layer for one token": famae(T, D, F, layers),
    "loss: 128 sampled items": D * 128,
    "loss: all of Beauty's items": D * 12_101,
    "loss: all of Books' items": D * int(items["Books"]),
}
frame = pd.DataFrame(parts.items(), columns=["part", "MAC"])
frame["of the full encoder"] = frame["MAC"] / full
share = frame.set_index("part")["of the full encoder"]
table(
    frame,
    "FAMAE forward, one sample of 32 tokens",
    {"MAC": "count", "of the full encoder": "share"},
)

# %%
assert share["attention, the term in T²"] < 0.1
assert share["both, last layer for one token"] < 0.6
assert share["loss: all of Beauty's items"] > 0.1
assert share["loss: all of Books' items"] > 1

# %% [markdown]
r"""
Three things that the order of magnitude did not say.

- The famous quadratic term is small at these lengths: the two
  terms are level only when $2 T^2 D = T (4 D^2 + 2 D F)$, far beyond 32
  tokens (an exercise).
- Reading one position saves almost half of a two-layer encoder.
- The loss is "lower-order" only while the catalogue is small. On ReSID's
  largest dataset a full softmax over the items costs several times the
  encoder. This is what the 128 sampled negatives of ReSID are for.

## The generator, forwards and backwards

Appendix L.3 does the same for the T5. With $S$ history tokens, $L$ codes to
write and attention width $A$, a layer of each stack costs

$$
\begin{aligned}
C_\text{enc} &= S (4 D A + 2 D F) + 2 S^2 A \\
C_\text{dec} &= L (6 D A + 2 D F) + 2 S D A \\
  &\quad + 2 L (L + S) A ,
\end{aligned}
$$ (eq-cost-t5)

and the logits $D \sum_l K_l$. That is the forward pass. Training also runs
backwards:

::::{prf:proposition} A training step costs three forward passes
:label: prop-cost-three

If both factors of every product need a gradient, the backward pass
takes exactly twice the MAC of the forward pass.
::::

::::{prf:proof}
Let $Y = X W$ with $X$ of shape $[n, a]$ and $W$ of shape $[a, b]$: $nab$
MAC. Given $\partial Y$, the gradients are
$\partial X = \partial Y\, W^\top$ and $\partial W = X^\top \partial Y$,
shapes $[n,b][b,a]$ and $[a,n][n,b]$: $nab$ each.
::::

For language models the same count appears as $6 P$ FLOPs a token
{cite:p}`scalinglaws`: two for each of the $P$ parameters, three times.
"""


# %%
def t5_forward(S, L, D, A, F, layers, logits):
    """MAC of one sample; `logits` is the sum of the level sizes."""
    encoder = dense(S, D, 4 * A) + dense(S, D, F, D) + attend(S, S, A)
    decoder = dense(L, D, 6 * A) + dense(L, D, F, D)
    decoder += dense(S, D, 2 * A) + attend(L, L + S, A)
    return layers * (encoder + decoder) + dense(1, D, logits)


sizes, shape = (5, 6, 7, 8), dict(dim=24, num_heads=2, head_dim=8)
t5 = T5(sizes, num_layers=2, ffn_dim=48, dropout=0.0, **shape).double()
history = torch.randint(1, 20, (3, 21))
wanted = torch.tensor([[1, 6, 12, 19]] * 3)
forward = macs(lambda: t5.loss(history, wanted))
step = macs(lambda: t5.loss(history, wanted).backward())
rule = 3 * t5_forward(21, 4, 24, 16, 48, 2, sum(sizes))
print(f"forward: counted {forward:,}, by formula {rule:,}")
print(f"training step: counted {step:,}, {step / forward:.0f} times")
assert forward == rule and step == 3 * forward

# %% [markdown]
r"""
### A counter counts what it knows

SASRec with its full softmax, the same exercise: two layers over all
positions, and one product with all $N$ items for each target.
"""

# %%
sasrec = SASRec(**SMALL, max_history=8, precision="float64").fit(party)
net, N = sasrec.network_.train(), party.num_items
tokens = net.table.tokens[torch.arange(18).view(3, 6)]
target = torch.arange(18) + 20


def training_step():
    hidden = net(tokens).flatten(0, 1)
    chunked_cross_entropy(hidden, sasrec._rows(), target).backward()


formula = 3 * (3 * 2 * layer(6, 16, 32) + dense(18, 16, N))
counted = macs(training_step)
print(f"by formula {formula:,}, counted {counted:,}")
assert counted - formula == 16

# %% [markdown]
r"""
16 MAC too many, and there is a reason: the library's loss multiplies one
state with one item row to learn in which number format a product comes out. It
can also go the other way. To add a product to a matrix *in place*
is as much work as to make it, but the counter has no formula for that
operation:
"""


# %%
def in_place(total, a, b, *args, out_shape=None, **settings):
    return 2 * a[0] * a[1] * b[1]


total, a = torch.zeros(20, 20), torch.ones(30, 20)
knows = {torch.ops.aten.addmm_: in_place}
unseen = macs(lambda: total.addmm_(a.T, a))
seen = macs(lambda: total.addmm_(a.T, a), custom_mapping=knows)
print(f"addmm_: counted {unseen}, counted when told of it {seen:,}")
assert unseen == 0 and seen == dense(20, 30, 20)

# %% [markdown]
r"""
The moral: when a counter and a formula differ, look for the product.
Neither is the truth by itself.

## ACERec: the terms that are named, and those that are not

ACERec's section 2.5.2 compares three ways to feed $T$ items of many
digits to a transformer (the paper calls the length $L$; TIGER has $n$
tokens an item):

$$
\begin{aligned}
\text{TIGER}: &\ O(T^2 n^2 d) \\
\text{RPG}: &\ O(T^2 d) \\
\text{ACERec}: &\ O(T m k d) + O(T^2 k^2 d) .
\end{aligned}
$$ (eq-cost-acerec)

These are attention terms alone, and we have just seen how little of a
small transformer that is. So let us count all of ACERec's
network. The merger (ATM), for one item of $m$ digits and $k$ latents, width
$D$, $h$ heads:
"""


# %%
def merger(m, k, D, heads, F):
    """MAC of ACERec's merger for one item."""
    summary = dense(1, D, D, D)
    queries = dense(1, D, k * D) + dense(k, D, D)
    folded = dense(k, D, D) + dense(k, D, D)  # W_K and W_V, see below
    look = attend(heads * k, m, D)  # each head sees whole digits
    outwards = dense(k, D, D, F, D)
    return summary + queries + folded + look + outwards


def plain_keys(m, k, D):
    """MAC of keys and values of m digits, as one writes it first."""
    return dense(m, D, 2 * D) + attend(k, m, D)


def backbone(T, width, D, F, layers):
    """MAC of the transformer over T steps of `width` tokens."""
    S = T * width
    last = dense(S, D, 2 * D) + attend(T, S, D)
    last += dense(T, D, D) + dense(T, D, D) + dense(T, D, F, D)
    return (layers - 1) * layer(S, D, F) + last


def heads(m, D, M):
    """MAC of the m heads of one target, M codes each."""
    return m * dense(1, D, D, M)


# %%
m, k, M, B, T = 12, 3, 6, 4, 5
small = dict(dim=16, num_heads=2, ffn_dim=24, dropout=0.0)
acerec = ACERec(**small, ratio=m // k, max_history=10)
codes = np.random.default_rng(0).integers(0, M, (50, m))
net = acerec._network(codes, M).double().train()
known, everywhere = torch.arange(B * T), torch.ones(B, T).bool()


def states():
    vectors, _ = net.vectors(known)
    return net(vectors.view(B, T, k + 1, 16), everywhere)


vectors = net.vectors(known)[0].view(B, T, k + 1, 16).detach()
hidden = states().detach()
of = {
    "merger, 20 items": (
        macs(lambda: net.vectors(known)),
        B * T * merger(m, k, 16, 2, 24),
    ),
    "backbone, 4 sequences": (
        macs(lambda: net(vectors, everywhere)),
        B * backbone(T, k + 1, 16, 24, 2),
    ),
    "heads, 20 targets": (
        macs(lambda: net.loss(hidden, known)),
        B * T * heads(m, 16, M),
    ),
}
step = macs(lambda: net.loss(states(), known).backward())
of["training step"] = (step, 3 * sum(f for _, f in of.values()))
for part, (counted, formula) in of.items():
    print(f"{part:22} counted {counted:9,} formula {formula:9,}")
    assert counted == formula

# %% [markdown]
r"""
All exact, and three times forwards for the step. The library's merger makes
no keys and values of the digits: a query $q$ meets the key $W_K e$ as
$(W_K^\top q) \cdot e$, so the matrix can be applied to the few queries
instead of the many digits. Is that worth the trouble? And which part of the
network is the expensive one? At the paper's size, for a history of 9 items:
"""

# %%
m, k, D, F, M, T = 32, 4, 448, 1024, 256, 9
merged = merger(m, k, D, 4, F)
folded = 2 * dense(k, D, D) + attend(4 * k, m, D)
parts = {
    "named: T m k d, both products": T * attend(k, m, D),
    "named: T² k² d, both products, layers": 2
    * attend(T * k, T * k, D),
    "merger": T * merged,
    "merger, with plain keys and values": T
    * (merged - folded + plain_keys(m, k, D)),
    "backbone": backbone(T, k + 1, D, F, 2),
    "heads of 9 targets": T * heads(m, D, M),
}
frame = pd.DataFrame(parts.items(), columns=["part", "MAC"])
whole = sum(parts[p] for p in ("merger", "backbone"))
whole += parts["heads of 9 targets"]
frame["of the network"] = frame["MAC"] / whole
table(
    frame,
    "ACERec forward, one history of 9 items",
    {"MAC": "count", "of the network": "share"},
)

# %%
named = frame["MAC"][:2].sum() / whole
print(f"both named terms together: {named:.1%} of the network")
assert named < 0.02
assert parts["heads of 9 targets"] > 0.3 * whole
assert parts["merger"] < parts["merger, with plain keys and values"]

# %% [markdown]
r"""
The two terms that section 2.5.2 compares are hardly more than a percent of
ACERec's work. The heads, one matrix for each digit and target, are among the
largest parts, and the formula does not contain them; RPG has the same ones.
This does not spoil the paper's argument, because with 32 digits a flattened history
would be far worse. But the argument is about tokens ($T m$ of them through
every dense layer), hardly about squares:
"""

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Work of one forward pass for a history of 9 items against the number of digits m, at ACERec's size (D = 448, two layers). Flattened: every digit is a token of the backbone (TIGER's way). ACERec: 8 digits a latent. RPG: one vector an item. Solid lines: network without heads; the dotted line: the heads that RPG and ACERec share. See that flattening costs several times as much at 32 digits, and that heads grow in step with it.", "name": "fig-cost-digits"}, "image": {"alt": "Line chart, log scale: flattened work rises fastest with digits 8 to 64, ACERec slower, RPG flat; dotted line of the heads starts below RPG and ends just under ACERec."}}
digits = np.array([8, 16, 32, 64])
lines = {
    "TIGER": [backbone(T, m, D, F, 2) for m in digits],
    "ACERec": [
        T * merger(m, m // 8, D, 4, F)
        + backbone(T, m // 8 + 1, D, F, 2)
        for m in digits
    ],
    "RPG": [backbone(T, 1, D, F, 2) for _ in digits],
}
fig, ax = plotting.figure(height=3.0)
for name, work in lines.items():
    ax.plot(digits, np.array(work) / 1e6, **plotting.method_style(name))
    label = "flattened, as TIGER" if name == "TIGER" else name
    ax.annotate(label, (64, work[-1] / 1e6), (5, 0),
                textcoords="offset points", va="center")  # fmt: skip
of_heads = [T * heads(m, D, M) / 1e6 for m in digits]
ax.plot(digits, of_heads, ":", color=plotting.GREY)
ax.annotate("heads", (64, of_heads[-1]), (5, 0),
            textcoords="offset points", va="center")  # fmt: skip
ax.set(xscale="log", yscale="log", xlabel="digits m")
ax.set_ylabel("million MAC a history")
ax.set_xticks(digits, digits)
ax.set_xlim(7.5, 130)
ax.minorticks_off()

# %%
ratio = lines["TIGER"][2] / lines["ACERec"][2]
print(f"at 32 digits: flattened / ACERec = {ratio:.1f}")
print("with the heads on both sides: ", end="")
head = T * heads(32, D, M)
ratio = (lines["TIGER"][2] + head) / (lines["ACERec"][2] + head)
print(f"{ratio:.1f}")
assert ratio > 2

# %% [markdown]
r"""
## GAOQ: counting a tokenizer

For GAOQ appendix L.2 adds up, level by level, the distances of balanced
k-means ($I_l$ steps), the residuals, the anchors and the match:

$$
\begin{aligned}
\sum_{l \ge 1} I_l N b_l d_q + \sum_{l \ge 2} \big[
  & P_{l-1} b_l d_q + d_q g_l^2 \\
  + & P_{l-1} (b_l g_l d_q + b_l^3) \big] ,
\end{aligned}
$$ (eq-cost-gaoq)

with $P_l = b_1 \cdots b_l$ nodes at level $l$. Which of these terms
matter? For the ten trees of the paper's Table 7, 640-dimensional vectors
and 20 steps (the paper does not state $I_l$):
"""


# %%
def gaoq_terms(N, sizes, d=640, steps=20):
    """The terms of appendix L.2, with g_l = b_l."""
    parents = np.cumprod([1, *sizes])[:-1]
    b, P = np.array(sizes, dtype=float), parents.astype(float)
    return {
        "k-means": (steps * N * b * d).sum(),
        "residuals": (P * b * d)[1:].sum(),
        "anchors": (d * b**2)[1:].sum(),
        "cosines": (P * b**2 * d)[1:].sum(),
        "Hungarian": (P * b**3)[1:].sum(),
    }


trees = paper_table("resid", 7).set_index("dataset")
work = pd.DataFrame(
    [
        gaoq_terms(N, sizes)
        for N, sizes in zip(items, trees[["b1", "b2", "b3"]].to_numpy())
    ]
)
total = work.sum(axis=1)
frame = work.div(total, axis=0)
frame.insert(0, "dataset", list(trees.index))
frame.insert(1, "N", list(items))
frame.insert(2, "tera-MAC", total.to_numpy() / 1e12)
shares = dict.fromkeys(work.columns, "share")
table(frame, "Appendix L.2 for the trees of Table 7", shares)

# %% [markdown]
r"""
The k-means distances are nearly everything, as the appendix expects. Now
set the total against the minutes of the paper's Table 3:
"""

# %%
minutes = paper_table("resid", 3).set_index("dataset")
short = {
    "Arts Crafts & Sewing": "ACS",
    "Health & Household": "HH",
    "Beauty & Personal Care": "BPC",
}
flops = 2 * total.set_axis(trees.index)
rate = pd.DataFrame(
    {
        "dataset": list(short),
        "paper, minutes": [minutes.ReSID_minutes[s] for s in short],
        "GFLOP": [flops[s] / 1e9 for s in short.values()],
    }
)
rate["GFLOP/s"] = rate["GFLOP"] / (60 * rate["paper, minutes"])
assert (rate["GFLOP/s"] < 1).all()
table(rate, "What the printed times would mean", {"GFLOP": "count"})

# %% [markdown]
r"""
If these were the operations that took the time, the quantizer would have
run at a tiny fraction of one modern core's speed (a core multiplies
matrices at tens of GFLOP/s; we measure one below), and ten times as many steps would not
change that. So the time went elsewhere, and what the formula lacks suggests
where: it has the *distances* of balanced k-means, but not the
*balancing*. Assigning points to clusters of equal size is a transport
problem, and a general solver (a min-cost flow over all
point-cluster pairs) takes far longer than the distances; the benchmark
in the first row of the table below is one such solver against ours, which
needs only $K$ prices ({ref}`ch-gaoq`).

### Counting ours

The library's k-means runs in NumPy, where PyTorch's counter sees nothing.
So we give it an array that counts the matrix products it takes part in, and
change one number at a time.
"""


# %%
class Watched(np.ndarray):
    """An array that adds up the MAC of its matrix products."""

    macs = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [np.asarray(x) for x in inputs]
        if "out" in options:
            options["out"] = tuple(map(np.asarray, options["out"]))
        if ufunc is np.matmul:
            Watched.macs += dense(*plain[0].shape, plain[1].shape[1])
        made = getattr(ufunc, method)(*plain, **options)
        return made.view(Watched) if np.ndim(made) else made


def counted_kmeans(N, K, d, steps=6):
    X = np.random.default_rng(0).normal(size=(N, d)).view(Watched)
    Watched.macs = 0
    *_, made = lloyd(X, K, np.random.default_rng(0), steps)
    return Watched.macs, made


frame = pd.DataFrame(
    [(2400, 6, 64), (9600, 6, 64), (2400, 12, 64), (2400, 6, 128)],
    columns=["N", "K", "d"],
)
seen, steps = zip(*(counted_kmeans(*row) for row in frame.to_numpy()))
frame["I N K d"] = frame["N"] * frame["K"] * frame["d"] * list(steps)
frame["counted"] = seen
frame["counted / formula"] = frame["counted"] / frame["I N K d"]
whole = frame["N"] <= 768 * frame["K"]
assert (frame["counted / formula"][whole].round(2) == 1.17).all()
table(frame, "Balanced k-means, 6 steps", {"I N K d": "count"})

# %% [markdown]
r"""
The formula and a sixth of it: the k-means++ start measures as many
distances as one more step would. The means take no product, since a
cluster's sum changes by the rows that moved, and the balancing takes none
either. Doubling $K$ or $d$ doubles the work. Four
times the points cost less than four times as much, because the library takes
a short cut: where a cluster has more than 768 members, the first three
quarters of the steps look at a sample of 768 points a cluster. A large
catalogue pays for the last quarter only:
"""

# %%
sizes = [2400, 4800, 9600, 19_200]
seen = [counted_kmeans(N, 4, 16, steps=8)[0] for N in sizes]
growth = np.diff(np.log(seen)) / np.diff(np.log(sizes))
last_steps = [2 * N * 4 * 16 for N in sizes]
for N, s, part in zip(sizes, seen, last_steps):
    print(f"N {N:6,}: {s / 1e6:5.1f} million MAC, "
          f"{part / s:.0%} of it in the last 2 of 8 steps")  # fmt: skip
print("exponents of growth", growth.round(2).tolist())
assert (growth < 1.02).all()

# %% [markdown]
r"""
At no size does the work grow faster than the catalogue (when the last steps
are all of it, it grows as fast). A whole tree, at
12,000, 100,000 and 500,000 items (64-dimensional, to be quick; seconds are
this machine's, so this cell's output is not compared, its assertions are):
"""

# %% tags=["nbval-ignore-output"]
GAOQ((4, 4, "auto")).fit(np.eye(40, 8, dtype="f4"))  # compiles
sizes, seconds = [12_000, 100_000, 500_000], []
for N in sizes:
    X = np.random.default_rng(0).normal(size=(N, 64)).astype("f4")
    began = time.process_time()
    tree = GAOQ((32, 40, "auto"), max_iter=8, n_jobs=1).fit(X)
    seconds.append(time.process_time() - began)
    assert np.ptp(np.bincount(tree.codes_[:, 0])) <= 1
exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
assert exponent < 1.5
for N, s in zip(sizes, seconds):
    print(f"{N:7,} items: {s:5.2f} CPU seconds")
print(f"time grows as N to the power of {exponent:.2f}")

# %% [markdown]
r"""
Recorded benchmarks (`make bench` on one thread; "not run" where there is
no row yet). The last three are the very sizes of the paper's Table 3, whose
printed minutes stand above; 640-dimensional vectors were drawn for them, as
their number and width decide the time:
"""


# %% tags=["hide-input", "nbval-ignore-output"]
def benchmarks(jobs):
    """What the benchmarks' file says of these jobs, in CPU seconds."""
    root = records_folder().parents[1]
    file = root / "tests" / "benchmarks" / "results.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    rows = {r["job"]: r for r in rows if r["threads"] == 1}

    def seconds(text):
        found = re.findall(r"CPU ([^)]+)", text)
        return ", ".join(found)

    shown = []
    for job, what in jobs.items():
        row = rows.get(job)
        cells = [what, "not run", "not run", "not run"]
        if row:
            both = seconds(row["peer s"]), seconds(row["our s"])
            times = seconds(row["ratio"])
            cells = [what, *both, times if both[0] else ""]
        shown.append(cells)
    columns = ["job", "other tool, s", "ours, s", "ratio"]
    return table(pd.DataFrame(shown, columns=columns))


benchmarks({
    "gaoq_root": "12,101 x 640 into 32",
    "gaoq_large": "100,000 x 640 into 64",
    "gaoq_scaling": "trees, 12,000, 100,000, 500,000 x 128",
    "table3_gaoq_acs": "tree, Arts Crafts & Sewing",
    "table3_gaoq_hh": "tree, Health & Household",
    "table3_gaoq_bpc": "tree, Beauty & Personal Care",
})  # fmt: skip

# %% [markdown]
r"""
The step at 100,000 points is where an exact balance pays most: the other
tool solves each assignment from nothing, ours starts from the prices of
the step before. And the trees grow a little faster than their items, not because of the
clustering but because the children of each node are *matched* to numbers, and
the last level of half a million items has hundreds of children a node.

What comes before the items' vectors is a file. Amazon's raw reviews are larger
than the memory of most machines; `semid data import` reads them twice
and keeps two hashes a review, never its text. (DuckDB reads such lines faster; it would be one
more package, and still need code for the older files and for the line number of an error.)
"""

# %% tags=["hide-input", "nbval-ignore-output"]
benchmarks({
    "amazon_raw": "raw reviews to sequences, 5.8 GB",
    "amazon_raw_pandas": "150 MB of them, against pandas",
    "amazon_raw_duckdb": "150 MB of them, against DuckDB",
})  # fmt: skip

# %% [markdown]
r"""
## Length-aware batches

Formulas take one length $T$; real histories have many. A batch is a
rectangle, as wide as its longest row, and the rest is padding, which is
computed like everything else. How much is lost depends on which rows share
a batch. Three ways, for the training samples of the generator (one for each
target, at most 32 items of history):

- *fixed*: every row is padded to 32;
- *random*: a batch is as wide as its longest row;
- *length-aware*: samples of 50 batches are shuffled together, sorted by
  length, cut into batches, and the batches shuffled.

The last is what `training.train` does. In a few lines:
"""


# %%
def by_length(lengths, size, rng, span=50):
    """Batches of like lengths, each an array of sample numbers."""
    order = rng.permutation(len(lengths))
    parts = np.split(order, range(span * size, len(order), span * size))
    order = np.concatenate(
        [
            part[np.argsort(lengths[part], kind="stable")]
            for part in parts
        ]
    )
    batches = np.split(order, range(size, len(order), size))
    return [batches[i] for i in rng.permutation(len(batches))]


def padded(lengths, batches):
    """How long each sample is computed, [samples]."""
    out = np.empty_like(lengths)
    for batch in batches:
        out[batch] = lengths[batch].max()
    return out


def window_lengths(name, longest=32):
    start, end = leave_one_out(load_dataset(name)).windows(longest)
    return end - start


lengths = {n: window_lengths(n) for n in ("beauty", "ml-100k")}
few = lengths["beauty"][:9000]
library = batches_of_epoch(9000, 9000, 64, few, 0, 0, "cpu")
library = [known.numpy() for _, known in library]
mine = by_length(few, 64, np.random.default_rng(0))
a, b = (np.sort(padded(few, x)) for x in (library, mine))
print(f"padded items: {a.sum():,} (library), {b.sum():,} (ours)")
assert abs(a.sum() / b.sum() - 1) < 0.01

# %% tags=["hide-input"]
SIZE, rng, rows = 2048, np.random.default_rng(0), []
cost_of = {}
for name, length in lengths.items():
    n, order = len(length), rng.permutation(len(length))
    random = np.split(order, range(SIZE, n, SIZE))
    ways = {
        "no padding": length,
        "length-aware": padded(length, by_length(length, SIZE, rng)),
        "random": padded(length, random),
        "fixed at 32": np.full(n, 32),
    }
    for way, T in ways.items():
        work = t5_forward(3 * T + 1, 3, 128, 128, 512, 4, 82)
        cost_of[name, way] = 3 * work.sum()
        rows.append([name, way, T.mean(), cost_of[name, way] / 1e12])
frame = pd.DataFrame(
    rows, columns=["dataset", "batches", "items a row", "tera-MAC"]
)
best = frame.groupby("dataset")["tera-MAC"].transform("min")
frame["times no padding"] = frame["tera-MAC"] / best
table(frame, "One epoch of ReSID's T5, batches of 2,048")

# %%
gain = {
    name: cost_of[name, "fixed at 32"] / cost_of[name, "length-aware"]
    for name in lengths
}
waste = frame[frame["batches"] == "length-aware"]["times no padding"]
for name, times in gain.items():
    print(f"{name}: length-aware saves a factor of {times:.2f}")
assert gain["beauty"] > 3.5 and gain["ml-100k"] < 1.5
assert (waste < 1.1).all()

# %% [markdown]
r"""
On Beauty, where most histories are short, a fixed width wastes nearly
three quarters of the work, and a random batch of 2,048 nearly always holds one
long history, so trimming alone gains almost nothing. Sorting removes nearly
all padding. On MovieLens-100K most windows are full, and there is little to
gain: the saving is a property of the data, not of the method. There is a
price, too: a batch now holds users of like activity. Batches are still
drawn anew each epoch, which is why the library sorts 50 batches at a time
and not the whole epoch.

## A whole run on Beauty

Now we can price the three systems in full, at the papers' settings, which
we take from the presets. TIGER's shape is the preset "rqvae" (text
vectors, RQ-VAE, T5) with a fourth code against collisions; the text encoder,
which reads each item once, is left out.
"""

# %%
beauty = load_dataset("beauty")
split, N = leave_one_out(beauty), beauty.num_items
preset = {
    name: {
        stage.role: stage.settings
        for stage in plan(name, beauty, profile="paper").stages
    }
    for name in ("resid", "rqvae", "acerec", "sasrec")
}
users, aware = len(split.users), cost_of["beauty", "length-aware"]
asked = lengths["beauty"]
history = np.array([len(h) for h in split.histories("validation", 32)])


# %%


def read(S, D, A, F, layers):
    """MAC to encode a history, with keys and values for the decoder."""
    encoder = dense(S, D, 4 * A) + dense(S, D, F, D) + attend(S, S, A)
    return layers * (encoder + dense(S, D, 2 * A))


def write(S, D, A, F, layers, sizes, beams=50):
    """MAC of a beam search: up to `beams` rows for each code."""
    total, rows = 0, 1
    for step, K in enumerate(sizes, 1):
        row = dense(1, D, 6 * A) + dense(1, D, F, D)
        row = row + attend(1, step + S, A)
        total = total + rows * (layers * row + dense(1, D, K))
        rows = min(beams, rows * K)
    return total


def generator(sizes):
    """MAC of an epoch of the T5, and of a list for each user."""
    L = len(sizes)
    T = padded(asked, by_length(asked, 2048, np.random.default_rng(0)))
    epoch = t5_forward(L * T + 1, L, 128, 128, 512, 4, sum(sizes))
    S, size = L * history + 1, (128, 128, 512, 4)
    lists = read(S, *size) + write(S, *size, sizes)
    return 3 * epoch.sum(), lists.mean()


epoch_t5, one_list = generator((32, 40, 10))
print(f"T5: {epoch_t5 / 1e12:.2f} tera-MAC an epoch, "
      f"{one_list / 1e6:.0f} million a list of 50 beams")  # fmt: skip

# %% [markdown]
r"""
FAMAE sees 31 items and the target; each of its five fields is masked with
probability $(J+1)/(2J)$, and its loss is a softmax over the field's values,
or over 128 sampled items. ACERec merges each distinct item of a batch once,
so we draw an epoch's batches and count the distinct items.
"""

# %%
E_ = preset["resid"]["encoder"]
T = np.minimum(asked, 31) + 1
T = padded(T, by_length(T, E_["batch_size"], rng))
values = sum(len(v) for v in beauty.field_values.values())
masked = (5 + 1) / (2 * 5)
losses = masked * E_["dim"] * (values + E_["num_negatives"])
epoch_famae = 3 * (famae(T, 128, 512, 2) + losses).sum()

A_, Q_ = preset["acerec"]["recommender"], preset["acerec"]["quantizer"]
m, M = Q_["num_blocks"], Q_["num_codes"]
k, D, F = m // A_["ratio"], A_["dim"], A_["ffn_dim"]
first, last = split.indptr[:-1], split.indptr[1:]
rows = np.minimum(last - first, 51)  # items read, and one target more
batches = by_length(rows, A_["batch_size"], rng)
distinct = sum(
    len(np.unique(np.concatenate([
        split.items[first[u] : first[u] + rows[u]] for u in batch
    ])))
    for batch in batches
)  # fmt: skip
T = padded(rows - 1, batches)
targets = int((rows - 1).sum())
epoch_acerec = 3 * (
    distinct * merger(m, k, D, A_["num_heads"], F)
    + backbone(T, k + 1, D, F, A_["num_layers"]).sum()
    + targets * heads(m, D, M)
)
print(f"{targets:,} targets, {distinct:,} items merged in one epoch")

# %% tags=["hide-input"]
S_ = preset["sasrec"]["recommender"]
rows = np.minimum(last - first - 1, 32)
T = padded(rows, by_length(rows, S_["batch_size"], rng))
sequences = 2 * layer(T, 128, 512).sum() + rows.sum() * 128 * N
epoch_tiger, list_tiger = generator((256, 256, 256, 10))
R_ = preset["rqvae"]["quantizer"]
mlp = 2 * dense(1, 384, 512, 256, 128, 32) + 3 * 256 * 32
tree = sum(gaoq_terms(N, (32, 40, 10)).values())
scored = backbone(7, k + 1, D, F, 2) + heads(m, D, M)

# %% tags=["hide-input"]
runs = pd.DataFrame(
    [
        ("ReSID", "FAMAE", epoch_famae, E_["epochs"]),
        ("ReSID", "GAOQ", tree, 1),
        ("ReSID", "T5", epoch_t5, 500),
        ("ReSID", "validation, 4,096 lists", 4096 * one_list, 500),
        ("ReSID", "validation and test", 2 * users * one_list, 1),
        ("TIGER", "RQ-VAE", 3 * N * mlp, R_["epochs"]),
        ("TIGER", "T5", epoch_tiger, 500),
        ("TIGER", "validation, 4,096 lists", 4096 * list_tiger, 500),
        ("ACERec", "network", epoch_acerec, A_["epochs"]),
        ("ACERec", "validation", users * scored, A_["epochs"]),
        ("SASRec", "network", 3 * sequences, S_["epochs"]),
        ("SASRec", "validation", users * 128 * N, S_["epochs"]),
    ],
    columns=["system", "stage", "MAC an epoch", "most epochs"],
)
runs["peta-FLOP in all"] = (
    2 * runs["MAC an epoch"] * runs["most epochs"] / 1e15
)
shown = runs.assign(
    **{
        "GMAC an epoch": runs["MAC an epoch"] / 1e9,
        "GFLOP in all": 1e6 * runs["peta-FLOP in all"],
    }
)
columns = ["system", "stage", "GMAC an epoch", "most epochs"]
columns.append("GFLOP in all")
table(
    shown[columns],
    "Full runs on Beauty if nothing stops them early",
    dict.fromkeys(columns[2:], "count"),
)

# %%
of_stage = runs.set_index(["system", "stage"])["peta-FLOP in all"]
resid = of_stage["ReSID"]
learner = resid["T5"] + resid["validation, 4,096 lists"]
print(f"the generator is {learner / resid.sum():.1%} of ReSID's run")
assert of_stage["ReSID", "GAOQ"] < 1e-3 * resid.sum()
assert learner > 0.6 * resid.sum()

# %% [markdown]
r"""
The tokenizer, on which the literature spends most of its thought, is next
to nothing in the bill. The generator is most of it, through its 500 epochs;
ReSID itself says (in section 6) that generative models "converge
substantially more slowly (tens of times)" than SASRec. Early
stopping decides the real bill, and it cannot be computed in advance.

### From operations to hours

A device's peak is a published figure, and no program reaches it. What
matters is the share that a program does reach, its *utilisation*
{cite:p}`palm`. Small models reach little: a width of 128 is narrow for
units that were built for widths of thousands, and then the time is spent on
moving data and launching kernels {cite:p}`roofline`. So the table gives
the time at full peak, which is a bound that nothing can beat, and at a tenth of
it, which is our assumption, not a measurement.

A laptop core with AVX2 makes two 8-wide fused multiply-adds a
cycle, 32 FLOPs {cite:p}`inteloptimization`; we take 4 cores at 3 GHz.
A T4 computes 8.1 TFLOP/s in float32 and 65 with float16 on tensor cores
{cite:p}`t4datasheet`; it has no bfloat16, so this library uses float16 with
loss scaling there. An H200's datasheet prints 1,979 TFLOP/s for bfloat16
"with sparsity", which ordinary products do not have: half of it counts
{cite:p}`h200datasheet`.
"""

# %%
peaks = {
    "laptop, float32": 4 * 3.0e9 * 32,
    "T4, float32": 8.1e12,
    "T4, float16": 65e12,
    "H200, bfloat16": 1979e12 / 2,
}
whole = 1e15 * runs.groupby("system")["peta-FLOP in all"].sum()
times = pd.DataFrame(
    [
        {"device": device, "share of peak": part, "FLOP/s": part * peak}
        for part in (1.0, 0.1)
        for device, peak in peaks.items()
    ]
)
systems = ["ReSID", "TIGER", "ACERec"]
for system in systems:
    times[system] = whole[system] / times["FLOP/s"]
times.insert(2, "TFLOP/s", times.pop("FLOP/s") / 1e12)
kinds = dict.fromkeys(systems, "seconds") | {"share of peak": "share"}
table(times, "Time of all epochs at a share of the peak", kinds)

# %%
at_tenth = times[4:].set_index("device")["ReSID"]
assert at_tenth["laptop, float32"] > 24 * 3600 > at_tenth["T4, float16"]
assert at_tenth["T4, float32"] < 8 * 3600
assert at_tenth["H200, bfloat16"] < 3600

# %% [markdown]
r"""
In words: at a tenth of the peak a full ReSID run takes days on a laptop, an
afternoon at most on a Colab T4, minutes on an H200. Which share is reached
differs: we expect a GPU of the last kind to need large batches and long rows
to come near a tenth with models this small, while a CPU does far better. This cell
measures both rates on one thread of the machine at hand, for a T5 of
ReSID's size without dropout (which multiplies by another kernel than `@`, so
that the share is not strictly below one):
"""


# %% tags=["nbval-ignore-output"]
def rate(function, work, seconds=1.0):
    """FLOP/s of a function that does `work` MAC a call."""
    function()
    began, calls = time.process_time(), 0
    while time.process_time() - began < seconds:
        function()
        calls += 1
    return 2 * work * calls / (time.process_time() - began)


a = torch.randn(768, 768)
matrix = rate(lambda: a @ a, dense(768, 768, 768))
full_t5 = T5((32, 40, 10), dropout=0.0)  # ReSID's size
past = torch.randint(1, 80, (64, 25))
written = torch.tensor([[1, 33, 73]] * 64)
work = 3 * 64 * t5_forward(25, 3, 128, 128, 512, 4, 82)
ours = rate(lambda: full_t5.loss(past, written).backward(), work)
print(f"matrix product   {matrix / 1e9:6.1f} GFLOP/s")
print(f"T5 training step {ours / 1e9:6.1f} GFLOP/s")
print(f"utilisation      {ours / matrix:6.0%}")
assert 0.02 < ours / matrix < 5

# %% [markdown]
r"""
And this one reads the records: how many epochs the runs that exist have
really taken, and at what rate. Encoders of runs that stopped at the codes
count as well.
"""

# %% tags=["hide-input"]
epochs = runs.set_index(["system", "stage"])["MAC an epoch"]
sought = {
    ("ReSID", "FAMAE"): ("resid", "encoder"),
    ("ReSID", "T5"): ("resid", "recommender"),
    ("TIGER", "T5"): ("tiger", "recommender"),
    ("ACERec", "network"): ("acerec", "recommender"),
    ("SASRec", "network"): ("sasrec", "recommender"),
}
folders = [records_folder(), records_folder() / "codes"]
kept = [
    r
    for folder in folders
    for r in load_records(
        folder, smaller=True, dataset="beauty", profile="paper"
    )
    if r["variant"] == "default"
]

# %% tags=["hide-input"]
rows = []
for (name, stage), (system, role) in sought.items():
    same = (system, "q2") if role == "encoder" else (system,)
    costs = [
        (r["cost"]["stages"][role], r["curve"].get(role))
        for r in kept
        if r["system"] in same
        and role in r["cost"]["stages"]
        and (role == "encoder" or not is_smaller(r))
    ]
    row = {"system": name, "stage": stage}
    if costs:
        cost, curve = costs[0]
        spent = sum(e["train_seconds"] for e in curve)
        total = 2 * epochs[name, stage] * len(curve)
        row |= {
            "epochs": len(curve),
            "training": spent,
            "GFLOP/s": total / spent / 1e9,
            "device": cost["device"],
        }
    rows.append(row)
columns = ["system", "stage", "epochs", "training", "GFLOP/s", "device"]
frame = pd.DataFrame(rows, columns=columns).astype(object)
kinds = {"epochs": "count", "training": "seconds"}
table(
    frame.where(frame.notna(), "not run"), "Recorded on Beauty", kinds
)

# %% [markdown]
r"""
### Ask the machine itself

Where the machine is at hand, one need not assume: `semid run NAME DATA
--dry-run` builds the models, measures a few steps and lists, and
extrapolates. Here is the quick profile on MovieLens-100K; its seconds are
this machine's, its parameters and steps everybody's.
"""

# %% tags=["nbval-ignore-output"]
quick = estimate("resid", "ml-100k", profile="quick", device="cpu")
table(quick.frame, quick.caption, quick.kinds)

# %%
trial = quick.frame.set_index("stage")
films = load_dataset("ml-100k")
Q = {s.role: s.settings for s in plan("resid", films, "quick").stages}[
    "recommender"
]
per_epoch = -(-Q["samples_per_epoch"] // Q["batch_size"])
parameters = int(trial.parameters["recommender"])
steps = int(trial.steps["recommender"])
print(f"T5, quick profile: {parameters:,} parameters, {steps:,} steps")
assert steps == Q["epochs"] * per_epoch

# %% [markdown]
r"""
## Memory

Four things have to fit.

**Parameters, gradients, moments.** AdamW keeps two running means for each
parameter, so a step holds $4 P$ numbers, and a run one copy more: the
best epoch's weights.

**Activations**: what the forward pass keeps for the backward pass. It
grows with the batch, and with the length as a quadratic: per layer some
number of $[B, S, D]$ blocks and some $[B, h, S, S]$ blocks of attention. We need
not count the blocks: a quadratic is known from three points. PyTorch
tells every tensor that it keeps (`saved_tensors_hooks`); we add up the
distinct ones.
"""


# %%
def kept_bytes(network, loss):
    """Bytes that a forward pass keeps for the backward pass."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    alive = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive[storage.data_ptr()] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with sdpa_kernel(SDPBackend.MATH), hooks:
        value = loss()
    del value
    return sum(storage.nbytes() for storage in alive.values())


resid_t5 = T5((32, 40, 10), dropout=0.1).train()


# %%
def plain_loss(past, target):
    """The T5's loss in plain torch, as a GPU computes it."""
    states = resid_t5.decode(*resid_t5.encode(past), target)
    levels = [
        torch.nn.functional.cross_entropy(
            resid_t5.logits(states[:, level], level),
            target[:, level] - first,
        )
        for level, first in enumerate(resid_t5.vocabulary.first_token)
    ]
    return torch.stack(levels).mean()


def activations(batch, items):
    past = torch.randint(1, 80, (batch, 3 * items + 1))
    target = torch.tensor([[1, 33, 73]] * batch)
    return kept_bytes(resid_t5, lambda: plain_loss(past, target))


known = {T: activations(2, T) for T in (2, 6, 10)}
law = np.polyfit(list(known), list(known.values()), 2)
for T in (14, 20):
    seen, said = activations(2, T), np.polyval(law, T)
    print(f"{T} items: kept {seen:,} bytes, foretold {said:,.0f}")
    assert abs(seen - said) < 1
one, two, five = (activations(B, 6) for B in (1, 2, 5))
assert five - two == 3 * (two - one)

# %% [markdown]
r"""
The prediction is exact to the byte, in the length and in the batch. So the
memory of a step at ReSID's batch of 2,048 is known without having it:
"""

# %%
P = sum(p.numel() for p in resid_t5.parameters())
adam = torch.optim.AdamW(resid_t5.parameters())
resid_t5.loss(torch.ones(1, 4).long(), written[:1]).backward()
adam.step()
moments = sum(
    value.nbytes
    for state in adam.state.values()
    for name, value in state.items()
    if name != "step"
)
assert (
    sum(p.grad.nbytes for p in adam.param_groups[0]["params"]) == 4 * P
)
assert moments == 8 * P
each = law / 2  # for one sample
memory = {
    "parameters, gradients, moments": 16 * P,
    "activations: 2,048 x 32 items": 2048 * np.polyval(each, 32),
    "activations: 2,048 x 8 items": 2048 * np.polyval(each, 8),
    "activations: 256 x 32 items": 256 * np.polyval(each, 32),
}
frame = pd.DataFrame(memory.items(), columns=["what", "bytes"])
print(f"{P:,} parameters")
table(
    frame,
    "ReSID's T5 in float32, attention written out",
    {"bytes": "bytes"},
)

# %%
full_batch = memory["activations: 2,048 x 32 items"]
assert full_batch > 100 * memory["parameters, gradients, moments"]
assert full_batch > 0.8 * 16e9

# %% [markdown]
r"""
For models of this size the parameters are nothing; activations are all.
One batch of 2,048 full histories, with attention written out, nearly fills the 16 GB of a T4 before the backward pass has
begun, which needs room of its own. In pieces of 256
it fits easily, with the same gradient (`TrainSettings(at_once=...)`, which
the T5 uses on CPUs). Fused attention, as on GPUs and in the library's own
passes for a CPU, never stores the square. And when it is too much, the library stops before the step and says how many
samples fit.

**Codes and tables** grow with the catalogue. We ask the tensors:
"""

# %%
N, L, m, D = 5000, 3, 32, 128
rng = np.random.default_rng(0)
stored = SemanticIds(rng.integers(0, 256, (N, L))).codes
rows = table_rows(rng.integers(0, 256, (N, m)), 256)
item_rows = torch.zeros(N, D)
assert stored.nbytes == 8 * N * L
assert rows.nbytes == 2 * N * m
assert item_rows.nbytes == 4 * N * D

sizes = [12_101, int(items["Books"]), 1_000_000, 100_000_000]
frame = pd.DataFrame({"items": sizes})
for name, bytes_each in {
    "codes, 3 levels": 8 * L,
    "rows, 32 digits": 2 * m,
    "item table": 4 * D,
    "trained with AdamW": 16 * D,
}.items():
    frame[name] = [bytes_each * N for N in sizes]
table(frame, "What grows with the catalogue",
      dict.fromkeys(frame.columns[1:], "bytes"))  # fmt: skip

# %% [markdown]
r"""
Here is the one place where semantic IDs save memory by orders of magnitude:
a table with a trained row for each item outgrows any GPU at a hundred
million items, while codes of a few bytes stay small, and the token table
does not depend on the catalogue at all. But at the papers' sizes (their
largest is the second row) *every* method fits on the smallest GPU. The saving
is real and, in these papers, not needed.

## A million items

What does one list cost when the catalogue grows? Three ways to score:

- one inner product for each item: $N D$ MAC (SASRec and its kin);
- holistic scoring: the heads once, $m D (D + M)$ MAC, then $N m$
  *additions* of numbers looked up in a table (ACERec, RPG);
- beam search: some rows of the decoder for each level, whatever $N$ is.

The last needs a proof, so we count it on catalogues from 500 to 50,000 items
with the same numbers of codes.
"""

# %%
levels = (40, 40, 40)
writer = T5(levels, dim=16, num_layers=1, num_heads=2, head_dim=8,
            ffn_dim=32).double().eval()  # fmt: skip
past = torch.randint(1, 100, (2, 10))
for N in (500, 5000, 50_000):
    pick = rng.choice(40**3, N, replace=False)
    codes = np.stack(np.unravel_index(pick, levels), axis=1)
    trie = SemanticIds(codes, levels).trie
    with torch.no_grad():
        seen = macs(
            lambda trie=trie: beam_search(
                Decoding(writer, *writer.encode(past)), trie, 30
            )
        )
    print(f"{N:6,} items: {seen:,} MAC for two users")

# %% [markdown]
r"""
To the digit the same. What does grow is the number of codes: to give $N$
items distinct tuples, $\sum_l \log_2 K_l \ge \log_2 N$. With levels of 256
codes, one level more serves 256 times as many items, for one more
decoding step and one more token an item of the history.
"""

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Work to score one list, after the history has been read, against the size of the catalogue: inner products with 128-dimensional item vectors (SASRec); heads and 32 additions an item (ACERec's holistic scoring, D = 448); 50 beams through ReSID's decoder, with as many levels of 256 codes as the catalogue needs. History: 8 items. See that the beam search is dearest at the left and cheapest at the right.", "name": "fig-cost-items"}, "image": {"alt": "Log-log chart, 1,000 to 1 billion items: inner products and holistic scoring rise in proportion; the stepped, nearly flat line of beam search starts above both and ends below."}}
catalogue = np.logspace(3, 9, 121)
depth = np.ceil(np.log(catalogue) / np.log(256)).astype(int)
size = 128, 128, 512, 4
ways = {
    "SASRec": 128 * catalogue,
    "ACERec": heads(32, 448, 256) + 32 * catalogue,
    "ReSID": np.array([
        write(8 * L + 1, *size, [256] * L) for L in depth
    ]),
}  # fmt: skip
fig, ax = plotting.figure(height=3.1)
for name, work in ways.items():
    style = plotting.method_style(name) | {"marker": ""}
    ax.plot(catalogue, work / 1e6, **style)
places = {
    "inner products": (3e5, 4e3, "SASRec"),
    "holistic scoring": (9e7, 1.0e3, "ACERec"),
    "50 beams": (1.2e3, 65, "ReSID"),
}
ax.set(xscale="log", yscale="log", xlabel="items in the catalogue")
ax.set_ylabel("million MAC or additions")
for text, (x, y, name) in places.items():
    colour = plotting.method_style(name)["color"]
    ax.text(x, y, text, color=colour, ha="left")
# %%
for name in ("SASRec", "ACERec"):
    dearer = catalogue[ways["ReSID"] > ways[name]]
    print(f"50 beams cost more than {name}'s scores "
          f"up to {dearer.max() / 1e6:.1f} million items")  # fmt: skip
    assert 5e5 < dearer.max() < 1e7
    assert (ways["ReSID"] > ways[name])[catalogue < 5e5].all()
readings = {
    "SASRec": 2 * layer(8, 128, 512),
    "ACERec": backbone(8, 5, 448, 1024, 2),
    "ReSID": read(8 * 3 + 1, *size),
}
for name, work in readings.items():
    print(f"{name}: {work / 1e6:.1f} million MAC to read 8 items")

# %% [markdown]
r"""
So *for every catalogue of the papers, scoring everything is the cheaper
algorithm*, although it sounds like the brute one; the constant time of beam
search pays beyond millions of items. (Reading the history is another matter:
there ACERec's wider network costs the most.) An addition that waits for memory
is slower than a MAC in a matrix product, so the crossing in seconds may
come elsewhere; the recorded benchmarks have the seconds. (The beam search
includes reading histories of 20 items, the scores do not.)
"""

# %% tags=["hide-input", "nbval-ignore-output"]
benchmarks({
    "pq_score_top10": "holistic, 12,101 items, 256 users",
    "pq_score_million_top10": "holistic, 1,000,000 items, 16 users",
    "t5_beam50": "50 beams, 12,101 items, 64 users",
})  # fmt: skip

# %% [markdown]
r"""
## Several GPUs, several machines

When one device is too slow, the natural next step is data-parallel training:
several processes hold the same network, each takes a share of every batch.
With this library it is the same command under `torchrun`:

```bash
torchrun --nproc-per-node 4 -m semid_lib.cli run resid beauty --profile paper
```

What makes it the *same training*, not a similar one? The loss of a batch is
a mean over its samples, so its gradient is a sum over any partition of
them:

$$
\nabla \frac{1}{B} \sum_{s=1}^{B} \ell_s
= \sum_{r} \underbrace{\frac{|B_r|}{B}\,
  \nabla \frac{1}{|B_r|} \sum_{s \in B_r} \ell_s}_{\text{process } r} .
$$ (eq-cost-shares)

Each process computes its term; the terms are added over the network
(an *all-reduce*), and every process takes the same optimiser step, so the
weights stay equal without being sent. By hand, with two shares of unequal
size:
"""

# %%
net = T5((4, 4), dim=8, num_layers=1, num_heads=2, head_dim=4,
         ffn_dim=16, dropout=0.0).double()  # fmt: skip
past = torch.randint(1, 9, (7, 6))
future = torch.tensor([[1, 5]] * 7)


def gradient(rows, weight=1.0):
    net.zero_grad()
    (weight * net.loss(past[rows], future[rows])).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


together = gradient(slice(0, 7))
shares = gradient(slice(0, 4), 4 / 7) + gradient(slice(4, 7), 3 / 7)
assert torch.allclose(together, shares, rtol=1e-12, atol=1e-15)
print("gradient of 7 samples = share of 4 + share of 3")

# %% [markdown]
r"""
And for real: two processes with batches of 16, started by `torchrun`,
against this one with batches of 32.
"""

# %%
script = """
from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.compute.distributed import join, rank
from semid_lib.recommenders import SASRec

def losses(batch_size):
    shop = leave_one_out(synthetic_catalogue(60, 61)[0])
    model = SASRec(
        dim=8, num_heads=2, ffn_dim=16, dropout=0.0, epochs=3,
        batch_size=batch_size, precision="float64",
    ).fit(shop)
    return [epoch["loss"] for epoch in model.history_.epochs]

if __name__ == "__main__":
    join("cpu")  # finds the others; alone, it does nothing
    found = losses(batch_size=16)
    if rank() == 0:
        print(*found)
"""
launch = "-m torch.distributed.run --standalone --nproc-per-node 2"
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "both.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, *launch.split(), str(file)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
scope = {"__name__": "alone"}
exec(script, scope)
alone = scope["losses"](batch_size=32)
two = [float(loss) for loss in done.stdout.split()]
for epoch, (a, b) in enumerate(zip(alone, two), 1):
    print(f"epoch {epoch}: one process {a:.9f}, two {b:.9f}")
assert np.allclose(alone, two, rtol=1e-10) and len(two) == 3

# %% [markdown]
r"""
That is also what `--nproc-per-node 2` means for a recipe: the batch is
twice as large, so there are half as many steps. To keep a paper's batch,
divide it by the number of processes (`--set recommender.batch_size=1024`);
to keep a larger one, the learning rate has to be chosen again
{cite:p}`largebatch`.

What is shared out, and what is not:

| part | with p processes |
| --- | --- |
| gradients of each batch | 1/p each, then summed |
| validation and test users | 1/p each, then gathered |
| optimiser step | done by all, on equal numbers |
| parameters, moments, data, codes | a full copy each |
| tokenizers (GAOQ, OPQ), counting methods | done whole by all |
| files | written by the first alone; the folder must be shared |
| dropout | other random numbers than one process would draw |
| losses that compare samples of a batch | each sees its share only |

The last two rows are why the test in `tests/test_distributed.py` switches
dropout off. ACERec's alignment loss ({eq}`eq-acerec-isa` in
{ref}`ch-acerec`) compares each target with the batch's others, so with two
processes it has fewer rivals.

### Is it worth it?

A process computes for a while, then waits for the sum of $P$ gradients. In
a ring each sends $2 (p - 1) / p$ times the gradient. Two published speeds:
the H200's links to its neighbours, 900 GB/s in both directions together
{cite:p}`h200datasheet`, so 450 each way; and Ethernet of 10 Gbit/s,
1.25 GB/s. Set against the computing of a share of a batch at a tenth of the peak:
"""

# %%
P = sum(p.numel() for p in resid_t5.parameters())
step = 2 * epoch_t5 / len(asked) * 2048  # FLOPs of a batch
rows = []
for p in (1, 2, 4, 8):
    compute = step / p / (0.1 * peaks["H200, bfloat16"])
    message = 2 * (p - 1) / p * 4 * P
    row = {"processes": p, "compute, ms": 1e3 * compute}
    for link, speed in {"NVLink": 450e9, "10 Gbit/s": 1.25e9}.items():
        wait = message / speed
        row[f"{link}, ms"] = 1e3 * wait
        row[f"{link}, speed-up"] = (
            step / (0.1 * peaks["H200, bfloat16"]) / (compute + wait)
        )
    rows.append(row)
frame = pd.DataFrame(rows)
kinds = {c: "real" for c in frame if c != "processes"}
table(
    frame.round(2), "ReSID's T5, batch 2,048, shared among H200s", kinds
)

# %%
by_p = frame.set_index("processes")
assert by_p.loc[8, "NVLink, speed-up"] > 6
assert by_p["10 Gbit/s, speed-up"].max() == 1
longest = 16 * 128 * int(items["Books"])
print(f"largest item table, with AdamW: {longest / 1e9:.2f} GB")
assert longest < 16e9

# %% [markdown]
r"""
Between neighbours the sum costs next to nothing. Over slow Ethernet it takes
longer than the whole step, and more machines make the training *slower*. (The
calculator is kind: it leaves out what starting a message takes, and
that a share of a small batch fills a GPU less.) So when are several needed?

- **Not for memory.** Every process holds everything. A model too large for
  one device needs its tables or layers split, which this library does not
  do; none of the papers' datasets needs it, as the last line shows.
- **Not for one run on Beauty**, which is a matter of minutes to an afternoon
  on one GPU.
- **For one run on a far larger dataset**: the work of an epoch grows in
  proportion to the interactions, and with it the part that can be shared.
- **Better than that, for many runs: no communication at all.** Seeds,
  ablations and datasets are independent. `semid queue run --jobs 8` keeps a
  machine busy without any sum over a network, and most of an evaluation's
  work has that form.

## What holds, and what does not

- *Appendix L is right* about the terms it has, and our networks match it
  to the last MAC once the constants are back. What it omits can be larger
  than what it has: the loss (with a large catalogue), the balancing of
  k-means (the likely place of the time that Table 3 prints).
- *ACERec's comparison is right in its conclusion* (flattening many digits
  is far dearer) *and thin in its reason*: the attention terms it compares are
  about a percent of its network, and the heads are not mentioned.
- *Holistic scoring is cheaper than beam search* for every catalogue in the
  papers, and dearer for one of tens of millions.
- *Semantic IDs save memory* by orders of magnitude in items' tables; in the
  papers' experiments nobody needs it.
- *Not shown here*: seconds on a GPU. The counts are exact, the peaks
  published, the tenth is assumed. Where a record says "not run", nobody of
  us has run it.

## Exercises

```{exercise}
:label: ex-cost-recall

Which term of {eq}`eq-cost-famae` does the counter not see, and why does
the number of fields matter all the same?
```

````{solution} ex-cost-recall
:class: dropdown

$T_e J d_e$: summing $J$ embeddings takes additions alone, and the
counter has formulas for products. Fields matter through memory traffic
($J$ rows are read for each token and as many gradients written), through the
tables' size, and through the losses: each masked field has a softmax of
its own.
````

```{exercise}
:label: ex-cost-quadratic

At which length does attention cost as much as the dense part of a
layer of width $D$ and $F = 4 D$? How many items of three codes is
that at ReSID's width?
```

````{solution} ex-cost-quadratic
:class: dropdown

$2 T^2 D = T (4 D^2 + 2 D F)$ gives $T = 2 D + F = 6 D$. With $D = 128$ that is
768 tokens, or 256 items of three codes, eight times ReSID's longest history.
````

```{exercise}
:label: ex-cost-span

The library sorts 50 batches at a time. What would sorting 5 batches, or
the whole epoch, save or cost on Beauty, with batches of 256? And how
many different neighbours does a sample meet?
```

````{solution-start} ex-cost-span
:class: dropdown
````
"""

# %%
for span in (1, 5, 50, 10_000):
    batches = by_length(asked, 256, np.random.default_rng(1), span)
    T = padded(asked, batches)
    print(f"sorted {span:6} batches at a time: "
          f"{T.sum() / asked.sum() - 1:6.1%} padding")  # fmt: skip

# %% [markdown]
r"""
A few batches at a time gain most of it already, and beyond 50 there is
next to nothing left to gain, while batches would be the same groups of
users in every epoch, but for ties.

````{solution-end}
````

```{exercise}
:label: ex-cost-fit

Given the quadratic for activations and 16 GB, what is the largest batch
of the T5 at 8, 16 and 32 items of history? Leave a tenth of the memory free.
```

````{solution-start} ex-cost-fit
:class: dropdown
````
"""

# %%
room = 0.9 * 16e9 - 16 * P
for T in (8, 16, 32):
    fits = int(room // np.polyval(each, T))
    print(f"{T:2} items: {fits:6,} samples")

# %% [markdown]
r"""
Twice the length is less than half the batch, since the attention's
share grows with the square.

````{solution-end}
````

```{exercise}
:label: ex-cost-open

Open: data-parallel training keeps a copy of everything. How would you
train SASRec with a full softmax on a hundred million items?
```

````{solution} ex-cost-open
:class: dropdown

The item table (with its moments) and its softmax are too large; the
transformer is small. So split the *table* by rows among the processes: each
multiplies all states of the batch with its own rows, and what is exchanged
are the states, two numbers a state for the softmax (the maximum and
the sum), and gradients of states. Sampling negatives makes the product
small but not the table. Or replace the table: a hundred million rows are what
semantic IDs are for.
````

## What to read

- ReSID's appendix L {cite:p}`resid` and ACERec's section 2.5.2
  {cite:p}`acerec`, with the tables above beside them.
- Scaling laws for language models {cite:p}`scalinglaws`: $6 P$ FLOPs a
  token, and why attention is left out of it.
- The roofline model {cite:p}`roofline`: when memory, not arithmetic, sets the
  speed.
- PaLM {cite:p}`palm`, appendix B: model FLOPs utilisation, defined.
- Accurate, large minibatch SGD {cite:p}`largebatch`: what a larger batch
  does to a recipe.
"""
