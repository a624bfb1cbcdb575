"""What RPG and ACERec share: digits of long semantic IDs in, all digits of the next item out."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from semid_lib.codes import ItemTokenizer, SemanticIds, item_codes
from semid_lib.compute.device import resolve_device, send
from semid_lib.compute.memory import keep_memory
from semid_lib.compute.products import Dropout, linear
from semid_lib.compute.scoring import holistic_scores, table_rows, top_items
from semid_lib.compute.ties import tie_order
from semid_lib.errors import CodesError, InputError
from semid_lib.evaluation import ranks_from_scores
from semid_lib.networks import INITIAL_STD
from semid_lib.recommenders._ids import IdsRecommender, first_unseen
from semid_lib.recommenders._sequence import SequenceRecommender, read_histories
from semid_lib.settings import check_settings, choice
from semid_lib.training import TrainSettings, like_lengths

_ROWS = {"cpu": (8, 32), "cuda": (256, 256)}  # sequences read together, at least and at most
_USERS = 1024  # whose histories are read, and scored, at once
_TARGETS = 4096  # with more, the heads' inner values are made again for the gradients


class Affine(nn.Linear):
    """`nn.Linear` whose product is `ops.linear`: twice as fast on AMD processors."""

    def forward(self, x):
        return linear(x, self.weight) + self.bias


class Block(nn.Module):
    """GPT-2's block: x <- x + W attention(LN x); x <- x + W2 gelu(W1 LN x) (Radford et al. 2019).

    The gelu is the tanh approximation; `dropout` falls on the attention weights alone, as in RPG.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.num_heads, self.rate = num_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = Affine(dim, dim), Affine(dim, 2 * dim)
        self.out, self.inner = Affine(dim, dim), Affine(dim, ffn_dim)
        self.outer = Affine(ffn_dim, dim)

    def forward(self, x, mask, read=None, keep=None):
        """Transform `x` `[B, S, D]`; with `read` `[Q]` only these places, at `keep` of them.

        `mask`: `[S, S]` bool, True where a row may look at a column. `keep`: rows and places `[P]`.
        """
        h = self.norm1(x)
        if read is not None:
            x, mask = x[:, read], mask[read]
        parts = self.query(h if read is None else h[:, read]), *self.key_value(h).chunk(2, -1)
        parts = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]
        rate = self.rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts, mask, rate).transpose(1, 2).flatten(2)
        if keep is not None:
            x, mixed = x[keep], mixed[keep]
        x = x + self.out(mixed)
        return x + self.outer(F.gelu(self.inner(self.norm2(x)), approximate="tanh"))


