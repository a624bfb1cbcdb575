"""The training loop: the same result however often it is stopped, and no lost checkpoint."""

import io
import json
import signal
import subprocess
import sys
import textwrap
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from semid_lib.errors import CheckpointError, DeviceMemoryError, InputError
from semid_lib.storage import load_tensors, save_tensors
from semid_lib.training import (
    TrainingPaused,
    checkpoint,
    history,
    like_lengths,
    loop,
    rate_factor,
)
from tests.training.problem import Clock, Problem, StopsAt

# --- resuming


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("step", [1, 5, 6, 7, 11, 17])  # 6 steps an epoch
def test_resumed_equals_uninterrupted(precision, step, tmp_path, monkeypatch):
    settings = dict(
        precision=precision, monitor="gain", lengths=np.arange(40) % 5, clip=1.0, warmup=0.2,
        snapshot_steps=(3, 9),
    )  # fmt: skip

    def run(problem, loss, **more):
        return problem.train(loss, validate=problem.validate, **settings, **more)

    whole = Problem()
    expected = run(whole, whole.loss)
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    first = Problem()
    with pytest.raises(TrainingPaused, match=f"paused at step {step} of 18$"):
        run(first, StopsAt(first, clock, step), deadline=50.0, checkpoint=tmp_path / "c")
    second = Problem(seed=0)
    nn.init.zeros_(second.model[0].weight)  # whatever it starts from must not matter
    found = run(second, second.loss, checkpoint=tmp_path / "c")
    assert torch.equal(second.weights, whole.weights)
    assert first.seen + second.seen == whole.seen
    assert found.best_epoch == expected.best_epoch and found.steps == expected.steps == 18
    assert [e["loss"] for e in found.epochs] == [e["loss"] for e in expected.epochs]
    assert [e["gain"] for e in found.epochs] == [e["gain"] for e in expected.epochs]
    assert [e["flops"] for e in found.epochs] == [e["flops"] for e in expected.epochs]
    assert sorted(found.snapshots) == [3, 9]
    for kept, wanted in zip(found.snapshots.values(), expected.snapshots.values()):
        assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_stopping_after_every_step_changes_nothing(tmp_path, monkeypatch):
    whole = Problem()
    whole.train()
    clock, stops = Clock(), 0
    monkeypatch.setattr(loop, "time", clock)
    while True:
        clock.now, problem = 0.0, Problem()
        try:
            problem.train(StopsAt(problem, clock, 1), deadline=50.0, checkpoint=tmp_path / "c")
            break
        except TrainingPaused:
            stops += 1
    assert stops == 17 and torch.equal(problem.weights, whole.weights)


def test_a_finished_checkpoint_returns_at_once(tmp_path):
    first = Problem()
    history = first.train(checkpoint=tmp_path / "c", validate=first.validate, monitor="gain")
    again = Problem(seed=0)
    repeated = again.train(checkpoint=tmp_path / "c", validate=again.validate, monitor="gain")
    assert again.seen == [] and torch.equal(again.weights, first.weights)
    assert repeated == history and not again.model.training


def test_a_stopped_run_stays_stopped(tmp_path):
    """Patience ended the run: calling again must not train on."""

    def worse():
        return {"gain": -len(first.seen)}

    first = Problem()
    settings = dict(monitor="gain", patience=2, epochs=9, checkpoint=tmp_path / "c")
    history = first.train(validate=worse, **settings)
    assert history.stopped == "patience" and len(history.epochs) == 3 and history.best_epoch == 1
    again = Problem()
    repeated = again.train(validate=worse, **settings)
    assert again.seen == [] and repeated.stopped == "patience"
    assert torch.equal(again.weights, first.weights)


