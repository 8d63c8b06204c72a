"""A training step reads nothing back from its device; one that is skipped leaves no trace."""

import copy
import functools

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from tarflow import (
    ContextError,
    ExpScale,
    Pixels,
    UniformLevels,
    UnitScale,
)
from tarflow.tokenizers import FiniteScalar, RotationTrick, VectorQuantized
from tarflow.training import (
    DivergenceError,
    FlowModule,
    LastCheckpoint,
    MaximumLikelihood,
    Preemption,
    PretrainedExport,
    StepProgressBar,
    StudentModule,
    Throughput,
    TransformStatistics,
    WeightAveraging,
    adamw,
    muon,
    warmup_cosine,
)
from tarflow.training.averaging import averages
from tarflow.training.late import Late
from tests.quiet import QUIET
from tests.test_functional import NoReading
from tests.test_training import distilling, tokenizing
from tests.test_training.test_mixed_precision import half
from tests.test_training.test_module import data, fit, poison, tiny_flow, tiny_module
from tests.test_training.test_resume import assert_same

__all__ = ["data"]

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        ".*LeafSpec:FutureWarning",
        "the step after:UserWarning",
        ".*the logging interval",
    )
]


class Between(NoReading):
    """Refuses to read values between the steps that are logged."""

    def __init__(self):
        super().__init__()
        self.refuses, self.steps = False, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.refuses:
            return super().__torch_dispatch__(function, types, args, kwargs)
        return function(*args, **(kwargs or {}))


class Switch(lightning.Callback):
    """Lets a mode refuse in a step, from its first batch on, unless it is logged or the first."""

    def __init__(self, mode):
        self.mode = mode

    def on_train_batch_start(self, trainer, *_):
        logs = trainer._logger_connector.should_update_logs
        self.mode.refuses = trainer.global_step > 0 and not logs
        self.mode.steps += self.mode.refuses

    def on_train_epoch_end(self, *_):  # the next one is shuffled on the CPU
        self.mode.refuses = False

    on_train_end = on_train_epoch_end


def train_unread(module, data, folder, **options):
    """Train with every callback; steps but the first and those of the log read nothing."""
    mode = Between()
    callbacks = [
        WeightAveraging([0.9, 0.5]),
        Throughput(),
        *([TransformStatistics()] if isinstance(module, FlowModule) else []),
        PretrainedExport(folder / "pretrained"),
        LastCheckpoint(folder / "last.ckpt", 100),
        Preemption(),
        StepProgressBar(),
        LearningRateMonitor(),
    ]
    trainer = lightning.Trainer(
        max_steps=8,
        max_epochs=-1,
        **(QUIET | {"enable_progress_bar": True, "logger": CSVLogger(folder)}),
        callbacks=[Switch(mode), *callbacks],
        log_every_n_steps=4,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )
    with mode:
        trainer.fit(module, data)
    assert mode.steps >= 5
    assert trainer.global_step == 8
    return trainer


FLOWS = {
    "adamw": {},
    "muon": {"optimizer": muon},
    "learned base": {"scale": UnitScale()},
    "levels": {"codec": Pixels(17), "noise": UniformLevels(0.05, 0.5)},
    "parts": {"parts": 2, "optimizer": muon},
    "scaled loss": {"plugins": [half()]},
}


@pytest.mark.parametrize("name", FLOWS)
def test_steps_of_a_flow_read_nothing_between_lines_of_the_log(data, tmp_path, name):
    options = dict(FLOWS[name])
    optimizer, parts = options.pop("optimizer", adamw), options.pop("parts", 1)
    plugins = options.pop("plugins", [])
    power = 1 if name == "levels" else 0
    module = tiny_module(tiny_flow(**options), objective=MaximumLikelihood(0.1, power, 1e-4))
    module.make_optimizer = functools.partial(optimizer, lr=1e-3)
    data.device_batch_size = 8 // parts
    trainer = train_unread(module, data, tmp_path, plugins=plugins)
    assert trainer.logged_metrics["train/skipped_steps"] == 0