class ParallelNetwork(nn.Module):
    """Digits of the history in, the distribution of each digit of the next item out.

    Here an item is one vector, the mean of its digits' (RPG); a subclass may make it several.
    Head k turns the state h after an item into h^(k) = h + silu(W_k h + b_k), and
    p(c_k = v) = softmax_v(cos(h^(k), e_v^(k)) / temperature). Source: RPG (Hou et al. 2025).

    Args:
        settings: has `dim, num_layers, num_heads, ffn_dim, dropout, max_history, temperature,
            head_norm`.
        codes: `[N, m]` int64. num_codes: M of every digit.
    """

    width, intent = 1, False  # vectors an item; whether the last of them is the intent token

    def __init__(self, settings, codes: np.ndarray, num_codes: int):
        super().__init__()
        s, m = settings, codes.shape[1]
        if s.dim % s.num_heads:
            raise InputError(f"dim {s.dim} is not a multiple of num_heads {s.num_heads}")
        self.temperature, self.head_norm, self.num_codes = s.temperature, s.head_norm, num_codes
        self.register_buffer("rows", table_rows(codes, num_codes).int(), persistent=False)
        self.table = nn.Parameter(torch.empty(m * num_codes, s.dim))
        self.position = nn.Parameter(torch.empty(s.max_history, s.dim))
        self.dropout = Dropout(s.dropout)
        self.blocks = nn.ModuleList(
            Block(s.dim, s.num_heads, s.ffn_dim, s.dropout) for _ in range(s.num_layers)
        )
        self.norm = nn.LayerNorm(s.dim)
        self._add_parts(s, m)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                last = name.startswith("blocks") and ("out." in name or "outer." in name)
                nn.init.normal_(parameter, std=INITIAL_STD / (2 * s.num_layers) ** (0.5 * last))
        self.heads = nn.Parameter(torch.zeros(m, s.dim, s.dim))
        self.head_bias = nn.Parameter(torch.zeros(m, s.dim))

    def _add_parts(self, settings, digits):
        """Make what a subclass needs besides."""

    def vectors(self, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors `[U, S, D]` of items `[U]`, and their summaries `[U, D]` if there are any."""
        return F.embedding_bag(self.rows[items], self.table, mode="mean")[:, None], None

    def forward(self, vectors: Tensor, keep: Tensor) -> Tensor:
        """States h `[P, D]` after the steps that `keep` `[B, T]` bool marks.

        Args:
            vectors: `[B, T, S, D]` of T items in order, padded on the right. keep: best on the
            CPU, so that a GPU need not be waited for.
        """
        steps, width = vectors.shape[1:3]
        if steps > len(self.position):
            raise InputError(f"{steps} items, but the network was made for {len(self.position)}")
        x = self.dropout((vectors + self.position[:steps, None]).flatten(1, 2))
        mask = send(step_mask(steps, width, self.intent), x.device)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        read = torch.arange(steps * width, device=x.device).view(steps, width)[:, self._read]
        at = send(keep.repeat_interleave(read.shape[1], 1).nonzero(), x.device).unbind(1)
        x = self.norm(self.blocks[-1](x, mask, read.flatten(), at))
        return self._anchor(x.unflatten(0, (-1, read.shape[1])))

    _read = slice(-1, None)  # which of a step's outputs make the state

    def _anchor(self, x):
        """The state `[P, D]` from the outputs `[P, R, D]` that were read."""
        return x[:, 0]

    def digits(self, hidden: Tensor):
        """Yield, digit after digit, a function that makes its logits `[P, M]`."""
        if self.head_norm != "rpg":
            hidden = F.normalize(hidden, dim=-1)
        books = self.table.unflatten(0, (-1, self.num_codes)).unbind()
        for weight, bias, book in zip(self.heads.unbind(), self.head_bias.unbind(), books):
            yield partial(self._digit, hidden, weight, bias, book)

    def codes(self, items: Tensor) -> Tensor:
        """Codes `[P, m]` int64 of items `[P]`."""
        rows = self.rows[items].long()
        return rows - self.num_codes * torch.arange(rows.shape[1], device=rows.device)

    def _digit(self, hidden, weight, bias, book):
        state = hidden + F.silu(linear(hidden, weight) + bias)
        if self.head_norm != "paper":
            state, book = F.normalize(state, dim=-1), F.normalize(book, dim=-1)
        return linear(state, book) / self.temperature

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probability of every code of every digit, `[P, m, M]`."""
        return torch.stack([digit().log_softmax(-1) for digit in self.digits(hidden)], 1)

    def loss(self, hidden: Tensor, items: Tensor) -> Tensor:
        """Sum over the states of the digits' mean cross-entropy (ACERec, Eq. 4), in nats."""
        wanted, total = self.codes(items), 0.0
        for k, digit in enumerate(self.digits(hidden)):
            total = total + _cross_entropy(digit, wanted[:, k], len(hidden) > _TARGETS)
        return total / wanted.shape[1]


def _cross_entropy(logits, wanted, again):
    def summed():
        return F.cross_entropy(logits(), wanted, reduction="sum")

    return recomputed(summed, use_reentrant=False) if again else summed()


def step_mask(steps: int, width: int, intent: bool) -> Tensor:
    """Who may look at whom in a sequence of `steps` blocks of `width` tokens, `[S, S]` bool.

    A token sees all tokens of earlier steps and those of its own step; but the intent token of
    its own step, the last of the block, is seen by itself alone (ACERec 2.3.1).
    """
    place = torch.arange(steps * width)
    step, last = place // width, (place % width == width - 1) & intent
    own = (step[:, None] == step) & (~last | (place[:, None] == place))
    return (step < step[:, None]) | own


def _parts(values):
    """Cut a list or array into parts of `_USERS`."""
    return [values[at : at + _USERS] for at in range(0, len(values), _USERS)]


class ParallelRecommender(IdsRecommender):
    """Trains a `ParallelNetwork` and ranks by holistic scores.

    A subclass stores the settings and implements `_network(codes, num_codes)`.
    """

    unique_ids = False  # items of equal codes tie
    limits = {
        "head_norm": choice("rpg", "paper", "both"),
        "long_histories": choice("rows", "windows", "last"),
    }  # fmt: skip

    def fit(self, split, sids=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the train part of `split`; keep the epoch of the best validation NDCG@10.

        Args:
            split: its train part, and the validation targets to choose the epoch.
            sids: the `ItemTokenizer` of all N items, each digit with as many codes.
            checkpoint, deadline, progress: see `training.train`.

        Raises:
            InputError: no `sids`, or settings out of range.
            CodesError: `sids` of another catalogue, or digits of different sizes.
            TrainingPaused: the deadline came; fit again with the same checkpoint to go on.
        """
        self._check_ids(split, sids)
        self._build(sids)
        self.remember(split)
        items, device = torch.as_tensor(split.items), self.network_.position.device
        oldest = split.items[split.indptr[:-1][np.diff(split.indptr) > 0]]  # never a target
        counts = split.train_counts() - np.bincount(oldest, minlength=split.num_items)
        counts = torch.as_tensor(counts, device=device)
        start, end, first = self._sequences(split)
        rows = torch.as_tensor(np.stack([start, end, first]))
        per_row = float((end - first).mean()) if len(start) else 1.0
        self.history_ = self._train(
            split, sids,
            lambda _, batch: self._loss(items, rows[:, batch], counts) / (len(batch) * per_row),
            len(start), TrainSettings.of(self, monitor="ndcg@10"),
            lengths=end - start, alike=False,
            validate=(lambda: self.metrics(split)) if len(split.users) else None,
            checkpoint=checkpoint, deadline=deadline, progress=progress,
        )  # fmt: skip
        return self

    def _build(self, sids):
        """Check the settings; make the network with random weights."""
        check_settings(self)
        sizes = sids.vocabulary.level_sizes
        if len(set(sizes)) > 1:
            raise CodesError(f"the digits have {sorted(set(sizes))} codes, but must have as many")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            network = self._network(item_codes(sids), sizes[0])
            self.network_ = network.to(resolve_device(self.device))
        self._use(sids)

    def _use(self, sids: ItemTokenizer):
        """Look codes up in this tokenizer from now on."""
        self.sids_ = sids
        network = self.network_
        rows = table_rows(item_codes(sids), network.num_codes).int()
        network.rows = rows.to(network.position.device)
        # `top_items` takes the first of equal scores, so these stand in the order of all lists.
        self._order = tie_order(sids.num_items)
        self._mixed = network.rows[torch.as_tensor(self._order)]

    def _sequences(self, split):
        """`(start, end, first)` of samples: inputs `items[start:end]`, losses from `first` on.

        A user's first `max_history` inputs are one sample with a loss at every step; each later
        target has a sample of its own (RPG), or they are cut as SASRec's are.
        """
        if self.long_histories != "rows":
            start, end = SequenceRecommender._sequences(self, split)
            return start, end, start
        first, last = split.indptr[:-1], split.indptr[1:] - 1
        count = np.where(last > first, 1 + np.maximum(last - first - self.max_history, 0), 0)
        user = np.repeat(np.arange(len(first)), count)
        later = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        end = np.minimum(first + self.max_history, last)[user] + later
        start = np.maximum(first[user], end - self.max_history)
        return start, end, np.where(later == 0, start, end - 1)

    def _loss(self, items, rows, counts):
        """Loss of a batch of samples `rows` `[3, b]` of the CPU, summed over its targets.

        `counts` `[N]`: how often each item is a target, where the network is. Rows of like length
        are put together, so that little is padded; which sample stands where changes nothing.
        """
        rows = rows[:, torch.argsort(rows[1] - rows[0], stable=True)]
        hidden, known, wanted, summaries = self._states(items, *rows, targets=1)
        return self._objective(hidden, known, wanted, summaries, counts)

    def _objective(self, hidden, known, wanted, summaries, counts):
        """Loss of states `[P, D]` whose targets are `known[wanted]`; summaries are of `known`.

        `known` and `wanted` are on the CPU.
        """
        return self.network_.loss(hidden, send(known[wanted], hidden.device))

    def _states(self, items, start, end, first, targets=0):
        """States after the steps first..end-1 of sequences `items[start:end]`.

        Sequences, shorter ones first, go through the network in groups, cut to their longest. With
        `targets=1` the items that follow are looked up too. Sequences are on the CPU, where
        distinct items are found without waiting for a GPU.

        Returns:
            States `[P, D]`, the batch's distinct items, which of them follow each state `[P]`, and
            their summaries.
        """
        device = self.network_.position.device
        lengths = (end - start).numpy()
        longest = int(lengths.max())
        place = start[:, None] + torch.arange(longest + targets)
        read = items[torch.minimum(place, end[:, None] - 1 + targets)]
        known, at = torch.unique(read, return_inverse=True)
        vectors, summaries = self.network_.vectors(send(known, device))
        keep, hidden = (place >= first[:, None]) & (place < end[:, None]), []
        for group in like_lengths(lengths, *_ROWS.get(device.type, (8, 32))):
            rows, steps = torch.from_numpy(group), int(lengths[group].max())
            block = send(at[rows, :steps], device)
            hidden.append(self.network_(vectors[block], keep[rows, :steps]))
        return torch.cat(hidden), known, at[:, targets:][keep[:, :longest]], summaries

    @torch.no_grad()
    def log_probs(self, histories) -> Tensor:
        """Log-probabilities of the next item's digits, `[B, m, M]`; histories of item indices."""
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        self.network_.eval()
        keep_memory()

        def read(items, start, end):
            return self.network_.log_probs(self._states(items, start, end, end - 1)[0])

        return read_histories(read, histories, self.max_history, "cpu")

    def scores(self, histories):
        def score(part):
            return holistic_scores(self.log_probs(part), self.network_.rows).cpu().numpy()

        return np.concatenate([score(part) for part in _parts(histories)])

    def generate(self, histories, k, exclude_history):
        seen = [np.unique(h) if exclude_history else [] for h in histories]
        most = min(k + max(map(len, seen)), self.num_items_)
        found = [self._best(part, most) for part in _parts(histories)]
        items, scores = (np.concatenate(arrays) for arrays in zip(*found))
        return first_unseen(items, scores, seen, k)

    def _best(self, histories, k):
        """The k best items and their scores, `[B, k]` each."""
        places, scores = top_items(self.log_probs(histories), self._mixed, k)
        return self._order[places.cpu().numpy()], scores.cpu().double().numpy()

    def metrics(self, split) -> dict[str, float]:
        """Recall@10 and NDCG@10 on the validation part, by exact scores whatever the decoding."""
        parts = zip(_parts(split.histories("validation")), _parts(split.targets["validation"]))
        found = [ranks_from_scores(ParallelRecommender.scores(self, h), t) for h, t in parts]
        gains = {m: [getattr(ranks, m)(10) for ranks in found] for m in ("recall", "ndcg")}
        return {f"{m}@10": float(np.concatenate(values).mean()) for m, values in gains.items()}

    def state(self):
        net, size = self.network_, self.network_.num_codes
        codes = net.codes(torch.arange(self.num_items_, device=net.rows.device))
        return {**net.state_dict(), "codes": codes, "num_codes": torch.tensor(size)}

    def restore(self, tensors):
        codes = tensors.pop("codes").numpy()
        sizes = [int(tensors.pop("num_codes"))] * codes.shape[1]
        self._build(SemanticIds(codes, sizes))
        self.network_.to(tensors["position"].dtype).load_state_dict(tensors)
        self.network_.eval()
