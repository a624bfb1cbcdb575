# %% [markdown]
r"""
(ch-data)=
# Data and protocol

:::{admonition} You will
:class: tip
- bring ten public datasets into one form and recompute the statistics that the papers print,
- hold out each user's last item, score a ranking with equal scores fairly, and check both by hand,
- measure what mere counting scores, and set it beside the printed results of trained models,
- see how much of that score comes from an order that is not time,
- see what changes when items that a user has already seen are taken out of the ranking.
:::

:::{admonition} Cost
:class: note
**Quick profile**: about a minute on one CPU core, 1 GB of memory. **Paper profile**: the same; nothing is trained here.
**Data**: ten small public datasets. **Needs**: no other chapter.
Where a dataset cannot be fetched, its rows are left out or say "not run", and the loading cell says where to get it.
:::
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

run = setup(chapter="02")

# %% [markdown]
r"""
## What is being asked

A *sequential recommender* sees the items that a user took, oldest first, and ranks the whole catalogue by how likely each item is to come
next. The papers of this book measure it in the same way, as far as they say: take each user's last item away, rank, and look where it stands.
That sounds like a fair question, with nothing left to choose. This chapter shows that a good deal is left to choose: which
interactions are counted, what "last" means when two purchases carry the same date, what happens to items with equal scores, and whether
items that the user already has may be recommended. We shall see such choices move a score by more than the models of one table differ.
So before any model is trained, we find out what the protocol itself gives away.

We need a log small enough to follow by eye, and the real ones.
"""

# %%
import numpy as np
import pandas as pd

from semid_lib.data import (
    BUCKETS,
    Interactions,
    bucket_shares,
    k_core,
    leave_one_out,
    load_dataset,
    same_day_users,
    synthetic_catalogue,
)
from semid_lib.errors import DownloadError, UnorderedError
from semid_lib.evaluation import evaluate, paired_difference
from semid_lib.recommenders import ItemKNN, MarkovChain, Popularity
from semid_lib.reports import (
    PAPERS,
    figure,
    format_number,
    method_style,
    paper_table,
    printed_cells,
    table,
)

# %% [markdown]
r"""
Six campers and what they bought, oldest first:
"""

# %%
bought = {
    "ann": "tent stove lamp rope map",
    "bob": "tent stove rope lamp",
    "cat": "stove lamp tent kite",
    "dan": "kite drum",
    "eve": "drum",
    "fay": "lamp map tent rope",
}
log = pd.DataFrame(
    [(u, i) for u, items in bought.items() for i in items.split()],
    columns=["user", "item"],
)
shop = Interactions.from_frame(log, ordered=True, name="camping")
print(shop.num_users, "users,", shop.num_items, "items")

# %% [markdown]
r"""
## Filtering: the k-core

Users and items that occur once or twice teach a model nothing and cannot be tested, so the papers keep a *5-core*: the part of the log in which
every user and every item has at least $k = 5$ interactions. Write $R$ for the set of (user, item) pairs kept, $R_u$ for the pairs of user $u$ and $R^i$ for those of item $i$:

$$
\begin{aligned}
|R_u| &\ge k \quad \text{for all users in } R, \\
|R^i| &\ge k \quad \text{for all items in } R.
\end{aligned}
$$ (eq-data-core)

Dropping a rare item can make a user too short, and dropping that user makes another item rare, so one pass is not enough. With $k = 2$, eve goes
first; then the drum has one buyer left and goes; then dan; then the kite.
"""

# %%
core = k_core(shop, 2)
names = np.asarray(core.item_ids)
for user, items in zip(core.user_ids, core.sequences()):
    print(user, "took", ", ".join(names[items]))
assert list(core.user_ids) == ["ann", "bob", "cat", "fay"]
assert core.num_interactions == 16

# %% [markdown]
r"""
::::{prf:proposition} The k-core is unique
:label: prop-data-core

Among all subsets of the log that satisfy {eq}`eq-data-core` there is a largest one, and removing violators until none is left finds it,
in whatever order they are removed.
::::

::::{prf:proof}
If two subsets satisfy {eq}`eq-data-core`, so does their union, because counts only grow; hence there is a largest one, $R^*$.
Suppose removal ever took a pair of $R^*$, and consider the first time. Its user (or item) was removed for having fewer than $k$ pairs left,
yet all its pairs of $R^*$, at least $k$ of them, were still there: a contradiction. So removal keeps all of $R^*$, and what it ends with satisfies
{eq}`eq-data-core`, hence lies inside $R^*$.
::::

"5-core" is therefore a complete description of a filter, and two papers that start from the same log must print the same counts. Do they?

## The datasets, and what the papers print about them

ACERec and R³-VAE use the Amazon reviews of 2014 {cite:p}`amazon2014,upsanddowns`, R³-VAE also LastFM and MovieLens {cite:p}`hetrec2011,movielens`. ReSID uses the Amazon reviews of 2023
{cite:p}`amazon2023`. The sets are loaded by name; where each copy comes from, and what is missing from it, is on the page about [datasets](../book/datasets.md).
"""

# %%
NAMES = (
    "sports",
    "beauty",
    "toys",
    "instruments",
    "office",
    "baby",
    "clothing",
    "lastfm",
    "ml-100k",
    "ml-1m",
)
data = {}
for name in NAMES:
    try:
        data[name] = load_dataset(name)
    except DownloadError as error:
        print(f"{name} is not available here: {error}")
print(f"{len(data)} of {len(NAMES)} datasets loaded")

# %% tags=["hide-input"]
overview = pd.DataFrame(
    {
        name: {
            "users U": d.num_users,
            "items N": d.num_items,
            "interactions M": d.num_interactions,
            "M/U": f"{d.num_interactions / d.num_users:.2f}",
            "fewest per user": np.bincount(d.user).min(),
            "per item": np.bincount(d.item).min(),
            "ordered": "yes" if d.ordered else "no",
        }
        for name, d in data.items()
    }
).T.rename_axis("dataset")
counts = [c for c in overview if c not in ("M/U", "ordered")]
table(
    overview.reset_index(),
    "What is loaded",
    dict.fromkeys(counts, "count"),
)

# %% [markdown]
r"""
All Amazon sets and LastFM are 5-cores: nobody has fewer than five. MovieLens is filtered on the users' side only. One copy, Baby, has no order at all:
its source lists each user's items by their number. Counting it is fine; asking for a user's *last* item is not, and the library refuses.
"""

# %%
if "baby" in data:
    try:
        leave_one_out(data["baby"])
    except UnorderedError as error:
        print("UnorderedError:", str(error).split(",")[0])

# %% [markdown]
r"""
### ACERec's Table 5, recomputed