@pytest.mark.parametrize("method", distilling.METHODS)
def test_steps_of_a_student_read_nothing(tmp_path, method):
    made = distilling.images()
    student, objective = distilling.METHODS[method](distilling.teacher())
    objective.prepare(made.data)
    if method == "inverse":
        objective.pairs.every = 100  # the teacher decodes new ones, in passes that the host counts
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    train_unread(
        StudentModule(student, objective, functools.partial(muon), schedule), made, tmp_path
    )


@pytest.mark.parametrize(
    "bottleneck",
    [tokenizing.Signs(), VectorQuantized(num_codes=4, gradient=RotationTrick()), FiniteScalar()],
)
def test_steps_of_a_tokenizer_read_nothing(tmp_path, bottleneck):
    module = tokenizing.module_of(tokenizing.autoencoder(bottleneck))
    train_unread(module, tokenizing.images(), tmp_path)


# --- Steps that are skipped -----------------------------------------------------------------


class Spoilt(lightning.Callback):
    """Makes a gradient infinite in some steps, and keeps the state of the run after each step."""

    def __init__(self, flow, steps):
        self.flow, self.steps, self.states = flow, steps, []

    def on_fit_start(self, trainer, pl_module):
        def spoil(gradient):
            return gradient * (torch.inf if trainer.global_step in self.steps else 1)

        self.flow.transform[3].network.blocks[0].mlp[0].weight.register_hook(spoil)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if len(self.states) == trainer.global_step:
            return  # a part of a batch
        state = {
            "weights": self.flow.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict()["state"],
            "averages": dict(averages(trainer, self.flow)),
        }
        self.states.append(copy.deepcopy(state))


class WithoutUpdate(Spoilt):
    """Leaves some updates of weights out instead."""

    def on_fit_start(self, *_):
        pass

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step in self.steps:
            optimizer.zero_grad()


def spoilt_run(
    data, kind=Spoilt, steps=(2,), optimizer=adamw, parts=1, scale=ExpScale(), **options
):
    """States after each of five steps, of which some are skipped."""
    torch.manual_seed(0)
    data.batches.first, data.device_batch_size = 0, 8 // parts
    flow = tiny_flow(scale=scale, dropout=0.1)
    module = tiny_module(flow)
    module.make_optimizer = functools.partial(optimizer, lr=3e-3)
    spoilt = kind(flow, steps)
    keep = [WeightAveraging([0.5, 0.9]), spoilt]
    fit(module, data, 5, callbacks=keep, limit_val_batches=0, **options)
    return spoilt.states, module


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("plugins", [[], [half(1.0)]], ids=["exact", "scaled"])
@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_a_skipped_step_leaves_everything_as_it_was(data, optimizer, plugins, parts):
    options = {"optimizer": optimizer, "parts": parts, "plugins": copy.deepcopy(plugins)}
    states, module = spoilt_run(data, scale=UnitScale(), **options)
    assert module.skipped_steps == 1
    assert_same(states[2], states[1])
    for before, after in ((0, 1), (2, 3), (3, 4)):
        for name in ("weights", "averages"):
            with pytest.raises(AssertionError):
                assert_same(states[after][name], states[before][name])


@pytest.mark.parametrize("make", [adamw, muon])
def test_after_a_run_whose_last_step_was_skipped_an_optimizer_takes_steps_again(data, make):
    _, module = spoilt_run(data, steps=(4,), optimizer=make)
    assert module.skipped_steps == 1
    [weight, *_] = module.flow.parameters()
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    module.trainer.optimizers[0].step()
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_a_run_goes_on_as_if_a_skipped_step_had_had_no_update(data, optimizer):
    skipped, _ = spoilt_run(data, optimizer=optimizer, steps=(0, 2))
    left_out, _ = spoilt_run(data, WithoutUpdate, optimizer=optimizer, steps=(0, 2))
    for one, other in zip(skipped, left_out, strict=True):
        assert_same(one["weights"], other["weights"])
    assert_same(skipped[-1]["optimizer"], left_out[-1]["optimizer"])


