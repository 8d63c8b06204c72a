"""Training lowers the loss, averages, stops at divergence, and keeps the flow's state precise."""

import functools

import lightning
import pytest
import torch

from tarflow import (
    ConfigurationError,
    GaussianNoise,
    TarFlow,
    UniformDequantization,
    UnitScale,
)
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.training import (
    DivergenceError,
    FlowModule,
    SampleGrid,
    WeightAveraging,
    adamw,
    warmup_cosine,
)


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
        "noise": UniformDequantization(17),
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
    made = ImageData("made up", part, part, part, levels=17, num_classes=3, image_shape=(1, 4, 4))
    return ImageDataModule(made, batch_size=8)


def fit(module, data, max_steps=10, **options) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, data)
    return trainer


def nats(flow: TarFlow, data: ImageDataModule) -> float:
    images, labels = data.data.train.images, data.data.train.labels
    x = flow.noise(images, torch.Generator().manual_seed(0))
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
    z, _ = flow(flow.noise(images), labels)
    assert not torch.equal(flow.base.variance, torch.ones(4, 4))
    ratio = z.square().mean(dim=0) / flow.base.variance
    assert ratio.mean().log().abs() < 0.3


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

    fit(module, data, max_steps=1, callbacks=[Watch()])
    before_clipping, logged = norms
    assert logged == pytest.approx(before_clipping)
    clipped = [p.grad.square().sum() for p in flow.parameters() if p.grad is not None]
    assert float(torch.stack(clipped).sum().sqrt()) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_step_transform_and_advice(data):
    flow = tiny_flow()
    module = tiny_module(flow)
    weight = flow.transform[3].network.proj_out.bias

    class Poison(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 2:
                weight.data.fill_(float("nan"))

    message = r"loss is not finite at step 2: the output of transform 3 .* lower learning rate"
    with pytest.raises(DivergenceError, match=message):
        fit(module, data, callbacks=[Poison()])


def test_a_gradient_that_is_not_finite_stops(data):
    flow = tiny_flow()
    flow.transform[1].network.proj_out.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(DivergenceError, match="gradient is not finite at step 0"):
        fit(tiny_module(flow), data)


def test_a_flow_without_noise_is_refused():
    with pytest.raises(ConfigurationError, match="no noise"):
        tiny_module(tiny_flow(noise=None))


def test_average_follows_the_weights_with_a_warm_up_of_the_decay(data):
    flow, history = tiny_flow(), []
    averaging = WeightAveraging(decay=0.5)

    class Record(lightning.Callback):
        def on_train_batch_end(self, *_):
            history.append(flow.transform[1].network.proj_out.bias.detach().clone())

    module = tiny_module(flow)
    fit(module, data, max_steps=5, callbacks=[Record(), averaging], limit_val_batches=0)
    expected = history[0]
    for step, weights in enumerate(history[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    averaged = averaging.average(module).flow.transform[1].network.proj_out.bias
    torch.testing.assert_close(averaged, expected)
    torch.testing.assert_close(flow.transform[1].network.proj_out.bias, expected)


def test_average_keeps_buffers_of_the_model(data):
    flow = tiny_flow(scale=UnitScale())
    averaging = WeightAveraging(decay=0.99)
    module = tiny_module(flow)
    fit(module, data, max_steps=3, callbacks=[averaging], limit_val_batches=0)
    assert torch.equal(averaging.average(module).flow.base.variance, flow.base.variance)


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ConfigurationError, match=r"decay 1.5 must be in \[0, 1\)"):
        WeightAveraging(1.5)


def test_gaussian_noise_reports_no_bits(data):
    flow = tiny_flow(noise=GaussianNoise(17, 0.1))
    trainer = fit(tiny_module(flow), data, max_steps=3)
    assert "val/nats_per_dim" in trainer.logged_metrics
    assert "val/bits_per_dim" not in trainer.logged_metrics


def test_samples_that_are_not_finite_do_not_stop_training(data, tmp_path):
    flow = tiny_flow()
    with torch.no_grad():
        flow.transform[1].network.proj_out.bias[:4] = 200.0  # exp(200) overflows, exp(-200) is 0
    grids = SampleGrid(tmp_path, every_n_steps=2, num_samples=4)
    with pytest.warns(UserWarning, match=r"no sample grid at step 2: the inverse of transform 1"):
        trainer = fit(tiny_module(flow, lr=1e-6), data, max_steps=2, callbacks=[grids])
    assert trainer.global_step == 2
    assert flow.training
    assert not list(tmp_path.iterdir())