The table prints users, items, interactions and the mean length of a sequence for six Amazon sets. Printed numbers stand in the columns marked *p*.
"""

# %% tags=["hide-input"]
printed5 = paper_table("acerec", 5).set_index("dataset")
printed5.columns = ["users p", "items p", "interactions p", "mean p"]
here5 = pd.DataFrame(
    {
        name: {
            "users": d.num_users,
            "items": d.num_items,
            "interactions": d.num_interactions,
            "mean": d.num_interactions / d.num_users,
        }
        for name in printed5.index
        if (d := data.get(name.lower())) is not None
    }
).T.reindex(columns=["users", "items", "interactions", "mean"])
both5 = printed5.join(here5).rename_axis("dataset").reset_index()
whole = {
    c: "count"
    for c in both5
    if c.split()[0] in ("users", "items", "interactions")
}
order5 = ["dataset"] + [
    c
    for name in ("users", "items", "interactions", "mean")
    for c in (f"{name} p", name)
]
table(
    both5[order5],
    "ACERec, Table 5: printed (p) and here",
    whole,
    {"acerec.table.5": here5},
)

# %% [markdown]
r"""
Only the mean lengths agree in every row. Three slips explain all the rest. First, the row of Sports has its two columns swapped.
"""

# %%
compare = both5.dropna().set_index("dataset")
if "Sports" in compare.index:
    row = compare.loc["Sports"]
    assert row["users p"] == row["items"]
    assert row["items p"] == row["users"]
    print("Sports: users and items are swapped in print")

# %% [markdown]
r"""
Second, three rows count one user and one item too many, probably the number 0 that a program keeps for padding.
Third, the table mixes two ways of counting interactions: all $M$ of them, or only those that have something before them, $M - U$.
"""

# %% tags=["hide-input"]
swap = {"users p": "items p", "items p": "users p"}
slips = []
for name, row in compare.iterrows():
    row = row.rename(swap) if name == "Sports" else row
    m, u = row["interactions"], row["users"]
    rule = {m: "M", m - u: "M - U"}[row["interactions p"]]
    extra = [int(row[f"{c} p"] - row[c]) for c in ("users", "items")]
    slips.append((name, rule, *extra, row["mean"], row["mean p"]))
slips = pd.DataFrame(
    slips,
    columns=[
        "dataset",
        "rule that fits",
        "users too many",
        "items too many",
        "M/U",
        "mean p",
    ],
)
table(slips, "Which rule gives the printed number exactly")

# %% [markdown]
r"""
The printed means are $M/U$ in all six rows, whatever the row says about interactions (Beauty's is cut, not rounded). So the *data* agree to the last interaction; only the
table's bookkeeping does not. This is worth a check whenever a paper's numbers refuse to come out: counting rules differ more often than data.

### ReSID's Table 6: the densities

The ten Amazon-2023 sets are public, but large, and are not part of this book's data; a reader can [download them](../book/datasets.md).
What can be checked here is arithmetic: the density $M / (U N)$ from the printed counts.
"""

# %%
printed6 = paper_table("resid", 6)
printed6["recomputed"] = (
    100
    * printed6.n_interactions
    / (printed6.n_users * printed6.n_items)
)
same = printed6.recomputed.round(3) == printed6.density_pct
print(f"{same.sum()} of {len(same)} printed densities agree")

# %% tags=["hide-input"]
shown6 = printed6.set_axis(
    [
        "dataset",
        "users p",
        "items p",
        "interactions p",
        "density % p",
        "density %",
    ],
    axis=1,
)
shown6["density % p"] = shown6["density % p"].map("{:.3f}".format)
shown6["density %"] = shown6["density %"].map("{:.4f}".format)
table(
    shown6,
    "ReSID, Table 6: printed (p), and the density recomputed",
    recomputes={"resid.table.6": printed6[["recomputed"]]},
)

# %% [markdown]
r"""
## Holding out the last items

Let user $u$ have taken $i_1, i_2, \dots, i_{n_u}$, oldest first. *Leave-one-out* (ReSID 4.1, ACERec 3.1.1; R³-VAE does not describe its split) gives every user one question for choosing a model and one for judging it:

$$
\begin{aligned}
\text{train}_u &= (i_1, \dots, i_{n_u - 2}) \\
\text{validation}_u &= i_{n_u - 1} \\
\text{test}_u &= i_{n_u}
\end{aligned}
$$ (eq-data-split)

At test time the model is shown everything before the last item, so the validation item belongs to the history. It is still not training data.
"""

# %%
toy = leave_one_out(core)
for row, user in enumerate(core.user_ids[toy.users]):
    history = names[toy.histories("test")[row]]
    target = names[toy.targets["test"][row]]
    print(f"{user}: {' '.join(history)} -> {target}?")
assert names[toy.targets["validation"]].tolist() == [
    "rope",
    "rope",
    "lamp",
    "tent",
]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The toy log after 2-core filtering, split by {eq}`eq-data-split`. What to see: each user loses the two newest items, whatever the calendar says, so one user's training data may be younger than another user's test item.", "name": "fig-data-split"}, "image": {"alt": "Four rows of boxes, one row per user, one box per item; the last box is marked test, the one before validation, the others train."}}
fig, ax = figure(height=2.0)
faces = {"train": "#E4E4E4", "validation": "#56B4E9", "test": "#E69F00"}
for y, items in enumerate(core.sequences()):
    parts = ["train"] * (len(items) - 2) + ["validation", "test"]
    for x, (item, part) in enumerate(zip(items, parts)):
        ax.barh(y, 0.9, left=x, height=0.7, color=faces[part])
        ax.text(x + 0.45, y, names[item], ha="center", va="center")
for x, part in zip((0.2, 1.5, 3.2), faces):
    ax.barh(-1, 0.2, left=x, height=0.5, color=faces[part])
    ax.text(x + 0.3, -1, part, va="center")
ax.set_yticks(range(4), labels=core.user_ids)
ax.set_xticks([])
ax.spines[["left", "bottom"]].set_visible(False)
ax.grid(visible=False)
ax.invert_yaxis()

# %% [markdown]
r"""
### Windows: the training samples

A model trains on every item of the train part that has something before it. With at most $T$ items of history, the samples of user $u$ are

$$
(i_{\max(1,\, t - T)}, \dots, i_{t-1}) \to i_t,
\quad 2 \le t \le n_u - 2.
$$ (eq-data-windows)

ReSID keeps $T = 32$ items and ACERec 50. For ann, whose train part is tent, stove, lamp, $T = 1$ gives two samples:
"""

# %%
start, target = toy.windows(max_history=1)
for s, t in zip(start, target):
    print(" ".join(names[toy.items[s:t]]), "->", names[toy.items[t]])
assert len(target) == len(toy.items) - len(toy.users)

# %% [markdown]
r"""
On the real sets the limit hardly matters for Amazon and matters a lot for the long histories of LastFM and MovieLens:
"""

# %% tags=["hide-input"]
splits = {n: leave_one_out(d) for n, d in data.items() if d.ordered}
lengths = {
    name: np.diff(data[name].indptr)[split.users] - 1
    for name, split in splits.items()
}
limits = pd.DataFrame(
    [
        (
            n,
            len(splits[n].windows(32)[1]),
            np.median(x),
            x.max(),
            (x > 32).mean(),
            (x > 50).mean(),
        )
        for n, x in lengths.items()
    ],
    columns=[
        "dataset",
        "windows",
        "median history",
        "longest",
        "cut at 32",
        "cut at 50",
    ],
)
table(
    limits,
    "Training samples, and test users whose history is cut",
    {"cut at 32": "share", "cut at 50": "share"},
)

# %% [markdown]
r"""
### Cold items, and ACERec's Table 6

The train part is smaller than the log, so some test items are *cold*: the train part never shows them. ACERec's Table 6 sorts the test items by how often the
train part shows them. Does "train" include the validation items there? Only one reading reproduces the printed shares.
"""

# %%
printed_b = paper_table("acerec", 6).pivot(
    index="dataset",
    columns="train_freq_bucket",
    values="pct_of_test_items",
)[list(BUCKETS)]
for name, row in printed_b.iterrows():
    if (split := splits.get(name.lower())) is not None:
        train = np.array(list(bucket_shares(split).values()))
        counts = split.train_counts()
        np.add.at(counts, split.targets["validation"], 1)
        bucket = np.searchsorted(
            (5, 10, 15, 20), counts[split.targets["test"]]
        )
        more = 100 * np.bincount(bucket, minlength=5) / len(bucket)
        gaps = [np.abs(x - row).max() for x in (train, more)]
        print(f"{name:12} {gaps[0]:6.2f} {gaps[1]:6.2f}")
assert np.allclose(printed_b.sum(axis=1), 100)

# %% [markdown]
r"""
The columns are the largest gap, in percentage points, between our five shares and the printed five: counted on the train part alone, and with the validation items added.
The train part alone reproduces all five sets that have an order, to within one unit of the second decimal (the printed shares of a set add up to exactly 100, so one of them had to give way). Baby has no order here, so its row is not run.
"""

# %% tags=["hide-input"]
rows6, here6 = [], {}
for name, row in printed_b.iterrows():
    split = splits.get(name.lower())
    ours = None if split is None else bucket_shares(split).values()
    here6[name] = [None] * 5 if ours is None else [*ours]
    for which, values in (("printed", row), ("here", ours)):
        cells = (
            ["not run"] * 5
            if values is None
            else [f"{v:.2f}" for v in values]
        )
        rows6.append((name, which, *cells))
table(
    pd.DataFrame(rows6, columns=["dataset", "", *printed_b.columns]),
    "ACERec, Table 6: test items (%) by their count in the train part",
    recomputes={"acerec.table.6": pd.DataFrame(here6)},
)

# %%
for name, split in splits.items():
    cold = split.cold_targets("test")
    print(f"{name:12} {cold.sum():4} cold test items of {len(cold)}")

# %% [markdown]
r"""
A cold item is out of reach for any method that knows items only by their number, so the share of cold items is a ceiling on such a method's recall.
ReSID adds cold evaluation items to the training set "to ensure valid evaluation"; we read that as adding the item to the *vocabulary*, never the user's test interaction.

## Scoring a ranking

Each user has one right answer. Let $r_u$ be the place, from 1, at which it stands. Over $E$ test users,

$$
\begin{aligned}
\text{Recall@}K &= \frac1E \sum_u [\, r_u \le K \,] \\
\text{NDCG@}K &= \frac1E \sum_u \frac{[\, r_u \le K \,]}{\log_2 (r_u + 1)}
\end{aligned}
$$ (eq-data-metrics)

With one right answer Recall is the hit rate, and the ideal ranking has NDCG 1. All items are ranked, never a sample of them {cite:p}`sampledmetrics`.

What if scores are equal? A method that counts gives the same score to thousands of items. Breaking ties by the item's number would reward or punish
for nothing. We take the expectation over all orders of the tied items: with $a_u$ items above the right one
and $b_u$ others equal to it, each of the places $a_u + 1, \dots, a_u + b_u + 1$ is equally likely, so the expected hit is

$$
\begin{aligned}
x_u &= \frac{K - a_u}{b_u + 1}, \\
\mathbb{E}[\, r_u \le K \,] &= \min(1, \max(0, x_u)).
\end{aligned}
$$ (eq-data-ties)

## Three methods that only count

The *floors* of this book have no parameters to train and no settings to choose. With $c(i)$ the number of times item $i$ occurs in the train part, $c(i, j)$ the number of times $j$ comes directly after
$i$, $u(i, j)$ the number of users who have both, and $h_1, \dots, h_T$ the history, they score item $j$ by

$$
\begin{aligned}
s_\text{pop}(j) &= c(j) \\
s_\text{markov}(j) &= c(h_T, j) + \frac{c(j)}{1 + \sum_i c(i)} \\
s_\text{knn}(j) &= \sum_{t=1}^{T}
  \frac{u(h_t, j)}{\sqrt{u(h_t, h_t)\, u(j, j)}}
\end{aligned}
$$ (eq-data-floors)

Popularity is the same for everyone. The Markov chain looks at the newest item only; its second term is below 1, so it merely orders items of equal count. Item-kNN {cite:p}`itemknn,topn` sums cosine
similarities over the whole history, and leaves out the similarity of an item to itself. None of them knows what an item *is*.

By hand, for bob: his newest item, rope, is never followed by anything in the train part, so the chain falls back on popularity. The lamp, his test item, occurs twice; the stove
occurs more often and the tent as often. So one item is above it and one is tied: places 2 and 3 are equally likely, and Recall@2 is one half.
"""

# %%
chain = MarkovChain().fit(toy)
ranks = evaluate(chain, toy, "test").ranks["all"]
for user, above, ties in zip(core.user_ids, ranks.above, ranks.ties):
    print(f"{user}: {above} above, {ties} tied")
assert ranks.recall(2)[1] == 0.5

# %% [markdown]
r"""
Now on the real sets. Nothing is chosen by looking at a score, so computing the test score straight away is allowed here.
"""

# %%
FLOORS = {
    "Popularity": Popularity,
    "Markov chain": MarkovChain,
    "Item-kNN": ItemKNN,
}
runs = {
    (name, floor): evaluate(make().fit(split), split, "test")
    for name, split in splits.items()
    for floor, make in FLOORS.items()
}


# %%
def mean_of(name, floor, metric="recall@10", rule="all"):
    """Mean over the test users."""
    return runs[name, floor].values(metric, rule).mean()


# %% tags=["hide-input"]
floors = pd.DataFrame(
    {
        (floor, metric): {
            name: mean_of(name, floor, metric) for name in splits
        }
        for floor in FLOORS
        for metric in ("recall@10", "ndcg@10")
    }
)
floors.columns = [
    f"{floor} {'R' if metric == 'recall@10' else 'N'}@10"
    for floor, metric in floors
]
table(
    floors.rename_axis("dataset").reset_index(),
    "Recall@10 (R) and NDCG@10 (N) on the test part, all items ranked",
    dict.fromkeys(floors, "metric"),
)

# %% [markdown]
r"""
## Beside the printed results

ACERec's Tables 1 and 2 print ten trained models on these Amazon sets, R³-VAE's Tables 1 and 2 one generator with seven tokenizers. For ACERec the data are the same to the last interaction, as we saw.
R³-VAE prints no counts and no split; we compare with the public copies, and loosely: the circulating copies of Clothing, for one, order a user's items differently.
The chain's interval is a 95 % interval of its mean, from resampling the users (a *bootstrap*); the printed numbers come without one.
"""


# %%
cells = pd.concat(
    printed_cells(paper, number).assign(source=PAPERS[paper])
    for paper in ("acerec", "r3vae")
    for number in (1, 2)
)
cells = cells[
    (cells.metric == "recall@10") & cells.dataset.isin(list(splits))
]
printed = {
    pair: group.set_index("model")["paper"]
    for pair, group in cells.groupby(["source", "dataset"], sort=False)
}

# %% tags=["hide-input"]
rows = []
for (paper, name), models in printed.items():
    low, high = runs[name, "Markov chain"].interval("recall@10")
    below, near = (models < low).sum(), (models <= high).sum()
    row = [paper, name, mean_of(name, "Markov chain")]
    row += [f"{low:.4f} to {high:.4f}", models.min(), models.max()]
    row += [f"{n} of {len(models)}" for n in (below, near)]
    rows.append(row)
columns = ["paper", "dataset", "Markov chain", "interval"]
columns += ["lowest", "best", "below", "not above"]
table(
    pd.DataFrame(rows, columns=columns),
    "Recall@10: the chain, and trained models as printed",
    dict.fromkeys(["Markov chain", "lowest", "best"], "metric"),
)

# %% [markdown]
r"""
"Lowest" and "best" are the worst and the best trained model that the paper prints; "below" counts the trained models below the chain's whole interval, "not above" those that do not exceed its upper end.
"""

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recall@10 on the test part, as a share of the best number that the paper prints for that dataset (1 = best printed). Blue bars: the paper's trained models. Markers: our floors with 95 % bootstrap intervals over users. No seeds: nothing is random. What to see: the Markov chain stands inside the field of trained models, or beyond it.", "name": "fig-data-floors"}, "image": {"alt": "Dot plot, one row per dataset and paper: the Markov chain at 0.55 to 1.37 of the best printed Recall@10, inside or beyond the trained models; popularity mostly below 0.3."}}
fig, ax = figure(height=4.6)
for y, ((_, name), models) in enumerate(printed.items()):
    best = models.max()
    place = np.full(len(models), y)
    ax.plot(models / best, place, "|", color="#56B4E9", markersize=15)
    for shift, floor in enumerate(FLOORS):
        found, style = runs[name, floor], method_style(floor)
        interval = np.array(found.interval("recall@10")) / best
        mean = mean_of(name, floor) / best
        at = y + 0.24 * (shift - 1)
        ax.plot(interval, [at, at], color=style["color"], linewidth=1)
        style |= {"linestyle": "none", "label": floor}
        ax.plot(mean, at, markersize=8, markeredgewidth=2, **style)
ax.axvline(1, color="#767676", linewidth=0.8, zorder=0)
labels = [f"{name} ({paper})" for paper, name in printed]
ax.set_yticks(range(len(printed)), labels=labels)
ax.set_xlabel("Recall@10 as a share of the best printed one")
ax.set_xlim(-0.03, None)
ax.grid(axis="y", visible=False)
ax.invert_yaxis()
handles, texts = ax.get_legend_handles_labels()
place = {"loc": "lower center", "bbox_to_anchor": (0.4, 1.0)}
legend = ax.legend(handles[:3], texts[:3], ncols=3, **place)
# %% [markdown]
r"""
No floor reaches ACERec's own rows (its "best" column), so training does buy something. But on four of its five Amazon sets a table of adjacent pairs stands clearly above some trained models, and on Instruments, where the
interval is wide, most of them are not above it. Of R³-VAE's seven tokenizers the chain leaves most behind on Beauty, Sports and MovieLens 1M, and all seven on Toys and Clothing. A model that stays below the chain has not shown
that it learnt more than "what came next last time". Item-kNN, which ignores order, stays behind the chain everywhere but on LastFM.

Are the models that weak? Before we say so, look at what the chain feeds on.

## "Last" when two items carry one date

Amazon's reviews are dated by day. Of the Amazon sets here only Instruments comes with its dates; LastFM has dates, MovieLens seconds. How many users have their last two
items, the validation and the test item, on one date?
"""

# %%
DAY = 86_400
timed = [name for name, d in data.items() if d.timestamp is not None]
one_day = {
    name: same_day_users(data[name])[splits[name].users]
    for name in timed
}

# %% tags=["hide-input"]
tied = []
for name in timed:
    d = data[name]
    last = d.indptr[splits[name].users + 1] - 1
    exact = (d.timestamp[last] == d.timestamp[last - 1]).mean()
    step = np.diff(d.user) == 0
    close = (np.diff(d.timestamp // DAY) == 0)[step].mean()
    tied.append((name, one_day[name].mean(), exact, close))
tied = pd.DataFrame(
    tied,
    columns=[
        "dataset",
        "last two on one day",
        "with equal timestamps",
        "all adjacent pairs on one day",
    ],
)
table(
    tied,
    "Users whose order is not settled by the date",
    dict.fromkeys(tied.columns[1:], "share"),
)

# %% [markdown]
r"""
For nearly half of the users of Instruments and LastFM, "the last item" is a matter of how the file was sorted. On MovieLens the seconds settle more; but nearly everybody rates all films in one or a few sittings, so what is
predicted there is largely the order of a page on a web site. Which order did the files keep? Each Amazon item has an ASIN, its
catalogue number; LastFM's artists have numbers too. Take two neighbours in a user's sequence and ask whether the number goes up.
"""

# %%
KEYS = ("asin", "artist_id", "source_item_id")
going_up = {}
for name, d in data.items():
    columns = [] if d.items is None else list(d.items)
    key = next((k for k in KEYS if k in columns), None)
    if key is not None and name in splits:
        number = d.items[key]
        if key != "asin":
            number = pd.to_numeric(number)
        place = number.rank(method="first").to_numpy()
        going_up[name] = np.diff(place[d.item]) > 0

# %% tags=["hide-input"]
rising = []
for name, up in going_up.items():
    d = data[name]
    step = np.diff(d.user) == 0
    cells = [up[step].mean(), np.nan, np.nan]
    if name in timed:
        close = np.diff(d.timestamp // DAY) == 0
        cells[1:] = up[step & close].mean(), up[step & ~close].mean()
    rising.append((name, *cells))
rising = pd.DataFrame(
    rising,
    columns=["dataset", "all steps", "within one day", "across days"],
)
shares = rising.set_index("dataset").map(
    lambda v: "no dates" if np.isnan(v) else format_number(v, "share")
)
table(shares.reset_index(), "Steps on which the item number rises")

# %% [markdown]
r"""
Within one day the number always rises on Instruments and all but always on LastFM: ties were left in the order of a source file that was sorted by item. The other Amazon sets carry no
dates, but their numbers rise about as often, far above the half that chance would give. Everything looks as if they hid the same ties.

What does a table of adjacent pairs make of this? Items bought in one basket belong together, which is honest knowledge. But the file also lists every pair in the same order, so all of a pair's counts
fall in one direction, and it is the direction in which the test asks. Split the users by whether their last two items share a day:
"""

# %%
by_day = {
    (name, floor, same): runs[name, floor].where(one_day[name] == same)
    for name in timed
    for floor in FLOORS
    for same in (True, False)
}

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recall@10 of the floors for users whose last two items carry one date and for the others; test part, 95 % bootstrap intervals over users. Nothing is random, so there are no seeds. What to see: the Markov chain lives on the users of one day.", "name": "fig-data-one-day"}, "image": {"alt": "Four panels of dots with intervals. Markov chain on one day against different days: instruments 0.130 and 0.070, ml-1m 0.204 and 0.014."}}
fig, axes = figure(height=4.6, nrows=2, ncols=2)
SIDES = {
    True: ("one day", "#D55E00", "o", -0.15),
    False: ("different days", "#0072B2", "s", 0.15),
}
for ax, name in zip(axes.flat, timed):
    for x, floor in enumerate(FLOORS):
        for same, (text, colour, marker, shift) in SIDES.items():
            part, at = by_day[name, floor, same], x + shift
            mean = part.values("recall@10").mean()
            ax.plot([at, at], part.interval("recall@10"), color=colour)
            ax.plot(at, mean, marker, color=colour, label=text)
    ax.set_xticks(range(3), labels=[f.split()[0] for f in FLOORS])
    ax.set_xlim(-0.6, 2.6)
    ax.set_ylim(0, None)
    ax.set_title(name)
    ax.set_ylabel("Recall@10")
for ax in axes.flat[len(timed) :]:
    ax.set_axis_off()
handles, texts = axes.flat[0].get_legend_handles_labels()
legend = fig.legend(
    handles[:2], texts[:2], ncols=2, loc="outside upper center"
)


# %% tags=["hide-input"]
def with_interval(found, metric="recall@10", rule="all"):
    low, high = found.interval(metric, rule)
    mean = found.values(metric, rule).mean()
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


days = pd.DataFrame(
    [
        (
            name,
            floor,
            *(
                with_interval(by_day[name, floor, same])
                for same in (True, False)
            ),
        )
        for name in timed
        for floor in FLOORS
    ],
    columns=["dataset", "floor", "one day", "different days"],
)
table(days, "Recall@10 with 95 % intervals")

# %% [markdown]
r"""
On Instruments the chain scores about twice as much on the users of one day. On MovieLens 1M nearly all of its score, above the best of R³-VAE's Table 2, comes from users whose last two films are of one day; on the users who came back another day it is no
better than popularity. On LastFM popularity and item-kNN go the other way; the next section says why.

Where there are no dates, the item numbers give a hint. If ties rise, a last step that *falls* leads to another day for certain; one that rises may be either.
"""

# %%
hints = []
for name in [n for n in going_up if n != "lastfm"]:
    last = data[name].indptr[splits[name].users + 1] - 1
    up, chain = going_up[name][last - 1], runs[name, "Markov chain"]
    sides = [with_interval(chain.where(x)) for x in (up, ~up)]
    hints.append((name, up.mean(), *sides))

# %% tags=["hide-input"]
columns = ["dataset", "rising", "last step rises", "last step falls"]
hints = pd.DataFrame(hints, columns=columns)
table(hints, "Markov chain, Recall@10", {"rising": "share"})

# %% [markdown]
r"""
On every Amazon set the chain scores much more on rising last steps, which on this reading include all ties, than on falling ones, which lead to another day. The papers' trained models were scored on all of these users
together. How much of *their* score is the file's order cannot be read from the papers; it would take their predictions.

### The same events, ties sorted otherwise

Dates leave the order within a day open, so any order within it is as faithful to the data as the file's. Reverse it, or shuffle it, and the data are no worse; a score that moves is a score of the file.
"""


# %%
def resorted(data, position):
    """The same log with ties of a timestamp ordered by `position`."""
    frame = pd.DataFrame(
        {
            "user": data.user,
            "item": data.item,
            "timestamp": data.timestamp,
            "position": position,
        }
    )
    return leave_one_out(Interactions.from_frame(frame, name=data.name))


def floor_recalls(split):
    """Recall@10 of the three floors on the test part."""
    found = [
        evaluate(make().fit(split), split, "test")
        for make in FLOORS.values()
    ]
    return [one.values("recall@10").mean() for one in found]


# %%
resort = []
dated = [n for n in timed if (data[n].timestamp % DAY == 0).all()]
for name in dated:
    d, rows = data[name], np.arange(data[name].num_interactions)
    shuffles = [
        resorted(d, np.random.default_rng(seed).permutation(rows))
        for seed in range(3)
    ]
    for order, made in (
        ("file", [splits[name]]),
        ("reversed", [resorted(d, -rows)]),
        ("shuffled, 3 seeds", shuffles),
    ):
        scores = np.mean([floor_recalls(s) for s in made], axis=0)
        counts = [
            np.median(s.train_counts()[s.targets["test"]]) for s in made
        ]
        resort.append((name, order, *scores, np.mean(counts)))

# %% tags=["hide-input"]
resort = pd.DataFrame(
    resort,
    columns=["dataset", "ties", *FLOORS, "median count of test items"],
)
table(
    resort,
    "Recall@10 with ties in the file's order and in others",
    dict.fromkeys(resort.columns[2:5], "metric"),
)

# %% tags=["hide-input"]
if "lastfm" in dated:
    seven = printed["R³-VAE", "lastfm"]
    print(f"printed: {seven.min():.3f} to {seven.max():.3f}")
    table_of = resort[resort.dataset == "lastfm"].set_index("ties")
    for floor in FLOORS:
        before, after = table_of.loc[["file", "reversed"], floor]
        print(f"{floor}: file {before:.3f}, reversed {after:.3f}")
        assert after > seven.max()

# %% [markdown]
r"""
On LastFM the reversal lifts every floor above the best number that R³-VAE's Table 2 prints for that dataset. Nothing about the listeners changed. Low artist numbers belong to well-known artists, and the file puts
the highest number of a date last, so it holds out the obscure ones (see the last column); reversed, it holds out the well-known. That is also why popularity failed above on the users of one day. An arbitrary choice among equal dates moves a floor by more than
seven tokenizers differ among each other.

On Instruments both sorted orders give the chain more than the shuffled ones, as one would expect if a consistent direction helps, though by less than its interval is wide.

:::{admonition} What this book does about it
:class: important
We keep the files' order, because the printed numbers were made with it, and we put the floors in every result table, because they feed on the same order. A model is credited with what it adds to them.
:::

## When counting is worse than guessing

A list of ten items drawn at random from $N$ has an expected Recall@10 of $10/N$.
"""

# %%
guess = pd.DataFrame(
    {
        "random list": {n: 10 / s.num_items for n, s in splits.items()},
        "Popularity": {n: mean_of(n, "Popularity") for n in splits},
    }
).rename_axis("dataset")
table(guess.reset_index(), "Recall@10", dict.fromkeys(guess, "metric"))

# %% [markdown]
r"""
On Office, popularity stays *below* chance. The items that are popular in the train part must be nearly absent among the last items. Look at the ten most popular of each set: their share of all train
interactions, of the test items, and where in a user's sequence they stand (0 first, 1 last, 0.5 if their place meant nothing).
"""

# %%
top = {}
for name, split in splits.items():
    d, counts = data[name], split.train_counts()
    best = np.argsort(-counts, kind="stable")[:10]
    place = np.arange(d.num_interactions) - d.indptr[d.user]
    place = place / (np.diff(d.indptr)[d.user] - 1)
    top[name] = {
        "of train": np.isin(split.items, best).mean(),
        "of test": np.isin(split.targets["test"], best).mean(),
        "mean place": f"{place[np.isin(d.item, best)].mean():.2f}",
    }

# %% tags=["hide-input"]
table(
    pd.DataFrame(top).T.rename_axis("dataset").reset_index(),
    "The ten most popular items",
    {"of train": "share", "of test": "share"},
)

# %% [markdown]
r"""
Everywhere on Amazon the popular items come early in the sequences and are under-represented at the end, on Office extremely so. Two causes may run together: goods go out of fashion, and ties put high item numbers last. Leave-one-out therefore asks a question about the *end* of histories with counts collected from their *beginnings*.

## Excluding what was seen

Should a tent be recommended to someone who has one? The published programs of RPG and ActionPiece rank all items; those of S3-Rec, ICLRec and ELCRec take the items of the history out first; two of our three papers do not say.
Our evaluation computes both rules in one pass, `"all"` and `"unseen"`, and every record of this book holds both. First, does a user ever take the same item twice?
"""

# %%
for name, d in data.items():
    distinct = np.unique(d.user * d.num_items + d.item)
    print(f"{name:12} {d.num_interactions - len(distinct)} repeats")
    assert len(distinct) == d.num_interactions

# %% [markdown]
r"""
Never, on any of these sets: a review, a rating and a first tag happen once per user and item. So a seen item in the list is always a wasted place, and removing it can only help. How much it helps depends on the method:
"""

# %%
seen = {}
for name in splits:
    seen[name] = {}
    for floor in FLOORS:
        every = mean_of(name, floor)
        unseen = mean_of(name, floor, rule="unseen")
        seen[name][floor] = unseen
        seen[name][f"{floor} gain"] = unseen / every - 1
        assert unseen >= every

# %% tags=["hide-input"]
seen = pd.DataFrame(seen).T.rename_axis("dataset")
table(
    seen.reset_index(),
    "Recall@10 without seen items, and its gain over ranking all items",
    {c: "percent" if "gain" in c else "metric" for c in seen},
)

# %% [markdown]
r"""
The chain hardly notices on Amazon: what came after the newest item is rarely something that the user had before it. Item-kNN gains between a fifth and a half there, because the items most similar to a history are often the
history's own; on MovieLens-100K it doubles. (Popularity's doubling on Office is a doubling of next to nothing.) A paper that does not say which rule it uses leaves that much open, and a
table that copies rows made by different rules compares rules as well as models. ACERec's appendix says that four of its rows are copied on three of its sets.

