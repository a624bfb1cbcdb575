"""FAMAE against a slow NumPy version, brute force and planted structure."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone

from semid_lib import training
from semid_lib.data import Interactions, leave_one_out
from semid_lib.encoders import FAMAE
from semid_lib.encoders import famae as module
from semid_lib.errors import CheckpointError, DataError, InputError, NotFittedError
from semid_lib.networks import target_ranks
from semid_lib.training import loop

TINY = dict(dim=8, num_heads=2, ffn_dim=12, batch_size=64, epochs=2, learning_rate=0.01)


def make_split(num_items=30, num_users=40, seed=0, longest=9, loyal=0.9):
    """Users who mostly step to a fixed successor; `group`, `kind` (a third missing) of items."""
    rng = np.random.default_rng(seed)
    successor = rng.permutation(num_items)
    sequences = []
    for _ in range(num_users):
        walk = [rng.integers(num_items)]
        for _ in range(rng.integers(3, longest)):
            follows = rng.random() < loyal
            walk.append(successor[walk[-1]] if follows else rng.integers(num_items))
        sequences.append(walk)
    kind = rng.integers(4, size=num_items)
    kind[rng.random(num_items) < 0.3] = -1
    data = Interactions(
        user=np.repeat(np.arange(num_users), [len(s) for s in sequences]),
        item=np.concatenate(sequences).astype(np.int64),
        num_users=num_users, num_items=num_items,
        fields={"group": np.arange(num_items) // 5, "kind": kind},
    )  # fmt: skip
    return leave_one_out(data)


@pytest.fixture(scope="module")
def split():
    return make_split()


@pytest.fixture(scope="module")
def fitted(split):
    return FAMAE(**TINY, snapshot_steps=(1, 2)).fit(split)


@pytest.fixture(scope="module")
def exact(split):
    """A float64 model with large random weights, biases included."""
    model = FAMAE(**TINY, precision="float64", field_weights={"group": 0.5}, max_length=6)
    model.fit(split)
    torch.manual_seed(1)
    for parameter in model.network_.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


# --- an independent forward pass: one sample, one head, one query at a time


def _norm(x, weights, name):
    x = x - x.mean()
    x = x / np.sqrt((x**2).mean() + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x, weights, name):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _numpy_outputs(model, items, masks):
    """Outputs at every position for one sequence; `masks` maps position -> masked fields."""
    w = {n: t.detach().numpy() for n, t in model.network_.state_dict().items()}
    sizes, codes = model.network_.table.sizes, model.network_.table.codes.numpy()
    starts = np.concatenate([[0], np.cumsum(np.array(sizes) + 2)])
    tokens = []
    for t, item in enumerate(items):
        x = w["position"][model.max_length - len(items) + t].copy()
        for k, size in enumerate(sizes):
            row = size if codes[item, k] < 0 else codes[item, k]
            row = size + 1 if k in masks.get(t, ()) else row
            x += w["table.weight"][starts[k] + row]
        tokens.append(_norm(x, w, "encoder.norm"))
    heads, width = model.num_heads, model.dim // model.num_heads
    for layer in range(model.num_layers):
        name = f"encoder.blocks.{layer}"
        queries = [_linear(x, w, f"{name}.query") for x in tokens]
        both = [_linear(x, w, f"{name}.key_value") for x in tokens]
        after = []
        for x, q in zip(tokens, queries):
            mixed = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = np.array([q[part] @ kv[: model.dim][part] for kv in both])
                share = np.exp(scores / math.sqrt(width))
                share /= share.sum()
                mixed.append(sum(s * kv[model.dim :][part] for s, kv in zip(share, both)))
            x = _norm(x + _linear(np.concatenate(mixed), w, f"{name}.out"), w, f"{name}.norm1")
            inner = np.maximum(_linear(x, w, f"{name}.inner"), 0)
            after.append(_norm(x + _linear(inner, w, f"{name}.outer"), w, f"{name}.norm2"))
        tokens = after
    return tokens


def _minus_log_q(model, h, k, code):
    values = model.network_.table.values()[k].detach().numpy()
    cosines = values @ h / np.linalg.norm(values, axis=1) / np.linalg.norm(h)
    scores = math.sqrt(model.dim) * cosines
    return math.log(sum(math.exp(s) for s in scores)) - scores[code]


@pytest.fixture
def chosen_masks(monkeypatch):
    """Record the masks that the model draws."""
    drawn, original = [], FAMAE._choose_fields

    def spy(self, absent):
        drawn.append(original(self, absent))
        return drawn[-1]

    monkeypatch.setattr(FAMAE, "_choose_fields", spy)
    return drawn


def test_loss_equals_a_slow_loop(exact, split, chosen_masks):
    samples = exact._samples(split, "train")
    rows = torch.arange(0, len(samples[1]), 5)
    exact.network_.eval()
    found = float(exact._loss(samples, rows).detach())
    codes, alpha = exact.network_.table.codes.numpy(), {0: 1.0, 1: 0.5, 2: 1.0}
    total, first = (
        0.0,
        [s for s, n in enumerate(np.diff(split.indptr)) for _ in range(max(n - 1, 0))],
    )
    for row, mask in zip(rows.tolist(), chosen_masks[0].tolist()):
        user = first[row]
        target = split.indptr[user] + 1 + first[:row].count(user)
        items = split.items[max(split.indptr[user], target - 5) : target + 1]
        masked = {k for k, hidden in enumerate(mask) if hidden}
        h, own = _numpy_outputs(exact, items, {len(items) - 1: masked})[-1], codes[items[-1]]
        asked = [k for k in masked if own[k] >= 0]
        total += sum(alpha[k] * _minus_log_q(exact, h, k, own[k]) for k in asked)
    np.testing.assert_allclose(found, total / len(rows), rtol=1e-10)


def test_random_masking_loss_equals_a_slow_loop(exact, split, chosen_masks, monkeypatch):
    monkeypatch.setattr(exact, "masking", "random")
    monkeypatch.setattr(exact, "mask_ratio", 0.4)
    samples = exact._samples(split, "train")
    rows = torch.arange(0, len(samples[1]), 7)
    exact.network_.eval()
    torch.manual_seed(5)
    found = float(exact._loss(samples, rows).detach())
    items, valid = exact._gather(samples, rows)
    torch.manual_seed(5)
    positions = valid & (torch.rand(valid.shape) < 0.4)
    codes, masks, total = exact.network_.table.codes.numpy(), iter(chosen_masks[0].tolist()), 0.0
    count, alpha = 0, {0: 1.0, 1: 0.5, 2: 1.0}
    for sequence, real, picked in zip(items.tolist(), valid, positions):
        sequence = sequence[-int(real.sum()) :]
        where = picked[-len(sequence) :].nonzero()[:, 0].tolist() or [len(sequence) - 1]
        masked = {t: {k for k, hidden in enumerate(next(masks)) if hidden} for t in where}
        outputs = _numpy_outputs(exact, sequence, masked)
        for t in where:
            count += 1
            own = codes[sequence[t]]
            asked = [k for k in masked[t] if own[k] >= 0]
            total += sum(alpha[k] * _minus_log_q(exact, outputs[t], k, own[k]) for k in asked)
    np.testing.assert_allclose(found, total / count, rtol=1e-10)


# --- masking policy


def test_masking_probabilities(fitted):
    """K ~ U{1..J}, then a uniform subset, so Pr(k in M) = (J + 1) / (2 J)."""
    torch.manual_seed(0)
    masks = fitted._choose_fields(torch.zeros(60_000, 5, dtype=torch.bool)).numpy()
    counts = np.bincount(masks.sum(1), minlength=6) / len(masks)
    np.testing.assert_allclose(counts, [0, 0.2, 0.2, 0.2, 0.2, 0.2], atol=0.01)
    np.testing.assert_allclose(masks.mean(0), 6 / 10, atol=0.01)
    pairs = masks[masks.sum(1) == 2]
    together = (pairs[:, :, None] & pairs[:, None, :]).mean(0)[np.triu_indices(5, 1)]
    np.testing.assert_allclose(together, 0.1, atol=0.015)


def test_what_is_masked_does_not_tell_what_a_target_lacks(fitted):
    absent = torch.tensor([[False, True, False, True, False], [False] + [True] * 4])
    torch.manual_seed(0)
    masks = fitted._choose_fields(absent.repeat_interleave(30_000, 0))
    torch.manual_seed(0)
    assert (masks == fitted._choose_fields(torch.zeros(60_000, 5, dtype=torch.bool))).all()


def test_targets_that_lack_a_field_are_found_like_the_others():
    """A fixed successor for every item; every second one has no `kind`. Metric 1 masks all fields:
    it has to find the ones like the others."""
    rng = np.random.default_rng(0)
    successor, walks = rng.permutation(40), []
    for _ in range(300):
        walk = [rng.integers(40)]
        for _ in range(rng.integers(4, 8)):
            walk.append(successor[walk[-1]])
        walks.append(walk)
    kind = np.where(np.arange(40) % 2, np.arange(40) % 3, -1)
    data = Interactions(
        user=np.repeat(np.arange(300), [len(w) for w in walks]),
        item=np.concatenate(walks).astype(np.int64), num_users=300, num_items=40,
        fields={"group": np.arange(40) // 5, "kind": kind},
    )  # fmt: skip
    split = leave_one_out(data)
    model = FAMAE(
        dim=32, num_heads=2, ffn_dim=64, epochs=16, batch_size=32, learning_rate=5e-3, patience=16
    )
    model.fit(split)
    samples = model._samples(split, "validation")
    targets = samples[0][samples[2]]
    with torch.no_grad():
        items = torch.nn.functional.normalize(model.network_.table.values()[0], dim=-1)
        found = target_ranks(model._encode(samples, range(3)), items, targets).recall(1)
    lacks = kind[targets.numpy()] < 0
    assert 0.3 < lacks.mean() < 0.7
    assert found[lacks].mean() > 0.5 and found[lacks].mean() > 0.7 * found[~lacks].mean()


def test_a_missing_value_is_a_row_of_its_own(exact, split):
    """Changing the missing row changes h of a target that lacks the field, and of no other."""
    table = exact.network_.table
    kind = split.data.fields["kind"]
    items = torch.tensor([[0, i] for i in range(30)])
    items[:, 0] = int(np.flatnonzero(kind >= 0)[0])
    valid, mask = torch.ones(30, 2, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    with torch.no_grad():
        before = exact._hidden(items, valid, None, mask)
        row = table.tokens[np.flatnonzero(kind < 0)[0], 2]
        kept = table.weight[row].clone()
        table.weight[row] += torch.randn(8)
        after = exact._hidden(items, valid, None, mask)
        table.weight[row] = kept
    changed = (before - after).abs().amax(1) > 1e-9
    assert changed.tolist() == (kind < 0).tolist()


# --- what the model sees


def test_padding_does_not_change_a_sample(exact, split):
    samples = exact._samples(split, "validation")
    mask = torch.tensor([True, False, True])
    exact.network_.eval()
    together = exact._hidden(*exact._gather(samples, torch.arange(40)), None, mask)
    for row in range(40):
        alone = exact._hidden(*exact._gather(samples, torch.tensor([row])), None, mask)
        torch.testing.assert_close(alone[0], together[row])


def test_masked_fields_of_the_target_are_hidden(exact):
    items, valid = torch.tensor([[3, 4, i] for i in range(30)]), torch.ones(30, 3, dtype=torch.bool)
    with torch.no_grad():
        hidden = exact._hidden(items, valid, None, torch.ones(3, dtype=torch.bool))
        torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden))
        fields = exact._hidden(items, valid, None, torch.tensor([True, False, False]))
    groups = {}
    for i, h in enumerate(fields.numpy()):
        key = tuple(exact.network_.table.codes[i, 1:].tolist())
        np.testing.assert_allclose(h, groups.setdefault(key, h), atol=1e-12)
    assert len({h.tobytes() for h in groups.values()}) == len(groups) > 5


def test_only_the_newest_items_count(exact, split):
    """history and target together are max_length = 6 items."""
    samples = exact._samples(split, "train")
    assert int((samples[2] - samples[1]).max()) == 5
    long = make_split(longest=30)
    rows = exact._samples(long, "test")
    kept = [h[-5:].tolist() + [t] for h, t in zip(long.histories("test"), long.targets["test"])]
    found = [rows[0][a : b + 1].tolist() for a, b in zip(rows[1].tolist(), rows[2].tolist())]
    assert found == kept


# --- metrics


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("mode", ["item", "all_fields"])
def test_metrics_equal_brute_force(exact, split, part, mode):
    codes = exact.network_.table.codes.numpy()
    tables = [v.detach().numpy() for v in exact.network_.table.values()]
    unit = [t / np.linalg.norm(t, axis=1)[:, None] for t in tables]
    found = {name: [] for name in ("metric1", "metric2")}
    for history, target in zip(split.histories(part), split.targets[part]):
        for name, masked in (("metric1", {0, 1, 2}), ("metric2", {0})):
            items = [*history[-5:], target]
            h = _numpy_outputs(exact, items, {len(items) - 1: masked})[-1]
            scores = unit[0] @ h
            if name == "metric1" and mode == "all_fields":
                for item in range(30):
                    scores[item] += sum(
                        unit[k][codes[item, k]] @ h for k in (1, 2) if codes[item, k] >= 0
                    )
            found[name].append(1 + int((scores > scores[target]).sum()))
    expected = {}
    for name, ranks in found.items():
        expected[f"{name}_recall@10"] = np.mean([r <= 10 for r in ranks])
        gains = [1 / math.log2(r + 1) if r <= 10 else 0 for r in ranks]
        expected[f"{name}_ndcg@10"] = np.mean(gains)
    recalls = expected["metric1_recall@10"], expected["metric2_recall@10"]
    expected["both_metrics"] = math.sqrt(math.prod(recalls))
    measured = exact.metrics(split, part, metric1_mode=mode)
    assert measured.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(measured[name], expected[name])


def test_attention_profile_equals_brute_force(exact, split):
    profile = exact.attention_profile(split, "test", num=1000)
    samples = exact._samples(split, "test")
    sums, counts = np.zeros((2, 6)), np.zeros(6)
    for row in range(40):
        items, valid = exact._gather(samples, torch.tensor([row]))
        tokens = exact.network_.table.tokens[items].clone()
        tokens[:, -1] = exact.network_.table.masked
        with torch.no_grad():
            layers = exact.network_.encoder.attention(exact.network_.place(tokens), valid)
        for distance in range(items.shape[1]):
            counts[distance] += 1
            for layer, weights in enumerate(layers):
                sums[layer, distance] += weights[0, :, -1, -1 - distance].mean()
    expected = sums / counts
    np.testing.assert_allclose(profile, expected)
    longest = exact.attention_profile(split, "test", min_history=5)
    np.testing.assert_allclose(longest.sum(1), 1)
    assert np.isnan(exact.attention_profile(split, "test", min_history=6)).all()


def test_loss_per_field_equals_the_training_loss_on_the_same_masks(exact, split, monkeypatch):
    torch.manual_seed(2)
    masks = exact._choose_fields(exact.network_.table.absent[split.targets["validation"]])
    monkeypatch.setattr(FAMAE, "_choose_fields", lambda self, absent: masks)
    found = exact.loss_per_field(split, "validation")
    samples = exact._samples(split, "validation")
    exact.network_.eval()
    whole = float(exact._loss(samples, torch.arange(40)).detach())
    np.testing.assert_allclose(sum(f["weight"] * f["loss"] for f in found.values()), whole)
    codes = exact.network_.table.codes[split.targets["validation"]].numpy()
    for k, name in enumerate(("item", "group", "kind")):
        seen = codes[masks[:, k].numpy() & (codes[:, k] >= 0), k]
        share = np.unique(seen, return_counts=True)[1] / len(seen)
        np.testing.assert_allclose(found[name]["entropy"], -(share * np.log(share)).sum())
        alpha = 0.5 if name == "group" else 1.0
        np.testing.assert_allclose(found[name]["weight"], alpha * len(seen) / 40)


# --- what it learns


@pytest.mark.trained
def test_it_learns_successors_and_fields():
    split = make_split(num_items=60, num_users=300)
    model = FAMAE(
        dim=32, num_heads=2, ffn_dim=64, epochs=25, batch_size=128, learning_rate=5e-3, patience=25
    )
    found = model.fit(split).metrics(split, "test")
    assert found["metric1_recall@10"] > 0.7 and found["metric1_ndcg@10"] > 0.6  # chance 0.17
    assert found["metric2_recall@10"] > 0.85
    assert model.metrics(split, "test", metric1_mode="all_fields")["metric1_recall@10"] > 0.7
    profile = model.attention_profile(split, "test")
    assert profile[0, 1] > 0.5 > profile[0, 2]  # the walk has memory one
    assert model.history_.epochs[-1]["loss"] < 0.6 * model.history_.epochs[0]["loss"]
    losses = model.loss_per_field(split, "test")
    assert all(f["loss"] < 0.6 * f["entropy"] for f in losses.values())
    # items of one group predict the same field value: their id rows come together
    vectors = model.embed()
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    near, group = unit @ unit.T, np.arange(60) // 5
    same = group[:, None] == group
    assert near[same & ~np.eye(60, dtype=bool)].mean() > near[~same].mean() + 0.2


@pytest.mark.trained
def test_metric_2_is_near_one_when_the_fields_determine_the_item():
    base = make_split(num_items=36, num_users=250, loyal=0.0).data
    fields = {"row": np.arange(36) // 6, "column": np.arange(36) % 6}
    split = leave_one_out(
        Interactions(base.user, base.item, base.num_users, base.num_items, fields=fields)
    )
    model = FAMAE(
        dim=32, num_heads=2, ffn_dim=64, epochs=25, batch_size=128, learning_rate=5e-3, patience=25
    )
    found = model.fit(split).metrics(split, "test")
    assert found["metric2_ndcg@10"] > 0.95
    assert found["metric1_recall@10"] < 0.45  # the histories say nothing: chance is 10 / 36


@pytest.mark.trained
@pytest.mark.parametrize(
    "change", [dict(masking="random"), dict(item_loss="sampled", num_negatives=8), dict(scale=4.0)]
)
def test_variants_learn_too(change):
    split = make_split(num_users=200)
    model = FAMAE(
        dim=16, num_heads=2, ffn_dim=32, epochs=20, batch_size=64, learning_rate=5e-3, patience=20,
        **change,
    )  # fmt: skip
    assert model.fit(split).metrics(split, "test")["metric1_ndcg@10"] > 0.3  # chance 0.15


def test_item_loss_picks_the_softmax(split, monkeypatch):
    calls = []
    monkeypatch.setattr(
        module, "sampled_cross_entropy", lambda h, v, *a, **k: calls.append(len(v)) or h.sum() * 0
    )
    for loss, limit, expected in (
        ("auto", 4096, set()), ("auto", 10, {30}), ("sampled", 4096, {30}), ("full", 10, set()),
        ("full", 5, {6}),
    ):  # fmt: skip
        calls.clear()
        monkeypatch.setattr(module, "FULL_SOFTMAX_UP_TO", limit)
        FAMAE(**{**TINY, "epochs": 1}, item_loss=loss).fit(split)
        assert set(calls) == expected, (loss, limit)


# --- vectors


def test_embed_concatenates_the_field_rows(fitted, split):
    vectors = fitted.embed()
    assert vectors.dtype == np.float32 and vectors.shape == (30, 24)
    np.testing.assert_array_equal(vectors[:, :8], fitted.field_embedding("item"))
    group = fitted.field_embedding("group")
    assert group.shape == (6, 8)
    np.testing.assert_array_equal(vectors[:, 8:16], group[split.data.fields["group"]])
    kind = split.data.fields["kind"]
    known = fitted.field_embedding("kind")
    np.testing.assert_array_equal(vectors[kind >= 0, 16:], known[kind[kind >= 0]])
    missing = vectors[kind < 0, 16:]
    assert len(missing) > 1 and (missing == missing[0]).all()
    assert not (known == missing[0]).all(1).any()


def test_normalised_vectors(fitted, split):
    raw = fitted.embed().astype(float)
    parts = clone(fitted).set_params(normalize="per_field_l2").fit(split).embed()
    expected = raw.reshape(30, 3, 8) / np.linalg.norm(raw.reshape(30, 3, 8), axis=2)[..., None]
    np.testing.assert_allclose(parts, expected.reshape(30, 24), rtol=1e-5)
    whole = clone(fitted).set_params(normalize="global_l2").fit(split).embed()
    np.testing.assert_allclose(whole, raw / np.linalg.norm(raw, axis=1)[:, None], rtol=1e-5)


def test_float64_model_gives_float32_vectors(exact):
    assert exact.network_.position.dtype == torch.float64
    assert exact.embed().dtype == exact.field_embedding("kind").dtype == np.float32


def test_ids_alone_and_some_fields(split):
    alone = FAMAE(**TINY, field_names=()).fit(split)
    assert alone.field_names_ == ("item",) and alone.embed().shape == (30, 8)
    found = alone.metrics(split)
    assert found["metric1_recall@10"] == found["metric2_recall@10"]  # one field: the same mask
    assert FAMAE(**TINY, field_names=("kind",)).fit(split).field_names_ == ("item", "kind")


# --- repeating, resuming, saving


def test_the_same_seed_gives_the_same_vectors(fitted, split):
    torch.manual_seed(123)
    np.testing.assert_array_equal(clone(fitted).fit(split).embed(), fitted.embed())
    other = clone(fitted).set_params(random_state=1).fit(split)
    assert not np.array_equal(other.embed(), fitted.embed())


def test_snapshots(fitted, split):
    assert sorted(fitted.history_.snapshots) == [1, 2]
    short = fitted.at_step(2)
    assert not np.array_equal(short.embed(), fitted.at_step(1).embed())
    assert not np.array_equal(short.embed(), fitted.embed())
    assert short.metrics(split) != fitted.metrics(split)
    with pytest.raises(InputError, match=r"no snapshot of step 5; there are \[1, 2\]"):
        fitted.at_step(5)


def test_paused_and_resumed_equals_uninterrupted(fitted, split, tmp_path, monkeypatch):
    model, path = clone(fitted), tmp_path / "famae"
    loss = FAMAE._loss

    class Clock:
        now = 0.0
        monotonic = staticmethod(lambda: Clock.now)

    def slow(self, *batch):
        Clock.now += 1
        return loss(self, *batch)

    monkeypatch.setattr(loop, "time", Clock)
    monkeypatch.setattr(FAMAE, "_loss", slow)
    with pytest.raises(training.TrainingPaused):
        model.fit(split, checkpoint=path, deadline=2.5)
    assert Clock.now == 3
    again = clone(fitted).fit(split, checkpoint=path)
    np.testing.assert_array_equal(again.embed(), fitted.embed())
    np.testing.assert_array_equal(again.at_step(1).embed(), fitted.at_step(1).embed())
    steps = Clock.now
    finished = clone(fitted).fit(split, checkpoint=path)
    assert Clock.now == steps
    np.testing.assert_array_equal(finished.embed(), fitted.embed())


@pytest.mark.parametrize("change", [dict(masking="random"), dict(scale=2.0), dict(num_negatives=9)])
def test_a_checkpoint_of_another_setting_is_refused(change, split, tmp_path):
    FAMAE(**TINY).fit(split, checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="another model, dataset or setting"):
        FAMAE(**TINY, **change).fit(split, checkpoint=tmp_path / "c")


def test_a_checkpoint_of_other_data_is_refused(split, tmp_path):
    FAMAE(**TINY).fit(split, checkpoint=tmp_path / "c")
    data = split.data
    fields = {"group": np.roll(data.fields["group"], 1), "kind": data.fields["kind"]}
    other = Interactions(data.user, data.item, data.num_users, data.num_items, fields=fields)
    with pytest.raises(CheckpointError, match="another model, dataset or setting"):
        FAMAE(**TINY).fit(leave_one_out(other), checkpoint=tmp_path / "c")


def test_save_and_load(exact, split, tmp_path):
    loaded = FAMAE.load(exact.save(tmp_path / "famae.safetensors"))
    assert loaded.get_params() == exact.get_params() and loaded.field_names_ == exact.field_names_
    np.testing.assert_array_equal(loaded.embed(), exact.embed())
    assert loaded.metrics(split) == exact.metrics(split)


def test_files_that_are_not_a_famae(exact, tmp_path):
    path = exact.save(tmp_path / "famae")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="not a readable semid_lib file"):
        FAMAE.load(path)
    FAMAE(**TINY).fit(make_split(), checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="not a 'FAMAE'"):
        FAMAE.load(tmp_path / "c")


def test_num_parameters(fitted):
    table = (30 + 6 + 4 + 3 * 2) * 8
    block = 4 * (8 * 8 + 8) + 2 * 2 * 8 + (8 * 12 + 12) + (12 * 8 + 8)
    assert fitted.network_.num_parameters(embeddings=False) == 32 * 8 + 2 * 8 + 2 * block
    assert fitted.network_.num_parameters() == table + 32 * 8 + 2 * 8 + 2 * block


# --- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(masking="first"), "masking is 'first', but must be one of"),
        (dict(item_loss="bce"), "item_loss is 'bce'"),
        (dict(normalize="l1"), "normalize is 'l1'"),
        (dict(max_length=1), "max_length is 1, but must be an integer >= 2"),
        (dict(field_names=("colour",)), "no item field 'colour'"),
        (dict(field_weights={"colour": 1.0}), "field_weights names 'colour', but the fields are"),
        (dict(dim=10, num_heads=4), "dim 10 is not a multiple of num_heads 4"),
        (dict(device="tpu"), "device 'tpu'"),
        (dict(precision="int8"), "precision is 'int8'"),
    ],
)
def test_bad_settings(change, message, split):
    with pytest.raises(InputError, match=message):
        FAMAE(**{**TINY, **change}).fit(split)


def test_a_field_that_no_item_has(split):
    data = split.data
    fields = {"colour": np.full(30, -1)}
    bare = Interactions(data.user, data.item, data.num_users, data.num_items, fields=fields)
    with pytest.raises(InputError, match="field 'colour' is missing for every item"):
        FAMAE(**TINY).fit(leave_one_out(bare))


def test_no_sample_and_no_evaluated_user():
    def walks(*walks):
        user = np.repeat(np.arange(len(walks)), [len(w) for w in walks])
        items = np.concatenate(walks).astype(np.int64)
        return leave_one_out(Interactions(user, items, len(walks), 3))

    with pytest.raises(InputError, match="no training samples"):
        FAMAE(**TINY).fit(walks([0, 1, 2]))
    model = FAMAE(**TINY).fit(walks([0, 1], [1, 2]))  # trains, nobody to validate on
    assert len(model.history_.epochs) == 2 and "metric1_recall@10" not in model.history_.epochs[0]
    with pytest.raises(InputError, match="nobody to evaluate on: no user has 3 interactions"):
        model.metrics(walks([0, 1], [1, 2]))


def test_before_fit(split):
    for call in (
        lambda m: m.embed(), lambda m: m.metrics(split), lambda m: m.save("nowhere"),
        lambda m: m.field_embedding("item"), lambda m: m.at_step(1),
        lambda m: m.attention_profile(split), lambda m: m.loss_per_field(split),
    ):  # fmt: skip
        with pytest.raises(NotFittedError, match="FAMAE is not fitted"):
            call(FAMAE())


def test_unknown_names_in_calls(fitted, split):
    with pytest.raises(InputError, match="no field 'colour'; the fields are"):
        fitted.field_embedding("colour")
    with pytest.raises(InputError, match="metric1_mode is 'sum'"):
        fitted.metrics(split, metric1_mode="sum")
    with pytest.raises(DataError, match="unknown part 'dev'"):
        fitted.metrics(split, "dev")


def test_encoders_import_nothing_before_use():
    import subprocess
    import sys

    code = "import sys, semid_lib.encoders as e; assert 'torch' not in sys.modules; e.FAMAE"
    subprocess.run([sys.executable, "-c", code], check=True)
    from semid_lib import encoders

    assert dir(encoders) == ["ALS", "FAMAE", "TextEncoder"]
    with pytest.raises(AttributeError, match="has no attribute 'BERT'"):
        encoders.BERT  # noqa: B018
