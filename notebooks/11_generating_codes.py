# %% [markdown]
r"""
(ch-generate)=
# Generating codes
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

run = setup(chapter="11")

# %% [markdown]
r"""
::::{admonition} You will
:class: tip
- write a T5 in fifty lines and check it against the library's;
- train it by teacher forcing, and count in bits what it has learnt at
  each code, against what there was to learn;
- do a beam search on paper, then find out what narrow beams, a missing
  trie and three ways of scoring cost on real data;
- prove how much colliding codes flatter a careless evaluation;
- count the work of every decoding step;
- compare the generator with counting and with SASRec*, with intervals.
::::

::::{admonition} Cost
:class: note
Quick profile: about a minute and a half on two CPU cores, 2 GB of
memory, MovieLens-100K (fetched by itself) and a planted catalogue. In
the paper profile this chapter trains nothing more: its full-size runs
are those of {ref}`ch-pipeline`. It can be read alone; the first two steps
of ReSID are only used here, and {ref}`ch-famae` and {ref}`ch-gaoq` explain
them.
::::

## The problem

A tokenizer has given every item a tuple of codes. What is left sounds
easy: predict the next tuple, as a language model predicts the next word.
But between the codes and a ranked list stand a network, a way of
training it, a search, a set of allowed tuples, a rule for scores and a
rule for ties. Each can lose accuracy without any error message, and
papers seldom say which choice they made. In this chapter we open all of
them, one after the other, and put a number on each.

{numref}`fig-generate-steps` is the whole machine. The history is read
once. Then each step writes one code for every unfinished tuple that is
still in the race.
"""

# %%
import math
import time

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, pad
from torch.utils.flop_counter import FlopCounterMode

from semid_lib.codes import SemanticIds, Trie
from semid_lib.data import (
    leave_one_out,
    load_dataset,
    synthetic_catalogue,
)
from semid_lib.diagnostics import collision_rate, prefix_entropy
from semid_lib.encoders import FAMAE
from semid_lib.evaluation import (
    evaluate,
    paired_difference,
    ranks_from_lists,
    ranks_from_scores,
)
from semid_lib.networks import T5, Decoding, distance_buckets
from semid_lib.quantizers import GAOQ
from semid_lib.recommenders import (
    ItemKNN,
    MarkovChain,
    Popularity,
    SASRec,
    T5Recommender,
)
from semid_lib.recommenders.decoding.beam import beam_search
from semid_lib.reports import paper_table, plotting, table
from semid_lib.runs import load_records
from semid_lib.systems import FLOORS, SYSTEMS, title

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Generating one list. The encoder runs once for a user; its keys and values are kept. Each step feeds the newest code of every beam to the decoder and keeps the best beginnings that lead to an item. The one thing to see: the first step has one row to compute, the later ones have as many as there are beams.", "name": "fig-generate-steps"}, "image": {"alt": "Five boxes joined by arrows: history tokens, encoder, then three decoding steps that write the first, second and third code, the last giving the list."}}
fig = plotting.flow_diagram(
    {
        "Read once, write three codes": [
            ("Encoder", "history tokens\nto keys and\nvalues, once"),
            ("Step 1", "one row in,\n$K_1$ codes,\nkeep $W$"),
            ("Step 2", "$W$ rows in,\nonly codes\nin the trie"),
            ("Step 3", "$W$ rows in,\nwhole tuples\ncome out"),
            ("List", "tuples to\nitems, ties\nshared"),
        ]
    },
    colours=[plotting.VERMILLION],
)

# %% [markdown]
r"""
## A shop whose rule we know

On real data nobody knows how good a generator could be. So we begin with a
catalogue whose rule is planted: six communities, each of which walks
through its own six categories in a fixed cycle. Seven times in ten the
next item comes from the category that follows the last one's. Within a
category, popular items are likelier.

We make the codes from the truth, so that nothing but the generator is on
trial: the community, the category, and a running number within the two.
"""

# %%
shop, truth = synthetic_catalogue(600, 1000)
planted = leave_one_out(shop)
community, leaf = truth.community, truth.category[:, 2]
pair = pd.DataFrame({"community": community, "leaf": leaf})
number = pair.groupby(["community", "leaf"]).cumcount()
shop_ids = SemanticIds(np.column_stack([community, leaf, number]))
print(shop_ids)
assert shop_ids.is_unique

# %% [markdown]
r"""
## From items to tokens

The generator reads and writes *tokens*, rows of one embedding table. Every
level has a range of its own: with $o_l$ the sum of the sizes of the levels
before $l$,

$$
t_{il} = 1 + o_l + c_{il}, \qquad o_l = \sum_{m<l} K_m ,
$$ (eq-generate-token)

and 0 is padding. The level must be part of the token, because the same
number means unrelated things at different levels: code 3 is a community at
the first level and "the fourth of its category" at the last. Within one
level, on the other hand, a code has *one* row whatever stands before it.
That is where the aligned numbering of GAOQ can pay: if code 3 of level 2
points in the same direction under every first code, one row serves all.

A history becomes one long sentence: the tokens of its items, oldest first,
and an end token that marks where the newest item stands.
"""


# %%
def as_tokens(histories, sids, longest):
    """Tokens [B, S] of the newest items, an end token, 0: padding."""
    rows = [
        np.append(sids.tokens[h[-longest:]].ravel(), sids.num_tokens)
        for h in histories
    ]
    block = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for line, row in zip(block, rows):
        line[: len(row)] = row
    return torch.from_numpy(block)


item = planted.histories("validation")[0][-1]
print("title ", shop.items["title"][item])
print("codes ", shop_ids.codes[item], " offsets", shop_ids.offsets)
print("tokens", as_tokens([[item]], shop_ids, 2)[0].tolist())

# %% [markdown]
r"""
A recommender with one row for each item learns 600 rows here, each from
the few times its item occurs. The table of tokens is an order of
magnitude smaller, and each of its rows is used by many items. That is the
first half of the bargain; the second half is that two items can only be
told apart through their codes.
"""

# %%
seen = planted.train_counts()
for name, count in {
    "items": seen,
    "level 1": np.bincount(community, seen),
    "level 2": np.bincount(leaf, seen),
    "level 3": np.bincount(number, seen),
}.items():
    print(f"{name:8} rows {len(count):4}, median use", np.median(count))

# %% [markdown]
r"""
## One factor for each code

The probability of an item is that of its tuple, and the chain rule splits
it into one factor for each code:

$$
p(i \mid h) = \prod_{l=1}^{L}
  p\big(c_l \mid c_{<l}, h\big).
$$ (eq-generate-chain)

Taking $-\log_2$ turns the product into a sum of bits: what the generator
still has to be told about each code. How many bits should we expect? The
paper (section 3.3) calls $H(c_l \mid C_{<l})$, the entropy of a code given
the codes before it (the last term of the objective in {ref}`ch-gaoq`), an
upper bound on the *decoding entropy*. The
statement is right, with two conditions that are easily lost.

::::{prf:proposition} Bits of a code
:label: prop-generate-bits

Let a history $h$ and the codes $C$ of its next item be drawn from some
distribution, with entropies under that same distribution. Let a generator
$q$ pay $R_l$ bits for code $l$, the mean of
$-\log_2 q(c_l \mid C_{<l}, h)$. Then for every generator and level

$$
\begin{aligned}
H(c_l \mid C_{<l}, h) &\le H(c_l \mid C_{<l}) \\
H(c_l \mid C_{<l}, h) &\le R_l ,
\end{aligned}
$$ (eq-generate-bits)

with equality in the second line only if $q$ is the true distribution.
::::

::::{prf:proof}
The first line: conditioning cannot raise an entropy. The second: the
difference of its two sides is the mean Kullback-Leibler divergence from
the truth to $q$, which is never negative.
::::

So the bound holds for the *true* uncertainty, not for what a generator
pays: a bad generator may pay any number of bits. And the entropies are
those of the items that *people take*. A tokenizer sees each item once; its
entropies, with all items alike, are another distribution's.

There is a generator that reaches the bound exactly: one that
ignores the history and knows how often each prefix occurs. Its
probability of an item is the item's share of all interactions. In other
words, **popularity is the generator that does not read**. Its bits, level
by level, are the yardstick: what a model pays below them, it has learnt
from the history.

For the shop we also know the other end. The planted rule itself is a
generator, the best there can be but for details; let us call it the
oracle.
"""

# %% tags=["hide-input"]
group = community * (leaf.max() + 1) + leaf
in_group = (
    truth.popularity / np.bincount(group, truth.popularity)[group]
)


def oracle(history, share):
    """p(next item), [N], by the planted rule; seen items are out."""
    last = history[-1]
    home = community == community[last]
    follows = leaf == truth.next_category[community[last], leaf[last]]
    at = 0.2 * share[community] + 0.8 * home
    place = np.where(home, 0.3 / 6 + 0.7 * follows, 1 / 6)
    weight = in_group.copy()
    weight[history] = 0
    left = np.bincount(group, weight)[group]
    p = at * place * weight / np.where(left > 0, left, 1)
    return p / p.sum()


# %% [markdown]
r"""
A model that gives a probability to every item gives one to every prefix,
as the sum over the items below it. So one function splits anybody's bits
into levels:
"""


# %%
def bits_per_level(p, targets, sids):
    """Mean bits of each code; p [B, N] holds each item's share."""
    below = [np.ones(len(targets))]
    for level in range(sids.num_levels):
        codes = sids.codes[:, : level + 1]
        same = (codes == codes[targets][:, None]).all(axis=2)
        below.append((p * same).sum(axis=1))
    return -np.log2(np.divide(below[1:], below[:-1])).mean(axis=1)


