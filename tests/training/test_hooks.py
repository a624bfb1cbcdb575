"""Hooks: what is called when, and a state that survives whatever stops a run."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from semid_lib.errors import CheckpointError, DeviceMemoryError, InputError
from semid_lib.storage import load_tensors
from semid_lib.training import Hook, TrainingPaused, loop
from tests.training.problem import Clock, Problem, StopsAt


class Told(Hook):
    """Writes down what it is told, and whether the model was training and gradients were on."""

    def __init__(self, model, name="", told=None):
        self.model, self.name = model, name
        self.told = [] if told is None else told

    def note(self, *what):
        assert not torch.is_grad_enabled()
        self.told.append((*what, self.model.training, self.name))

    def begin_epoch(self, epoch):
        self.note("begin", epoch)

    def after_step(self, step):
        self.note("step", step)

    def end_epoch(self, entry):
        self.note("end", entry["epoch"])


class Shaking(Hook):
    """Begins an epoch by moving the weights, by draws and by what its state has added up."""

    def __init__(self, model):
        self.model = model
        self.sums = torch.zeros(2)
        self.begun = 0

    def begin_epoch(self, epoch):
        self.begun += 1
        for p in self.model.parameters():
            p += 0.1 * torch.randn_like(p) + 1e-3 * self.sums[1]
        self.sums[0] = epoch

    def after_step(self, step):
        self.sums[1] += step + next(self.model.parameters()).abs().sum()

    def end_epoch(self, entry):
        return {"sum": float(self.sums[1])}

    def state(self):
        return {"sums": self.sums}

    def load_state(self, tensors):
        self.sums.copy_(tensors["sums"])


def shaken(**settings):
    problem = Problem()
    hook = Shaking(problem.model)
    history = problem.train(hooks=[hook], **settings)
    return problem, hook, history


def test_hooks_are_called_in_order():
    problem, told = Problem(), []
    hook = Told(problem.model)
    problem.train(epochs=2, batch_size=20, hooks=[hook])
    for epoch in (1, 2):
        told += [("begin", epoch, True, "")]
        told += [("step", step, True, "") for step in (2 * epoch - 1, 2 * epoch)]
        told += [("end", epoch, False, "")]
    assert hook.told == told


def test_several_hooks_take_turns():
    problem, told = Problem(), []
    hooks = [Told(problem.model, name, told) for name in "ab"]
    problem.train(epochs=1, batch_size=40, hooks=hooks)
    called = [(what, name) for what, _, _, name in told]
    assert called == [(what, name) for what in ("begin", "step", "end") for name in "ab"]


def test_a_hook_that_does_nothing_changes_nothing():
    plain, hooked = Problem(), Problem()
    plain.train()
    hooked.train(hooks=[Hook()])
    assert torch.equal(hooked.weights, plain.weights)


def test_what_an_epoch_begins_with_comes_before_its_first_step():
    """The weights that the first loss sees are those the hook has set."""

    class Zero(Hook):
        def begin_epoch(self, epoch):
            for p in problem.model.parameters():
                p.zero_()

    problem, seen = Problem(), []
    sound = problem.loss

    def loss(rows, known):
        seen.append(float(problem.weights.abs().sum()))
        return sound(rows)

    problem.train(loss, hooks=[Zero()])
    assert [number for number, value in enumerate(seen) if value == 0] == [0, 6, 12]


def test_what_a_hook_returns_is_in_the_history_and_may_choose_the_epoch():
    class Graded(Hook):
        def end_epoch(self, entry):
            assert entry["gain"] <= 0 and entry["loss"] > 0  # it sees what is known before
            states.append(problem.weights.clone())
            return {"grade": [0.2, 0.9, 0.4][entry["epoch"] - 1]}

    problem, states = Problem(), []
    history = problem.train(validate=problem.validate, hooks=[Graded()], monitor="grade")
    assert [epoch["grade"] for epoch in history.epochs] == [0.2, 0.9, 0.4]
    assert history.best_epoch == 2 and torch.equal(problem.weights, states[1])


def test_without_a_monitor_the_last_epoch_is_kept(tmp_path):
    problem = Problem()
    history = problem.train(validate=problem.validate, checkpoint=tmp_path / "c")
    assert history.best_epoch == 3 and all("gain" in epoch for epoch in history.epochs)
    assert not any(name.startswith("best.") for name in load_tensors(tmp_path / "c")[0])


def test_a_monitor_that_nothing_reports_is_an_error():
    problem = Problem()
    with pytest.raises(InputError, match="monitor is 'ndcg', but an epoch reports .*, gain"):
        problem.train(validate=problem.validate, monitor="ndcg")


@pytest.mark.parametrize("step", [1, 5, 6, 7, 12, 17])  # 6 steps an epoch
def test_state_survives_a_pause(step, tmp_path, monkeypatch):
    whole, kept, expected = shaken()
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    first = Problem()
    hooks = [Shaking(first.model)]
    with pytest.raises(TrainingPaused, match=f"paused at step {step} of 18$"):
        first.train(
            StopsAt(first, clock, step), hooks=hooks, deadline=50.0, checkpoint=tmp_path / "c"
        )
    second, hook, found = shaken(checkpoint=tmp_path / "c")
    assert hooks[0].begun + hook.begun == 3
    assert torch.equal(second.weights, whole.weights) and torch.equal(hook.sums, kept.sums)
    assert [e["sum"] for e in found.epochs] == [e["sum"] for e in expected.epochs]


KILLED = """
    import sys, time, torch
    torch.set_num_threads(1)
    sys.path.insert(0, {root!r})
    from tests.training.test_hooks import Problem, Shaking
    problem = Problem()
    def loss(rows, known):
        print(len(problem.seen), flush=True)
        time.sleep(0.01)
        return problem.loss(rows)
    hook = Shaking(problem.model)
    problem.train(loss, hooks=[hook], epochs=20, checkpoint={path!r}, save_every=0.0)
