"""However a run ends, the state after its last step is on disk, and the model of that step."""

import os
import shutil
import signal
import threading

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from tarflow import TarFlow
from tarflow.errors import ConfigurationError
from tarflow.training import (
    DivergenceError,
    LastCheckpoint,
    Preemption,
    PretrainedExport,
    WeightAveraging,
)
from tests.test_training.test_module import data, fit, tiny_flow, tiny_module
from tests.test_training.test_resume import assert_same

__all__ = ["data"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Raising(lightning.Callback):
    """Raises in a hook, when it is called for the nth time."""

    def __init__(self, hook: str, call: int, error: BaseException):
        self.calls = 0

        def raise_at_last(*_):
            self.calls += 1
            if self.calls == call:
                raise error

        setattr(self, hook, raise_at_last)


class Doing(lightning.Callback):
    """Does something at the end of a batch, which counts from 1 over the whole run."""

    def __init__(self, batch: int, action):
        self.batch, self.action = batch, action

    def on_train_batch_end(self, trainer, *_):
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.batch:
            self.action(trainer)


class Keeping(lightning.Callback):
    """Keeps a copy of the checkpoint of every step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step:
            shutil.copy(self.folder / "last.ckpt", self.folder / f"{trainer.global_step}.ckpt")


def run(data, folder, first=(), last=(), every_n_steps=100, **options):
    """Train to step 7, with callbacks before and after those that keep its state.

    Two batches make a step, and six an epoch.
    """
    lightning.seed_everything(5, verbose=False)
    datamodule = type(data)(data.data, 8, device_batch_size=4)
    keep = [
        WeightAveraging([0.9]),
        PretrainedExport(folder / "pretrained"),
        LastCheckpoint(folder / "last.ckpt", every_n_steps),
        Preemption(),
    ]
    options = {"check_val_every_n_epoch": 1, **options}
    module = tiny_module(tiny_flow(dropout=0.2))
    return fit(module, datamodule, 7, callbacks=[*first, *keep, *last], **options)


@pytest.fixture(scope="module")
def every_step(tmp_path_factory):
    """A folder with the states after each step of a run that was never disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    run(data.__wrapped__(), folder, last=[Keeping(folder)], every_n_steps=1)
    return folder


def assert_holds(folder, step, every_step):
    """What is on disk is the state after a step, and its model."""
    found, expected = (
        torch.load(path, weights_only=True)
        for path in (folder / "last.ckpt", every_step / f"{step}.ckpt")
    )
    for state in (found, expected):
        del state["callbacks"]  # other ones
    assert_same(found, expected)
    model = TarFlow.from_pretrained(folder / "pretrained").state_dict()
    for name, value in expected["averaging"]["averages"][0.9].items():
        assert torch.equal(model[name], value)


def stop(trainer):
    trainer.should_stop = True


def never_better(**options):
    return EarlyStopping("val/nats_per_dim", patience=1, min_delta=1e9, **options)


ENDS = {
    "epochs": ({"max_epochs": 2}, 6),
    "between the batches of a step": ({"last": [Doing(9, stop)]}, 4),
    "at the end of an epoch": ({"last": [Doing(6, stop)]}, 3),
    "early stopping": ({"last": [never_better()]}, 6),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_early_end_leaves_the_state_of_its_last_step(data, tmp_path, every_step, end):
    options, step = ENDS[end]
    assert run(data, tmp_path, **options).global_step == step
    assert_holds(tmp_path, step, every_step)


def test_a_run_that_ended_between_the_batches_of_a_step_goes_on(data, tmp_path, every_step):
    run(data, tmp_path, last=[Doing(9, stop)])
    run(data, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert_holds(tmp_path, 7, every_step)


ERRORS = {
    "before the averages": ("first", "on_train_batch_end", 8, 4),
    "after the checkpoint": ("last", "on_train_batch_end", 8, 4),
    "between the batches of a step": ("last", "on_train_batch_end", 9, 4),
    "before a batch": ("first", "on_train_batch_start", 8, 3),
    "in a backward pass": ("first", "on_before_backward", 10, 4),
    "in validation": ("last", "on_validation_batch_end", 2, 3),
    "at the end of validation": ("first", "on_validation_end", 2, 6),
    "at the end of an epoch": ("last", "on_train_epoch_end", 1, 3),
    "at the start of one": ("last", "on_train_epoch_start", 2, 3),
    "at the end": ("first", "on_train_end", 1, 7),
}


@pytest.mark.parametrize("place", ERRORS)
def test_an_error_leaves_the_state_of_the_last_step(data, tmp_path, every_step, place):
    where, hook, call, step = ERRORS[place]
    with pytest.raises(RuntimeError, match="a bug"):
        run(data, tmp_path, **{where: [Raising(hook, call, RuntimeError("a bug"))]})
    assert_holds(tmp_path, step, every_step)


def test_an_error_in_an_update_of_the_weights_leaves_what_was_written_before(
    data, tmp_path, every_step
):
    for error in (RuntimeError("out of memory"), DivergenceError("not finite")):
        raising = Raising("on_before_zero_grad", 99, error)
        raising.on_before_optimizer_step = lambda trainer, *_, error=error: (
            trainer.optimizers[0].register_step_post_hook(lambda *_: _raise(error))
            if trainer.global_step == 4
            else None
        )
        with pytest.raises(type(error)):
            run(data, tmp_path, every_n_steps=2, last=[raising])
        assert_holds(tmp_path, 4, every_step)


def _raise(error):
    raise error


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_a_run_at_the_next_step_without_validation(data, tmp_path, every_step, name):
    before = signal.getsignal(signal.Signals[name])
    told = Doing(9, lambda _: os.kill(os.getpid(), signal.Signals[name]))
    validation = Raising("on_validation_start", 2, AssertionError("validates"))
    trainer = run(data, tmp_path, last=[told, validation], min_steps=7)
    assert trainer.global_step == 5
    assert_holds(tmp_path, 5, every_step)
    assert signal.getsignal(signal.Signals[name]) == before


@pytest.fixture
def keyboard():
    """Python's own handling of ctrl-C, which a program started in the background is without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_a_second_signal_of_the_keyboard_ends_at_once(data, tmp_path, every_step):
    def press_twice(_):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)  # in this thread: of two at once, one may be lost

    with pytest.raises(SystemExit):
        run(data, tmp_path, last=[Doing(9, press_twice)], every_n_steps=2)
    assert_holds(tmp_path, 4, every_step)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_thread_trains_without_signals(data, tmp_path, every_step):
    before = signal.getsignal(signal.SIGINT)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run(data, tmp_path).global_step))
    thread.start()
    thread.join()
    assert ended == [7]
    assert_holds(tmp_path, 7, every_step)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_disk_that_fails_after_an_error_hides_neither(data, tmp_path, caplog):
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(RuntimeError, match="a bug"):
        run(data, tmp_path, last=[Raising("on_train_batch_end", 8, RuntimeError("a bug"))])
    assert "the last state was not written either: the state of step 4 cannot" in caplog.text


def test_signals_have_names():
    with pytest.raises(ConfigurationError, match="needed are one or more of this system's names"):
        Preemption(["SIGNOTHING"])
