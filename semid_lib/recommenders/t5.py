"""T5Recommender: writes the next item's semantic ID, given those of the history (SPEC 14)."""

from __future__ import annotations

import numpy as np
import torch

from semid_lib.codes import ItemTokenizer, SemanticIds, item_codes
from semid_lib.compute.device import resolve_device
from semid_lib.compute.distributed import all_gather, rank, world_size
from semid_lib.compute.memory import keep_memory
from semid_lib.errors import InputError
from semid_lib.evaluation import ranks_from_lists
from semid_lib.networks import T5, Decoding
from semid_lib.recommenders._ids import IdsRecommender, first_unseen
from semid_lib.recommenders.base import PADDING
from semid_lib.recommenders.decoding.beam import beam_search
from semid_lib.settings import FLAG, NONE, SIZE, check_settings, choice, keep_settings, whole
from semid_lib.training import TrainSettings

_USERS_AT_ONCE = {"cpu": 64, "cuda": 512}
_SAMPLES_AT_ONCE = {"cpu": 256}  # 2,048 samples of 32 items would hold 25 GB of activations


class T5Recommender(IdsRecommender):
    """Generate the next item code by code with a small T5, restricted to IDs that exist.

    p(item | history) = prod_l p(c_l | history, c_0..c_{l-1}), each factor a softmax over the
    codes of level l; trained by the mean cross-entropy of the L codes with teacher forcing, on
    one sample per (user, target t >= 2) of the train part; decoded by constrained beam search.
    Source: TIGER (Rajput et al. 2023), in the setting of ReSID 4.1, whose values are the defaults.

    Args:
        dim, num_layers, num_heads, head_dim, ffn_dim, dropout: see `T5`; layers of each stack.
        learning_rate, weight_decay: of AdamW; the rate falls to 0 along a cosine.
        warmup: share of the steps in which the rate rises. clip: largest gradient norm.
        epochs, batch_size: at most so many epochs, of batches of so many samples.
        max_history: items of the history that count, the newest.
        num_beams: prefixes kept at each level, and the longest list that can be recommended. To
            leave out the history, each user's search is wider by the number of its items.
        search: "constrained" to IDs that exist, or "free": among all tuples, and those that no
            item has are dropped from the list.
        end_token: close each history with an end token, which marks the newest item.
        patience: epochs without a better validation NDCG@10 before the training stops.
        samples_per_epoch: draw only so many samples each epoch.
        validate_users: so many users, drawn by the seed, are asked after each epoch; None: all;
            0: none, then the last epoch's weights are kept.
        device: "auto", "cpu", "cuda", "cuda:N". precision: "float32", "float64", "bfloat16",
            "float16" (the last two for the steps of the training alone) or "auto".
        random_state: seed of the weights, the batches and the dropout.

    Attributes:
        sids_: the `ItemTokenizer` given to `fit` or `renew`. network_: the fitted `T5`.
        history_: `training.History`; its epochs hold `ndcg@10` and `recall@10` of the validation.

    Raises:
        InputError: settings out of range. CodesError: see `fit`.

    Deviates: a 1 % warm-up and clipping at norm 1, which ReSID does not state (SPEC 14). No
    user tokens (TIGER's 2,000 hashed users; ReSID is silent), because `recommend` knows no users.
    The end token closes histories as in RecBole3's TIGER, but is not generated: IDs have L codes.

    Cost: O(T L (D^2 + T L D)) per sample and layer, T items in the history. A CPU takes a batch in
    pieces of 256, as fast as whole, and in float32 and bfloat16 computes no padding and fuses its
    passes (`t5_fused`, which needs a C++ compiler; 25 s of compiling once a machine): at ReSID's
    setting 1.6 times the samples a second in float32, twice in bfloat16 with AMX, of which 40 % is
    matrix products. Beam search: 360 users a second.

    Example:
        >>> model = T5Recommender(epochs=20).fit(split, sids)    # doctest: +SKIP
        >>> model.recommend([[3, 14, 15]], k=5)                  # doctest: +SKIP
    """

    scores_all_items = False
    limits = {
        "num_beams": SIZE, "search": choice("constrained", "free"), "end_token": FLAG,
        "validate_users": whole(0) | NONE,
    }  # fmt: skip

    def __init__(
        self, dim=128, num_layers=4, num_heads=4, head_dim=32, ffn_dim=512, dropout=0.1,
        learning_rate=5e-3, weight_decay=1e-5, warmup=0.01, clip=1.0, epochs=500, batch_size=2048,
        max_history=32, num_beams=50, search="constrained", end_token=True, patience=20,
        samples_per_epoch=None, validate_users=None, device="auto", precision="float32",
        random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def fit(self, split, sids=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the train part of `split`; keep the epoch of the best validation NDCG@10.

        Args:
            split: only its train part, and the validation targets to choose the epoch.
            sids: the `ItemTokenizer` of all N items.
            checkpoint, deadline, progress: see `training.train`.

        Raises:
            InputError: no `sids`, or settings out of range.
            CodesError: `sids` of another catalogue.
            TrainingPaused: the deadline came; fit again with the same checkpoint to go on.
        """
        self._check_ids(split, sids)
        check_settings(self)
        self.remember(split)
        device = resolve_device(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self._build(sids, device)
        items = torch.as_tensor(split.items, device=device)
        windows = split.windows(self.max_history)
        start, target = (torch.as_tensor(rows, device=device) for rows in windows)
        steps, lengths = torch.arange(self.max_history, device=device), windows[1] - windows[0]

        def loss(samples, known):
            begin, end = start[samples, None], target[samples, None]
            here = lengths[known]
            row = begin + steps[: here.max()]
            item = items[row.clamp(max=len(items) - 1)].masked_fill_(row >= end, PADDING)
            asked, full = self.sids_.targets(items[end[:, 0]]), None
            if self.sids_.tokens_per_item is not None:
                full = bool(here.min() == here.max())
            return self.network_.loss(self._history(item), asked, full=full)

        validate = self._validation(split)
        settings = TrainSettings.of(
            self, at_once=_SAMPLES_AT_ONCE.get(torch.device(device).type),
            monitor="ndcg@10" if validate else "", patience=self.patience if validate else None,
        )  # fmt: skip
        self.history_ = self._train(
            split, sids, loss, len(target), settings, lengths=lengths, validate=validate,
            checkpoint=checkpoint, deadline=deadline, progress=progress,
        )  # fmt: skip
        return self

    def _build(self, sids, device, dtype=torch.float32):
        """Make the network (random weights)."""
        self._use(sids)
        self.network_ = T5(
            sids.vocabulary.level_sizes, dim=self.dim, num_layers=self.num_layers,
            num_heads=self.num_heads, head_dim=self.head_dim, ffn_dim=self.ffn_dim,
            dropout=self.dropout,
        ).to(device, dtype)  # fmt: skip

    def _use(self, sids: ItemTokenizer):
        """Read and write by this tokenizer from now on."""
        self.sids_ = sids

    def _history(self, items):
        """Tokens `[B, S]` of items `[B, T]` (padding behind the newest), closed by the end."""
        tokens = self.sids_.encode(items)
        if not self.end_token:
            return tokens
        length = (tokens != 0).sum(1, keepdim=True)
        tokens = torch.nn.functional.pad(tokens, (0, 1))
        return tokens.scatter_(1, length, self.network_.end)

    def _validation(self, split):
        """Return a function that measures the network on the validation users, or None."""
        users = np.arange(len(split.users))
        if self.validate_users is not None and self.validate_users < len(users):
            rng = np.random.default_rng(self.random_state)
            users = np.sort(rng.choice(users, self.validate_users, replace=False))
        if len(users) == 0:
            return None
        users = np.array_split(users, world_size())[rank()]
        everyone = split.histories("validation")
        histories, targets = [everyone[u] for u in users], split.targets["validation"][users]
        longest = min(self.num_beams, self.num_items_)

        def validate():
            items, scores = self.generate(histories, longest, False)
            ranks = ranks_from_lists(items, targets, scores)
            found = all_gather({f"{m}@10": getattr(ranks, m)(10) for m in ("ndcg", "recall")})
            return {m: float(np.concatenate([f[m] for f in found]).mean()) for m in found[0]}

        return validate

    @torch.no_grad()
    def generate(self, histories, k, exclude_history):
        """Beam search; with `exclude_history` one beam more for each item that is taken out."""
        if k > self.num_beams:
            raise InputError(
                f"k is {k}, but the search keeps {self.num_beams} beams and can return no more "
                "items: set num_beams (also after fit) to k or more"
            )
        self.network_.eval()
        keep_memory()
        items = np.full((len(histories), k), PADDING)
        scores = np.full((len(histories), k), -np.inf)
        recent = [history[-self.max_history :] for history in histories]
        known = [len(np.unique(history)) if exclude_history else 0 for history in histories]
        beams = self.num_beams + np.array(known, dtype=np.int64)
        order = np.lexsort(([len(history) for history in recent], beams))
        size = _USERS_AT_ONCE.get(self.network_.embedding.weight.device.type, 512)
        groups = np.split(order, np.flatnonzero(np.diff(beams[order])) + 1)  # equal beams
        blocks = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
        for rows in blocks:
            found, value = self._search([recent[row] for row in rows], int(beams[rows[0]]))
            seen = [histories[row] if exclude_history else [] for row in rows]
            found, value = first_unseen(found, value, seen, k)
            items[rows, : found.shape[1]], scores[rows, : found.shape[1]] = found, value
        return items, scores

    def _search(self, histories, beams):
        """Items and scores, `[B, W C]`, of the best W IDs (C: most items of one ID)."""
        length = np.array([len(history) for history in histories])[:, None]
        block = np.full((len(histories), length.max()), PADDING)
        block[np.arange(length.max()) < length] = np.concatenate(histories)
        block = torch.as_tensor(block, device=self.network_.embedding.weight.device)
        memory, padding = self.network_.encode(self._history(block))
        decoder = Decoding(self.network_, memory, padding)
        free = self.search == "free"
        leaves, score = beam_search(decoder, self.sids_.trie, beams, free=free)
        item = self.sids_.items(leaves)
        live = (item != PADDING) & (score[:, :, None] > -torch.inf)
        value = score[:, :, None].expand(item.shape).masked_fill(~live, -torch.inf)
        item = item.masked_fill(~live, PADDING)
        return item.flatten(1).cpu().numpy(), value.flatten(1).cpu().numpy()

    def state(self):
        weights = {f"network.{n}": t for n, t in self.network_.state_dict().items()}
        codes = torch.from_numpy(item_codes(self.sids_))
        sizes = torch.tensor(self.sids_.vocabulary.level_sizes)
        return {**weights, "codes": codes, "level_sizes": sizes}

    def restore(self, tensors):
        sids = SemanticIds(tensors["codes"].numpy(), tensors["level_sizes"].tolist())
        state = {n[8:]: t for n, t in tensors.items() if n.startswith("network.")}
        self._build(sids, resolve_device(self.device), state["embedding.weight"].dtype)
        self.network_.load_state_dict(state)
        self.network_.eval()
