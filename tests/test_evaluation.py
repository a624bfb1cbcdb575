"""Metrics against brute force over tie orders, scikit-learn, and hand-worked lists."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, roc_auc_score

from semid_lib import plain
from semid_lib.clicks import uauc, user_auc
from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import DataError, InputError, NotFittedError
from semid_lib.evaluation import (
    UNRANKED,
    Evaluation,
    Ranks,
    bootstrap_interval,
    evaluate,
    mrr,
    ndcg_at_k,
    paired_difference,
    ranks_from_lists,
    ranks_from_scores,
    recall_at_k,
)
from semid_lib.recommenders.base import Recommender


def expected(ranks, k):
    return [ranks.recall(k)[0], ranks.ndcg(k)[0], ranks.reciprocal(k)[0]]


class TestRanks:
    @given(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=2, max_size=5),
        st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_expectation_equals_the_mean_over_all_orders(self, scores, data):
        items = range(len(scores))
        target = data.draw(st.sampled_from(items))
        history = data.draw(st.lists(st.sampled_from(items), max_size=4))  # repeats, target too
        k = data.draw(st.integers(1, 6))
        table = np.array([scores])
        every = ranks_from_scores(table, [target])
        truth = plain.expected_metrics(scores, target, [], k)
        np.testing.assert_allclose(expected(every, k), truth)
        unseen = ranks_from_scores(table, [target], [np.array(history, dtype=np.int64)])
        truth = plain.expected_metrics(scores, target, history, k)
        np.testing.assert_allclose(expected(unseen, k), truth)

    def test_equals_sklearn_with_many_ties(self):
        rng = np.random.default_rng(0)
        scores = rng.integers(0, 6, (40, 30)).astype(float)
        targets = rng.integers(0, 30, 40)
        truth = np.eye(30)[targets]
        ranks = ranks_from_scores(scores, targets)
        for k in (1, 5, 10, 30):
            # scikit-learn averages the gains of tied items (McSherry and Najork 2008).
            assert ranks.ndcg(k).mean() == pytest.approx(ndcg_score(truth, scores, k=k))

    def test_equals_sklearn_without_ties(self):
        rng = np.random.default_rng(1)
        scores, targets = rng.standard_normal((50, 20)), rng.integers(0, 20, 50)
        truth = np.eye(20)[targets]
        ranks = ranks_from_scores(scores.astype(np.float32), targets)
        assert ranks.ties.max() == 0
        assert ranks.reciprocal().mean() == pytest.approx(
            label_ranking_average_precision_score(truth, scores)
        )

    def test_a_worked_example(self):
        # Item 2 leads; items 0, 1, 3 tie: ranks 2, 3, 4 with probability 1/3 each.
        ranks = ranks_from_scores([[5.0, 5.0, 9.0, 5.0]], [1])
        assert (ranks.above.tolist(), ranks.ties.tolist()) == ([1], [2])
        assert ranks.recall(3)[0] == pytest.approx(2 / 3)
        assert ranks.ndcg(3)[0] == pytest.approx((1 / np.log2(3) + 1 / np.log2(4)) / 3)
        assert ranks.reciprocal()[0] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)

    def test_all_scores_equal_give_the_chance_level(self):
        ranks = ranks_from_scores(np.zeros((7, 100)), np.arange(7))
        np.testing.assert_allclose(ranks.recall(10), 0.1)

    def test_the_index_of_an_item_does_not_matter(self):
        rng = np.random.default_rng(2)
        scores, targets = rng.integers(0, 4, (30, 25)), rng.integers(0, 25, 30)
        relabel = rng.permutation(25)
        moved = np.empty_like(scores)
        moved[:, relabel] = scores
        before, after = (
            ranks_from_scores(scores, targets),
            ranks_from_scores(moved, relabel[targets]),
        )
        assert (before.above == after.above).all() and (before.ties == after.ties).all()

    def test_an_unranked_target_is_worth_nothing(self):
        ranks = ranks_from_scores([[0.0, -np.inf, 1.0]], [1])
        assert ranks.above[0] == UNRANKED
        assert expected(ranks, 10**6) == [0, 0, 0] and ranks.reciprocal()[0] == 0

    def test_untied_ranks_are_exact(self):
        ranks = Ranks(np.arange(50), np.zeros(50, dtype=int))
        assert (ranks.ndcg(50) == 1 / np.log2(np.arange(2, 52))).all()
        assert (ranks.reciprocal() == 1 / np.arange(1, 51)).all()

    def test_a_large_catalogue_counts_as_a_small_one(self):
        """Wide rows are counted one by one: above, ties and the rule "unseen" by sorting."""
        rng = np.random.default_rng(3)
        scores = rng.integers(0, 50, size=(4, 9000)).astype(float)
        scores[3, 17] = -np.inf
        targets = np.array([5, 8999, 0, 17])
        histories = [rng.integers(0, 9000, size=30) for _ in targets]
        for seen in (None, histories):
            ranks = ranks_from_scores(scores, targets, seen)
            for row, target in enumerate(targets[:3]):
                left = np.setdiff1d(np.arange(9000), [] if seen is None else seen[row])
                assert target in left
                others = scores[row, left[left != target]]
                assert ranks.above[row] == (others > scores[row, target]).sum()
                assert ranks.ties[row] == (others == scores[row, target]).sum()
            assert ranks.recall(9000)[3] == 0
        scores[1, 4000] = np.nan
        with pytest.raises(InputError, match="1 users .first: row 1. hold NaN"):
            ranks_from_scores(scores, targets)

    def test_nan_scores(self):
        with pytest.raises(InputError, match=r"1 users \(first: row 1\) hold NaN.*diverge"):
            ranks_from_scores([[0.0, 1.0], [0.0, np.nan]], [0, 0])

    def test_wrong_shape(self):
        with pytest.raises(InputError, match=r"\(1, 2\) for 2 users"):
            ranks_from_scores([[0.0, 1.0]], [0, 0])


class TestRanksFromLists:
    def test_equals_full_ranking_if_the_list_is_whole(self):
        rng = np.random.default_rng(3)
        scores, targets = rng.integers(0, 5, (60, 12)).astype(float), rng.integers(0, 12, 60)
        histories = [rng.integers(0, 12, rng.integers(1, 9)) for _ in range(60)]
        order = np.argsort(-scores, axis=1)
        listed = np.take_along_axis(scores, order, axis=1)
        for past in (None, histories):
            full = ranks_from_scores(scores, targets, past)
            lists = ranks_from_lists(order, targets, listed, past)
            assert (full.above == lists.above).all() and (full.ties == lists.ties).all()

    def test_a_worked_example(self):
        items = [[4, 7, 2, -1], [1, 3, 5, 6], [0, 8, -1, -1]]
        scores = [[3.0, 1.0, 1.0, -np.inf], [4.0, 3.0, 2.0, 1.0], [1.0, 0.5, -np.inf, -np.inf]]
        ranks = ranks_from_lists(items, [2, 6, 9], scores)
        assert ranks.above.tolist() == [1, 3, UNRANKED]
        assert ranks.ties.tolist() == [1, 0, 0]
        unseen = ranks_from_lists(
            items, [2, 6, 9], scores, [np.array([4, 7]), np.array([6]), np.array([])]
        )
        assert unseen.above.tolist() == [0, UNRANKED, UNRANKED]
        assert unseen.ties.tolist() == [0, 0, 0]

    def test_order_is_the_ranking_without_scores(self):
        assert ranks_from_lists([[3, 1, 2]], [2]).above.tolist() == [2]

    def test_padding_is_no_item(self):
        ranks = ranks_from_lists([[5, -1, -1]], [5], [[-1.0, -1.0, -1.0]])
        assert ranks.ties.tolist() == [0]

    def test_errors(self):
        with pytest.raises(InputError, match="NaN"):
            ranks_from_lists([[1, 2]], [1], [[0.0, np.nan]])
        with pytest.raises(InputError, match=r"\(1, 1\) beside items of shape \(1, 2\)"):
            ranks_from_lists([[1, 2]], [1], [[0.0]])
        with pytest.raises(InputError, match="for 2 targets"):
            ranks_from_lists([[1, 2]], [1, 2])


class TestItemLists:
    lists = [[3, 1, 2, 0], [0, 1, 2, 3], [9, 8, 7, 6]]

    def test_worked_examples(self):
        targets = [1, 3, 5]  # ranks 2, 4, none
        assert recall_at_k(self.lists, targets, 1) == 0
        assert recall_at_k(self.lists, targets, 2) == pytest.approx(1 / 3)
        assert recall_at_k(self.lists, targets, 4) == pytest.approx(2 / 3)
        assert ndcg_at_k(self.lists, targets, 4) == pytest.approx(
            (1 / np.log2(3) + 1 / np.log2(5)) / 3
        )
        assert mrr(self.lists, targets) == pytest.approx((1 / 2 + 1 / 4) / 3)
        assert isinstance(mrr(self.lists, targets), float)

    def test_any_ids_and_padding(self):
        lists = np.array([["b", "a"], ["c", None]], dtype=object)
        assert recall_at_k(lists, np.array(["a", "c"], dtype=object), 1) == 0.5
        assert recall_at_k([[4, -1]], [4], 2) == 1

    def test_a_repeated_item_counts_once_at_its_best_rank(self):
        assert recall_at_k([[1, 1, 2]], [1], 3) == 1
        assert mrr([[0, 1, 1]], [1]) == 0.5

    def test_single_target_identity(self):
        # SPEC 26: N@10 - N@5 lies between dR / log2(11) and dR / log2(7).
        rng = np.random.default_rng(4)
        lists = np.array([rng.permutation(30)[:10] for _ in range(500)])
        targets = rng.integers(0, 30, 500)
        gain = ndcg_at_k(lists, targets, 10) - ndcg_at_k(lists, targets, 5)
        more = recall_at_k(lists, targets, 10) - recall_at_k(lists, targets, 5)
        assert more / np.log2(11) <= gain <= more / np.log2(7)

    @pytest.mark.parametrize("k", [0, 5])
    def test_k_outside_the_lists(self, k):
        with pytest.raises(InputError, match=f"k is {k}, but the lists hold 4 items"):
            recall_at_k(self.lists, [1, 3, 5], k)

    def test_shapes(self):
        for recommended, targets in ([[1, 2], [1]], [[[1, 2]], [1, 2]], [np.empty((0, 3)), []]):
            with pytest.raises(InputError, match=r"must be \[B, k'\] and \[B\]"):
                mrr(recommended, targets)


def small_split(num_users=60, num_items=25, seed=0, **more):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 8, num_users)
    return leave_one_out(
        Interactions(
            user=np.repeat(np.arange(num_users), lengths),
            item=rng.integers(0, num_items, lengths.sum()),
            num_users=num_users,
            num_items=num_items,
            **more,
        )
    )


class Scorer(Recommender):
    """Coarse scores that depend on the last item, so that many tie."""

    def fit(self, split, sids=None):
        self.remember(split)
        self.table_ = np.random.default_rng(7).integers(0, 9, (split.num_items,) * 2) * 1.0
        return self

    def scores(self, histories):
        return self.table_[[h[-1] for h in histories]]


class Generator(Scorer):
    """The same ranking, written as lists of `num_beams` items."""

    def __init__(self, num_beams=25):
        self.num_beams = num_beams
        self.calls = []

    scores_all_items = False

    def generate(self, histories, k, exclude_history):
        self.calls.append((len(histories), k, exclude_history))
        return super().generate(histories, k, exclude_history)


class TestEvaluate:
    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_equals_a_loop_over_users(self, part):
        split = small_split()
        model = Scorer().fit(split)
        result = evaluate(model, split, part, ks=(1, 5), batch_size=7)
        rows = {"all": [], "unseen": []}
        for user, history in zip(split.users, split.histories(part)):
            whole = split.data.sequences()[user]
            assert history.tolist() == whole[: -2 if part == "validation" else -1].tolist()
            target = whole[-2 if part == "validation" else -1]
            scores = model.table_[history[-1]]
            for rule, removed in (("all", set()), ("unseen", set(history.tolist()))):
                others = [s for i, s in enumerate(scores) if i != target and i not in removed]
                above = sum(s > scores[target] for s in others)
                tied = sum(s == scores[target] for s in others)
                ranks = range(above + 1, above + tied + 2)
                lost = target in removed
                rows[rule].append(
                    [0 if lost else np.mean([r <= 5 for r in ranks])]
                    + [0 if lost else np.mean([(r <= 5) / np.log2(r + 1) for r in ranks])]
                    + [0 if lost else np.mean([1 / r for r in ranks])]
                )
        for rule, values in rows.items():
            metrics = result.metrics(rule)
            truth = dict(zip(("recall@5", "ndcg@5", "mrr"), np.mean(values, axis=0)))
            assert {k: metrics[k] for k in truth} == pytest.approx(truth)
            assert list(metrics) == ["recall@1", "ndcg@1", "recall@5", "ndcg@5", "mrr"]
        assert result.users.tolist() == split.users.tolist()
        assert result.cut is None

    def test_a_generator_with_whole_lists_equals_the_scorer(self):
        split = small_split()
        scorer = evaluate(Scorer().fit(split), split, "test", ks=(5, 10))
        model = Generator().fit(split)
        lists = evaluate(model, split, "test", ks=(5, 10), batch_size=100)
        for rule in ("all", "unseen"):
            assert lists.metrics(rule) == scorer.metrics(rule)
        assert model.calls == [(len(split.users), 25, False)]  # one pass serves both rules

    def test_short_lists(self):
        split = small_split()
        result = evaluate(Generator(num_beams=5).fit(split), split, "test", ks=(5,))
        assert result.cut == 5
        with pytest.raises(InputError, match="recall@6 from lists of 5 items"):
            result.values("recall@6")
        with pytest.raises(InputError, match=r"cut-offs \(10,\) must lie in 1..5"):
            evaluate(Generator(num_beams=5).fit(split), split, "test", ks=(10,))

    def test_original_ids_do_not_matter(self):
        ids = np.array([f"item-{i}" for i in range(25)])
        numbered, named = small_split(), small_split(item_ids=ids)
        for kind in (Scorer, Generator):
            a = evaluate(kind().fit(numbered), numbered, "test")
            b = evaluate(kind().fit(named), named, "test")
            assert a.metrics() == b.metrics()

    def test_some_users(self):
        split = small_split()
        model = Scorer().fit(split)
        wanted = split.users[[4, 1, 9]]
        whole, some = evaluate(model, split, "test"), evaluate(model, split, "test", users=wanted)
        assert some.users.tolist() == wanted.tolist()
        assert some.values("ndcg@5").tolist() == whole.values("ndcg@5")[[4, 1, 9]].tolist()
        short = np.setdiff1d(np.arange(60), split.users)[0]
        with pytest.raises(InputError, match=f"user {short} is not evaluated"):
            evaluate(model, split, "test", users=[short])
        with pytest.raises(InputError, match="no users are left"):
            evaluate(model, split, "test", users=[]).metrics()

    def test_selecting_cannot_read_test(self):
        split = small_split()
        model = Scorer().fit(split)
        del split.targets["test"]
        evaluate(model, split, "validation")
        with pytest.raises(TypeError, match="part"):
            evaluate(model, split)

    def test_seen_target_is_a_miss_by_the_unseen_rule(self):
        data = Interactions(np.zeros(4, int), np.array([0, 1, 2, 0]), num_users=1, num_items=3)
        split = leave_one_out(data)
        model = Scorer().fit(split)
        model.table_[:] = [5, 1, 0]
        result = evaluate(model, split, "test", ks=(1,))
        assert result.metrics("all")["recall@1"] == 1
        assert result.metrics("unseen") == {"recall@1": 0, "ndcg@1": 0, "mrr": 0}

    def test_target_counts_come_from_the_train_part(self):
        data = Interactions(
            np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 0, 3, 2, 3]), 2, 4
        )
        split = leave_one_out(data)
        result = evaluate(Scorer().fit(split), split, "test")
        assert result.target_counts.tolist() == [
            0,
            1,
        ]  # item 2: held out twice; item 3: once in train

    def test_errors(self):
        split = small_split()
        with pytest.raises(NotFittedError):
            evaluate(Scorer(), split, "test")
        with pytest.raises(DataError, match="unknown part 'train'"):
            evaluate(Scorer().fit(split), split, "train")
        with pytest.raises(InputError, match="knows 25 items, the split has 30"):
            evaluate(Scorer().fit(split), small_split(num_items=30), "test")
        with pytest.raises(InputError, match="cut-offs"):
            evaluate(Scorer().fit(split), split, "test", ks=(0,))
        padded = Scorer().fit(split)
        padded.table_ = np.zeros((25, 26))
        with pytest.raises(InputError, match="Scorer gave 26 scores a user"):
            evaluate(padded, split, "test")
        broken = Scorer().fit(split)
        broken.table_[:] = np.nan
        with pytest.raises(InputError, match="NaN"):
            evaluate(broken, split, "test")


def made_up(above, counts=None, ties=None, users=None):
    above = np.asarray(above)
    size = len(above)
    ranks = Ranks(above, np.zeros(size, dtype=int) if ties is None else ties)
    return Evaluation(
        "test",
        np.arange(size) if users is None else users,
        np.arange(size),
        np.zeros(size, dtype=int) if counts is None else np.asarray(counts),
        {"all": ranks, "unseen": ranks},
        (5, 10),
    )


class TestEvaluation:
    def test_interval_equals_scipy(self):
        rng = np.random.default_rng(0)
        result = made_up(rng.integers(0, 40, 800))
        known = inspect.signature(stats.bootstrap).parameters
        seed = {"rng" if "rng" in known else "random_state": 1}  # renamed in SciPy 1.15
        for metric in ("recall@10", "ndcg@10", "mrr"):
            values = result.values(metric)
            low, high = result.interval(metric, resamples=4000)
            truth = stats.bootstrap(
                (values,), np.mean, n_resamples=4000, method="percentile", **seed
            ).confidence_interval
            width = truth.high - truth.low
            assert abs(low - truth.low) < 0.06 * width and abs(high - truth.high) < 0.06 * width
            assert low < result.metrics()[metric] < high

    def test_interval_is_seeded_and_widens(self):
        result = made_up(np.arange(200) % 30)
        assert result.interval("mrr", seed=3) == result.interval("mrr", seed=3)
        narrow, wide = result.interval("mrr", level=0.5), result.interval("mrr", level=0.99)
        assert wide[0] < narrow[0] < narrow[1] < wide[1]
        with pytest.raises(InputError, match="level"):
            result.interval("mrr", level=95)

    def test_paired_difference(self):
        rng = np.random.default_rng(0)
        base = rng.integers(0, 40, 1000)
        better = made_up(np.maximum(base - 1, 0))
        mean, low, high = paired_difference(better, made_up(base), "ndcg@10")
        assert mean == pytest.approx(
            better.metrics()["ndcg@10"] - made_up(base).metrics()["ndcg@10"]
        )
        assert 0 < low < mean < high
        # Each user is the pair: a constant gain has no spread, though users differ widely.
        exact = paired_difference(made_up(base * 0), made_up(base * 0 + 1), "mrr")
        assert exact == pytest.approx((0.5, 0.5, 0.5))

    def test_paired_difference_needs_the_same_users(self):
        with pytest.raises(InputError, match="not paired"):
            paired_difference(made_up([1, 2]), made_up([1, 2], users=np.array([5, 6])), "mrr")

    def test_buckets_of_a_worked_example(self):
        result = made_up([0, 7, 0, 0, 20], counts=[0, 5, 6, 21, 400])
        buckets = result.by_bucket()
        assert list(buckets) == ["0-5", "6-10", "11-15", "16-20", ">20"]
        assert [b["n"] for b in buckets.values()] == [2, 1, 0, 0, 2]
        assert (buckets["0-5"]["recall@5"], buckets["0-5"]["recall@10"]) == (0.5, 1.0)
        assert buckets["6-10"]["ndcg@10"] == 1 and buckets["11-15"] == {"n": 0}

    def test_where(self):
        result = made_up([0, 100, 2])
        part = result.where(np.array([True, False, True]))
        assert part.metrics()["recall@5"] == 1 and part.users.tolist() == [0, 2]
        with pytest.raises(InputError, match="mask"):
            result.where(np.array([0, 2]))

    @pytest.mark.parametrize("name", ["hr@10", "recall", "recall@0", "recall@x", "ndcg@-5", "MRR"])
    def test_unknown_metric(self, name):
        with pytest.raises(InputError, match="unknown metric"):
            made_up([0]).values(name)

    def test_unknown_rule(self):
        with pytest.raises(InputError, match="unknown rule 'seen'"):
            made_up([0]).metrics("seen")


# --- UAUC


def rated(seed, num_users=25, rows=300, levels=6):
    """Rows of few distinct scores, so that many tie; some users have one label only."""
    rng = np.random.default_rng(seed)
    users = rng.integers(num_users, size=rows) * 7
    scores = rng.integers(levels, size=rows) / levels
    labels = rng.random(rows) < np.where(users < 28, 1, scores)
    return scores, labels, users


@pytest.mark.parametrize("seed", range(4))
def test_user_auc_against_scikit_learn(seed):
    scores, labels, users = rated(seed)
    names = [u for u in np.unique(users) if 0 < labels[users == u].mean() < 1]
    wanted = [roc_auc_score(labels[users == u], scores[users == u]) for u in names]
    sizes = [(users == u).sum() for u in names]
    found = user_auc(scores, labels, users)
    np.testing.assert_array_equal(found[0], names)
    np.testing.assert_allclose(found[1], wanted)
    np.testing.assert_array_equal(found[2], sizes)
    assert len(names) < len(np.unique(users))
    np.testing.assert_allclose(uauc(scores, labels, users), np.mean(wanted))
    weighted = uauc(scores, labels, users, "impressions")
    np.testing.assert_allclose(weighted, np.average(wanted, weights=sizes))
    order = np.random.default_rng(seed).permutation(len(users))
    assert uauc(scores[order], labels[order].astype(int), users[order]) == uauc(*rated(seed))


def test_uauc_refuses_what_it_cannot_compare():
    scores, labels, users = rated(0)
    with pytest.raises(InputError, match="hold NaN"):
        uauc(np.where(users == 7, np.nan, scores), labels, users)
    with pytest.raises(InputError, match="none of 25 users has rows of both labels"):
        uauc(scores, np.ones(len(users)), users)
    with pytest.raises(InputError, match="none of 0 users"):
        uauc([], [], [])
    with pytest.raises(InputError, match="0 and 1"):
        uauc(scores, labels * 2, users)
    with pytest.raises(InputError, match="same"):
        uauc(scores, labels[1:], users)
    with pytest.raises(InputError, match="weight is 'rows'"):
        uauc(scores, labels, users, "rows")


def test_bootstrap_interval_is_that_of_drawn_users():
    values = np.random.default_rng(0).random(200)
    low, high = bootstrap_interval(values, level=0.9)
    draws = np.random.default_rng(1).choice(values, (4000, 200)).mean(axis=1)
    np.testing.assert_allclose([low, high], np.quantile(draws, [0.05, 0.95]), atol=0.004)
