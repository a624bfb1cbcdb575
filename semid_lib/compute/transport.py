"""Numba kernels of balanced k-means: the exact transport of points to clusters.

Imported only when they are used, so that importing the package stays fast.
"""

from __future__ import annotations

import numpy as np

from semid_lib.compute.jit import kernel


@kernel
def balance(cost, price, label):
    """Assign every point to a cluster at least cost, with sizes floor(n/k) or ceil(n/k).

    A point's choice is the cluster of least cost + price. Newton steps find prices at which the
    choices have nearly the right sizes (`_even_out`); the last few points then change place along
    shortest paths on the graph of the clusters, which is exact (`_repair`). Only points that
    nearly prefer another cluster are looked at: a repair in which no price rises by more than
    their gap proves that nobody else would move, and any other is made again with more points.

    Args:
        cost: `[T, k, w]` float, finite, n >= k: the costs of points t w to t w + w - 1, cluster
            by cluster; what stands behind the last point does not matter. Such a tile lies
            in one piece of memory; from a `[k, n]` matrix of 200,000 columns, surveys took 2.5
            times as long.
        price: `[k]` float64, changed in place. What a place in a cluster costs; any start is right.
        label: `[n]` int64, overwritten with the assignment.

    Returns:
        How many paths were needed.

    Cost: O(n k) for each of some 10 surveys of the choices (1 to 3 from good prices), O(k^3) for
    a Newton step, O(k^2) for each of O(k) paths; O(n + k^2) memory. Measured for 200,000
    points in 32 clusters: 0.01 to 0.1 s; with paths alone, O(n^2 / k), it was 2 to 4 s.
    """
    k, n = cost.shape[1], len(label)
    rival, gap, load = np.empty(n, np.int64), np.empty(n), np.empty(k, np.int64)
    surplus = _even_out(cost, price, label, rival, gap, load)
    rank, paths = 16 * (surplus + k), 0
    while True:
        reach = _ranked(gap, rank) if 2 * rank < n else np.inf
        near = np.flatnonzero(gap <= reach)
        place, sizes, trial = label[near], load.copy(), price.copy()
        repaired, more = _repair(_rows(cost, near), trial, place, sizes, n, reach)
        paths += more
        if repaired:
            label[near] = place
            price[:] = trial
            return paths
        rank *= 8