To compare two methods, look at the difference on the same users. Its bootstrap interval resamples users, too:
"""

# %%
for name in splits:
    knn, chain = runs[name, "Item-kNN"], runs[name, "Markov chain"]
    for rule in ("all", "unseen"):
        mean, low, high = paired_difference(
            knn, chain, "recall@10", rule
        )
        verdict = (
            "better" if low > 0 else "worse" if high < 0 else "tie"
        )
        print(f"{name:12} {rule:7} kNN - Markov {mean:+.4f} {verdict}")

# %% [markdown]
r"""
On Instruments and LastFM, which rule is used decides whether one of the two is better or neither.
"""

# %% [markdown]
r"""
## A catalogue whose truth is known

On real data nobody knows what a method should have found. For that the book draws a *synthetic catalogue*: a category tree of three levels, stores, and communities
of buyers that cut across the tree ("snacks and balloons"). A community walks through its leaf categories in a fixed cycle, most of the time; users belong to one or two communities. Beside the data comes what was
planted, so a later chapter can ask whether an encoder found the communities, or a tokenizer the tree. Here we only check that the plan is there: how often does an adjacent pair follow its community's cycle?
"""

# %%
made, truth = synthetic_catalogue()
leaf, community = truth.category[:, 2], truth.community
step = np.diff(made.user) == 0
old, new = made.item[:-1][step], made.item[1:][step]


def follows(a, b):
    """Share of pairs that follow the planted cycle."""
    planned = truth.next_category[community[a], leaf[a]] == leaf[b]
    return (planned & (community[a] == community[b])).mean()


shuffled = np.random.default_rng(0).permutation(new)
print(
    f"pairs that follow the plan: {follows(old, new):.1%}, "
    f"after shuffling: {follows(old, shuffled):.1%}"
)

# %% tags=["hide-input"]
made_split = leave_one_out(made)
made_runs = {
    floor: evaluate(make().fit(made_split), made_split, "test")
    for floor, make in FLOORS.items()
}
table(
    pd.DataFrame(
        [
            (floor, with_interval(r), with_interval(r, rule="unseen"))
            for floor, r in made_runs.items()
        ],
        columns=["floor", "all items", "unseen only"],
    ),
    "Synthetic catalogue, Recall@10 with 95 % intervals",
)

# %% [markdown]
r"""
Time in this catalogue is exact to the second, so what the chain scores here it earns.

