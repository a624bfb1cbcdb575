"""SASRec: a causal transformer over the history, with item ids alone or with side fields."""

from semid_lib.networks import SequenceNetwork
from semid_lib.recommenders._sequence import CausalRecommender
from semid_lib.settings import keep_settings


class SASRec(CausalRecommender):
    """Self-attentive sequential recommendation (Kang & McAuley 2018) with a softmax loss.

    x_t = p_t + sum_j E_j[f_t^j], h = causal transformer(x); item i scores h_t . v_i as the next
    one; the loss is the mean cross-entropy over all targets of the train part. One causal pass
    predicts every next item of a user: the same numbers as one row a prefix (RecBole) for a
    fraction of the work. With side fields this is SASRec* (ReSID table 4).

    Args:
        field_names: side fields summed into an item's token; () for the id alone, None for all.
        score_with: v_i is the sum over the fields ("fused") or the id's row ("id").
        loss: "full" softmax over all items; "sampled": `num_negatives` uniform ones, shared; or
            with one negative a target: "bce" (binary, the original's) or "bpr" (pairwise).
        similarity: "dot", or "cosine": sqrt(dim) cos(h, v_i), the choice of ReSID appendix E.
        targets: "all" positions of a sequence; or "last": one sliding window for each target.
        max_history: how many of the newest items are read.
        long_histories: with targets "all", train on the last `max_history` targets of a longer
            sequence ("last", the convention of SASRec), or cut it into windows ("windows").
        batch_size: sequences a step (256 of Beauty hold about 1,500 targets).
        patience: epochs without gain in validation NDCG@10, at least `patience_steps` steps. The
            others: see `training.train`.

    Attributes:
        history_: `training.History`.

    Deviates: softmax by default; a negative may stand in the history; post-layer-norm as in
    RecBole; positions count from the oldest item read.

    Cost: O(T D (T + D + ffn_dim)) per layer and sequence plus O(D N) a target ("full").
    """

    def __init__(
        self, dim=128, num_layers=2, num_heads=4, ffn_dim=512, dropout=0.1, max_history=32,
        field_names=(), score_with="fused", loss="full", similarity="dot", num_negatives=128,
        targets="all", long_histories="last", learning_rate=1e-3, weight_decay=1e-5,
        batch_size=256, epochs=500, patience=3,
        patience_steps=0, samples_per_epoch=None, device="auto",
        precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _network(self, sizes, codes):
        return SequenceNetwork(self, sizes, codes, self.max_history, causal=True)