KILLED = """
    import sys, torch
    torch.set_num_threads(1)
    sys.path.insert(0, {root!r})
    from tests.training.problem import Problem
    problem = Problem()
    slow = problem.loss
    def loss(rows, known=None):
        print(len(problem.seen), flush=True)
        import time; time.sleep(0.01)
        return slow(rows)
    problem.loss = loss
    problem.train(epochs=20, checkpoint={path!r}, save_every=0.0)
"""


def test_kill_9_then_resume_gives_identical_weights(tmp_path, root):
    whole = Problem()
    whole.train(epochs=20)
    path = str(tmp_path / "c")
    code = textwrap.dedent(KILLED.format(root=str(root), path=path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(33):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    _, meta = load_tensors(path)
    assert 20 < meta["step"] <= 34  # really stopped midway, having saved after each step
    problem = Problem()
    problem.train(epochs=20, checkpoint=path)
    assert len(problem.seen) == 120 - meta["step"]
    assert torch.equal(problem.weights, whole.weights)


# --- checkpoints that must be refused


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_truncated_checkpoint(keep, tmp_path):
    path = tmp_path / "c"
    Problem().train(checkpoint=path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="not a readable semid_lib file"):
        Problem().train(checkpoint=path)


def test_garbage_checkpoint(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(CheckpointError, match="not a readable"):
        Problem().train(checkpoint=path)


@pytest.mark.parametrize(
    "change",
    [
        dict(learning_rate=0.02), dict(epochs=4), dict(batch_size=8), dict(seed=1),
        dict(precision="float64"), dict(weight_decay=0.1), dict(schedule="constant"),
        dict(snapshot_steps=(2,)), dict(identity={"data": "other"}),
    ],
)  # fmt: skip
def test_checkpoint_of_another_setting(change, tmp_path):
    Problem().train(checkpoint=tmp_path / "c")
    problem = Problem()
    with pytest.raises(CheckpointError, match="written by another model, dataset or setting"):
        problem.train(checkpoint=tmp_path / "c", **change)


def test_checkpoint_of_another_model_or_data(tmp_path):
    Problem().train(checkpoint=tmp_path / "c")
    for other in (Problem(hidden=7), Problem(num=41)):
        with pytest.raises(CheckpointError, match="another model"):
            other.train(checkpoint=tmp_path / "c")


def test_a_file_of_another_kind(tmp_path):
    save_tensors(tmp_path / "c", {"x": torch.ones(2)}, {"kind": "FAMAE"})
    with pytest.raises(CheckpointError, match="holds a 'FAMAE', not a 'training checkpoint'"):
        Problem().train(checkpoint=tmp_path / "c")


def test_identity_may_hold_numpy_numbers(tmp_path):
    Problem().train(checkpoint=tmp_path / "c", identity={"seed": np.int64(3)})
    Problem().train(checkpoint=tmp_path / "c", identity={"seed": 3})


# --- losses that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_loss_keeps_the_last_good_checkpoint(bad, tmp_path):
    problem = Problem()
    sound = problem.loss

    def loss(rows, known=None):
        value = sound(rows)
        return value * bad if len(problem.seen) == 9 else value

    problem.loss = loss
    with pytest.raises(InputError, match=f"the loss is {bad} since step 9, in epoch 2"):
        problem.train(checkpoint=tmp_path / "c", save_every=0.0)
    tensors, meta = load_tensors(tmp_path / "c")
    assert meta["step"] == 8
    assert all(t.isfinite().all() for t in tensors.values())


def test_bad_gradient_of_a_finite_loss(tmp_path):
    """sqrt at 0 has a finite value and an infinite slope: the weights break, not the loss."""
    problem = Problem()
    sound = problem.loss

    def loss(rows, known=None):
        value = sound(rows)
        return value + (value - value).sqrt() if len(problem.seen) == 4 else value

    problem.loss = loss
    with pytest.raises(InputError, match="a weight is not finite after step 4, in epoch 1"):
        problem.train(checkpoint=tmp_path / "c", save_every=0.0)
    tensors, meta = load_tensors(tmp_path / "c")
    assert meta["step"] == 3 and all(t.isfinite().all() for t in tensors.values())


def _full_gpu():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def _full_computer():
    torch.empty(2**50)  # 4 PiB


def _full_numpy():
    np.ones(2**50)


FULL = [_full_gpu, _full_computer, _full_numpy]


@pytest.mark.parametrize("run_out", FULL)
@pytest.mark.parametrize("room", [3, 0])
def test_too_little_memory_stops_with_what_fits_and_loses_nothing(room, run_out, tmp_path):
    whole = Problem()
    whole.train()
    problem = Problem()
    sound = problem.loss

    def loss(rows, known=None):
        if len(problem.seen) >= 8 and len(rows) > room:  # the third step of epoch 2
            run_out()
        return sound(rows)

    problem.loss = loss
    fits = {3: "samples at once; 3 of them fit. Set the batch size to 3", 0: "not even 1 of them"}
    with pytest.raises(DeviceMemoryError, match=f"step 9 needs more memory .* 7 .*{fits[room]}"):
        problem.train(checkpoint=tmp_path / "c", save_every=1e9)
    assert load_tensors(tmp_path / "c")[1]["step"] == 8
    again = Problem()
    again.train(checkpoint=tmp_path / "c")
    assert (again.weights == whole.weights).all()


@pytest.mark.parametrize("run_out", FULL)
def test_what_a_step_held_is_free_when_it_is_tried_with_fewer_samples(run_out):
    """Else the memory of the step that failed would count against the smaller ones."""
    problem, held = Problem(), []
    sound = problem.loss

    def loss(rows, known=None):
        assert not any(earlier() is not None for earlier in held)
        large = torch.ones(1000)
        held.append(weakref.ref(large))
        if len(rows) > 3:
            run_out()
        return sound(rows) + 0 * large.sum()

    problem.loss = loss
    with pytest.raises(DeviceMemoryError, match="3 of them fit"):
        problem.train()
    assert len(held) == 2


def test_bad_loss_without_checkpoint():
    problem = Problem()
    problem.y = problem.y * torch.nan
    with pytest.raises(InputError, match="the loss is nan since step 1, in epoch 1"):
        problem.train()


# --- batches


@pytest.mark.parametrize("lengths", [None, np.arange(40) % 9])
def test_every_epoch_visits_every_sample_once(lengths):
    problem = Problem()
    problem.train(lengths=lengths, epochs=3)
    orders = [sum(problem.seen[i : i + 6], []) for i in (0, 6, 12)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert [len(b) for b in problem.seen].count(7) == 15


@pytest.mark.parametrize("per_epoch", [15, 40, 100])
@pytest.mark.parametrize("lengths", [None, np.arange(40)])
def test_samples_per_epoch_come_round(per_epoch, lengths):
    problem = Problem()
    problem.train(samples_per_epoch=per_epoch, epochs=8, batch_size=6, lengths=lengths)
    steps = -(-min(per_epoch, 40) // 6)
    assert len(problem.seen) == 8 * steps
    drawn = sum(problem.seen, [])
    counts = np.bincount(drawn, minlength=40)
    assert counts.max() - counts.min() <= 1 and counts.sum() == 8 * min(per_epoch, 40)
    for whole in range(0, len(drawn) - 40, 40) if per_epoch == 40 else ():
        assert sorted(drawn[whole : whole + 40]) == list(range(40))


def test_batches_hold_samples_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 30, size=600)
    problem = Problem(num=600)
    problem.train(lengths=lengths, batch_size=20, epochs=1)
    spread = [np.ptp(lengths[b]) for b in problem.seen]
    assert max(spread) <= 2
    first = [lengths[b].mean() for b in problem.seen]
    assert first != sorted(first)  # the batches themselves come in random order


def test_every_target_weighs_alike_in_random_batches_and_not_in_those_of_like_length():
    """A sample of length n has n targets, a step is as large whatever its batch holds: so a target
    weighs 1 over the targets of its batch. Summed over epochs, the means of short, middling and
    long samples agree; where like lengths share a batch, a short one's weighs several times more.
    """
    lengths = np.random.default_rng(0).geometric(0.2, size=2000).clip(max=20)
    kinds = np.digitize(lengths, [4, 10])

    def weights(alike):
        problem = Problem(num=2000)
        problem.train(lengths=lengths, batch_size=64, epochs=12, alike=alike)
        total = np.zeros(2000)
        for batch in problem.seen:
            total[batch] += 1 / lengths[batch].sum()
        means = [np.average(total[kinds == k], weights=lengths[kinds == k]) for k in range(3)]
        return np.array(means) / np.average(total, weights=lengths)

    np.testing.assert_allclose(weights(alike=False), 1, atol=0.06)
    distorted = weights(alike=True)
    assert distorted[0] > 1.8 and distorted[0] > 3 * distorted[2]


@pytest.mark.parametrize(
    "least, most, truth",
    [
        (1, None, [[1, 1], [2, 2, 2, 3], [4, 6, 6], [9, 9, 10]]),
        (3, None, [[1, 1, 2, 2, 2, 3], [4, 6, 6], [9, 9, 10]]),
        (1, 2, [[1, 1], [2, 2], [2, 3], [4, 6], [6, 9], [9, 10]]),
        (99, None, [[1, 1, 2, 2, 2, 3, 4, 6, 6, 9, 9, 10]]),
    ],
)
def test_groups_of_like_length(least, most, truth):
    lengths = np.random.default_rng(1).permutation(sum(truth, []))
    groups = like_lengths(lengths, least, most)
    assert [lengths[group].tolist() for group in groups] == truth
    assert sorted(np.concatenate(groups)) == list(range(12))


def test_the_seed_decides_the_order():
    orders = []
    for seed in (0, 0, 1):
        problem = Problem()
        problem.train(seed=seed)
        orders.append(problem.seen)
    assert orders[0] == orders[1] != orders[2]


def test_an_outside_random_state_does_not_matter():
    first, second = Problem(), Problem()
    first.train()
    torch.manual_seed(99)
    torch.rand(5)
    second.train()
    assert torch.equal(first.weights, second.weights)


# --- float16, which a T4 computes in: the loss is scaled


class Steep(Problem):
    """At one step the loss is so steep that its scaled gradient leaves float16's range."""

    steep = 4

    def loss(self, rows, known=None):
        value = super().loss(rows) / 10  # the scale starts at 65,536, just beyond that range
        return value * 3e4 if len(self.seen) == self.steep else value


def scales(path):
    return load_tensors(path)[1]["scaler"]


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_overflow_skips_the_step_and_halves_the_scale(clip, tmp_path):
    weights, found, problem = [], [], Steep()
    sound = problem.loss

    def loss(rows, known):
        weights.append(problem.weights.clone())
        if (tmp_path / "c").exists():
            found.append(scales(tmp_path / "c")["scale"])
        return sound(rows)

    problem.loss = loss
    settings = dict(precision="float16", clip=clip, checkpoint=tmp_path / "c", save_every=-1.0)
    history = problem.train(epochs=1, **settings)
    moved = [not torch.equal(*pair) for pair in zip(weights, weights[1:])]
    assert moved == [True, True, True, False, True]  # of the first five steps the fourth is skipped
    assert found == [65536.0] * 3 + [32768.0] * 2
    assert np.isfinite(history.epochs[0]["loss"]) and history.steps == 6


def test_the_scale_survives_a_stop(tmp_path, monkeypatch):
    whole = Steep()
    whole.train(precision="float16", clip=1.0, checkpoint=tmp_path / "whole")
    clock, first = Clock(), Steep()
    monkeypatch.setattr(loop, "time", clock)
    settings = dict(precision="float16", clip=1.0, checkpoint=tmp_path / "c")
    with pytest.raises(TrainingPaused):
        first.train(StopsAt(first, clock, 5), deadline=50.0, **settings)
    assert scales(tmp_path / "c")["scale"] == 32768.0  # it overflowed before the stop
    second = Steep()
    second.steep = None
    second.train(**settings)
    assert torch.equal(second.weights, whole.weights)
    assert scales(tmp_path / "c") == scales(tmp_path / "whole")
    assert scales(tmp_path / "c")["_growth_tracker"] == 18 - 4  # sound steps since the overflow


def test_scaled_steps_equal_steps_in_float32():
    """With a scale of a power of two, float16 differs from float32 by its rounding alone."""
    half, single = Steep(), Steep()
    half.steep = single.steep = None
    half.model[2].p = single.model[2].p = 0.0
    losses = [
        [e["loss"] for e in problem.train(precision=precision, learning_rate=1e-3).epochs]
        for problem, precision in ((half, "float16"), (single, "float32"))
    ]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    torch.testing.assert_close(half.weights, single.weights, rtol=0, atol=2e-3)


# --- schedule, optimiser, stopping


def test_schedule_values():
    cosine = [rate_factor(s, 10, 0.0, "cosine") for s in range(10)]
    np.testing.assert_allclose(cosine, 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10)))
    warm = [rate_factor(s, 10, 0.4, "constant") for s in range(10)]
    np.testing.assert_allclose(warm, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    both = [rate_factor(s, 10, 0.4, "cosine") for s in range(10)]
    np.testing.assert_allclose(both[:5], [0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(both[7], 0.5)
    assert rate_factor(0, 5, 0.1, "constant") == 1.0  # a warm-up shorter than a step
    assert all(0 <= rate_factor(s, 3, 1.0, "cosine") <= 1 for s in range(3))


def test_steps_equal_plain_adamw():
    """Without dropout the loop is AdamW with the scheduled rate and clipped gradients."""
    ours, plain = Problem(), Problem()
    ours.model[2].p = plain.model[2].p = 0.0
    ours.train(epochs=2, clip=0.1, weight_decay=0.3, warmup=0.25, precision="float64")
    plain.model.double()
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=1.0, weight_decay=0.3, fused=False)
    for step, rows in enumerate(ours.seen):
        optimizer.param_groups[0]["lr"] = 0.01 * rate_factor(step, 12, 0.25, "cosine")
        optimizer.zero_grad()
        plain.loss(torch.tensor(rows)).backward()
        nn.utils.clip_grad_norm_(plain.model.parameters(), 0.1)
        optimizer.step()
    torch.testing.assert_close(ours.weights, plain.weights)


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_pieces_make_the_same_steps(at_once):
    """Batches of 7 and 5, in pieces: the gradient of the mean is that of the whole batch."""
    whole, pieces = Problem(), Problem()
    whole.model[2].p = pieces.model[2].p = 0.0
    settings = dict(clip=0.1, precision="float64")
    history = whole.train(**settings), pieces.train(at_once=at_once, **settings)
    assert max(map(len, pieces.seen)) == at_once and history[1].steps == history[0].steps
    torch.testing.assert_close(pieces.weights, whole.weights, rtol=0, atol=1e-12)
    losses = [[e["loss"] for e in h.epochs] for h in history]
    np.testing.assert_allclose(*losses, rtol=1e-12)


def test_best_epoch_weights_are_restored():
    problem, states, gains = Problem(), [], iter([0.1, 0.7, 0.3, 0.7])

    def validate():
        assert not problem.model.training
        states.append(problem.weights.clone())
        return {"gain": next(gains)}

    history = problem.train(epochs=4, validate=validate, monitor="gain")
    assert history.best_epoch == 2 and history.stopped == "epochs"
    assert torch.equal(problem.weights, states[1]) and not problem.model.training


@pytest.mark.parametrize("steps, epochs", [(0, 4), (18, 4), (19, 5), (30, 6), (1000, 9)])
def test_patience_lasts_so_many_steps(steps, epochs):
    """6 steps an epoch, the first of which is the best: 3 epochs without gain, or more."""
    problem, gains = Problem(), iter(range(0, -20, -1))
    history = problem.train(
        epochs=9, validate=lambda: {"gain": next(gains)}, monitor="gain", patience=3,
        patience_steps=steps,
    )  # fmt: skip
    assert len(history.epochs) == epochs and history.best_epoch == 1


def test_patience_counts_epochs_without_gain():
    gains = iter([0.1, 0.3, 0.2, 0.3, 0.4, 0.1, 0.1, 0.1, 0.9])
    problem = Problem()
    history = problem.train(
        epochs=9, validate=lambda: {"gain": next(gains)}, monitor="gain", patience=3
    )
    assert len(history.epochs) == 8 and history.best_epoch == 5 and history.stopped == "patience"


def test_history_books_what_happened():
    problem = Problem()
    history = problem.train(epochs=2, validate=problem.validate, monitor="gain")
    assert [e["epoch"] for e in history.epochs] == [1, 2] and history.steps == 12
    assert all(e["samples_per_second"] > 0 and e["seconds"] > 0 for e in history.epochs)
    assert history.seconds > 0 and history.samples_per_second > 0
    json.dumps(history.epochs)


# FLOPs of a sample by hand: forward 3 x 6 and 6 x 1 products and sums, backward those of both
# weights and of the inner values (the input needs no gradient).
FLOPS = 2 * (3 * 6 + 6) * 2 + 2 * 6


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("at_once", [None, 3])
def test_flops_are_those_of_the_matrix_products(precision, at_once):
    history = Problem().train(precision=precision, at_once=at_once, clip=1.0)
    assert [e["flops"] for e in history.epochs] == [40 * FLOPS] * 3


def test_flops_follow_the_lengths():
    """A sample of length n is n + 1 rows for the model; only 8 of 18 steps are counted."""
    problem, lengths = Problem(), np.random.default_rng(0).integers(0, 9, 40)

    def loss(rows, known):
        assert (rows.numpy() == known).all()
        x = problem.x[np.repeat(known, lengths[known] + 1)].float()
        return problem.model(x).square().mean()

    problem.loss = loss
    history = problem.train(lengths=lengths)
    assert [e["flops"] for e in history.epochs] == [(lengths + 1).sum() * FLOPS] * 3


def test_utilisation_and_seconds_outside_the_steps_by_hand(tmp_path, monkeypatch):
    """A clock on which a step takes 1 second, validation 10, writing a checkpoint 100."""
    clock, problem = Clock(), Problem()
    sound = problem.loss

    def loss(rows, known):
        clock.now += 1
        return sound(rows)

    def validate():
        clock.now += 10
        return {"gain": 0.0}

    def write(*arguments):
        clock.now += 100
        return save_tensors(*arguments)

    problem.loss = loss
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(checkpoint, "save_tensors", write)
    monkeypatch.setattr(history, "matrix_rate", lambda device, precision: 6000.0)
    found = problem.train(epochs=2, validate=validate, monitor="gain", checkpoint=tmp_path / "c")
    assert [e["train_seconds"] for e in found.epochs] == [6, 6]
    assert [e["seconds"] for e in found.epochs] == [16, 16]
    assert [e["outside_seconds"] for e in found.epochs] == [10, 110]
    assert found.outside_seconds == 120 and found.seconds == 32
    assert found.samples_per_second == pytest.approx(40 / 6)
    assert found.utilisation == pytest.approx(2 * 40 * FLOPS / 12 / 6000)


def test_a_checkpoint_from_before_these_were_measured(tmp_path, monkeypatch):
    clock, first = Clock(), Problem()
    monkeypatch.setattr(loop, "time", clock)
    with pytest.raises(TrainingPaused):
        first.train(StopsAt(first, clock, 11), deadline=50.0, checkpoint=tmp_path / "c")
    tensors, meta = load_tensors(tmp_path / "c")
    later = ("outside", "places", "flops", "begun")
    kept = {k: v for k, v in meta.items() if k not in later}
    assert len(kept) == len(meta) - len(later)
    save_tensors(tmp_path / "c", tensors, kept)
    second, whole = Problem(), Problem()
    history = second.train(checkpoint=tmp_path / "c")
    whole.train()
    assert torch.equal(second.weights, whole.weights)
    assert history.epochs[-1]["flops"] == 0 and history.utilisation >= 0


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_steps_are_the_same_steps(backend, monkeypatch):
    plain, compiled, settings = Problem(), Problem(), dict(precision="float64", epochs=3)
    plain.train(**settings)
    built, compile_ = [], torch.compile
    monkeypatch.setenv("SEMID_COMPILE", backend)
    monkeypatch.setattr(
        torch, "compile", lambda *a, **k: built.append(k["backend"]) or compile_(*a, **k)
    )
    compiled.loss = lambda rows, known: (
        (compiled.model(compiled.x[rows]) - compiled.y[rows]).square().mean()
    )
    compiled.train(**settings)
    assert built == [backend]
    torch.testing.assert_close(compiled.weights, plain.weights, rtol=0, atol=1e-12)


def test_history_loss_is_the_mean_over_samples():
    problem = Problem()
    values = []
    sound = problem.loss

    def loss(rows, known=None):
        value = sound(rows)
        values.append((float(value.detach()), len(rows)))
        return value

    problem.loss = loss
    history = problem.train(epochs=1)
    assert [n for _, n in values] == [7, 7, 7, 7, 7, 5]
    np.testing.assert_allclose(history.epochs[0]["loss"], sum(v * n for v, n in values) / 40)


def test_no_epochs_changes_nothing(tmp_path):
    problem = Problem()
    before = problem.weights.clone()
    history = problem.train(epochs=0)
    assert history.epochs == [] and torch.equal(problem.weights, before)


def test_deadline_in_the_past_pauses_before_the_first_step(tmp_path):
    problem = Problem()
    with pytest.raises(TrainingPaused, match="training paused at step 0 of 18"):
        problem.train(deadline=time.monotonic() - 1, checkpoint=tmp_path / "c")
    assert problem.seen == [] and (tmp_path / "c").exists()


def test_checkpoints_leave_no_other_file(tmp_path):
    Problem().train(checkpoint=tmp_path / "deep" / "c", save_every=0.0)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c"]


# --- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_silent_unless_on_a_terminal(monkeypatch, capsys):
    Problem().train()
    Problem().train(progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    Problem().train(label="SASRec")
    assert "SASRec" in terminal.getvalue() and "18/18" in terminal.getvalue()


def test_progress_shows_the_loss(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    problem = Problem()
    sound = problem.loss

    def loss(rows, known=None):
        time.sleep(0.08)
        return sound(rows)

    problem.loss = loss
    problem.train(progress=True)
    assert "loss=" in terminal.getvalue()


# --- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(epochs=-1), "epochs is -1, but must be an integer >= 0"),
        (dict(batch_size=0), "batch_size is 0, but must be an integer >= 1"),
        (dict(learning_rate=-1.0), "learning_rate is -1.0, but must be at least 0"),
        (dict(samples_per_epoch=0), "samples_per_epoch is 0"),
        (dict(patience=0), "patience is 0"),
        (dict(patience_steps=-1), "patience_steps is -1"),
        (dict(at_once=0), "at_once is 0"),
        (dict(schedule="step"), r"schedule is 'step', but must be one of \('cosine', 'constant'\)"),
        (dict(precision="int8"), "precision is 'int8', but must be one of"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        Problem().train(**change)


def test_no_samples():
    with pytest.raises(InputError, match="no training samples"):
        Problem(num=0).train()
