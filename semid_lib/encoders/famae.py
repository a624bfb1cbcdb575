"""FAMAE: item embeddings learnt by predicting masked fields of a user's next item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from torch import Tensor

from semid_lib.compute.device import resolve_device, send
from semid_lib.encoders.probes import Probes
from semid_lib.errors import InputError, NotFittedError
from semid_lib.networks import (
    SequenceNetwork,
    chunked_cross_entropy,
    item_fields,
    left_padded,
    sampled_cross_entropy,
)
from semid_lib.settings import (
    NONE,
    POSITIVE,
    WEIGHTS,
    check_settings,
    choice,
    keep_settings,
    several,
    whole,
)
from semid_lib.storage import load_tensors, restoring, save_tensors
from semid_lib.training import TrainSettings, train

FULL_SOFTMAX_UP_TO = 4096


class FAMAE(Probes, BaseEstimator):
    """Field-aware masked auto-encoding (ReSID section 3.1), the E-stage of ReSID.

    The user's history and the target item stand in one sequence, the target last. Each token is
    x_t = p_t + sum_j E_j[f_t^j]; K ~ U{1..J} fields of the target, a uniform subset, are
    replaced by mask tokens m_j, and a bidirectional transformer's output h at the target
    predicts them: q_k(v | h) = softmax_v(s cos(h, E_k[v])), s = sqrt(D). The loss is the sum over
    the masked fields of -alpha_k log q_k(f_k | h), averaged over the samples. One sample for each
    item of the train part that has one before it. Field 0, "item", is the item id.

    Args:
        dim, num_layers, num_heads, ffn_dim, dropout: the encoder; `dim` is also D of each field.
        max_length: history and target together.
        field_names: the side fields; None for all of `split.data.fields`.
        field_weights: name -> alpha_k; 1 where not named.
        scale: the cosine's factor s; None for sqrt(dim).
        item_loss: softmax of the item id: "full", "sampled", or "auto" (full up to 4,096
            values, as for every other field; else `num_negatives` uniform ones).
        masking: "last" (the paper's: the target only), or "random" (the baseline of ReSID Fig. 7:
            each position with probability `mask_ratio`, with the same choice of fields).
        normalize: `embed` as it is ("none"), each field's part, or the whole, to unit length.
        patience: epochs without gain in the geometric mean of Metrics 1 and 2 (validation
            Recall@10) before training stops, but no fewer than make `patience_steps` steps.
        snapshot_steps: optimiser steps after which the weights are kept, see `at_step`.
        snapshot_epochs: the same in epochs, parts of one too, at least a step: 0.25, 1, 3. Those
            that training does not reach are not kept.
        epochs, batch_size, learning_rate, weight_decay, samples_per_epoch, precision, device,
            random_state: see `training.TrainSettings`.

    Attributes:
        history_: `training.History`; each epoch holds both metrics on the validation targets.
        field_names_: the J fields, "item" first.

    Deviates: what the paper leaves open: alpha_k = 1; both metrics decide when to stop; samples of
        like length share a batch, each with one target of the same weight; positions count from
        the target backwards; a missing field has its own input row, is masked like the others and
        has no loss; tables start at N(0, 0.02); post-layer-norm with one on the input.

    Cost: O(B T D (J + layers (T + D + ffn_dim))) a step plus O(B D sum_k |V_k|) for the softmax.

    Example:
        >>> vectors = FAMAE(dim=64, epochs=5).fit(split).embed()  # doctest: +SKIP
    """

    limits = {
        "max_length": whole(2, 10**6), "field_weights": WEIGHTS, "scale": POSITIVE | NONE,
        "item_loss": choice("auto", "full", "sampled"), "masking": choice("last", "random"),
        "normalize": choice("none", "per_field_l2", "global_l2"),
        "snapshot_steps": several(whole()), "snapshot_epochs": several(POSITIVE),
    }  # fmt: skip

    def __init__(
        self, dim=128, num_layers=2, num_heads=4, ffn_dim=512, dropout=0.1, max_length=32,
        field_names=None, field_weights=None, scale=None, item_loss="auto", num_negatives=128,
        masking="last", mask_ratio=0.2, normalize="none", learning_rate=1e-3, weight_decay=1e-5,
        batch_size=2048, epochs=500, patience=3,
        patience_steps=0, samples_per_epoch=None, snapshot_steps=(),
        snapshot_epochs=(), device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def fit(self, split, *, checkpoint=None, deadline=None, progress=None) -> FAMAE:
        """Train on the train part of `split`; validation targets choose the epoch.

        Args:
            checkpoint: file to resume from and write to. deadline, progress: see `training.train`.

        Raises:
            InputError: an unknown setting or field, a field that no item has, no sample, a loss
            that is not finite. TrainingPaused, CheckpointError: see `training.train`.
        """
        check_settings(self)
        device = resolve_device(self.device)
        names, sizes, codes = item_fields(split.data, self.field_names)
        self._build(names, sizes, codes, device)
        here = self._samples(split, "train", "cpu")
        samples = [tensor.to(device) for tensor in here]
        lengths = (here[2] - here[1]).numpy()
        elsewhere = ("device", "normalize", "snapshot_epochs")  # the last stands in the steps
        identity = {k: v for k, v in self.get_params().items() if k not in elsewhere}
        settings = TrainSettings.of(
            self, monitor="both_metrics", snapshot_steps=self._snapshots(len(lengths))
        )
        self.history_ = train(
            self.network_, lambda rows, known: self._loss(samples, rows, here, known),
            len(lengths), settings, lengths=lengths,
            validate=(lambda: self.metrics(split)) if len(split.users) else None,
            checkpoint=checkpoint, deadline=deadline, progress=progress,
            label=type(self).__name__, identity={**identity, "data": split.data.sha256},
        )  # fmt: skip
        return self

    def _snapshots(self, num_samples: int) -> tuple[int, ...]:
        """The steps after which the weights are kept."""
        per_epoch = -(-min(num_samples, self.samples_per_epoch or num_samples) // self.batch_size)
        steps = (max(round(share * per_epoch), 1) for share in self.snapshot_epochs)
        return tuple(sorted({*self.snapshot_steps, *steps}))

    def _build(self, names, sizes, codes, device):
        unknown = set(self.field_weights or ()) - set(names)
        if unknown:
            raise InputError(f"field_weights names {min(unknown)!r}, but the fields are {names}")
        self.field_names_, self._device = names, device
        self._absent = torch.as_tensor(codes < 0)
        self._weights = [float((self.field_weights or {}).get(n, 1.0)) for n in names]
        torch.manual_seed(self.random_state)
        network = SequenceNetwork(self, sizes, codes, self.max_length, causal=False)
        self.network_ = network.to(device)

    def _samples(self, split, part, device=None) -> tuple[Tensor, Tensor, Tensor]:
        """`(items, start, target)`: sample s is `items[start[s] : target[s] + 1]`, target last."""
        if part == "train":
            arrays = (split.items, *split.windows(self.max_length - 1))
        else:
            histories = [h[1 - self.max_length :] for h in split.histories(part)]
            if not histories:
                raise InputError("nobody to evaluate on: no user has 3 interactions")
            ends = np.cumsum([len(h) + 1 for h in histories])
            rows = [np.append(h, t) for h, t in zip(histories, split.targets[part])]
            arrays = (np.concatenate(rows), np.append(0, ends[:-1]), ends - 1)
        return tuple(torch.as_tensor(a, device=device or self._device) for a in arrays)

    def _gather(self, samples, rows, longest=None):
        """Items `[B, T]` of some samples, left-padded to the longest, and `valid` `[B, T]`."""
        return left_padded(samples[0], samples[1][rows], samples[2][rows], longest)

    def _choose_fields(self, absent: Tensor) -> Tensor:
        """Draw M for `absent` `[n, J]` bool: K ~ U{1..J}, then a uniform K-subset of all fields.

        Those that a target lacks are masked like the others, though nothing is asked of them: so
        what is masked does not tell what a target has, here or where a metric masks every field.
        """
        fields, here = absent.shape[1], absent.device
        count = 1 + (torch.rand(len(absent), 1, device=here) * fields).long()
        lot = torch.rand(absent.shape, device=here)
        return lot.argsort(1).argsort(1) < count.clamp(max=fields)

    def _hidden(self, items, valid, chosen=None, masked=None) -> Tensor:
        """Run the encoder; `masked` `[n, J]` at places `chosen` (default: the targets)."""
        table = self.network_.table
        tokens = table.tokens[items]
        if chosen is None:
            tokens[:, -1] = torch.where(masked, table.masked, tokens[:, -1])
            chosen = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
        else:
            tokens[chosen] = torch.where(masked, table.masked, tokens[chosen])
        return self.network_(tokens, valid, chosen)

    def _loss(self, samples, rows, here=None, known=None) -> Tensor:
        """Mean over the samples of the summed losses of the masked fields.

        What is masked is drawn on the CPU, from the samples `here` with the rows `known`, so that
        a GPU is not waited for.
        """
        seen, real = self._gather(*((samples, rows) if here is None else (here, known)))
        items, valid = self._gather(samples, rows, seen.shape[1] - 1)
        table, at, asked, wanted = self.network_.table, None, seen[:, -1], items[:, -1]
        if self.masking == "random":
            chosen = real & (torch.rand(real.shape) < self.mask_ratio)
            chosen[:, -1] |= ~chosen.any(1)
            at = send(chosen.nonzero(), items.device).unbind(1)
            asked, wanted = seen[chosen], items[at]
        drawn = self._choose_fields(self._absent[asked])
        h = self._hidden(items, valid, at, send(drawn, items.device))
        drawn = drawn & ~self._absent[asked]
        h = self._scale * F.normalize(h, dim=-1)
        every, total = send(drawn.T.nonzero()[:, 1], items.device), 0.0
        parts = zip(table.values(), every.split(drawn.sum(0).tolist()))
        for k, (values, rows) in enumerate(parts):
            total = total + self._weights[k] * self._field_loss(
                k, h[rows], values, table.codes[wanted[rows], k]
            )
        return total / len(wanted)

    def _field_loss(self, k, h, values, codes) -> Tensor:
        full = len(values) <= FULL_SOFTMAX_UP_TO
        if k == 0 and self.item_loss != "auto":
            full = self.item_loss == "full"
        if full:
            return chunked_cross_entropy(h, F.normalize(values, dim=-1), codes)
        return sampled_cross_entropy(h, values, codes, self.num_negatives, cosine=True)

    @property
    def _scale(self) -> float:
        return self.dim**0.5 if self.scale is None else self.scale

    @property
    def _net(self) -> SequenceNetwork:
        if not hasattr(self, "network_"):
            raise NotFittedError("FAMAE is not fitted: call fit(split) first")
        return self.network_

    @torch.no_grad()
    def _encode(self, samples, fields: Sequence[int], size: int = 1024) -> Tensor:
        """Unit vectors h `[E, D]` of all samples with the given fields of the target masked."""
        self._net.eval()
        masked = torch.zeros(len(self.field_names_), dtype=torch.bool, device=self._device)
        masked[list(fields)] = True
        order = torch.argsort(samples[2] - samples[1], stable=True)
        parts = [self._hidden(*self._gather(samples, r), None, masked) for r in order.split(size)]
        out = torch.empty(len(order), self.dim, dtype=parts[0].dtype, device=self._device)
        out[order] = F.normalize(torch.cat(parts), dim=-1)
        return out

    @torch.no_grad()
    def embed(self) -> np.ndarray:
        """Return the items' vectors z_i = concat_k E_k[f_i^k], float32 `[N, J dim]`.

        A missing field gives the embedding of "missing". See `normalize`.
        """
        table = self._net.table
        rows = table.weight.detach()[table.tokens]
        if self.normalize == "per_field_l2":
            rows = F.normalize(rows, dim=-1)
        vectors = rows.flatten(1)
        if self.normalize == "global_l2":
            vectors = F.normalize(vectors, dim=-1)
        return vectors.float().cpu().numpy()

    def field_embedding(self, name: str) -> np.ndarray:
        """Return E_k of one field ("item" for the item id), float32 `[|V_k|, dim]`."""
        values = self._net.table.values()
        if name not in self.field_names_:
            raise InputError(f"no field {name!r}; the fields are {self.field_names_}")
        return values[self.field_names_.index(name)].detach().float().cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """Write settings, fields and weights into one safetensors file, atomically."""
        table = self._net.table
        meta = {"kind": "FAMAE", "params": self.get_params()}
        meta |= {"fields": self.field_names_, "sizes": table.sizes}
        return save_tensors(path, {**self.network_.state_dict(), "codes": table.codes}, meta)

    @classmethod
    def load(cls, path: str | Path) -> FAMAE:
        """Read what `save` wrote. Raises CheckpointError for another model's or a cut file."""
        tensors, meta = load_tensors(path, "FAMAE")
        with restoring(path, "FAMAE"):
            params = meta["params"].items()
            self = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in params})
            check_settings(self)
            device = resolve_device(self.device)
            codes = tensors.pop("codes").numpy()
            self._build(tuple(meta["fields"]), tuple(meta["sizes"]), codes, device)
            self.network_.to(tensors["position"].dtype).load_state_dict(tensors)
        self.network_.eval()
        return self
