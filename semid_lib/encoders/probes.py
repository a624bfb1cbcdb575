"""What a trained FAMAE knows: Metrics 1 and 2, the loss of each field, its attention."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F

from semid_lib.errors import InputError
from semid_lib.networks import chunked_cross_entropy, target_ranks


class Probes:
    """The measurements of `FAMAE`, kept apart from its training."""

    @torch.no_grad()
    def metrics(self, split, part="validation", metric1_mode="item") -> dict[str, float]:
        """Compute Metrics 1 and 2 of ReSID section 3.2: Recall@10 and NDCG@10 of the target item.

        Metric 1 masks every field of the target, Metric 2 only the item id; both score all N
        items by cos(h, E_item[i]). Equal scores get the expected rank.

        Args:
            part: "validation" or "test". metric1_mode: "item", or "all_fields" to score Metric 1
                by the sum over the item's fields of cos(h, E_k[f_i^k]) (missing ones left out).

        Returns:
            "metric1_recall@10", "metric1_ndcg@10", "metric2_recall@10", "metric2_ndcg@10", and
            "both_metrics", the geometric mean of the two Recalls, by which `fit` chooses the epoch.
        """
        if metric1_mode not in ("item", "all_fields"):
            raise InputError(f"metric1_mode is {metric1_mode!r}, not 'item' or 'all_fields'")
        table = self._net.table
        items = every = F.normalize(table.values()[0], dim=-1)
        if metric1_mode == "all_fields":
            rows = F.normalize(table.weight, dim=-1)[table.tokens]
            every = rows.masked_fill(table.absent[..., None], 0.0).sum(1)
        samples, found = self._samples(split, part), {}
        targets = samples[0][samples[2]]
        everything = range(len(self.field_names_))
        for name, masked, scored in (("metric1", everything, every), ("metric2", (0,), items)):
            ranks = target_ranks(self._encode(samples, masked), scored, targets)
            found[f"{name}_recall@10"] = float(ranks.recall(10).mean())
            found[f"{name}_ndcg@10"] = float(ranks.ndcg(10).mean())
        found["both_metrics"] = (found["metric1_recall@10"] * found["metric2_recall@10"]) ** 0.5
        return found

    @torch.no_grad()
    def loss_per_field(self, split, part="validation", seed=0) -> dict[str, dict[str, float]]:
        """Evaluate the loss with the full softmax, without dropout (for ReSID Prop. 3.1).

        Returns:
            field -> `loss` (L_k: mean of -log q_k in nats over the samples that have and mask
            k), `entropy` (plug-in H of the target's value over those samples, nats), `weight`
            (alpha_k times the share of these samples). The FAMAE loss is their sum of
            weight x loss.
        """
        self._net.eval()
        torch.manual_seed(seed)
        samples, table = self._samples(split, part), self.network_.table
        targets = samples[0][samples[2]]
        masked = self._choose_fields(table.absent[targets])
        asked = masked & ~table.absent[targets]
        losses = torch.zeros(len(self.field_names_), dtype=torch.float64, device=self._device)
        values = [F.normalize(v, dim=-1) for v in table.values()]
        for rows in torch.arange(len(targets), device=self._device).split(1024):
            h = self._hidden(*self._gather(samples, rows), None, masked[rows])
            h = self._scale * F.normalize(h, dim=-1)
            for k, m in enumerate(asked[rows].T):
                losses[k] += chunked_cross_entropy(
                    h[m], values[k], table.codes[targets[rows][m], k]
                )
        found = {}
        for k, name in enumerate(self.field_names_):
            counts = torch.bincount(table.codes[targets[asked[:, k]], k]).double()
            share = counts[counts > 0] / counts.sum()
            found[name] = {
                "loss": float(losses[k] / counts.sum()),
                "entropy": float(-(share * share.log()).sum()),
                "weight": self._weights[k] * float(counts.sum()) / len(targets),
            }
        return found

    @torch.no_grad()
    def attention_profile(self, split, part="validation", num=1000, min_history=1) -> np.ndarray:
        """Average the attention of the target's row, all its fields masked (ReSID Fig. 7).

        Args:
            num: at most so many samples, the first ones. min_history: leave out shorter histories.

        Returns:
            `[layers, max_length]` float64: mean over heads and samples of the weight at distance
            0 (the target itself), 1, 2, ..., over samples that reach so far; NaN where none does.
        """
        self._net.eval()
        samples = self._samples(split, part)
        rows = ((samples[2] - samples[1]) >= min_history).nonzero()[:num, 0]
        total = torch.zeros(self.num_layers, self.max_length, dtype=torch.float64)
        reached = torch.zeros(self.max_length)
        for some in rows.split(256) if len(rows) else ():
            items, valid = self._gather(samples, some)
            tokens = self.network_.table.tokens[items]
            tokens[:, -1] = self.network_.table.masked
            layers = self.network_.encoder.attention(self.network_.place(tokens), valid)
            weights = torch.stack([w[:, :, -1].mean(1).sum(0).flip(0) for w in layers])
            total[:, : weights.shape[1]] += weights.double().cpu()
            reached[: weights.shape[1]] += valid.sum(0).flip(0).cpu()
        return (total / reached).numpy()

    def at_step(self, step: int):
        """Return a copy with the weights kept after `step`, one of `snapshot_steps`."""
        self._net  # noqa: B018 - raises when not fitted
        kept = self.history_.snapshots
        if step not in kept:
            raise InputError(f"no snapshot of step {step}; there are {sorted(kept)}")
        other = copy.copy(self)
        other.network_ = copy.deepcopy(self.network_)
        other.network_.load_state_dict(kept[step])
        return other
