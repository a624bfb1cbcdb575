"""RPG: all digits of a long semantic ID predicted at once, with exact or graph decoding."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.recommenders._parallel import ParallelNetwork, ParallelRecommender
from semid_lib.recommenders.base import PADDING
from semid_lib.recommenders.decoding.graph import graph_search, item_graph
from semid_lib.settings import SIZE, choice, keep_settings, whole


class RPG(ParallelRecommender):
    """Generate long semantic IDs in parallel (Hou et al. 2025).

    An item's vector is the mean of its m digits' embeddings; h is GPT-2's state after the newest
    item; head k gives the distribution of digit k (see `ParallelNetwork`), independent of the
    others: p(item | history) = prod_k p(c_k | h). The loss is the digits' mean cross-entropy at
    every position.

    Graph decoding scores few items: from `beams` random ones it goes `steps` times to all
    neighbours and keeps the best `beams`. An item's neighbours are the `edges` items (itself among
    them) of largest mean cosine of their digits' embeddings.

    Args:
        dim, num_layers, num_heads, ffn_dim: of GPT-2. dropout: of its input and attention weights.
        temperature: of the cosines.
        head_norm: "rpg": what the heads give and the codes' embeddings have length 1, their
            product is the cosine; "paper": the state before the heads instead (ACERec's text);
            "both".
        decoding: "exact" scores every item; "graph" gives -inf to items that it does not end with.
        beams, edges, steps: of the graph.
        max_history: items that are read, the newest.
        long_histories: of a longer user, a sample with one loss for each later target ("rows", as
            RPG), windows ("windows") or the last one alone ("last"), as SASRec.
        warmup: share of the steps in which the rate rises. The others: see `training.train`.

    Attributes:
        sids_: the `ItemTokenizer`. network_: `ParallelNetwork`. history_: `training.History`.

    Deviates: no rows for the padding and end tokens; heads without bias at the start; 5 %
    warm-up for 10,000 steps (more than a whole run on small sets). `RPG` and `ACERec` of the named
    systems get an OPQ fitted on the vectors of all items, RPG's own on those that the train part
    holds (99.0 to 99.7 % of the items on Instruments, Office, Beauty, Toys and Sports): the vectors
    are made of the items' own words and train reviews, or of train interactions (ALS), so nothing
    held out enters, and a catalogue is known before it is sold. For RPG's way, fit the quantizer on
    the rows of `split.train_counts() > 0` and `transform` all.

    Cost: O(T D (T + D + ffn_dim)) a layer and sequence, O(m D (D + M)) a target; scoring O(N m),
    by graph O(steps beams edges m).
    """

    limits = {
        "decoding": choice("exact", "graph"), "beams": SIZE, "edges": SIZE, "steps": whole(),
    }  # fmt: skip

    def __init__(
        self, dim=448, num_layers=2, num_heads=4, ffn_dim=1024, dropout=0.5, temperature=0.03,
        head_norm="rpg", decoding="exact", beams=20, edges=200, steps=3, max_history=50,
        long_histories="rows", learning_rate=3e-3, weight_decay=0.0,
        warmup=0.05, clip=1.0, batch_size=256, epochs=150, patience=20, samples_per_epoch=None,
        device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _network(self, codes, num_codes):
        return ParallelNetwork(self, codes, num_codes)

    def _use(self, sids):
        super()._use(sids)
        self._neighbours = None

    def neighbours(self) -> Tensor:
        """The graph, `[N, edges]` int64 items, nearest first; made once from the fitted table.

        Cost: O(N^2 m), as the exact scores of N users.
        """
        edges = min(self.edges, self.num_items_fitted)
        if self._neighbours is None or self._neighbours.shape[1] != edges:
            net = self.network_
            books = net.table.unflatten(0, (-1, net.num_codes))
            self._neighbours = item_graph(books, net.codes, net.rows, edges)
        return self._neighbours

    def walk(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode by graph.

        Args:
            log_probs: `[B, m, M]`, from `log_probs`.

        Returns:
            `(items [B, beams], scores [B, beams], scored [B])`: best first, -1 and -inf where
            fewer were found; and how many scores were made, each item once a step.
        """
        graph, rows = self.neighbours(), self.network_.rows
        return graph_search(log_probs, graph, rows, self.beams, self.steps, self.random_state)

    def scores(self, histories):
        if self.decoding == "exact":
            return super().scores(histories)
        scores = np.full((len(histories), self.num_items_), -np.inf)
        items, values = self._best(histories, self.num_items_)
        row, column = np.nonzero(items >= 0)
        scores[row, items[row, column]] = values[row, column]
        return scores

    def _best(self, histories, k):
        if self.decoding == "exact":
            return super()._best(histories, k)
        items, scores, _ = self.walk(self.log_probs(histories))
        missing = max(0, k - items.shape[1])
        items = F.pad(items, (0, missing), value=PADDING)[:, :k].cpu().numpy()
        return items, F.pad(scores, (0, missing), value=-torch.inf)[:, :k].cpu().double().numpy()