## What differs and why

| what | the papers | here |
| --- | --- | --- |
| users, items, interactions (ACERec T5) | columns of Sports swapped; one too many in three rows; two counting rules | counted from the data; agree once those slips are undone |
| frequency of test items (ACERec T6) | "training" not defined further | train part without validation items; agrees |
| ReSID's data | Amazon-2023, 5-core, items without store or category dropped | not here; only the printed densities are recomputed |
| ties in time | not mentioned | the file's order, as the papers' copies have it |
| ties in score | not mentioned | expected rank {eq}`eq-data-ties` |
| seen items | ACERec: ranked; ReSID, R³-VAE: not said; some copied rows: excluded | both rules in every record; "all items ranked" beside printed numbers |
| history limit | 32 (ReSID), 50 (ACERec), not said (R³-VAE) | the floors use the whole history |

## Exercises

```{exercise}
:label: ex-data-recall
A paper prints 260,739 interactions for Sports, and a colleague's copy has 296,337. Which question do you ask first?
```

```{solution} ex-data-recall
:class: dropdown
Whether the paper counts all interactions or only those with something before them. The two numbers differ by 35,598, the number of users: each user's first interaction is not counted.
```

```{exercise}
:label: ex-data-ties
In the toy log, what are the expected Recall@3 and NDCG@3 of the Markov chain for cat? And what does the rule "unseen items only" change? Work it out on paper with {eq}`eq-data-floors` and {eq}`eq-data-ties`.
```

