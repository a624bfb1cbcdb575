"""Numba kernels of balanced k-means: the exact transport of points to clusters.

Imported only when they are used, so that the package imports without Numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def balance(cost, price, label):
    """Assign every point to a cluster at least cost, with sizes floor(n/k) or ceil(n/k).

    Successive shortest paths on the graph of the k clusters. Edge a -> b is the cheapest move of
    a point from a to b; one more node holds the n mod k extra places, so that which clusters
    take one is part of the optimum. Every point starts in the cluster of least cost + price;
    that is optimal for the sizes it gives, and each path repairs the sizes by one point and
    keeps the optimality. Good prices (those of the last Lloyd step) leave few paths to find.

    Args:
        cost: `[n, k]` float, finite, n >= k.
        price: `[k]` float64, changed in place. What a place in a cluster costs; any start is right.
        label: `[n]` int64, overwritten with the assignment.

    Returns:
        How many paths were needed.

    Cost: O(n k + paths (k^2 + n)) time, O(n + k^2) memory.
    """
    n, k = cost.shape
    load = _nearest(cost, price, label)
    follow, before, head = _lists(label, k)
    _raise_prices(cost, price, label, load, follow, before, head)
    # cost of the cheapest move from each cluster to each other, and the point that makes it
    move, mover = np.full((k, k), np.inf), np.full((k, k), -1, np.int64)
    for i in range(n):
        _enter(i, label[i], cost, move, mover)
    extra, price_extra = _grant_extras(price, n % k)
    paths = 0
    while True:
        end, parent, price_extra = _shortest_path(move, price, price_extra, extra, load, n // k)
        if end < 0:
            return paths
        paths += 1
        while parent[end] >= 0:  # from the sink backwards: no node's movers are used twice
            a, b = parent[end], end
            if a == k:
                extra[b] = False
            elif b == k:
                extra[a] = True
            else:
                i = mover[a, b]
                _relink(i, a, b, label, load, follow, before, head)
                _enter(i, b, cost, move, mover)
                _leave(i, a, cost, follow, head, move, mover)
            end = a


@njit(cache=True, nogil=True)
def _nearest(cost, price, label):
    """Label every point with its cluster of least cost + price; return the sizes."""
    n, k = cost.shape
    load = np.zeros(k, np.int64)
    for i in range(n):
        best, least = 0, cost[i, 0] + price[0]
        for j in range(1, k):
            value = cost[i, j] + price[j]
            if value < least:
                best, least = j, value
        label[i] = best
        load[best] += 1
    return load


@njit(cache=True, nogil=True)
def _raise_prices(cost, price, label, load, follow, before, head):
    """Raise the price of crowded clusters until just enough of their points prefer another.

    A point moves exactly when its second choice becomes its first, so optimality for the sizes
    is kept. This takes the bulk of the moves of a cold start; the paths do the rest.
    """
    n, k = cost.shape
    limit = (n + k - 1) // k
    members = np.empty(n, np.int64)
    gap = np.empty(n)
    second = np.empty(n, np.int64)
    for _ in range(8):
        crowd = 0
        for j in range(k):
            crowd += max(0, load[j] - limit)
        if crowd * 32 < n:
            return
        for j in range(k):
            excess = load[j] - limit
            if excess <= 0:
                continue
            m = 0
            i = head[j]
            while i >= 0:
                least = np.inf
                for t in range(k):
                    value = cost[i, t] + price[t]
                    if t != j and value < least:
                        second[m], least = t, value
                gap[m] = least - (cost[i, j] + price[j])
                members[m] = i
                m += 1
                i = follow[i]
            rise = np.sort(gap[:m])[excess - 1]
            price[j] += rise
            ties = excess
            for r in range(m):
                ties -= gap[r] < rise
            for r in range(m):
                if gap[r] < rise or (gap[r] == rise and ties > 0):
                    ties -= gap[r] == rise
                    _relink(members[r], j, second[r], label, load, follow, before, head)


@njit(cache=True, nogil=True)
def _lists(label, k):
    """Chain the points of each cluster: next point, previous point, first point (-1 ends)."""
    n = len(label)
    follow = np.full(n, -1, np.int64)
    before = np.full(n, -1, np.int64)
    head = np.full(k, -1, np.int64)
    for i in range(n - 1, -1, -1):
        a = label[i]
        follow[i] = head[a]
        if head[a] >= 0:
            before[head[a]] = i
        head[a] = i
    return follow, before, head


@njit(cache=True, nogil=True)
def _grant_extras(price, extras):
    """Give the extra places to the dearest clusters: who has one, and the price of one."""
    extra = np.zeros(len(price), np.bool_)
    price_extra = price.max()
    for _ in range(extras):
        dearest = -1
        for j in range(len(price)):
            if not extra[j] and (dearest < 0 or price[j] > price[dearest]):
                dearest = j
        extra[dearest] = True
        price_extra = price[dearest]
    return extra, price_extra


@njit(cache=True, nogil=True)
def _shortest_path(move, price, price_extra, extra, load, base):
    """Dijkstra from all overfull clusters to the nearest underfull one; prices are updated.

    Lengths are reduced by the prices, so none is negative. Node k holds the extra places: a
    cluster may take one from it (a -> k) and give its own back (k -> b).

    Returns:
        The last node (-1: all sizes are right), the parents on the path, the price of an extra.
    """
    k = len(price)
    length = np.full(k + 1, np.inf)
    parent = np.full(k + 1, -1, np.int64)
    done = np.zeros(k + 1, np.bool_)
    for j in range(k):
        if load[j] > base + extra[j]:
            length[j] = 0.0
    end = -1
    while True:
        a = -1
        for j in range(k + 1):
            if not done[j] and length[j] < np.inf and (a < 0 or length[j] < length[a]):
                a = j
        if a < 0:
            return -1, parent, price_extra
        if a < k and load[a] < base + extra[a]:
            end = a
            break
        done[a] = True
        if a == k:
            for b in range(k):
                if extra[b] and not done[b]:
                    value = length[k] + max(0.0, price[b] - price_extra)
                    if value < length[b]:
                        length[b], parent[b] = value, k
            continue
        for b in range(k):
            if not done[b]:
                value = length[a] + max(0.0, move[a, b] + price[b] - price[a])
                if value < length[b]:
                    length[b], parent[b] = value, a
        if not extra[a] and not done[k]:
            value = length[a] + max(0.0, price_extra - price[a])
            if value < length[k]:
                length[k], parent[k] = value, a
    for j in range(k):
        if done[j]:
            price[j] += length[end] - length[j]
    if done[k]:
        price_extra += length[end] - length[k]
    return end, parent, price_extra


@njit(cache=True, nogil=True)
def _relink(i, a, b, label, load, follow, before, head):
    """Move point i from the chain of cluster a to that of b."""
    if before[i] >= 0:
        follow[before[i]] = follow[i]
    else:
        head[a] = follow[i]
    if follow[i] >= 0:
        before[follow[i]] = before[i]
    before[i], follow[i] = -1, head[b]
    if head[b] >= 0:
        before[head[b]] = i
    head[b] = i
    label[i] = b
    load[a] -= 1
    load[b] += 1


@njit(cache=True, nogil=True)
def _enter(i, a, cost, move, mover):
    """Offer the moves of point i, new in cluster a, as the cheapest ones out of a."""
    own = np.float64(cost[i, a])
    for t in range(cost.shape[1]):
        value = cost[i, t] - own
        if value < move[a, t]:
            move[a, t], mover[a, t] = value, i


@njit(cache=True, nogil=True)
def _leave(i, a, cost, follow, head, move, mover):
    """Replace point i, gone from cluster a, wherever it made the cheapest move out of a."""
    lost = np.flatnonzero(mover[a] == i)
    for t in lost:
        move[a, t], mover[a, t] = np.inf, -1
    point = head[a]
    while point >= 0 and len(lost):
        own = np.float64(cost[point, a])
        for t in lost:
            value = cost[point, t] - own
            if value < move[a, t]:
                move[a, t], mover[a, t] = value, point
        point = follow[point]


@njit(cache=True, nogil=True)
def shift_sums(rows, old, new, sums, counts):
    """Move the rows whose label changed from the old cluster's sum to the new one's.

    Args: rows `[n, d]`; old, new `[n]` int64 labels (-1: none yet); sums `[k, d]` float64 and
    counts `[k]` int64, changed in place. Returns: how many labels changed.
    """
    changed = 0
    for i in range(len(new)):
        a, b = old[i], new[i]
        if a == b:
            continue
        changed += 1
        for c in range(rows.shape[1]):
            sums[b, c] += rows[i, c]
        counts[b] += 1
        if a >= 0:
            for c in range(rows.shape[1]):
                sums[a, c] -= rows[i, c]
            counts[a] -= 1
    return changed
