"""Training lowers the loss, averages, stops at divergence, and keeps the flow's state precise."""

import functools
import itertools
from dataclasses import dataclass, replace

import lightning
import pytest
import torch

from tarflow import (
    CheckpointError,
    ConfigurationError,
    Context,
    ContextError,
    ExampleSeeds,
    GaussianNoise,
    LinearGuidance,
    NoNoise,
    Pixels,
    TarFlow,
    UniformDequantization,
    UniformLevels,
    UnitScale,
)
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.data.loading.batches import Batch
from tarflow.flows.checkpoint import description_of
from tarflow.flows.flow import Flow
from tarflow.randomness import RandomSource
from tarflow.training import (
    DivergenceError,
    FlowModule,
    Loss,
    MaximumLikelihood,
    Objective,
    PretrainedExport,
    SampleGrid,
    WeightAveraging,
    adamw,
    warmup_cosine,
)
from tarflow.training.averaging import averages

from ..quiet import QUIET


def tiny_flow(**options) -> TarFlow:
    torch.manual_seed(0)
    settings = {
        "image_size": 4,
        "patch_size": 2,
        "num_channels": 1,
        "num_transforms": 2,
        "num_layers": 1,
        "model_dim": 16,
        "head_dim": 8,
        "num_classes": 3,
        "codec": UniformDequantization(17),
        "noise": NoNoise(),
    }
    return TarFlow(**(settings | options))


def tiny_module(flow: TarFlow, lr: float = 3e-3, **options) -> FlowModule:
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    return FlowModule(flow, functools.partial(adamw, lr=lr), schedule, **options)


@pytest.fixture
def data() -> ImageDataModule:
    torch.manual_seed(1)
    label = torch.arange(24) % 3
    images = (5 * label[:, None, None, None] + torch.randint(0, 4, (24, 1, 4, 4))).to(torch.uint8)
    part = ArrayDataset(images, label)
    made = ImageData(
        "made up", part, part, part, codec=Pixels(17), num_classes=3, image_shape=(1, 4, 4)
    )
    return ImageDataModule(made, batch_size=8)


def fit(module, data, max_steps=10, ckpt_path=None, **options) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_steps=max_steps,
        **QUIET,
        num_sanity_val_steps=0,
        **{"max_epochs": -1, **options},
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