````{solution-start} ex-data-ties
:class: dropdown
````
"""

# %% [markdown]
r"""
Cat's newest item is the lamp, and the train part shows "lamp, map" once, so the map is first. Then popularity decides: the stove (3) is second; the tent and the lamp, 2 each, share places 3 and 4. The tent is cat's test item: the
expected Recall@3 is 1/2, the expected NDCG@3 is half of $1/\log_2 4$, that is 1/4. Without the seen stove and lamp, the map is first and the tent second: Recall@3 is 1 and NDCG@3 is $1/\log_2 3$.
"""

# %%
cat = evaluate(MarkovChain().fit(toy), toy, "test", users=[2])
for rule in ("all", "unseen"):
    print(
        rule,
        cat.values("recall@3", rule),
        cat.values("ndcg@3", rule).round(3),
    )

# %% [markdown]
r"""
````{solution-end}
````

```{exercise}
:label: ex-data-mixture
Suppose a share $s$ of the adjacent steps lies within a day and always rises, and a share $p$ of the other steps rises. Which share of all steps rises? Take $p$ from Instruments' row of the table above and estimate $s$ for Beauty. Which
assumption is the doubtful one?
```

````{solution-start} ex-data-mixture
:class: dropdown
````
"""

# %% [markdown]
r"""
All rising steps: $q = s + (1 - s)\,p$, so $s = (q - p)/(1 - p)$. It is doubtful that $p$ is the same for every set: steps across days start high more often where days hold many items. (With $p = 1/2$, what a random order gives, the estimate is lower.)
"""

# %%
table_up = rising.set_index("dataset")
if {"instruments", "beauty"} <= set(table_up.index):
    p = table_up.loc["instruments", "across days"]
    for name in ("instruments", "beauty"):
        q = table_up.loc[name, "all steps"]
        estimates = [(q - x) / (1 - x) for x in (p, 0.5)]
        print(name, [f"{s:.1%}" for s in estimates])

# %% [markdown]
r"""
````{solution-end}
````