def test_averages_are_those_of_the_steps_that_were_not_skipped(data):
    states, _ = spoilt_run(data, steps=(2,))
    name = "transform.transforms.1.network.proj_out.bias"
    weights = [state["weights"][name] for state in states]
    for largest, average in states[-1]["averages"].items():
        expected = weights[0]
        for number, step in enumerate((1, 3, 4), start=1):
            decay = min(largest, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * weights[step]
        torch.testing.assert_close(average[name], expected)


def test_a_run_with_a_skipped_step_resumes_bitwise(data, tmp_path):
    def go(folder, last, after=None):
        torch.manual_seed(0)
        data.batches.first, flow = 0, tiny_flow(dropout=0.1)
        module = tiny_module(flow)
        module.make_optimizer = functools.partial(muon, lr=3e-3)
        state = LastCheckpoint(folder / "last.ckpt", 1)
        keep = [Spoilt(flow, (1,)), WeightAveraging([0.9]), state]
        fit(module, data, last, after, callbacks=keep, limit_val_batches=0)
        return torch.load(folder / "last.ckpt", weights_only=True)

    straight = go(tmp_path / "straight", 5)
    for stop in (2, 3):
        folder = tmp_path / str(stop)
        go(folder, stop)
        resumed = go(folder, 5, folder / "last.ckpt")
        assert resumed["skipped_steps"] == 1
        for name in ("state_dict", "optimizer_states", "averaging", "lr_schedulers"):
            assert_same(resumed[name], straight[name])


def test_an_optimizer_that_cannot_skip_by_itself_is_waited_for(data):
    states, module = spoilt_run(data, optimizer=plain)
    assert module.skipped_steps == 1
    assert_same(states[2], states[1])


def plain(named, lr):
    """An optimizer without fused kernels."""
    return torch.optim.SGD([parameter for _, parameter in named], lr, momentum=0.9)


# --- Hearing of them later ------------------------------------------------------------------


@pytest.fixture
def busy(monkeypatch):
    """As on a GPU, which computes while the host goes on."""
    monkeypatch.setattr(Late, "at_once", False)


def test_a_skipped_step_is_told_with_its_cause_after_the_next(data, busy):
    flow, heard = tiny_flow(), []

    class Listen(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            heard.append(pl_module.skipped_steps)

    with pytest.warns(UserWarning, match="is not finite") as told:
        fit(tiny_module(flow), data, 6, callbacks=[poison(flow, (1, 2, 5)), Listen()])
    assert heard == [0, 0, 1, 2, 2, 2]
    words = [str(each.message) for each in told if "is not finite" in str(each.message)]
    assert [each.split(" is ")[0] for each in words] == [f"the step after {k}" for k in (1, 2, 5)]
    assert "loss: the output of transform 3" in words[0]


def test_too_many_skipped_steps_stop_a_run_one_step_later(data, busy):
    flow = tiny_flow()
    module = tiny_module(flow, max_skipped_steps=1)
    with pytest.raises(DivergenceError, match=r"the step after 3 is .*, and 1 others"):
        fit(module, data, 9, callbacks=[poison(flow, (1, 3))])
    assert module.trainer.global_step == 4


def test_a_line_of_the_log_knows_of_every_step_before(data, busy):
    flow = tiny_flow()
    trainer = fit(tiny_module(flow), data, 4, callbacks=[poison(flow, (3,))], log_every_n_steps=4)
    assert trainer.logged_metrics["train/skipped_steps"] == 1


def test_a_label_out_of_range_is_named_before_any_weight_has_moved(data, busy):
    flow = tiny_flow(num_classes=2)
    with pytest.raises(ContextError, match=r"to 2, but this model knows 0 \.\.\. 1"):
        fit(tiny_module(flow), data)
    assert not flow.transform[1].network.proj_out.weight.any()


def test_a_checkpoint_counts_steps_that_nobody_has_heard_of(data, busy, tmp_path):
    flow, state = tiny_flow(), LastCheckpoint(tmp_path / "last.ckpt", 3)
    callbacks = [Spoilt(flow, (2,)), WeightAveraging(), state, Stop(3)]
    with pytest.raises(SystemExit):
        fit(tiny_module(flow), data, 9, callbacks=callbacks)
    found = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert found["global_step"] == 3
    assert found["skipped_steps"] == 1
    assert found["averaging"]["num_updates"] == 2


class Stop(lightning.Callback):
    """Stops after some steps, as ctrl-C does."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.steps:
            raise KeyboardInterrupt