"""


def test_state_survives_kill_9(tmp_path, root):
    whole, kept, _ = shaken(epochs=20)
    path = str(tmp_path / "c")
    code = textwrap.dedent(KILLED.format(root=str(root), path=path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    for _ in range(33):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    tensors, meta = load_tensors(path)
    assert 20 < meta["step"] <= 34 and "hook.0.sums" in tensors
    again, hook, _ = shaken(epochs=20, checkpoint=path)
    assert torch.equal(again.weights, whole.weights) and torch.equal(hook.sums, kept.sums)


def test_an_epoch_that_began_before_the_memory_was_full_does_not_begin_again(tmp_path):
    problem = Problem()
    hook = Shaking(problem.model)

    def loss(rows, known):
        if len(problem.seen) == 6:  # the first step of epoch 2
            raise MemoryError
        return problem.loss(rows)

    with pytest.raises(DeviceMemoryError, match="step 7 needs more memory"):
        problem.train(loss, hooks=[hook], checkpoint=tmp_path / "c")
    assert hook.begun == 2
    _, hook, history = shaken(checkpoint=tmp_path / "c")
    assert hook.begun == 1 and history.steps == 18


def test_a_checkpoint_of_other_hooks_is_refused(tmp_path):
    shaken(checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="another model, dataset or setting"):
        Problem().train(checkpoint=tmp_path / "c")


def test_state_of_two_hooks_is_told_apart(tmp_path):
    problem = Problem()
    hooks = [Shaking(problem.model), Shaking(nn.Linear(1, 1))]
    problem.train(hooks=hooks, checkpoint=tmp_path / "c")
    again = [Shaking(problem.model), Shaking(nn.Linear(1, 1))]
    Problem().train(hooks=again, checkpoint=tmp_path / "c")
    for old, new in zip(hooks, again):
        assert torch.equal(old.sums, new.sums)
    assert not torch.equal(again[0].sums, again[1].sums)