past = planted.histories("validation")
target = planted.targets["validation"]
share = truth.user_communities[planted.users]
known = np.stack([oracle(h, s) for h, s in zip(past, share)])
often = (seen + 1) / (seen + 1).sum()
bits = {
    "all items alike": prefix_entropy(shop_ids),
    "popularity": bits_per_level(
        np.tile(often, (len(past), 1)), target, shop_ids
    ),
    "oracle": bits_per_level(known, target, shop_ids),
}

# %% tags=["hide-input"]
LEVELS = ["community", "category", "number"]


def show_bits(bits, levels, caption):
    rows = pd.DataFrame(bits, index=levels).T
    rows["sum"] = rows.sum(axis=1)
    return table(rows, caption, digits=2)


show_bits(bits, LEVELS, "Bits of each code of the validation items")

# %% [markdown]
r"""
The history settles nearly all of the first code and one bit of the second.
About the last code it can say little: which item of a category somebody
takes is, by construction, a matter of popularity and of what is left.

## The network

T5 {cite:p}`t5` is the transformer that this field has settled on; ReSID and
the systems it compares with all use a small one. We write it from its
equations, with the weights of a fresh network of the library, and check
that both say the same.
"""

# %%
torch.manual_seed(0)
network = T5(
    shop_ids.level_sizes,
    dim=32,
    num_layers=1,
    num_heads=2,
    head_dim=16,
    ffn_dim=64,
    dropout=0.0,
).double()
print(f"{network.num_parameters():,} weights without the token table")

# %% [markdown]
r"""
**Norm.** Each block sees its input scaled to a root mean square of one,
with a learnt weight for each coordinate. Unlike layer norm it subtracts no
mean and adds no bias:

$$
\mathrm{RMS}(x) = w \odot
  \frac{x}{\sqrt{\tfrac1D \sum_d x_d^2 + \epsilon}} .
$$ (eq-generate-norm)

**Attention without a scale.** Scores are plain products plus a bias
$\beta$ that depends on nothing but how far apart two places are:

$$
\begin{aligned}
s_{ij} &= q_i^\top k_j + \beta_{b(j - i)}, \\
y_i &= \textstyle\sum_j \mathrm{softmax}_j(s_{ij})\, v_j .
\end{aligned}
$$ (eq-generate-attention)

The usual $1/\sqrt{d}$ is missing, and not by mistake: T5 draws the query
weights with a standard deviation of $1/\sqrt{D d}$ instead of
$1/\sqrt{D}$, which does the same at the start of the training.

**Blocks.** With $A$ for attention and $M$ for a two-layer network with a
ReLU, each block adds to its input; the decoder's also looks at the
encoder's output $m$:

$$
\begin{aligned}
x &\leftarrow x + A(\mathrm{RMS}(x)) \\
x &\leftarrow x + A(\mathrm{RMS}(x), m)
  \quad\text{(decoder)} \\
x &\leftarrow x + M(\mathrm{RMS}(x)) .
\end{aligned}
$$ (eq-generate-block)
"""


# %%
def rms(x, w):
    return w * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def attend(q, k, v, bias=0.0):
    """[B, T, H d] each; H heads side by side, bias [H, T, S]."""
    q, k, v = (
        x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (q, k, v)
    )
    score = q @ k.transpose(-1, -2) + bias
    return (score.softmax(-1) @ v).transpose(1, 2).flatten(2)


def block(layer, x, bias, memory=None):
    q, k, v = layer.qkv(rms(x, layer.norm.weight)).chunk(3, -1)
    x = x + layer.out(attend(q, k, v, bias))
    if memory is not None:
        q = layer.cross_q(rms(x, layer.cross_norm.weight))
        k, v = layer.cross_kv(memory).chunk(2, -1)
        x = x + layer.cross_out(attend(q, k, v))
    hidden = layer.wide(rms(x, layer.ffn_norm.weight)).relu()
    return x + layer.narrow(hidden)


# %% [markdown]
r"""
**Distance.** The bias has 32 entries for each head. The first distances
have one each; farther ones share, in steps that grow as the logarithm, up
to 128. With $b$ entries on a side, half of them exact, distance
$\delta \ge b/2$ gets number

$$
\frac b2 + \left\lfloor \frac b2 \cdot
 \frac{\log(2\delta/b)}{\log(256/b)} \right\rfloor ,
$$ (eq-generate-bucket)

at most $b - 1$. The encoder gives each direction $b = 16$ entries; the
decoder only looks back and spends all $b = 32$ on that.
"""