@kernel
def _rows(cost, near):
    """The costs of some points, `[m, k]`."""
    k, width = cost.shape[1:]
    rows = np.empty((len(near), k), cost.dtype)
    for i in range(len(near)):
        tile, at = cost[near[i] // width], near[i] % width
        for j in range(k):
            rows[i, j] = tile[j, at]
    return rows


@kernel
def _survey(cost, price, label, rival, gap, load):
    """Find every point's first and second choice (label, rival), the gap between, and the sizes.

    Returns: the value of the dual, sum_i min_j (cost + price) - n/k sum_j price.
    """
    k, width = cost.shape[1:]
    first, second = np.empty(width), np.empty(width)
    a, b = np.empty(width, np.int64), np.empty(width, np.int64)
    load[:] = 0
    total = -price.sum() * len(label) / k
    for start in range(0, len(label), width):
        m = min(width, len(label) - start)
        first[:], second[:], a[:], b[:] = np.inf, np.inf, 0, 0
        for j in range(k):  # the inner loop has no branch, so that the compiler uses vectors
            costs = cost[start // width, j, :m]
            for i in range(m):
                value = costs[i] + price[j]
                best, next_best = value < first[i], value < second[i]
                second[i] = first[i] if best else (value if next_best else second[i])
                b[i] = a[i] if best else (j if next_best else b[i])
                first[i] = value if best else first[i]
                a[i] = j if best else a[i]
        for i in range(m):
            label[start + i], rival[start + i], gap[start + i] = a[i], b[i], second[i] - first[i]
            load[a[i]] += 1
            total += first[i]
    return total


@kernel
def _ranked(values, rank):
    """About the rank-th smallest of values >= 0: bisection on a sample of at least 2,000."""
    stride = max(1, len(values) // 2048)
    low, high = 0.0, values.max()
    for _ in range(24):
        middle, below = (low + high) / 2, 0
        for i in range(0, len(values), stride):
            below += values[i] <= middle
        if below * stride > rank:
            high = middle
        else:
            low = middle
    return high


@kernel
def _even_out(cost, price, label, rival, gap, load):
    """Change the prices until the choices have nearly equal sizes; survey the points there.

    Damped Newton steps up the concave dual, whose gradient is load - n/k. Its second derivative
    is how many points a change of two prices would move, counted among those of small gap.

    Returns: how many points are beyond the fair share n/k of their clusters.
    """
    k, n = cost.shape[1], len(label)
    value, damping = _survey(cost, price, label, rival, gap, load), 0.01
    for _ in range(20):
        surplus = _surplus(load, n)
        if surplus <= 2 * k:
            break
        reach = _ranked(gap, 2 * surplus + 8 * k)
        slope, near = np.zeros((k, k)), 0
        for i in range(n):
            if gap[i] <= reach:
                near += 1
                a, b = label[i], rival[i]
                slope[a, a] += 0.5
                slope[b, b] += 0.5
                slope[a, b] -= 0.5
                slope[b, a] -= 0.5
        excess, old = load - n / k, price.copy()
        while damping <= 1e3:
            step = reach * _solve(slope, damping * near / k, excess)
            price[:] = old + step
            new = _survey(cost, price, label, rival, gap, load)
            if new > value + 1e-3 * (step * excess).sum():
                break
            damping *= 8
        if damping > 1e3:  # points tie by the hundred: leave the rest to the paths
            price[:] = old
            _survey(cost, price, label, rival, gap, load)
            break
        value, damping = new, max(damping / 4, 1e-3)
    return _surplus(load, n)


@kernel
def _solve(matrix, ridge, right):
    """Solve (matrix + ridge) x = right for a positive semidefinite matrix, by elimination.

    By hand, since the compilation of `numpy.linalg.solve` takes 10 s.
    """
    A, x = matrix.copy(), right.copy()
    for j in range(len(x)):
        A[j, j] += ridge
    for j in range(len(x)):
        for i in range(j + 1, len(x)):
            factor = A[i, j] / A[j, j]
            x[i] -= factor * x[j]
            for t in range(j, len(x)):
                A[i, t] -= factor * A[j, t]
    for j in range(len(x) - 1, -1, -1):
        for t in range(j + 1, len(x)):
            x[j] -= A[j, t] * x[t]
        x[j] /= A[j, j]
    return x


@kernel
def _surplus(load, n):
    """How many points are beyond the fair share n/k of their clusters."""
    return int(np.maximum(load - n / len(load), 0.0).sum())


@kernel
def _repair(cost, price, label, load, n, reach):
    """Bring all sizes to floor(n/k) or ceil(n/k) by moving some of the given points at least cost.

    Successive shortest paths on the graph of the k clusters. Edge a -> b is the cheapest move of
    a point from a to b; one more node holds the n mod k extra places, so that which clusters
    take one is part of the optimum. Points that sit where cost + price is least are optimal for
    the sizes they give; each path repairs the sizes by one and keeps the optimality.

    Args: cost `[m, k]`, price `[k]`, label `[m]` and load `[k]` (of all n points), all but cost
    changed in place; reach: most that a price may rise.

    Returns: whether the sizes are right, and the number of paths.
    """
    k = cost.shape[1]
    follow, before, head = _lists(label, k)
    # cost of the cheapest move from each cluster to each other, and the point that makes it
    move, mover = np.full((k, k), np.inf), np.full((k, k), -1, np.int64)
    for i in range(len(label)):
        _enter(i, label[i], cost, move, mover)
    extra, price_extra = _grant_extras(price, n % k)
    start, paths = price.copy(), 0
    while (price - start).max() <= reach:
        end, parent, price_extra = _shortest_path(move, price, price_extra, extra, load, n // k)
        if end < 0:
            return (load <= n // k + extra).all(), paths
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
    return False, paths


@kernel
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


@kernel
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


@kernel
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


@kernel
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


@kernel
def _enter(i, a, cost, move, mover):
    """Offer the moves of point i, new in cluster a, as the cheapest ones out of a."""
    own = np.float64(cost[i, a])
    for t in range(cost.shape[1]):
        value = cost[i, t] - own
        if value < move[a, t]:
            move[a, t], mover[a, t] = value, i


@kernel
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


@kernel
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