```{exercise}
:label: ex-data-symmetric
Make the Markov chain blind to the direction of a pair: score item $j$ by $c(h_T, j) + c(j, h_T)$ plus the popularity term. On which of the sets with dates does that help, and why?
```

````{solution-start} ex-data-symmetric
:class: dropdown
````
"""


# %%
class Symmetric(MarkovChain):
    """Counts of adjacent pairs in either direction."""

    def fit(self, split, sids=None):
        super().fit(split)
        self.counts_ = (self.counts_ + self.counts_.T).tocsr()
        return self


for name in timed:
    both = evaluate(Symmetric().fit(splits[name]), splits[name], "test")
    chain = runs[name, "Markov chain"]
    for same in (True, False):
        chosen = one_day[name] == same
        print(
            f"{name:12} {'one day' if same else 'other':8}",
            *(
                f"{r.where(chosen).values('recall@10').mean():.3f}"
                for r in (chain, both)
            ),
        )

# %% [markdown]
r"""
The columns are the chain and its symmetric version. On the users of one day, Instruments and LastFM lose when the direction is given up: there the direction is information, though about the file. On LastFM's other users the symmetric counts are better, and on MovieLens-100K
for both groups: twice the counts, and no direction to lose. On MovieLens 1M the web page had a direction too.