# %%
def bucket(distance, two_sided):
    """Entry for a key `distance` places after the query."""
    b = 16 if two_sided else 32
    side = b if two_sided and distance > 0 else 0
    away = abs(distance) if two_sided else max(-distance, 0)
    if away >= b // 2:
        growth = math.log(2 * away / b) / math.log(256 / b)
        away = min(b // 2 + int(b // 2 * growth), b - 1)
    return side + away


distances = range(-128, 129)
for two_sided in (True, False):
    ours = [bucket(d, two_sided) for d in distances]
    assert ours == distance_buckets(two_sided).tolist()

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Which of the 32 entries of the bias a distance uses, encoder and decoder (T5, section 2.1). See that an item of three codes fills three places, so the eight exact distances of the encoder reach fewer than three items: beyond that, T5 knows roughly how long ago something was, not exactly.", "name": "fig-generate-buckets"}, "image": {"alt": "Two step curves of bias entry against distance from -128 to 128. Both are steep near zero and flat far away; the decoder's is zero for later keys."}}
fig, ax = plotting.figure(height=2.7)
for two_sided, name, colour in (
    (True, "encoder", plotting.BLUE),
    (False, "decoder", plotting.VERMILLION),
):
    ours = [bucket(d, two_sided) for d in distances]
    ax.step(distances, ours, where="mid", color=colour)
    ax.text(-126, ours[0] + 1, name, color=colour)
ax.axvspan(-7.5, 7.5, color=plotting.GREY, alpha=0.15, lw=0)
ax.text(10, 3, "exact in the encoder", color=plotting.GREY)
ax.set_xlabel("place of the key − place of the query (tokens)")
ax.set_ylabel("entry of the bias")
_ = ax.set_ylim(0, 36)

# %% [markdown]
r"""
**Output.** The token table is used a third time, as the output layer:
a code's logit is the product of the last state with the code's own row,
scaled because these rows are not small. Only the codes of level $l$ take
part in the softmax of step $l$:

$$
q(c_l \mid c_{<l}, h) \propto
 \exp\!\big(\tfrac{1}{\sqrt D}\, g_l^\top e_{t_l}\big).
$$ (eq-generate-output)

That is all of it. Put together:
"""


# %%
def bias_of(entries, two_sided, length):
    """[H, length, length] from the learnt entries [32, H]."""
    place = range(length)
    rows = [[bucket(j - i, two_sided) for j in place] for i in place]
    return entries[torch.tensor(rows)].permute(2, 0, 1)


def logits_of(net, tokens, written):
    """One [B, K_l] for each level, given the codes before it."""
    E = net.embedding.weight
    bias = bias_of(net.encoder_bias.weight, True, tokens.shape[1])
    m = block(net.encoder[0], E[tokens], bias)
    m = rms(m, net.encoder_norm.weight)
    inputs = pad(written[:, :-1], (1, 0))  # 0, t_1, ..., t_(L-1)
    length = inputs.shape[1]
    bias = bias_of(net.decoder_bias.weight, False, length)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    bias = bias.masked_fill(future, -torch.inf)
    g = block(net.decoder[0], E[inputs], bias, m)
    g = rms(g, net.decoder_norm.weight) / E.shape[1] ** 0.5
    rows = E[1:-1].split(net.level_sizes)
    return [g[:, level] @ row.T for level, row in enumerate(rows)]


# %% [markdown]
r"""
The library's network has dropout, padding and faster kernels, and the same
numbers:
"""

# %%
tokens = as_tokens([h[-2:] for h in past[:50]], shop_ids, 2)
written = torch.from_numpy(shop_ids.tokens[target[:50]])
with torch.no_grad():
    ours = logits_of(network, tokens, written)
    states = network.decode(*network.encode(tokens), written)
    theirs = [network.logits(states[:, j], j) for j in range(3)]
largest = max((a - b).abs().max() for a, b in zip(ours, theirs))
print(f"largest difference of a logit below 1e-12: {largest < 1e-12}")
assert largest < 1e-12

# %% [markdown]
r"""
## Teacher forcing

While the model trains, the decoder is given the *true* codes before the
one it must predict, shifted by one place:
"""

# %%
pd.DataFrame(
    {
        "reads": ["0 (start)", *shop_ids.tokens[item][:-1]],
        "must say": shop_ids.tokens[item],
    },
    index=[f"place {j}" for j in (1, 2, 3)],
).T

# %% [markdown]
r"""
The mask hides the future, so a single pass gives all $L$ losses. Changing a
later code must not touch an earlier prediction:
"""

# %%
changed = written.clone()
changed[:, 1] = written[:, 1].roll(1)
with torch.no_grad():
    other = logits_of(network, tokens, changed)
assert torch.allclose(ours[0], other[0], atol=1e-12)
assert torch.allclose(ours[1], other[1], atol=1e-12)
assert (ours[2] - other[2]).abs().max() > 0.01

# %% [markdown]
r"""
The loss is the mean of the $R_l$ of {eq}`eq-generate-bits`, in nats. A sample is an item of the train part and the two before it; the
planted rule needs no more than the last one. Instead of the library's
training loop we write one out, and keep the loss of every level.
"""

# %%
start, end = planted.windows(max_history=2)
inputs = as_tokens(
    [planted.items[s:e] for s, e in zip(start, end)], shop_ids, 2
)
outputs = torch.from_numpy(shop_ids.tokens[planted.items[end]])


def losses(net, tokens, written):
    """Mean cross-entropy of each level in nats, [L]."""
    states = net.decode(*net.encode(tokens), written)
    return torch.stack(
        [
            cross_entropy(net.logits(states[:, j], j), t - first)
            for j, (t, first) in enumerate(
                zip(written.T, net.vocabulary.first_token)
            )
        ]
    )


# %%
EPOCHS, BATCH = 8, 128
steps = EPOCHS * math.ceil(len(inputs) / BATCH)
adam = torch.optim.AdamW(network.parameters(), lr=5e-3)
rate = torch.optim.lr_scheduler.OneCycleLR(
    adam, 5e-3, steps, pct_start=0.1, cycle_momentum=False
)
test_tokens = as_tokens(past, shop_ids, 2)
test_written = torch.from_numpy(shop_ids.tokens[target])
curve = []
for _ in range(EPOCHS):
    for rows in torch.randperm(len(inputs)).split(BATCH):
        loss = losses(network, inputs[rows], outputs[rows]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
    with torch.no_grad():
        nats = losses(network, test_tokens, test_written)
    curve.append(nats.numpy() / math.log(2))
network.eval()
bits["T5"] = curve[-1]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Bits of each code on the validation items of the planted catalogue after every epoch, one seed. Dotted: popularity, the generator that does not read. Dashed: the planted rule. See that the codes are learnt one after the other, and that the last one, which has little to gain from the history, is still dearer than popularity at the end.", "name": "fig-generate-curve"}, "image": {"alt": "Three panels of bits against epoch. The community is near the dashed line of the rule at once, the category falls from the dotted line to it, the number stays above both."}}
fig, axes = plotting.figure(height=2.6, ncols=3, sharey=True)
for j, (ax, name) in enumerate(zip(axes, LEVELS)):
    ax.axhline(bits["popularity"][j], color=plotting.GREY, ls=":")
    ax.axhline(bits["oracle"][j], color=plotting.GREY, ls="--")
    ax.plot(
        range(1, EPOCHS + 1),
        [c[j].round(4) for c in curve],
        **plotting.method_style("ReSID"),
    )
    ax.set_title(f"code {j + 1}: {name}")
    ax.set_xlabel("epoch")
axes[0].set_ylabel("bits")
axes[0].set_ylim(0, 4.2)
axes[0].text(8, bits["popularity"][0] + 0.1, "popularity", ha="right")
_ = axes[2].text(8, bits["oracle"][2] - 0.3, "planted rule", ha="right")

# %% tags=["hide-input"]
show_bits(bits, LEVELS, "Bits of each code of the validation items")

# %%
assert (bits["oracle"] < bits["T5"]).all()
assert (bits["T5"] < bits["popularity"] - 0.5)[:2].all()
assert bits["T5"][2] > bits["popularity"][2]

# %% [markdown]
r"""
From below, {prf:ref}`prop-generate-bits` holds at every level: nobody beats
the rule. From above there is no such law, and the last code shows it. Its
true uncertainty is less than popularity's bits; what the generator
*pays* is more. Popularity looks the number up, one share for each
item. The generator must build the same table out of a few shared rows, and
after eight epochs it has not finished. Remember this level; we shall meet
it again on real films.

There is a second price, which the loss does not show. At test time nobody
supplies the true beginning. The generator goes on from what it wrote
itself, and once a code is wrong, everything after it describes another
item.
"""

# %%
guess = torch.zeros_like(test_written)
with torch.no_grad():
    for j, begin in enumerate(network.vocabulary.first_token):
        logits = logits_of(network, test_tokens, guess)[j]
        guess[:, j] = begin + logits.argmax(-1)
    forced = logits_of(network, test_tokens, test_written)
codes = shop_ids.codes[target]
told = [
    (x.argmax(-1).numpy() == c).mean() for x, c in zip(forced, codes.T)
]
alone = np.cumprod(guess.numpy() == test_written.numpy(), axis=1)
both = {
    "this code right, true codes before it": told,
    "all codes right so far, its own before": alone.mean(axis=0),
}
both = pd.DataFrame(both, index=LEVELS).T
table(both, kinds=dict.fromkeys(LEVELS, "share"))

# %% [markdown]
r"""
Taking the best code at every step is called greedy decoding, and the
second row is its Recall@1. A list of ten needs more than one attempt
anyway, and it should consist of items. So we need two tools: a record of
which tuples exist, and a search that keeps several beginnings.

## The trie

A tuple that no item has is a wasted line in the list. The set of all
tuples, stored by shared beginnings, is a **trie**: a node is a prefix, its
children are the codes that may follow. Here are six items, small enough to
draw, with the probabilities that some generator gives to the codes for one
user. (The generator also gives some probability to codes that lead
nowhere: behind the first code 0 it likes code 2 best, which no item has.)
"""

# %%
toy = SemanticIds(
    [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0]], level_sizes=(3, 3)
)
first = np.array([0.5, 0.3, 0.2])
second = np.array(
    [[0.28, 0.32, 0.40], [0.60, 0.30, 0.10], [0.95, 0.03, 0.02]]
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The trie of six items with the probabilities of one user's codes. Filled: the two prefixes that a beam of width 2 keeps after the first step. The one thing to see: the most probable item, 0.190, stands below the prefix that was dropped.", "name": "fig-generate-trie"}, "image": {"alt": "A tree with a root, three nodes and six leaves, each leaf labelled with its codes and product: 0.140, 0.160, 0.180, 0.090, 0.030 and 0.190."}}
fig, ax = plotting.figure(height=2.7)
heights = {0: 4.5, 1: 2.0, 2: 0.0}
joint = first[:, None] * second
for row, (a, b) in enumerate(toy.codes):
    kept = a < 2
    colour = plotting.VERMILLION if kept else plotting.GREY
    ax.plot([0, 1], [2.5, heights[a]], color=colour, zorder=1)
    ax.plot([1, 2], [heights[a], 5 - row], color=colour, zorder=1)
    face = colour if kept else "white"
    ax.scatter(1, heights[a], s=330, color=face, ec=colour, zorder=2)
    ink = "white" if kept else "black"
    ax.text(1, heights[a], a, ha="center", va="center", color=ink)
    paper = {"va": "center", "ha": "center", "backgroundcolor": "white"}
    ax.text(0.5, (2.5 + heights[a]) / 2, f"{first[a]:.1f}", **paper)
    y = heights[a] + 0.75 * (5 - row - heights[a])
    ax.text(1.75, y, f"{second[a, b]:.2f}", **paper)
    text = f"({a}, {b})   {joint[a, b]:.3f}"
    weight = "bold" if (a, b) == (2, 0) else "normal"
    ax.text(2.05, 5 - row, text, va="center", weight=weight)
ax.scatter(0, 2.5, s=330, color="white", ec="black", zorder=2)
ax.set(xlim=(-0.1, 2.7), ylim=(-0.6, 5.6))
ax.set_axis_off()

# %% [markdown]
r"""
For a search over many users at once a tree of Python objects is useless.
The library keeps flat arrays. The nodes of a level are numbered in
lexicographic order, so the children of a node are one contiguous range of
the next level, given by a start and a count (the compressed rows of a
sparse matrix):
"""

# %%
trie = toy.trie
for level in (0, 1):
    print(f"level {level + 1}: code        ", trie.code[level])
    print("         parent      ", trie.parent[level])
    print("         first child ", trie.first_child[level])
    print("         children    ", trie.num_children[level])

# %% [markdown]
r"""
Node 1 of the first level has 3 children from number 2 on: codes 0, 1 and 2.
The children of a leaf are its items, here one each; where tuples collide
there are several. Looking up the children of all beams of all users is one
indexing of an array.

## Beam search, on paper

We want the items of the highest $\log p$. Beam search keeps the $W$ best
beginnings after every step. With $S(c_{\le l})$ the log probability of a
beginning,

$$
S(c_{\le l}) = S(c_{<l}) + \log q(c_l \mid c_{<l}, h),
$$ (eq-generate-beam)

only children in the trie are candidates. Follow it in
{numref}`fig-generate-trie`: with $W = 1$ (greedy) we keep code 0 and end
at 0.160. With $W = 2$ we keep 0 and 1, and find 0.180. Only $W = 3$ finds
the best item: its first code looked bad, and nothing warned us.
"""


# %%
def beam_on_paper(first, second, trie, width):
    kept = np.argsort(-first)[:width]
    found = {}
    for node in kept:
        begin = trie.first_child[0][node]
        for child in range(begin, begin + trie.num_children[0][node]):
            code = trie.code[1][child]
            found[int(node), int(code)] = (
                first[node] * second[node, code]
            )
    return sorted(found.items(), key=lambda pair: -pair[1])[:width]


for width in (1, 2, 3):
    best, p = beam_on_paper(first, second, trie, width)[0]
    print(f"width {width}: best {best}, probability {p:.3f}")

# %%
by_hand = joint[tuple(toy.codes.T)]  # all six items, no search
order = toy.codes[np.argsort(-by_hand)]
found = beam_on_paper(first, second, trie, 3)
assert [ids for ids, _ in found] == [tuple(o) for o in order[:3]]
assert joint.argmax() not in np.ravel_multi_index(toy.codes.T, (3, 3))
print("best tuple without the trie:", divmod(int(joint.argmax()), 3))

# %% [markdown]
r"""
The last line is the trie at work: the most probable tuple of all is
(0, 2), and no item has it.

When can we trust a beam? A log probability only falls as a tuple grows, so
a beginning's score bounds everything below it.

::::{prf:proposition} What a beam cannot lose
:label: prop-generate-exact

(a) If $W$ is at least the number of prefixes of $L - 1$ codes, the first
$W$ items found are the exact ones. (b) Let $D$ be the best score of any
beginning that was ever dropped. Every found item that scores above $D$
stands in its exact place.
::::

::::{prf:proof}
(a) Nothing is dropped before the last step, which sorts all items. (b) An
item that was not found lies below a dropped beginning, so its score is at
most $D$; only found items can stand above one that scores more than $D$,
and those are sorted.
::::

In the toy, (a) says $W = 3$. An exercise turns (b) into a certificate.

## Three ways to score a beam

The probabilities of the six items in {numref}`fig-generate-trie` do not
sum to one: the rest went to tuples that do not exist. What to do with that
rest is a choice, and codebases differ:

- *level*: a softmax over the level's codes, then the trie's mask. A code
  that leads nowhere takes its share and keeps it. This book's choice.
- *children*: the mask first, then the softmax, so that the codes that
  remain share everything (GRID does this).
- *vocabulary*: a softmax over all tokens of all levels, then the mask.
  This is what Hugging Face's `generate` does with a prefix function.

The difference between the first two is not one of scale:
"""

# %%
allowed = np.zeros((3, 3))
allowed[tuple(toy.codes.T)] = 1
inside = second * allowed
inside = inside / inside.sum(axis=1, keepdims=True)
rules = {"level": joint, "children": first[:, None] * inside}
for name, p in rules.items():
    scores = p[tuple(toy.codes.T)]
    best = [tuple(map(int, c)) for c in toy.codes[np.argsort(-scores)]]
    print(f"{name:9} sum {scores.sum():.2f}, order {best[:4]}")

# %% [markdown]
r"""
The order is turned round. The second rule makes the six numbers sum
to one, which looks tidy, but it does so prefix by prefix: beginning 0 lost
40 % of its probability to nothing, and is now forgiven. The
probability of an item *given that the tuple exists* would divide all
six by the same 0.79, and keep the order of the first rule. (Sequence
labelling met the same thing as the *label bias* of locally normalised
models.)

## Did it learn the rule?

Back to the shop. To see a generator's whole mind, we let the search run
over *every* tuple, items or not, wide enough to drop nothing. That gives
the joint table of $q$, from which any rule can be computed:
"""


# %%
@torch.no_grad()
def joint_table(net, sids, histories, longest, normalize="level"):
    """log q of all tuples, [B, K_1, ..., K_L], by exhaustive search."""
    sizes = sids.level_sizes
    tuples = Trie.of(np.indices(sizes).reshape(len(sizes), -1).T)
    tables = []
    for begin in range(0, len(histories), 50):
        some = histories[begin : begin + 50]
        read = net.encode(as_tokens(some, sids, longest))
        decoder = Decoding(net, *read, normalize=normalize)
        leaves, scores = beam_search(decoder, tuples, tuples.num_leaves)
        tables.append(
            torch.zeros_like(scores).scatter(1, leaves, scores)
        )
    return torch.cat(tables).numpy().reshape(-1, *sizes)


whole = joint_table(network, shop_ids, past[:100], 2)
sums = np.exp(whole).sum(axis=(1, 2, 3))
assert np.allclose(sums, 1)
print(f"{whole[0].size} tuples sum to {sums.mean():.6f}")

# %% [markdown]
r"""
First a check of the beam search itself, against brute force: score
all 600 items one by one by teacher forcing, sort, and compare.
"""


# %%
@torch.no_grad()
def brute_force(net, sids, history, longest):
    """log q(i | h) of every item i, [N], one pass with all tuples."""
    tokens = as_tokens([history] * sids.num_items, sids, longest)
    written = torch.from_numpy(sids.tokens)
    states = net.decode(*net.encode(tokens), written)
    total = 0
    for j, own in enumerate(torch.from_numpy(sids.codes).T):
        log_q = net.logits(states[:, j], j).log_softmax(-1)
        total = total + log_q.gather(1, own[:, None])[:, 0]
    return total.numpy()


for row in range(5):
    scores = brute_force(network, shop_ids, past[row], 2)
    assert np.allclose(scores, whole[row][tuple(shop_ids.codes.T)])
    code = as_tokens([past[row]], shop_ids, 2)
    with torch.no_grad():
        decoder = Decoding(network, *network.encode(code))
        leaves, found = beam_search(decoder, shop_ids.trie, 36)
    best = np.argsort(-scores)[:36]
    assert (shop_ids.trie.leaf_items[leaves[0]] == best).all()
    assert np.allclose(found[0], scores[best])
assert len(shop_ids.trie.code[1]) == 36  # prefixes of two codes
print("36 beams = brute force, for 5 users and 36 items each")

# %% [markdown]
r"""
There are 36 prefixes of two codes, so by {prf:ref}`prop-generate-exact`
36 beams must be exact, and they are. Now the question for which we planted
the rule. The held-out test items are ranked by the generator, the rule
itself, and the floors:
"""

# %%
past, target = planted.histories("test"), planted.targets["test"]
with torch.no_grad():
    read = network.encode(as_tokens(past, shop_ids, 2))
    leaves, scores = beam_search(
        Decoding(network, *read), shop_ids.trie, 50
    )
listed = shop_ids.trie.leaf_items[leaves.numpy()]
known = np.stack([oracle(h, s) for h, s in zip(past, share)])
floors = [Popularity(), MarkovChain(), ItemKNN()]
recall = {
    "planted rule": ranks_from_scores(known, target).recall(10).mean(),
    "T5": ranks_from_lists(listed, target, scores).recall(10).mean(),
}
for floor in floors:
    result = evaluate(floor.fit(planted), planted, "test")
    recall[type(floor).__name__] = result.metrics()["recall@10"]
assert recall["T5"] > 5 * recall["Popularity"]
assert recall["T5"] > recall["MarkovChain"]
assert recall["T5"] < recall["planted rule"]
table(
    pd.DataFrame({"Recall@10": recall}), kinds={"Recall@10": "metric"}
)

# %% [markdown]
r"""
It recovered the rule: far above popularity, above the count of which item
follows which (which must learn every pair of items apart, while the codes
share what they know), and below the rule itself, which nothing can beat
but by luck. The rule can also be asked for directly: is the category that
comes next the one that the generator puts first?
"""

# %%
last = np.array([h[-1] for h in past])
rule = truth.next_category[community[last], leaf[last]]
says = (community[listed[:, 0]] == community[last]) & (
    leaf[listed[:, 0]] == rule
)
print(f"the first item follows the rule for {says.mean():.1%}")
assert says.mean() > 0.8

# %% [markdown]
r"""
### Without a trie

How much does the trie matter? That depends on how much of the space
of tuples the items fill. The shop's codes are sparse, for most pairs of
community and category have no items. We let the search run over all
tuples and ask what share of those it finds are items.
"""

# %%
tuples = Trie.of(np.indices(shop_ids.level_sizes).reshape(3, -1).T)
exists = np.zeros(shop_ids.level_sizes, dtype=bool)
exists[tuple(shop_ids.codes.T)] = True
some = as_tokens(past[:100], shop_ids, 2)
print(f"of all tuples   {exists.mean():6.1%} are items")
for width in (10, 50, 200):
    with torch.no_grad():
        decoder = Decoding(network, *network.encode(some))
        leaves, _ = beam_search(decoder, tuples, width)
    valid = exists.ravel()[leaves.numpy()].mean()
    print(f"of {width:3} beams    {valid:6.1%} are items")
assert valid > 5 * exists.mean()

# %% [markdown]
r"""
The generator learns which tuples exist, just from never seeing others,
but not perfectly, and the farther down the list the less. A tokenizer
decides how hard this is. RQ-VAE with three levels of 256 codes leaves
nearly all of its $256^3$ tuples empty; a balanced tree whose last level is as small as
possible is nearly full. From ReSID's printed branchings:
"""

# %%
tree, sizes = paper_table("resid", 7), paper_table("resid", 6)
full = pd.DataFrame(
    {
        "dataset": sizes["dataset"],
        "items": sizes["n_items"],
        "tuples": tree[["b1", "b2", "b3"]].prod(axis=1),
    }
)
full["filled"] = full["items"] / full["tuples"]
full["filled, 256 x 3"] = full["items"] / 256**3
shares = dict.fromkeys(["filled", "filled, 256 x 3"], "share")
table(full, "ReSID, Tables 6 and 7: how full the space is", shares)

# %% [markdown]
r"""
## Films: the real chain

Now real histories. The first two steps are those of {ref}`ch-pipeline`,
and so is every setting, generator included: they were chosen there on the
validation films, after several tries, and we choose nothing anew.
"""

# %%
films = load_dataset("ml-100k")
split = leave_one_out(films)
vectors = (
    FAMAE(
        dim=64,
        ffn_dim=256,
        max_length=9,
        epochs=3,
        samples_per_epoch=18_000,
        batch_size=256,
        learning_rate=3e-3,
        precision="float64",
    )
    .fit(split)
    .embed()
    .astype(float)
)
gaoq = GAOQ(branching=(16, 12, "auto"), random_state=0)
sids = SemanticIds(gaoq.fit_transform(vectors), gaoq.level_sizes_)
full_share = sids.num_items / np.prod(sids.level_sizes)
print(sids)
print(f"tuples that are items: {full_share:.1%}")
trie = sids.trie
arrays = [*trie.code, *trie.parent, *trie.first_child]
arrays += [*trie.num_children, trie.leaf_ptr, trie.leaf_items]
print("nodes of each level of the trie:", [len(c) for c in trie.code])
print(f"the whole trie: {sum(a.nbytes for a in arrays) / 1e3:.0f} kB")

# %% [markdown]
r"""
The generator, and beside it on the other core the yardstick of the end:
SASRec* is SASRec {cite:p}`sasrec` with side fields, so each film's vector is
the sum of the rows of its id, genres and year. The paper insists on this
comparison, since ReSID's codes have seen the same fields. Its settings are
those of SASRec in {ref}`ch-pipeline`.
"""

# %%
t5 = T5Recommender(
    dim=32,
    num_layers=1,
    num_heads=2,
    head_dim=16,
    ffn_dim=128,
    dropout=0.0,
    max_history=12,
    epochs=8,
    samples_per_epoch=18_000,
    batch_size=64,
    learning_rate=3e-3,
    warmup=0.1,
    num_beams=40,
    precision="float64",
)
sasrec = SASRec(
    dim=32,
    num_heads=2,
    ffn_dim=128,
    field_names=None,
    long_histories="windows",
    epochs=5,
    learning_rate=2e-3,
    batch_size=32,
    precision="float64",
)
t5, sasrec = Parallel(n_jobs=2)(
    delayed(model.fit)(split, sids) for model in (t5, sasrec)
)

# %% [markdown]
r"""
All questions of this section are asked on the validation films. The test
films wait for the comparison at the end. First the bits:
"""

# %%
past = split.histories("validation")
target = split.targets["validation"]
net, longest = t5.network_, t5.max_history
q = np.exp(joint_table(net, sids, past, longest))
at = tuple(sids.codes.T)
seen = split.train_counts()
often = (seen + 1) / (seen + 1).sum()
rows, (a, b, c) = np.arange(len(target)), sids.codes[target].T
below = [
    np.ones(len(target)),
    q.sum(axis=(2, 3))[rows, a],
    q.sum(axis=3)[rows, a, b],
    q[rows, a, b, c],
]
bits = {
    "all items alike": prefix_entropy(sids),
    "items as often as taken": prefix_entropy(sids, seen),
    "popularity": bits_per_level(
        np.tile(often, (len(past), 1)), target, sids
    ),
    "T5": -np.log2(np.divide(below[1:], below[:-1])).mean(axis=1),
}
levels = [f"code {j}" for j in (1, 2, 3)]
show_bits(bits, levels, "Bits of each code of the validation films")

# %% [markdown]
r"""
Read the table with {prf:ref}`prop-generate-bits` in mind. The second row
is the paper's bound under the distribution of the train part; the third is
what a generator that ignores history really pays on the next films. The
gap between the two is no mistake: tastes have moved on since the train
part, and a bound on one distribution is none on another.
"""

# %%
gain = bits["popularity"] - bits["T5"]
print("learnt from the history, bits a code:", gain.round(2))
assert gain[0] > 0.1 and gain[1] > 0.1
assert abs(gain[2]) < 0.05
assert gain.sum() > 0.3

# %% [markdown]
r"""
At this size of training the generator reads the history for the first two
codes and not for the third: which film of a twig is next, it knows only
as well as popularity does. That is where more training, and more
parameters, would have to go first.

### What narrow beams lose

The joint table is the exact answer for all {math}`N` films. How much of
the exact top ten does a beam of width $W$ find, and does it matter for the
score?
"""

# %%
log_q = np.log(q[:, *at])
exact = np.argsort(-log_q, axis=1)[:, :10]
widths = [10, 15, 20, 30, 40, 60]
lost = []
for width in widths:
    t5.num_beams = width
    beams = t5.recommend(past, 10)
    same = (beams[:, :, None] == exact[:, None]).any(axis=2).mean()
    hit = (beams == target[:, None]).any(axis=1).mean()
    lost.append((width, same, hit))
t5.num_beams = 40
lost.append(("exact", 1.0, (exact == target[:, None]).any(1).mean()))
lost = pd.DataFrame(lost, columns=["beams", "found", "Recall@10"])
assert lost["found"].is_monotonic_increasing
assert lost["found"].iloc[4] > 0.95
kept = lost["Recall@10"].iloc[0] / lost["Recall@10"].iloc[-1]
assert kept > lost["found"].iloc[0]
table(
    lost,
    "Share of the exact top ten that a beam finds, and Recall@10",
    {"found": "share", "Recall@10": "metric"},
)

# %% [markdown]
r"""
The paper decodes with 50 beams. For lists of ten films that is more than
enough here, and even the narrowest beam that can fill the list loses less of
Recall@10 than of the list: what is lost are improbable films, whose score
was unlikely to count. The reverse mistake is worse. Lists are as long as the
beam, so a Recall@20 needs at least 20 beams, and with seen films taken
out, more.

### Three rules, and a temperature

The three rules of scoring, on the same generator. Two more rows divide all
logits by a *temperature* $\tau$, a common decode-time option. For one
softmax that keeps the order; for a product of softmaxes it does not,
because each prefix has a normaliser of its own.
"""

# %%
valid = np.zeros(sids.level_sizes, dtype=bool)
valid[at] = True


def factors(q):
    """log q(c_l | c_<l) of each level, from the joint table."""
    one, two = q.sum(axis=(2, 3)), q.sum(axis=3)
    three = np.divide(q, two[..., None])
    two = np.divide(two, one[..., None])
    return [np.log(f) for f in (one, two, three)]


def normalise(f, where=True):
    f = np.where(where, f, -np.inf)
    return f - np.logaddexp.reduce(f, axis=-1, keepdims=True)


def item_scores(one, two, three):
    """log q of every film, [B, N]."""
    total = one[:, :, None, None] + two[..., None] + three
    return total[:, *at]


one, two, three = factors(q)
assert np.allclose(item_scores(one, two, three), log_q)
vocabulary = joint_table(net, sids, past, longest, "vocabulary")
scored = {
    "level": log_q,
    "children": item_scores(one, two, normalise(three, valid)),
    "vocabulary": vocabulary[:, *at],
}
for tau in (0.5, 2.0):
    soft = [normalise(f / tau) for f in (one, two, three)]
    scored[f"level, temperature {tau}"] = item_scores(*soft)

# %% tags=["hide-input"]
compared = []
for name, scores in scored.items():
    top = np.argsort(-scores, axis=1)[:, :10]
    same = (top[:, :, None] == exact[:, None]).any(axis=2).mean()
    ranks = ranks_from_scores(scores, target)
    mass = np.exp(scores).sum(axis=1).mean()
    compared.append((name, mass, same, ranks.recall(10).mean()))
names = ["rule", "sum over films", "same top ten", "Recall@10"]
compared = pd.DataFrame(compared, columns=names)
table(
    compared,
    "The same generator under five rules, validation films",
    {
        "sum over films": "metric",
        "same top ten": "share",
        "Recall@10": "metric",
    },
)

# %%
mass = compared.set_index("rule")["sum over films"]
assert mass["level"] > full_share and mass["vocabulary"] < 0.5
assert compared["same top ten"][1] > 0.95
assert compared["same top ten"][2] < 0.7
assert compared["Recall@10"][2] < 0.9 * compared["Recall@10"][0]

# %% [markdown]
r"""
Where nearly all tuples are items, *level* and *children* nearly agree; in
the toy they did not. *Vocabulary* is another matter. This generator was
trained with a softmax over each level's codes, so nobody ever taught it to
avoid tokens of another level, and what it wastes on them differs from
prefix to prefix. The rule at decoding has to be the rule of the training.
A published T5 trained by Hugging Face's loss has the softmax over the
vocabulary in both, which is consistent too; mixing the two is not.

A temperature moves the order a little. It is a setting like others, to be
chosen on validation; we leave it at one.

## What collisions do to scores

Tuples from GAOQ are unique. Those of most tokenizers are not: items
collide. All items of one tuple then have the same score, and a ranked list
of *items* has ties. An evaluation can go three ways:

- give the target the *mean* over all orders of its ties (this book);
- break ties by some order, such as the item's number;
- compare *strings*: the list holds ten tuples, and a target whose tuple is
  among them counts as found, whichever of the tuple's items it was.

The third is in public code, and it has a price that can be written down.

::::{prf:proposition} What string matching gives away
:label: prop-generate-flatter

Let $N$ items share $M$ distinct tuples. By expected rank, the mean of
Recall@$k$ over all $N$ items as targets is $k/N$, whatever the scores. By
string matching, a recommender that orders the tuples at random has a
Recall@$k$ of $k/M$ for every target: larger by the factor $N/M$, the
collision rate.
::::

::::{prf:proof}
Expected rank: in each order of the ties, exactly $k$ items stand in the
first $k$ places, so the $N$ expected hits add up to $k$. String matching:
the target's tuple is equally likely to stand in each of $M$ places.
::::

A random recommender over codes with ten items a tuple thus scores as if it
had learnt to be ten times better than chance. A simulation agrees:
"""

# %%
rng = np.random.default_rng(0)
N, k, draws = 600, 10, 5000
simulated = []
for m in (600, 300, 60):
    tuple_of = np.append(np.arange(m), rng.integers(m, size=N - m))
    scores = rng.random((draws, m))  # of the tuples, at random
    goal = rng.integers(N, size=draws)
    own = scores[np.arange(draws), tuple_of[goal]]
    strings = ((scores > own[:, None]).sum(axis=1) < k).mean()
    ranks = ranks_from_scores(scores[:, tuple_of], goal)
    expected = ranks.recall(k).mean()
    assert abs(expected - k / N) < 0.005
    assert abs(strings - k / m) < 0.02
    simulated.append((N / m, expected, k / N, strings, k / m))
names = ["items a tuple", "expected rank", "k/N", "strings", "k/M"]
simulated = pd.DataFrame(simulated, columns=names)
kinds = dict.fromkeys(names[1:], "metric")
table(simulated, "Recall@10 of a random recommender", kinds)

# %% [markdown]
r"""
And a generator that does know something? We keep the very same
generator of films and coarsen its codes: the last code is divided by 2, 3,
5 and 9, the remainder thrown away, until only the first two codes are
left. The probability of a merged tuple is the sum over its films, so the
generator's knowledge is untouched; only the names of the films
grow less distinct.
"""

# %%
merged = []
for divisor in (1, 2, 3, 5, 9):
    codes = sids.codes.copy()
    codes[:, 2] //= divisor
    coarse = SemanticIds(codes)
    leaf_of = coarse.leaf_of
    p = np.zeros((coarse.num_ids, len(target)))
    np.add.at(p, leaf_of, np.exp(log_q).T)  # sum over the films
    ranks = ranks_from_scores(p.T[:, leaf_of], target)
    own = p[leaf_of[target], np.arange(len(target))]
    strings = ((p > own).sum(axis=0) < 10).mean()
    rate = collision_rate(coarse)
    merged.append((rate, ranks.recall(10).mean(), strings))
names = ["items a tuple", "expected rank", "string match"]
merged = pd.DataFrame(merged, columns=names)
merged["ratio"] = merged["string match"] / merged["expected rank"]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recall@10 of one and the same generator on the validation films of MovieLens-100K, one seed, as its codes are made to collide. Upper line: string matching. Lower line: expected rank of the film. See that the careless count rises while the list that a viewer gets becomes worse.", "name": "fig-generate-collisions"}, "image": {"alt": "Two lines of Recall@10 against items per tuple from 1 to 8.8. They start at one point; string match rises about threefold, expected rank falls by half."}}
fig, ax = plotting.figure(height=2.8)
x = merged["items a tuple"]
for name, colour, marker in (
    ("string match", plotting.PURPLE, "s"),
    ("expected rank", plotting.VERMILLION, "o"),
):
    ax.plot(x, merged[name], color=colour, marker=marker)
    ax.annotate(
        name,
        (x.iloc[-1], merged[name].iloc[-1]),
        (-6, 8),
        textcoords="offset points",
        color=colour,
        ha="right",
    )
ax.set_xlabel("items a tuple (collision rate)")
ax.set_ylabel("Recall@10")
_ = ax.set_ylim(0)

# %%
assert merged["string match"].iloc[-1] > 2 * merged["string match"][0]
assert merged["expected rank"].iloc[-1] < merged["expected rank"][0]
kinds = dict.fromkeys(names[1:], "metric")
table(merged, "Two ways to count the same lists", kinds)

# %% [markdown]
r"""
The ratio of the two counts follows the collision rate, roughly: for this
generator too, most of what string matching adds is not knowledge.

The usual repair is one more code, the item's running number among those
of its tuple (TIGER's rule). Here it is applied to the films with two codes:
"""

# %%
two_codes = SemanticIds(sids.codes[:, :2], sids.level_sizes[:2])
repaired = two_codes.resolve("extra_digit")
print("before  ", two_codes)
print("repaired", repaired)
assert repaired.is_unique
print("bits    ", prefix_entropy(repaired).round(2))
print("GAOQ's  ", prefix_entropy(sids).round(2))

# %% [markdown]
r"""
The tuples are distinct again, and the extra code has exactly as many bits
as GAOQ's own third code. The difference is in what it may say: running
number 3 means nothing that one twig shares with another, so it can only be
learnt by heart, film by film. GAOQ's third code is a direction that all
twigs share ({ref}`ch-gaoq` measures how well). Our small generator had no
use for either: about the third code it had learnt nothing from the
history.

## The cost of each step

With $S = TL + 1$ tokens of history, width $D$, attention width $A$
(heads times head width), and feed-forward width $F$, count
multiplications, layer by layer (ReSID, appendix L.3, gives the same terms
as orders of magnitude):

$$
\begin{aligned}
E &= S(4DA + 2DF) + 2S^2 A \\
M &= 2SDA \\
G_l &= 6DA + 2DF + 2A(l + S) .
\end{aligned}
$$ (eq-generate-cost)

$E$ is the encoder, $M$ the keys and values of its output for the decoder;
both are paid once for a user. $G_l$ is one row of the decoder at step $l$,
paid for every beam. To these come $D K_l$ a row for the logits. A counter inside
PyTorch is our independent truth:
"""


# %%
def encoder_cost(S, D, A, F):
    return S * (4 * D * A + 2 * D * F) + 2 * S**2 * A


def memory_cost(S, D, A):
    return 2 * S * D * A


def row_cost(step, S, D, A, F):
    return 6 * D * A + 2 * D * F + 2 * A * (step + S)


S, D, A, ffn, L = 25, 48, 32, 96, 3
counted = T5(
    (8, 8, 8),
    dim=D,
    num_layers=1,
    num_heads=2,
    head_dim=16,
    ffn_dim=ffn,
)
counted = counted.double().eval()
tokens, written = torch.ones(1, S).long(), torch.ones(1, L).long()
flops = []
with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
    with FlopCounterMode(display=False) as counter:
        memory = counted.encode(tokens)
    flops.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter:
        counted.decode(*memory, written)
    flops.append(counter.get_total_flops())
rows = L * row_cost(L, S, D, A, ffn)  # a full pass sees all L places
ours = [encoder_cost(S, D, A, ffn), memory_cost(S, D, A) + rows]
print("multiplications", [f // 2 for f in flops], "by formula", ours)
assert [f // 2 for f in flops] == ours

# %% [markdown]
r"""
Now at ReSID's size: 32 items of history, four layers on each side, and codes
for a catalogue like Beauty's, 32 x 40 x 10.
"""

# %%
T, D, A, ffn, layers, beams = 32, 128, 128, 512, 4, 50
sizes, num_items = (32, 40, 10), 12_101
S = 3 * T + 1
rows = [1, min(beams, sizes[0]), beams]
work = {
    "encoder": (S, layers * encoder_cost(S, D, A, ffn)),
    "keys and values": (S, layers * memory_cost(S, D, A)),
}
for step, (n, size) in enumerate(zip(rows, sizes), 1):
    cost = layers * row_cost(step, S, D, A, ffn) + D * size
    work[f"step {step}"] = (n, n * cost)
cost = pd.DataFrame(work, index=["rows", "million"]).T
cost["million"] /= 1e6
cost["share"] = cost["million"] / cost["million"].sum()
print(f"{cost['million'].sum():.0f} million multiplications a user")
table(
    cost.rename_axis("part").reset_index(),
    "Work for one user, 50 beams",
    {"rows": "count", "share": "share"},
)

# %% [markdown]
r"""
Two things stand out. The first step is nearly free, because there is only
one beginning; treating it like the others, as searches that copy the user
50 times at the start do, adds 49 rows for nothing. And the keys and values
of the encoder are the same for all beams. Copied for each, they would be
the largest cost of all, in work and in memory:
"""

# %%
once = layers * memory_cost(S, D, A) / 1e6
kept = layers * S * 2 * A * 4 / 1e6
print(f"keys and values once:      {once:4.0f} million, {kept:4.1f} MB")
print(
    f"copied for every beam:     {beams * once:4.0f} million,", end=""
)
print(f" {beams * kept:4.1f} MB a user")
assert beams * once > cost["million"].sum()

# %% [markdown]
r"""
How does that compare with scoring every item? SASRec of the same width has
two layers over 32 places and then one product of $D$ numbers for each item.
The generator's work hardly depends on the number of items: the codes of a
level grow as its cube root.
"""

# %%
sasrec_cost = 2 * encoder_cost(T, D, A, ffn)
at_beauty = sasrec_cost + num_items * D
total = cost["million"].sum() * 1e6
crossing = (total - sasrec_cost) / D
print(f"at {num_items:,} items the generator does", end=" ")
print(f"{total / at_beauty:.0f} times the work of SASRec;")
print(f"they are even at about {crossing / 1e6:.1f} million items")
assert total > 5 * at_beauty
assert crossing > 2 * full["items"].max()  # ReSID's largest set

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Multiplications for one user by the number of items, from the formulas, at ReSID's sizes: SASRec scores every item, the generator writes three codes with 10, 50 or 100 beams. See that generation is the dearer way for catalogues of the size that the papers use, and the cheaper one only from about a million items on.", "name": "fig-generate-cost"}, "image": {"alt": "Log-log lines of work against items from 1e3 to 1e8. SASRec is flat, then rises in proportion; three nearly flat lines for 10, 50 and 100 beams cross it near 1e6."}}
fig, ax = plotting.figure(height=2.9)
items = np.logspace(3, 8, 60)
line = sasrec_cost + items * D
ax.plot(items, line, color="black", ls="--")
ax.text(4e6, 2.2e9, "SASRec, all items", ha="right")
for n, dash in ((10, ":"), (50, "-"), (100, "-.")):
    level = items ** (1 / 3)
    total_n = layers * (
        encoder_cost(S, D, A, ffn) + memory_cost(S, D, A)
    )
    for step in (1, 2, 3):
        live = 1 if step == 1 else np.minimum(n, level ** (step - 1))
        each = layers * row_cost(step, S, D, A, ffn) + D * level
        total_n = total_n + live * each
    ax.plot(items, total_n, color=plotting.VERMILLION, ls=dash)
    ax.text(1.1e8, total_n[-1], f"{n} beams", va="center")
ax.set(xscale="log", yscale="log", xlim=(1e3, 6e8))
ax.set_xlabel("items N")
_ = ax.set_ylabel("multiplications a user")

# %% [markdown]
r"""
Formulas are not seconds. The next cell times the parts on the machine at
hand, with a network of that size and random weights (its output differs
from machine to machine).
"""

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
big = T5(sizes).eval()
space = np.indices(sizes).reshape(3, -1).T
chosen = np.random.default_rng(0).permutation(len(space))[:num_items]
beauty = Trie.of(space[chosen])
users = torch.randint(1, big.end, (32, S))


def seconds(work, repeats=3):
    work()
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


with torch.no_grad():
    memory = big.encode(users)
    spent = {
        "encoder": seconds(lambda: big.encode(users)),
        "keys and values": seconds(
            lambda: [x.cross_kv(memory[0]) for x in big.decoder]
        ),
    }
    for n in (1, 10, 50):
        spent[f"search, {n} beams"] = seconds(
            lambda n=n: beam_search(Decoding(big, *memory), beauty, n)
        )
    first_child = beauty.tensors().first_child[1]
    node = torch.randint(len(first_child), (32, 50))
    slot = torch.arange(beauty.max_children[1])
    spent["children of 50 beams"] = seconds(
        lambda: first_child[node][:, :, None] + slot
    )
    scores = torch.rand(32, 50 * beauty.max_children[1])
    spent["best 50 of them"] = seconds(lambda: scores.topk(50))
for name, value in spent.items():
    print(f"{name:21} {1000 * value / len(users):6.3f} ms a user")

# %% [markdown]
r"""
The search includes the keys and values. Its time grows with the beams, as
nearly all of its rows are beams, but more slowly than their number: larger
products keep a processor busier. Looking up children in the trie and
choosing the best are small beside the network, if both are done for all
beams at once. The project's benchmark measures the same search against the
one in Hugging Face's `transformers`, with equal weights and equal results.

## Does the generator beat counting?

Now the test films, once, by both rules about films already seen.
"""

# %%
RULES = {"all": "all films ranked", "unseen": "seen left out"}
methods = {
    "ReSID": t5,
    "SASRec*": sasrec,
    "Markov chain": MarkovChain().fit(split),
    "Item-kNN": ItemKNN().fit(split),
    "Popularity": Popularity().fit(split),
}
results = {n: evaluate(m, split, "test") for n, m in methods.items()}
both = [results["ReSID"].metrics(rule)["recall@10"] for rule in RULES]
assert both[1] > 1.1 * both[0]

# %% tags=["hide-input"]
METRICS = ("recall@10", "recall@20", "ndcg@10")
scores = pd.DataFrame(
    {
        name: {
            (RULES[rule], metric): result.metrics(rule)[metric]
            for rule in RULES
            for metric in METRICS
        }
        for name, result in results.items()
    }
).T
table(scores, "Test films", dict.fromkeys(scores.columns, "metric"))

# %% [markdown]
r"""
All methods ranked the same films for the same viewers, so the differences
can be taken viewer by viewer. That removes what makes a film hard for
everybody, and gives intervals that can be read.
"""

# %%
gaps = {
    (name, rule): paired_difference(
        results["ReSID"], results[name], "recall@10", rule=rule
    )
    for name in list(methods)[1:]
    for rule in RULES
}
for (name, rule), (gap, low, high) in gaps.items():
    where = f"{gap:+.3f}, 95 % in [{low:+.3f}, {high:+.3f}]"
    print(f"ReSID − {name:13} {RULES[rule]:17} {where}")
assert gaps["Popularity", "unseen"][1] > 0
for rule in RULES:
    assert gaps["Popularity", rule][0] > 0
    assert gaps["Markov chain", rule][2] < 0
    assert gaps["SASRec*", rule][2] < 0
    assert gaps["Item-kNN", rule][1] < 0 < gaps["Item-kNN", rule][2]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "ReSID's generator minus each other method: Recall@10 on the test films of MovieLens-100K, 943 viewers, quick profile, one seed, 95 % paired bootstrap intervals. Filled: all films ranked; open: seen films left out. See on which side of zero each interval lies.", "name": "fig-generate-distance"}, "image": {"alt": "Horizontal intervals of differences in Recall@10 around a vertical line at zero, two for each of SASRec*, Markov chain, item-kNN and popularity."}}
fig, ax = plotting.figure(height=2.8)
names = list(methods)[1:]
for (name, rule), (gap, low, high) in gaps.items():
    y = names.index(name) + (0.15 if rule == "unseen" else -0.15)
    face = "white" if rule == "unseen" else plotting.VERMILLION
    ax.plot([low, high], [y, y], color=plotting.VERMILLION)
    ax.plot(
        gap, y, "o", color=plotting.VERMILLION, markerfacecolor=face
    )
ax.axvline(0, color="black", lw=1)
ax.set_yticks(range(len(names)), labels=names)
ax.invert_yaxis()
ax.grid(axis="x", visible=True)
ax.grid(axis="y", visible=False)
_ = ax.set_xlabel("Recall@10, ReSID minus the other")

# %% [markdown]
r"""
The generator is ahead of popularity, with seen films left out by an interval
that lies above zero, if only just; as {ref}`ch-pipeline` says, its settings
were tried until they beat popularity, so they are kinder than a first try.
Against item-kNN the intervals contain zero. The Markov chain, a table of counts, is clearly ahead,
and the distance to SASRec* is larger still: on these films, with these
minutes, scoring every item is better than writing its codes.

Where does the distance come from? Not from the search, which finds nearly
the exact list. SASRec* was trained with a softmax over all films, so it
has a probability for each, hence for each prefix, and its bits can be
split over the codes like anybody's. Better still, we can transplant: take
the first two factors from one model and the third from the other.
"""

# %%
past = split.histories("validation")
target = split.targets["validation"]
logits = torch.from_numpy(np.asarray(sasrec.score_items(past)))
p = logits.double().softmax(-1).numpy()
bits["SASRec*"] = bits_per_level(p, target, sids)
other = np.full_like(q, 1e-30)
other[:, *at] = p
uno, due, tre = factors(other)
grafts = {
    ("T5", "T5"): log_q,
    ("T5", "SASRec*"): item_scores(one, two, tre),
    ("SASRec*", "T5"): item_scores(uno, due, three),
    ("SASRec*", "SASRec*"): np.log(p),
}
graft = {
    pair: ranks_from_scores(x, target).recall(10).mean()
    for pair, x in grafts.items()
}
rows = [(*pair, value) for pair, value in graft.items()]
names = ["codes 1 and 2 from", "code 3 from", "Recall@10"]
grafted = pd.DataFrame(rows, columns=names)
less = bits["T5"] - bits["SASRec*"]
assert (less > 0).all() and less[2] > less.sum() / 2
values = np.array(list(graft.values())) - graft["T5", "T5"]
assert (values[1:] > 0).all() and values[1] + values[2] < values[3]

# %% tags=["hide-input"]
show_bits(bits, levels, "Bits of each code of the validation films")

# %% tags=["hide-input"]
kinds = {"Recall@10": "metric"}
table(grafted, "Transplanted factors, validation films", kinds)

# %% [markdown]
r"""
SASRec* pays fewer bits for every code. More than half of the difference is
in the last code, about which the generator had learnt nothing from the
history. Yet neither graft closes the gap, and the two gains together are
smaller than the gap: a film is found only if all its codes are, so better
beginnings pay little without better endings, and the other way round.

Several seeds say more than one. These are the recorded runs of the quick
presets, which are smaller than this chapter's models in some settings and
larger in others (mean and standard deviation over seeds; counting needs no
seed). Q2 is ReSID with plain hierarchical k-means instead of GAOQ; E2 and
E3 take the vectors from SASRec* and BERT4Rec* instead of FAMAE:
"""

# %% tags=["hide-input"]
recorded = load_records(dataset="ml-100k", variant="default")
shown = "resid q2 e2 e3 sasrec sasrec* bert4rec bert4rec*".split()
rows = []
for system in [*shown, *FLOORS]:
    counts = system in FLOORS
    runs = [
        r["metrics"]
        for r in recorded
        if r["system"] == system and (counts or r["profile"] == "quick")
    ]
    row = {"method": title(system), "seeds": len(runs)}
    for part, rule in (("test", "all"), ("test_unseen", "unseen")):
        values = pd.Series([m[part]["recall@10"] for m in runs])
        values = values.astype(float)
        row[RULES[rule]] = values.mean()
        row[f"{RULES[rule]}_std"] = values.std()
    rows.append(row)
kinds = dict.fromkeys(RULES.values(), "metric")
table(pd.DataFrame(rows), "Recall@10 of the recorded runs", kinds)

# %% [markdown]
r"""
## The paper's settings and ours

Appendix E prints the generator's settings. The table sets them beside the
full-size preset that produces this book's records, and this chapter's. A
dash means that the paper does not say.
"""

# %% tags=["hide-input"]
PRINTED = {
    "num_layers": 4,
    "dim": 128,
    "ffn_dim": 512,
    "num_heads": 4,
    "head_dim": 32,
    "dropout": 0.1,
    "learning_rate": 0.005,
    "weight_decay": 1e-5,
    "batch_size": 2048,
    "epochs": 500,
    "num_beams": 50,
}
preset, here = SYSTEMS["resid"].paper["recommender"], t5.get_params()
whole = {**T5Recommender().get_params(), **preset}
for name, value in PRINTED.items():
    assert preset[name] == value
unsaid = [
    "max_history",
    "warmup",
    "clip",
    "patience",
    "end_token",
    "samples_per_epoch",
]
rows = [
    (name, PRINTED.get(name, "–"), whole[name], here[name])
    for name in (*PRINTED, *unsaid)
]
columns = ["setting", "printed", "full size", "here"]
pd.DataFrame(rows, columns=columns, dtype=object).set_index("setting")

# %% [markdown]
r"""
The list of what is not said goes on. The paper also leaves open how scores are normalised and masked, whether
tuples have an end token, whether there are tokens for users, and whether
seen items are ranked. Two of these, the normaliser and the seen items, moved
Recall@10 in this chapter by more than a tenth of its value.

What holds and what does not:

- *The entropy of codes given their prefix bounds the decoding entropy*:
  true ({prf:ref}`prop-generate-bits`), for the true uncertainty and
  the distribution of what people take. It is no bound on a trained
  generator's loss, and here the last code's loss was not below
  popularity's.
- *Fifty beams*: ample for lists of ten at this size; exact with as many
  beams as there are prefixes of $L - 1$ codes.
- *Generators converge tens of times more slowly than SASRec* (section 6):
  not tested here. What we can say is what the table above says, after a
  minute of training each.

## Exercises

```{exercise}
:label: ex-generate-silent

A generator ignores the history, and its factors are the shares of the
prefixes in the train part. Which list does it recommend, and to whom? How
many bits does it pay for an item that makes up 1/8 of all interactions?
```

````{solution} ex-generate-silent
:class: dropdown

The product of the factors telescopes to the item's own share, so it
recommends the most popular items, to everybody. It pays
$-\log_2 \tfrac18 = 3$ bits, however they are spread over the levels.
````

```{exercise}
:label: ex-generate-hand

In {numref}`fig-generate-trie`, change the three first probabilities to
0.45, 0.30 and 0.25. What do widths 1, 2 and 3 find first? Which width is
needed for the exact first *two* items?
```

````{solution} ex-generate-hand
:class: dropdown

The products are now 0.126, 0.144; 0.180, 0.090, 0.030; and 0.2375. Width
1 finds (0, 1), width 2 finds (1, 0), width 3 finds (2, 0). The first two are
(2, 0) and (1, 0), so width 3 is needed, because prefix 2 is still third.
````

```{exercise}
:label: ex-generate-certificate

By part (b) of {prf:ref}`prop-generate-exact` a beam can prove its own
list: the ten films are exact if the tenth scores above every dropped
beginning. For which share of viewers does a beam of 40 prove its top ten?
How many of the lists are exact without proof?
```

````{solution-start} ex-generate-certificate
:class: dropdown
````
"""

# %%
beginnings = (one[:, :, None] + two).reshape(len(past), -1)
dropped = -np.sort(-beginnings, axis=1)[:, 40]  # the best one lost
found, scores = t5.recommend(past, 10, return_scores=True)
proved = scores[:, -1] > dropped
right = (np.sort(found) == np.sort(exact)).all(axis=1)
print(f"proved {proved.mean():.1%}, exact {right.mean():.1%}")
assert right[proved].all()

# %% [markdown]
r"""
````{solution-end}
````

```{exercise}
:label: ex-generate-order

Keep only the first two codes, so that about nine films tie, and break the
ties by a number of the film: its index, a shuffled index, its count in
the train part (add a tiny multiple to the scores). Which of them may a
paper use?
```

````{solution-start} ex-generate-order
:class: dropdown
````
"""

# %%
leaf_of = two_codes.leaf_of
p = np.zeros((two_codes.num_ids, len(target)))
np.add.at(p, leaf_of, np.exp(log_q).T)
tied = p.T[:, leaf_of]
index = np.arange(sids.num_items)
orders = {
    "none (expected)": 0 * index,
    "index": -index,
    "shuffled index": np.random.default_rng(0).permutation(index),
    "train count": seen,
}
tie_recall = {}
for name, order in orders.items():
    ranks = ranks_from_scores(tied + 1e-12 * order, target)
    tie_recall[name] = ranks.recall(10).mean()
    print(f"{name:16} {tie_recall[name]:.3f}")
assert tie_recall["train count"] > tie_recall["none (expected)"]

# %% [markdown]
r"""
The train count is knowledge, and a legitimate method if it is described
as one: popularity within the twig, which the codes do not hold. An index
is an accident; whether it is harmless depends on how somebody once
numbered the items, which is why this book never uses it.

````{solution-end}
````

```{exercise}
:label: ex-generate-open

Open: nothing forces a generator to write the codes in the tokenizer's
order, or one after the other. What would be gained and lost by writing
the last code first, or all codes at once?
```

````{solution} ex-generate-open
:class: dropdown

The chain rule holds in every order, so the exact list is the same for a
perfect model. The search is not: a last code first says little about the
item, so the true beginning is dropped sooner. All at once
{cite:p}`rpg` makes one step of $L$, but the codes are then independent
given the history, and the sum over levels must be searched over items
rather than over prefixes.
````

## Summary

1. A generator's loss is a sum of bits over codes; popularity is the
   generator that does not read, and its bits are the yardstick.
2. T5 is fifty lines: norm, attention with a bias for distance, blocks,
   and one table that reads and writes.
3. Beam search with a trie is exact once it is as wide as the prefixes
   before the last code; the rule of scoring must be that of the training.
4. String matching rewards collisions: by the collision rate where nothing
   was learnt, and here by much of it for a trained generator. Expected
   rank gives no such gift.
5. Rows of beams are the cost, and keys and values must not be copied;
   scoring all items is cheaper up to about a million of them.

**Further reading.** T5 {cite:p}`t5`; TIGER {cite:p}`tiger` for generation
with an extra code; ReSID {cite:p}`resid`, sections 3.3 and L.3; RPG
{cite:p}`rpg` for decoding in parallel.
"""
