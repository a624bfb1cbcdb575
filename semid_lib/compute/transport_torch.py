"""Balanced k-means on torch tensors: for GPUs, and for machines without Numba."""

from __future__ import annotations

import numpy as np
import torch


class TorchRows:
    """The vectors on a device: squared distances, priced assignment and means as tensor work.

    Same interface as `balanced_kmeans.Rows`; Cost: O(n k d) an iteration, and about a
    millisecond for each point that the price sweeps leave in the wrong place.
    """

    def __init__(self, X: np.ndarray, device: str):
        self.X = torch.as_tensor(X, device=device)
        self.square = (self.X * self.X).sum(1)

    def distances(self, indices) -> np.ndarray:
        """Squared distances of the points `indices` to all points, `[B, n]`."""
        index = torch.as_tensor(np.asarray(indices), device=self.X.device)
        inner = self.X[index] @ self.X.T
        return (self.square[index, None] + self.square - 2 * inner).double().cpu().numpy()

    def start(self, centres) -> None:
        """Take k centres: indices of points `[k]`, or vectors `[k, d]`."""
        centres = torch.as_tensor(np.asarray(centres), device=self.X.device)
        self.means = self.X[centres] if centres.ndim == 1 else centres.to(self.X.dtype)
        self.labels = torch.full((len(self.X),), -1, device=self.X.device)

    def assign(self, price: np.ndarray) -> np.ndarray:
        """Labels of the balanced assignment to the centres; `price` is changed in place."""
        cost = (self.means * self.means).sum(1) - 2 * self.X @ self.means.T
        self.new = balance(cost, price)
        return self.new.cpu().numpy()

    def update(self) -> int:
        """Move the centres to the means of the last labels; return how many labels changed."""
        changed = int((self.new != self.labels).sum())
        self.labels = self.new
        member = torch.nn.functional.one_hot(self.new, len(self.means)).to(self.X.dtype).T
        self.means = member @ self.X / member.sum(1, keepdim=True)
        return changed

    def centres(self) -> np.ndarray:
        """The means of the clusters, `[k, d]`."""
        return self.means.cpu().numpy()


def balance(cost: torch.Tensor, price: np.ndarray) -> torch.Tensor:
    """Assign every point to a cluster at least cost, with sizes floor(n/k) or ceil(n/k).

    Price sweeps bring the sizes close; shortest paths on the k-node graph of clusters then
    repair them exactly, as in the Numba kernel (`_transport.balance`, which explains them).

    Args: cost `[n, k]`, n >= k; price `[k]` float64, changed in place. Returns: labels `[n]`.
    """
    n, k = cost.shape
    cost = cost.double()
    if k == 1:
        return torch.zeros(n, dtype=torch.int64, device=cost.device)
    labels = _sweep_prices(cost, price)
    base, extras = divmod(n, k)
    load = torch.bincount(labels, minlength=k).cpu().numpy()
    move, mover = np.full((k, k), np.inf), np.full((k, k), -1)
    for a in range(k):
        move[a], mover[a] = _cheapest_moves(cost, labels, a)
    extra = np.zeros(k + 1, bool)
    extra[np.argsort(-price, kind="stable")[:extras]] = True
    full_price = np.append(price, price[extra[:k]].min() if extras else price.max())
    while (load > base + extra[:k]).any():
        path = _shortest_path(move, full_price, extra, load, base)
        touched = set()
        for a, b in reversed(list(zip(path, path[1:]))):
            if k in (a, b):
                extra[min(a, b)] = b == k
                continue
            labels[mover[a, b]] = b
            load[a] -= 1
            load[b] += 1
            touched |= {a, b}
        for a in touched:
            move[a], mover[a] = _cheapest_moves(cost, labels, a)
    price[:] = full_price[:k]
    return labels


def _sweep_prices(cost, price, sweeps=30) -> torch.Tensor:
    """Set each cluster's price in turn so that floor to ceil of n/k points prefer it.

    Coordinate ascent on the dual. It stops when few points are left over or nothing is gained,
    and returns the labels of least cost + price.
    """
    n, k = cost.shape
    base, extras = divmod(n, k)
    last = base + 1 if extras else base
    priced = cost + torch.as_tensor(price, device=cost.device)
    least_left = n + 1
    for sweep in range(sweeps + 1):
        labels = priced.argmin(1)
        load = torch.bincount(labels, minlength=k)
        left = int((load - last).clamp(min=0).sum() + (base - load).clamp(min=0).sum())
        if left <= k // 2 or sweep == sweeps or (left >= least_left and sweep > 4):
            return labels
        least_left = min(left, least_left)
        for j in range(k):
            priced[:, j] = torch.inf
            wish = priced.amin(1) - cost[:, j]  # the point prefers j while the price is below
            top = wish.topk(last + 1).values
            low, high = float(top[last]), float(top[base - 1])
            if not low <= price[j] <= high:
                price[j] = (low + high) / 2
            priced[:, j] = cost[:, j] + price[j]


def _cheapest_moves(cost, labels, a):
    """Cheapest move from cluster a to each other, and its point: two `[k]` arrays."""
    members = (labels == a).nonzero().squeeze(1)
    if len(members) == 0:
        return np.inf, -1
    rows = cost[members]
    move, at = (rows - rows[:, a : a + 1]).min(0)
    return move.cpu().numpy(), members[at].cpu().numpy()


def _shortest_path(move, price, extra, load, base) -> list[int]:
    """Dijkstra from the overfull clusters to the nearest underfull one, reduced by prices.

    Node k holds the extra places. Prices `[k+1]` are changed in place. Returns the nodes.
    """
    k = len(load)
    edge = np.full((k + 1, k + 1), np.inf)
    edge[:k, :k] = move
    edge[:k, k] = np.where(extra[:k], np.inf, 0.0)
    edge[k, :k] = np.where(extra[:k], 0.0, np.inf)
    edge = np.maximum(edge + price - price[:, None], 0.0)
    surplus = np.append(load - base - extra[:k], 0)
    length = np.where(surplus > 0, 0.0, np.inf)
    parent = np.full(k + 1, -1)
    done = np.zeros(k + 1, bool)
    while True:
        a = int(np.where(done, np.inf, length).argmin())
        if surplus[a] < 0:
            break
        done[a] = True
        better = ~done & (length[a] + edge[a] < length)
        length[better] = length[a] + edge[a][better]
        parent[better] = a
    price[done] += length[a] - length[done]
    path = [a]
    while parent[path[-1]] >= 0:
        path.append(int(parent[path[-1]]))
    return path[::-1]
