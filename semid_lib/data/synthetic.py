"""A made-up catalogue whose structure is known, so that a method can be asked what it found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from semid_lib.data.interactions import Interactions
from semid_lib.errors import InputError

_ROOTS = (
    "snacks balloons candles plates games drinks lights ribbons masks cakes music cards".split()
)
_START = 1_577_836_800  # 2020-01-01


@dataclass(frozen=True, eq=False)
class CatalogueTruth:
    """What was planted.

    Attributes:
        category: `[N, 3]` int64, the node of each item at each level of the tree, numbered across
            the level, so that equal numbers at level 3 imply equal ones above.
        store: `[N]` int64.
        community: `[N]` int64, which behavioural community buys the item.
        popularity: `[N]` float64, the planted weight inside the community; sums to 1 over it.
        next_category: `[C, leaves]` int64, the leaf category that follows each leaf in each
            community; -1 where the community has no such items.
        user_communities: `[U, C]` float64, how a user divides its time; rows sum to 1.
    """

    category: np.ndarray
    store: np.ndarray
    community: np.ndarray
    popularity: np.ndarray
    next_category: np.ndarray
    user_communities: np.ndarray


def synthetic_catalogue(
    num_items: int = 600, num_users: int = 1000, *, branching: tuple[int, int, int] = (6, 3, 2),
    num_stores: int = 24, num_communities: int = 6, categories_per_community: int = 6,
    mean_length: float = 12.0, popularity_skew: float = 1.0, sequential: float = 0.7,
    store_loyalty: float = 0.7, random_state: int = 0,
) -> tuple[Interactions, CatalogueTruth]:  # fmt: skip
    """Draw a catalogue with a category tree, stores and communities, and users who walk it.

    Categories form a tree of three levels. A community ("the party people") buys from a few leaf
    categories of different branches ("snacks and balloons"), so co-purchase crosses the tree;
    every item belongs to one leaf and one community. A community visits its leaves in a
    fixed cycle: with probability `sequential` the next item comes from the leaf that follows the
    current one, else from any leaf of the community. Inside the leaf an item is drawn by its
    popularity, Zipf-like with exponent `popularity_skew`. A user starts in one of its one or two
    communities, changes between them now and then, and never takes an item twice.

    Args:
        num_items, num_users: N and U.
        branching: children per node at the three levels; their product is the number of leaves.
        num_stores: stores; a store prefers one community, and an item comes from a store of its
            community with probability `store_loyalty`, else from any.
        num_communities: C. categories_per_community: leaves each one buys from (at most all).
        mean_length: mean interactions per user before repeats are dropped; at least 5 each.
        random_state: seed; the same arguments give the same data on every machine.

    Returns:
        `Interactions` with fields store, category_1, category_2, category_3, titles and
        timestamps, and the planted `CatalogueTruth`.

    Raises:
        InputError: too few items for one in each (community, leaf) pair, or a setting out of range.

    Cost: O(U * longest history) draws, vectorised over users.
    """
    leaves = int(np.prod(branching))
    width, least = min(categories_per_community, leaves), min(num_users, num_communities)
    if least < 1 or width < 1 or num_items < num_communities * width:
        raise InputError(
            f"{num_items} items cannot fill {num_communities} communities of {width} leaf "
            "categories; all, and the users, must be at least 1"
        )
    if mean_length < 5:
        raise InputError(
            f"mean_length is {mean_length}, but every user has at least 5 interactions"
        )
    if not (0 <= sequential <= 1 and 0 <= store_loyalty <= 1):
        shares = sequential, store_loyalty
        raise InputError(f"sequential and store_loyalty must lie in 0..1, not {shares}")
    rng = np.random.default_rng(random_state)
    chosen, following = _communities(rng, num_communities, width, leaves, branching)
    pair = np.append(  # every (community, leaf) pair first gets one item, the rest fall at random
        np.arange(num_communities * width),
        rng.integers(num_communities * width, size=num_items - num_communities * width),
    )
    pair = rng.permutation(pair)
    community, leaf = pair // width, chosen[pair // width, pair % width]
    home = np.arange(num_stores) % num_communities
    store = rng.integers(num_stores, size=num_items)
    for c in range(num_communities):
        own = np.flatnonzero(home == c)
        loyal = (community == c) & (rng.random(num_items) < store_loyalty)
        if len(own):
            store[loyal] = rng.choice(own, size=loyal.sum())
    weight = (1.0 + rng.permutation(num_items)) ** -popularity_skew
    popularity = weight / np.bincount(community, weight)[community]
    share = _user_communities(rng, num_users, num_communities)
    user, item = _walk(rng, share, pair, weight, width, mean_length, sequential)
    time = np.cumsum(rng.integers(3_600, 14 * 86_400, size=len(user)))
    time += _START - time[np.searchsorted(user, user)]
    category = np.stack([leaf // (branching[1] * branching[2]), leaf // branching[2], leaf], axis=1)
    items = _items_table(category, store)
    frame = pd.DataFrame({"user": user, "item": item, "timestamp": time})
    frame["position"] = np.arange(len(frame))
    fields = ["store", "category_1", "category_2", "category_3"]
    data = Interactions.from_frame(frame, items, fields, name="synthetic")
    truth = CatalogueTruth(category, store, community, popularity, following, share)
    return data, truth


def _communities(rng, num, width, leaves, branching):
    """Leaves of each community `[C, width]`, neighbours from other branches, and their cycle."""
    per_root = branching[1] * branching[2]
    chosen = np.empty((num, width), dtype=np.int64)
    following = np.full((num, leaves), -1, dtype=np.int64)
    for c in range(num):
        rounds = -(-width // branching[0])
        roots = np.concatenate([rng.permutation(branching[0]) for _ in range(rounds)])
        used = {}
        for place, root in enumerate(roots[:width]):
            used.setdefault(root, rng.permutation(per_root).tolist())
            chosen[c, place] = root * per_root + used[root].pop()
        following[c, chosen[c]] = np.roll(chosen[c], -1)
    return chosen, following


def _user_communities(rng, num_users, num):
    """How each user divides its time: one community, or two with chance 1/2."""
    share = np.zeros((num_users, num))
    for place in range(min(2, num)):
        taken = rng.random((num_users, num))
        taken[share > 0] = -1
        rows = np.flatnonzero((place == 0) | (rng.random(num_users) < 0.5))
        share[rows, taken[rows].argmax(axis=1)] = 0.5**place
    return share / share.sum(axis=1, keepdims=True)


def _walk(rng, share, pair, weight, width, mean_length, sequential):
    """Sequences of all users at once: `(user, item)`, repeats left out."""
    num_users, num = share.shape
    order = np.argsort(pair, kind="stable")
    group = pair[order]
    part = weight[order] / np.bincount(pair, weight, minlength=num * width)[group]
    total = np.concatenate([[0.0], np.cumsum(part)])
    # items of group g occupy (g, g+1] on one line, in parts as wide as their popularity
    ladder = group + (total[1:] - total[np.searchsorted(group, group)])
    lengths = 5 + rng.poisson(mean_length - 5, size=num_users)
    taken = np.full((num_users, int(lengths.max())), -1, dtype=np.int64)
    at = np.full(num_users, -1)
    place = rng.integers(width, size=num_users)
    for step in range(taken.shape[1]):
        move = (at < 0) | (rng.random(num_users) < 0.2)
        drawn = (rng.random((num_users, 1)) > np.cumsum(share, axis=1)[:, :-1]).sum(axis=1)
        at = np.where(move, drawn, at)
        anywhere = rng.integers(width, size=num_users)
        place = np.where(rng.random(num_users) < sequential, (place + 1) % width, anywhere)
        item = _draw(rng, at * width + place, ladder, order)
        for _ in range(10):
            again = np.flatnonzero((taken[:, :step] == item[:, None]).any(axis=1))
            if not len(again):
                break
            item[again] = _draw(rng, (at * width + place)[again], ladder, order)
        repeated = (taken[:, :step] == item[:, None]).any(axis=1)
        taken[:, step] = np.where(repeated, -1, item)
    keep = (taken >= 0) & (np.arange(taken.shape[1]) < lengths[:, None])
    return np.nonzero(keep)[0], taken[keep]


def _draw(rng, group, ladder, order):
    rungs = np.searchsorted(ladder, group + rng.random(len(group)))
    last = np.searchsorted(ladder, group + 1 + 1e-9, side="right") - 1
    return order[np.minimum(rungs, last)]


def _items_table(category: np.ndarray, store: np.ndarray) -> pd.DataFrame:
    roots = [f"{_ROOTS[r % len(_ROOTS)]}{'' if r < len(_ROOTS) else r}" for r in category[:, 0]]
    named = zip(roots, category[:, 2])
    columns = {
        "item": range(len(store)),
        "title": [f"{root} {leaf}-{i}" for i, (root, leaf) in enumerate(named)],
        "store": [f"store {s}" for s in store],
        "category_1": roots,
        "category_2": [f"{root} {c}" for root, c in zip(roots, category[:, 1])],
        "category_3": [f"{root} {c}.{leaf}" for root, (_, c, leaf) in zip(roots, category)],
    }
    return pd.DataFrame(columns)