````{solution-end}
````

```{exercise}
:label: ex-data-buckets
For which items does the chain work? Show its Recall@10 by the train frequency of the test item on Sports (or any set that you have), next to popularity's. `Evaluation.by_bucket` does the grouping.
```

````{solution-start} ex-data-buckets
:class: dropdown
````
"""

# %%
chosen = "sports" if "sports" in splits else next(iter(splits))
for floor in ("Markov chain", "Popularity"):
    by = runs[chosen, floor].by_bucket()
    print(
        f"{floor:12}",
        *(f"{label}: {m['recall@10']:.3f}" for label, m in by.items()),
    )

# %% [markdown]
r"""
Popularity finds nothing but the most frequent items. The chain finds items of every frequency that occur at all, less often the rarer they are.

````{solution-end}
````

```{exercise}
:label: ex-data-open
*Open.* Design a protocol for dated data that gives no credit to the order of the file. Candidates: drop the users whose last two items share a date; hold out a whole day and score it as a set; split all users at one calendar
date {cite:p}`splitting,leakage`. What does each cost in users, in comparability with printed numbers, and in realism?
```

## Summary

1. A 5-core is unique, so counts must agree between papers; where ACERec's do not, its table swaps two columns, counts a padding item, or counts $M - U$ instead of $M$.
2. Leave-one-out, all items ranked, expected ranks for ties: with that, every number of ACERec's Table 6 that can be recomputed comes out, to one unit of the last printed digit.
3. A count of adjacent pairs comes close to the printed results of trained models on Amazon-2014, and beats many of them.
4. Much of that count's score comes from dates without hours: nearly half of the users of Instruments and LastFM have their last two items on one date, in an order that the file made up.
5. Whether seen items are ranked changes a method by as much as the choice of method does. State the rule, and show the floors.

## Further reading

- {cite:t}`progress` tune simple baselines and find that many neural recommenders do not beat them.
- {cite:t}`looksequential` shuffle sequences to ask which benchmark datasets are sequential at all.
- {cite:t}`sampledmetrics` on why sampled metrics mislead; {cite:t}`leakage` on what leave-one-out leaks across time.
"""
