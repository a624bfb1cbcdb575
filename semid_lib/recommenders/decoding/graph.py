"""Graph decoding: a walk from item to like item instead of scores of all items (RPG)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.compute.scoring import top_items

ITEMS_AT_ONCE = 256


@torch.no_grad()
def item_graph(books: Tensor, codes, rows: Tensor, edges: int) -> Tensor:
    """The nearest items of each item, by the mean cosine of their digits' embeddings.

    Source: RPG (Hou et al. 2025).

    Args:
        books: `[m, M, D]`, the embeddings of the codes of each digit.
        codes: function from items `[P]` to their codes `[P, m]`.
        rows: `[N, m]`, from `compute.scoring.table_rows`.
        edges: how many neighbours an item has, itself among them; 1..N.

    Returns:
        `[N, edges]` int64 items, nearest first.

    Cost: O(N^2 m), as the exact scores of N users.
    """
    books = F.normalize(books, dim=-1)
    cosine = books @ books.transpose(1, 2)
    digit = torch.arange(len(books), device=books.device)
    parts = torch.arange(len(rows), device=rows.device).split(ITEMS_AT_ONCE)
    found = [top_items(cosine[digit, codes(items)], rows, edges)[0] for items in parts]
    return torch.cat(found)


@torch.no_grad()
def graph_search(
    log_probs: Tensor, graph: Tensor, rows: Tensor, beams: int, steps: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk from `beams` random items `steps` times to all neighbours, and keep the best.

    Source: RPG (Hou et al. 2025).

    Args:
        log_probs: `[B, m, M]` of the digits. graph: `[N, edges]`, from `item_graph`.
        rows: `[N, m]`, from `compute.scoring.table_rows`. seed: of the items at the start.

    Returns:
        `(items [B, beams], scores [B, beams], scored [B])`: best first, -1 and -inf where fewer
        were found; and how many scores were made, each item once a step.
    """
    flat, scored = log_probs.flatten(1), 0
    draw = torch.Generator().manual_seed(seed)
    beam = torch.randint(len(rows), (len(flat), beams), generator=draw).to(flat.device)
    for _ in range(steps):
        near = graph[beam].flatten(1).sort(1).values
        fresh = near.diff(dim=1, prepend=near[:, :1] - 1) > 0
        scores = sum(flat.gather(1, column[near].long()) for column in rows.T)
        best = scores.masked_fill_(~fresh, -torch.inf).topk(min(beams, near.shape[1]))
        beam, scored = near.gather(1, best.indices), scored + fresh.sum(1)
    return beam.masked_fill(best.values.isneginf(), -1), best.values, scored