def nats(flow: TarFlow, data: ImageDataModule) -> float:
    images, labels = data.data.train.images, data.data.train.labels
    x = flow.noisy(images, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float(-flow.log_prob(x, labels).mean()) / flow.num_dims


def test_training_lowers_the_loss_and_logs_what_it_should(data):
    flow = tiny_flow()
    before = nats(flow, data)
    trainer = fit(tiny_module(flow), data, max_steps=50, log_every_n_steps=1)
    assert nats(flow, data) < before - 0.3
    expected = {"train/nats_per_dim", "train/grad_norm", "val/nats_per_dim", "val/bits_per_dim"}
    assert expected <= trainer.logged_metrics.keys()


def test_same_seed_gives_the_same_weights(data):
    weights = []
    for _ in range(2):
        lightning.seed_everything(3, verbose=False)
        flow = tiny_flow()
        data.batches.first = 0
        fit(tiny_module(flow), data, max_steps=4)
        weights.append(flow.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_volume_preserving_flow_learns_the_variance_of_its_base(data):
    flow = tiny_flow(scale=UnitScale())
    fit(tiny_module(flow), data, max_steps=50)
    images, labels = data.data.train.images, data.data.train.labels
    z, _ = flow(flow.noisy(images), labels)
    assert not torch.equal(flow.base.variance, torch.ones(4, 4))
    ratio = z.square().mean(dim=0) / flow.base.variance
    assert ratio.mean().log().abs() < 0.3


def variance_after_steps(data: ImageDataModule, steps: int, **options) -> torch.Tensor:
    torch.manual_seed(0)
    flow = tiny_flow(scale=UnitScale())
    data.batches.first = 0
    fit(tiny_module(flow), data, max_steps=steps, limit_val_batches=0, **options)
    return flow.base.variance.clone()


def test_the_base_learns_once_a_step_whatever_the_accumulation(data):
    whole = variance_after_steps(data, 2)
    data.device_batch_size = 2
    torch.testing.assert_close(variance_after_steps(data, 2), whole, rtol=1e-5, atol=1e-6)
    assert not torch.equal(whole, torch.ones_like(whole))


@pytest.mark.filterwarnings("ignore:the step after:UserWarning")
def test_a_step_that_is_not_finite_leaves_the_base_alone(data):
    flow = tiny_flow(scale=UnitScale())
    fit(tiny_module(flow), data, max_steps=3, callbacks=[poison(flow, (1,))])
    assert flow.base.variance.isfinite().all()


@pytest.mark.parametrize("power", [0, 1, 2])
def test_an_example_is_weighted_by_a_power_of_its_noise_level(data, power):
    flow = tiny_flow(codec=Pixels(17), noise=UniformLevels(0.05, 0.5))
    batch = Batch(data.data.train.images, Context(data.data.train.labels), torch.arange(24))
    objective, seeds = MaximumLikelihood(0.0, power), ExampleSeeds(0, range(24))
    x, context = flow.observe(batch.x, batch.context, seeds)
    nats = -flow.log_prob(x, context)
    weighted = context["noise_level"] ** power * nats
    loss = objective(flow, batch, seeds)
    torch.testing.assert_close(loss.value, weighted)
    found = objective.validate(flow, batch, seeds)
    torch.testing.assert_close(found["nats_per_dim"], nats / 16)
    torch.testing.assert_close(found[objective.named(flow)], weighted / 16)
    assert list(loss.logged) == (["nats_per_dim"] if power else [])
    for values in loss.logged.values():
        torch.testing.assert_close(values, nats / 16)


def test_training_at_all_noise_levels_lowers_the_loss_at_each(data):
    flow = tiny_flow(codec=Pixels(17), noise=UniformLevels(0.05, 0.5))

    def losses():
        images, labels = data.data.train.images, data.data.train.labels
        for level in (0.05, 0.2, 0.5):
            seeds = ExampleSeeds(0, range(24))
            x, context = flow.observe(images, labels, seeds, noise=flow.noise.at(level))
            yield float(-flow.log_prob(x, context).mean().detach()) / flow.num_dims

    before = list(losses())
    module = tiny_module(flow, objective=MaximumLikelihood(level_power=1))
    trainer = fit(module, data, max_steps=50, log_every_n_steps=1)
    assert all(new < old - 0.1 for new, old in zip(losses(), before, strict=True))
    parts = {f"{part}/{name}" for part in ("train", "val") for name in NAMES}
    assert parts <= trainer.logged_metrics.keys()
    logged = trainer.logged_metrics
    assert 0 < logged["val/weighted_nats_per_dim"] < 0.5 * logged["val/nats_per_dim"]


NAMES = ("nats_per_dim", "weighted_nats_per_dim")


def test_weights_need_noise_levels(data):
    flow = tiny_flow(codec=Pixels(17), noise=GaussianNoise(0.1))
    batch = Batch(data.data.train.images, Context(data.data.train.labels), torch.arange(24))
    with pytest.raises(ConfigurationError, match="level_power 1 weights by noise levels"):
        MaximumLikelihood(level_power=1)(flow, batch, None)
    for power in (-1, 3):
        with pytest.raises(ConfigurationError, match="must be 0, 1 or 2"):
            MaximumLikelihood(level_power=power)


@dataclass(frozen=True)
class Squared(Objective):
    """The mean square of the noise: nothing that anyone would want."""

    def __call__(self, flow: Flow, batch: Batch, source: RandomSource) -> Loss:
        x, context = flow.noisy(batch.x, source), flow.known(batch.context)
        z, _ = flow(x, context)
        value = z.square().sum(dim=(1, 2))
        return Loss(value, x, context, logged={"largest": z.abs().amax(dim=(1, 2))})


def test_any_objective_is_minimized_and_logs_under_its_names(data):
    trainer = fit(tiny_module(tiny_flow(), objective=Squared()), data, 3, log_every_n_steps=1)
    logged = trainer.logged_metrics
    assert {"train/loss", "train/largest", "val/loss", "val/largest"} <= logged.keys()
    assert not {"train/nats_per_dim", "val/bits_per_dim"} & logged.keys()
    assert 0 < logged["val/loss"] < logged["val/largest"] ** 2


@dataclass(frozen=True)
class Partial(Squared):
    """Its loss in validation is the class of each example, and NaN for class 0."""

    def validate(self, flow: Flow, batch: Batch, source: RandomSource) -> dict[str, torch.Tensor]:
        label = batch.context["label"]
        return {"loss": torch.where(label == 0, float("nan"), label.float()), "class": label / 1}


def test_validation_values_that_are_not_finite_are_counted_and_left_out(data):
    trainer = fit(tiny_module(tiny_flow(), objective=Partial()), data, 3)
    logged = trainer.logged_metrics
    assert logged["val/loss"] == pytest.approx(1.5)
    assert logged["val/loss_non_finite"] == 8
    assert logged["val/class"] == pytest.approx(1.0)
    assert "val/class_non_finite" not in logged


def test_a_label_of_validation_out_of_range_is_named(data):
    other = ArrayDataset(data.data.train.images, torch.full((24,), 3))
    data.data = replace(data.data, validation=other)
    with pytest.raises(ContextError, match=r"labels go from 3 to 3, but this model knows 0 ... 2"):
        fit(tiny_module(tiny_flow()), data, 3)


@pytest.mark.parametrize("class_dropout", [-0.1, 1.5])
def test_a_probability_of_dropping_out_of_range_is_refused(class_dropout):
    with pytest.raises(ConfigurationError, match="class_dropout"):
        MaximumLikelihood(class_dropout)


def test_bf16_keeps_the_state_of_the_flow_in_float32(data):
    flow = tiny_flow()
    seen = {}

    def look(module, inputs, output):
        seen["state"] = {inputs[0].dtype, output[0].dtype, output[1].dtype}

    flow.transform[1].register_forward_hook(look)
    flow.transform[1].network.register_forward_hook(
        lambda module, inputs, output: seen.update(network=output.dtype)
    )
    fit(tiny_module(flow), data, max_steps=2, precision="bf16-mixed", limit_val_batches=0)
    assert seen == {"state": {torch.float32}, "network": torch.bfloat16}


def test_gradients_are_clipped_to_the_norm(data):
    flow = tiny_flow()
    module = tiny_module(flow, max_grad_norm=1e-3)
    norms = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            total = [p.grad.square().sum() for p in flow.parameters() if p.grad is not None]
            norms.append(float(torch.stack(total).sum().sqrt()))

        def on_train_batch_end(self, trainer, *_):
            norms.append(float(trainer.callback_metrics["train/grad_norm"]))

    fit(module, data, max_steps=1, callbacks=[Watch()], log_every_n_steps=1)
    before_clipping, logged = norms
    assert logged == pytest.approx(before_clipping)
    clipped = [p.grad.square().sum() for p in flow.parameters() if p.grad is not None]
    assert float(torch.stack(clipped).sum().sqrt()) == pytest.approx(1e-3, rel=1e-3)


def test_the_fraction_of_clipped_steps_is_of_those_since_the_last_line(data):
    norms, logged = [], []

    class Record(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            total = [p.grad.square().sum() for p in pl_module.parameters() if p.grad is not None]
            norms.append(float(torch.stack(total).sum().sqrt()))

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step % 3 == 0:
                logged.append(float(trainer.callback_metrics["train/clipped_fraction"]))

    module = tiny_module(tiny_flow(), max_grad_norm=1.2)
    fit(module, data, max_steps=9, callbacks=[Record()], log_every_n_steps=3)
    expected = [sum(norm > 1.2 for norm in norms[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert 0 < expected[1] < 1
    assert logged == pytest.approx(expected)


def poison(flow, steps) -> lightning.Callback:
    """Sets a bias to NaN before some steps, and back after them."""
    bias = flow.transform[3].network.proj_out.bias

    class Poison(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            self.kept = bias.detach().clone()
            if trainer.global_step in steps:
                bias.data.fill_(float("nan"))

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step - 1 in steps:
                bias.data.copy_(self.kept)

    return Poison()


def test_a_step_that_is_not_finite_is_skipped_and_counted(data, tmp_path):
    flow, weights = tiny_flow(), []

    class Record(lightning.Callback):
        def on_train_batch_end(self, *_):
            weights.append(flow.transform[1].network.proj_out.weight.detach().clone())

    module = tiny_module(flow)
    callbacks = [poison(flow, (2,)), Record()]
    with pytest.warns(UserWarning, match=r"after 2 is not finite \(loss: the output of transf"):
        trainer = fit(module, data, max_steps=5, callbacks=callbacks, log_every_n_steps=1)
    changed = [not torch.equal(one, other) for one, other in itertools.pairwise(weights)]
    assert changed == [True, False, True, True]
    assert trainer.logged_metrics["train/skipped_steps"] == 1
    moments = trainer.optimizers[0].state[flow.transform[1].network.proj_out.weight]
    assert moments["step"] == 4
    assert moments["exp_avg"].isfinite().all()
    trainer.save_checkpoint(tmp_path / "skipped.ckpt")
    resumed = tiny_module(tiny_flow())
    fit(resumed, data, max_steps=6, ckpt_path=tmp_path / "skipped.ckpt")
    assert resumed.skipped_steps == 1


@pytest.mark.filterwarnings("ignore:the step after:UserWarning")
def test_too_many_such_steps_stop_with_step_transform_and_advice(data):
    flow = tiny_flow()
    message = (
        r"after 3 is not finite \(loss: the output of transform 3 .*, and 2 others of this run"
        r" were skipped, as many as max_skipped_steps allows.* lower learning rate"
    )
    with pytest.raises(DivergenceError, match=message):
        fit(tiny_module(flow, max_skipped_steps=2), data, callbacks=[poison(flow, (1, 2, 3))])


def test_a_label_out_of_range_stops_at_once_and_is_named(data):
    flow = tiny_flow(num_classes=2)
    known = r"labels go from .* to 2, but this model knows 0 ... 1"
    with pytest.raises(ContextError, match=known):
        fit(tiny_module(flow), data)
    assert not flow.transform[1].network.proj_out.weight.any()  # as at the start


def test_a_gradient_that_is_not_finite_is_skipped_too(data):
    flow = tiny_flow()
    flow.transform[1].network.proj_out.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(DivergenceError, match=r"after 0 is not finite \(a gradient\)"):
        fit(tiny_module(flow, max_skipped_steps=0), data)


@pytest.mark.parametrize("name", ["codec", "noise"])
def test_a_flow_that_does_not_know_its_data_is_refused(name):
    with pytest.raises(ConfigurationError, match="does not know its data"):
        tiny_module(tiny_flow(**{name: None}))


class Record(lightning.Callback):
    """Notes a bias after every step."""

    def __init__(self, flow):
        self.bias, self.history = flow.transform[1].network.proj_out.bias, []

    def on_train_batch_end(self, *_):
        self.history.append(self.bias.detach().clone())


def test_averages_follow_the_weights_with_a_warm_up_of_the_decay(data):
    flow = tiny_flow()
    record, averaging = Record(flow), WeightAveraging([0.5, 0.15])
    trainer = fit(tiny_module(flow), data, 5, callbacks=[record, averaging], limit_val_batches=0)
    assert torch.equal(flow.transform[1].network.proj_out.bias, record.history[-1])
    for largest, state in averages(trainer, flow):
        expected = record.history[0]
        for step, weights in enumerate(record.history[1:], start=1):
            decay = min(largest, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weights
        torch.testing.assert_close(state["transform.transforms.1.network.proj_out.bias"], expected)
    assert torch.equal(flow.transform[1].network.proj_out.bias, record.history[-1])


def test_validation_sees_the_first_average_and_training_goes_on_with_the_weights(data):
    flow, seen = tiny_flow(), []
    bias = flow.transform[1].network.proj_out.bias

    class Look(lightning.Callback):
        def on_validation_batch_start(self, *_):
            seen.append(bias.detach().clone())

    record, averaging = Record(flow), WeightAveraging([0.5, 0.9])
    trainer = fit(tiny_module(flow), data, 3, callbacks=[record, averaging, Look()])
    _, state = next(averages(trainer, flow))
    assert torch.equal(seen[-1], state["transform.transforms.1.network.proj_out.bias"])
    assert torch.equal(bias, record.history[-1])
    assert not torch.equal(bias, seen[-1])


def test_averages_keep_buffers_of_the_model(data):
    flow = tiny_flow(scale=UnitScale())
    trainer = fit(
        tiny_module(flow), data, 3, callbacks=[WeightAveraging([0.99])], limit_val_batches=0
    )
    [(_, state)] = averages(trainer, flow)
    assert torch.equal(state["base.variance"], flow.base.variance)


def test_every_average_is_exported(data, tmp_path):
    flow = tiny_flow()
    keep = [WeightAveraging([0.5, 0.9]), PretrainedExport(tmp_path / "pretrained")]
    trainer = fit(tiny_module(flow), data, 3, callbacks=keep, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for name, (decay, state) in zip(
        ("pretrained", "pretrained_0.9"), averages(trainer, flow), strict=True
    ):
        assert description_of(tmp_path / name) == f"average of decay {decay} at step 3"
        exported = TarFlow.from_pretrained(tmp_path / name).state_dict()
        assert all(torch.equal(value, exported[key]) for key, value in state.items())


def test_averages_that_a_checkpoint_lacks_are_named(data, tmp_path):
    flow = tiny_flow()
    trainer = fit(tiny_module(flow), data, 2, callbacks=[WeightAveraging([0.5])])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"decay \[0.5\], and none of \[0.9\]"):
        fit(
            tiny_module(tiny_flow()),
            data,
            4,
            ckpt_path=tmp_path / "last.ckpt",
            callbacks=[WeightAveraging([0.5, 0.9])],
        )


@pytest.mark.parametrize(
    ("decays", "message"),
    [([1.5], r"decay 1.5 must be in \[0, 1\)"), ([], "one or more"), ([0.9, 0.9], "different")],
)
def test_decays_out_of_range_are_refused(decays, message):
    with pytest.raises(ConfigurationError, match=message):
        WeightAveraging(decays)


def test_gaussian_noise_reports_no_bits(data):
    flow = tiny_flow(codec=Pixels(17), noise=GaussianNoise(0.1))
    trainer = fit(tiny_module(flow), data, max_steps=3)
    assert "val/nats_per_dim" in trainer.logged_metrics
    assert "val/bits_per_dim" not in trainer.logged_metrics


def test_samples_that_are_not_finite_do_not_stop_training(data, tmp_path):
    flow = tiny_flow()
    with torch.no_grad():
        flow.transform[1].network.proj_out.bias[:4] = 200.0  # exp(200) overflows, exp(-200) is 0
    grids = SampleGrid(tmp_path, every_n_steps=2, num_samples=4)
    with pytest.warns(
        UserWarning, match=r"no picture of samples at step 2: the inverse of transform 1"
    ):
        trainer = fit(tiny_module(flow, lr=1e-6), data, max_steps=2, callbacks=[grids])
    assert trainer.global_step == 2
    assert flow.training
    assert not list(tmp_path.iterdir())


def test_a_penalty_on_latents_is_minimized_and_the_likelihood_logged_without(data):
    flow, batch = tiny_flow(), next(iter(data.train_dataloader()))
    source = torch.Generator().manual_seed
    plain = MaximumLikelihood(0.0)(flow, batch, source(0))
    loss = MaximumLikelihood(0.0, latent_penalty=0.1)(flow, batch, source(0))
    assert torch.equal(loss.value, plain.value)
    assert torch.equal(plain.minimized, plain.value)
    expected = plain.value + 0.1 * plain.z.square().sum(dim=(1, 2))
    torch.testing.assert_close(loss.minimized, expected)
    norms = []
    for penalty in (0.0, 100.0):
        flow = tiny_flow()
        objective = MaximumLikelihood(0.0, latent_penalty=penalty)
        trainer = fit(tiny_module(flow, objective=objective), data, 10, log_every_n_steps=1)
        logged = trainer.logged_metrics
        assert ("train/latent_penalty" in logged) == bool(penalty)
        assert logged["train/nats_per_dim"] < 5
        norms.append(MaximumLikelihood(0.0)(flow, batch, source(0)).z.square().mean().item())
    assert norms[1] < 0.9 * norms[0]
    assert logged["train/latent_penalty"] == pytest.approx(100 * norms[1], rel=0.7)


@pytest.mark.parametrize("penalty", [-1e-4, float("inf")])
def test_a_penalty_out_of_range_is_refused(penalty):
    with pytest.raises(ConfigurationError, match="latent_penalty"):
        MaximumLikelihood(latent_penalty=penalty)


def test_guidance_of_grids_that_the_flow_cannot_have_is_refused_at_the_start(data, tmp_path):
    guidance = LinearGuidance(1.0, depths=[99])
    grids = SampleGrid(tmp_path, every_n_steps=2, num_samples=4, guidance=guidance)
    with pytest.raises(ConfigurationError, match="guidance at depth 99"):
        fit(tiny_module(tiny_flow()), data, max_steps=1, callbacks=[grids])
