"""What a run logs of itself is right, costs nothing between, and is the same in every logger."""

import csv
import functools
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import Transformer
from tarflow import AdaptiveNorm, InverseStudent, NoNoise, Pixels, UniformDequantization
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.nn.transformer import BidirectionalTransformer
from tarflow.training import (
    FlowModule,
    LastCheckpoint,
    SampleGrid,
    Throughput,
    TransformStatistics,
    adamw,
    warmup_cosine,
)
from tarflow.training.acceleration import autoregressive_transforms
from tarflow.training.monitoring import peak_memory
from tarflow.training.operations import peak_rate, training_operations
from tests import fresh
from tests.models import NETWORKS, tiny_flow, tiny_student
from tests.quiet import QUIET
from tests.wandb_file import history

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")

CPU = torch.device("cpu")
PERF = {"perf/images_per_second", "perf/tokens_per_second", "perf/mfu", "perf/memory_gib"}


def fit(callbacks, max_steps=4, num_images=20, device_batch_size=None, **options):
    """Train on noise, four images a batch, none left out."""
    lightning.seed_everything(3, verbose=False)
    torch.manual_seed(3)
    images = torch.randint(0, 256, (num_images, 2, 4, 4), dtype=torch.uint8)
    part = ArrayDataset(images, torch.arange(num_images) % 3)
    shape = (2, 4, 4)
    data = ImageData("noise", part, part, part, codec=Pixels(), num_classes=3, image_shape=shape)
    flow = tiny_flow(num_classes=3, codec=UniformDequantization(), noise=NoNoise(), dropout=0.1)
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    module = FlowModule(flow, functools.partial(adamw, lr=1e-3), schedule)
    trainer = lightning.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=callbacks,
        **QUIET,
        num_sanity_val_steps=0,
        **options,
    )
    parts = {"device_batch_size": device_batch_size, "drop_last": bool(device_batch_size)}
    trainer.fit(module, ImageDataModule(data, batch_size=4, **parts))


class Record(lightning.Callback):
    """Keeps the loss of every batch, and what was logged in each step."""

    def __init__(self):
        self.losses, self.logged, self.hooks = [], [], []

    def on_train_batch_start(self, trainer, pl_module, *_):
        transforms = autoregressive_transforms(pl_module.flow)
        self.hooks.append(sum(len(each._forward_hooks) for each in transforms))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


class Ticks:
    """Time that passes only when told."""

    def __init__(self, monkeypatch):
        self.time = 0.0
        monkeypatch.setattr("tarflow.training.monitoring.now", lambda device: self.time)
        monkeypatch.setattr("tarflow.training.monitoring.peak_rate", lambda *_: 1000.0)


class Pass(lightning.Callback):
    """Lets time pass at one of a callback's hooks."""

    def __init__(self, ticks: Ticks, seconds: float, hook: str, every: int = 1):
        def passing(trainer, *_):
            if trainer.global_step % every == 0:
                ticks.time += seconds

        setattr(self, hook, passing)


def test_operations_are_those_of_the_benchmarks():
    flow = tiny_flow(num_classes=3)
    length, _ = flow.base.shape
    forward = len(autoregressive_transforms(flow)) * Transformer.of(flow).operations(
        1, 0, length - 1
    )
    assert training_operations(flow) == 3 * forward


@pytest.mark.parametrize("name", [None, "all parts"])
def test_operations_are_those_that_torch_counts(name):
    """All but attention: torch counts the whole square, and what its kernel recomputes."""
    parts = NETWORKS[name] if name else {}
    flow = tiny_flow(num_classes=3, num_transforms=2, num_layers=1, **parts)
    counter = FlopCounterMode(display=False)
    x = torch.randn(5, 2, 4, 4, requires_grad=True)
    with counter:
        flow.log_prob(x, torch.zeros(5, dtype=torch.long)).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(n for kind, n in counts.items() if "attention" not in str(kind))
    positions, layers, width = 3, 2, 16
    attention = 3 * 4 * layers * width * (1 + 2 + 3)
    assert training_operations(flow) - attention == counted // 5
    assert positions == flow.base.shape[0] - 1


@pytest.mark.parametrize("name", [None, "all parts"])
def test_operations_of_a_bidirectional_transformer_are_those_that_torch_counts(name):
    """Each of five positions attends to all five; forward alone, attention by products."""
    parts = NETWORKS[name] if name else {}
    width, layers, length = 16, 2, 5
    network = BidirectionalTransformer(3, 4, length, width, layers, 8, **parts)
    x, condition = torch.randn(7, length, 3), network.conditioned(torch.randn(7, width))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network.conditioned(torch.randn(7, width))
        network(x, condition)
    assert training_operations(network) == 3 * counter.get_total_flops() // 7


def test_operations_of_a_student():
    flow = tiny_flow()
    student = tiny_student(InverseStudent, flow, num_blocks=3, num_layers=1)
    twin = BidirectionalTransformer(8, 8, 4, 16, 3, 8, layer=AdaptiveNorm())
    assert training_operations(student) == training_operations(twin)


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone(monkeypatch):
    peak_rate.cache_clear()
    measured = []

    def rate(device, dtype, **limits):
        measured.append(dtype)
        torch.randn(3)
        return {torch.bfloat16: 1.0, torch.float32: 2.0}[dtype]

    monkeypatch.setattr("tarflow.training.operations.matrix_rate", rate)
    state = torch.get_rng_state()
    assert [peak_rate(CPU, torch.bfloat16) for _ in range(2)] == [2.0, 2.0]
    assert sorted(map(str, measured)) == ["torch.bfloat16", "torch.float32"]
    assert torch.equal(torch.get_rng_state(), state)
    peak_rate.cache_clear()


def test_losses_are_bitwise_those_of_a_run_without(tmp_path):
    with_both, without = Record(), Record()
    fit([Throughput(), TransformStatistics(), with_both], log_every_n_steps=2)
    fit([without], log_every_n_steps=2)
    assert with_both.losses == without.losses
    assert len(set(without.losses)) == 4


def test_rates_count_images_tokens_and_operations_per_second(monkeypatch):
    ticks, record = Ticks(monkeypatch), Record()
    reading = Pass(ticks, 1.0, "on_train_batch_end")  # between two batches
    computing = Pass(ticks, 2.0, "on_before_zero_grad")
    fit([Throughput(), record, reading, computing], max_steps=4, log_every_n_steps=2)
    [_, first, _, second] = record.logged
    assert first["perf/images_per_second"] == pytest.approx(8 / (2 + 1 + 2))
    assert second["perf/images_per_second"] == pytest.approx(8 / (1 + 2 + 1 + 2))
    assert second["perf/tokens_per_second"] == pytest.approx(4 * second["perf/images_per_second"])
    operations = training_operations(tiny_flow(num_classes=3))
    expected = operations * second["perf/images_per_second"] / 1000
    assert second["perf/mfu"] == pytest.approx(expected)
    assert 0 < second["perf/memory_gib"] < 1000


def test_accumulated_and_last_shorter_batches_count_by_their_images(monkeypatch):
    ticks = Ticks(monkeypatch)
    for num_images, device_batch_size, expected in ((10, None, 10 / 3), (8, 2, 2)):
        record, computing = Record(), Pass(ticks, 1.0, "on_train_batch_start")
        callbacks = [Throughput(), TransformStatistics(), record, computing]
        steps = 2 if device_batch_size else 3
        sizes = {"num_images": num_images, "device_batch_size": device_batch_size}
        fit(callbacks, max_steps=steps, log_every_n_steps=steps, **sizes)
        *before, last = record.logged
        assert last["perf/images_per_second"] == pytest.approx(expected)
        assert "transform_0/log_det" in last
        assert not any("perf/mfu" in row for row in before)


def test_validation_checkpoints_and_grids_take_no_time(monkeypatch, tmp_path):
    ticks, record = Ticks(monkeypatch), Record()
    pauses = [
        Pass(ticks, 100.0, "on_validation_epoch_end"),
        Pass(ticks, 100.0, "on_save_checkpoint"),
    ]

    class SlowGrid(SampleGrid):
        def _draw(self, flow):
            ticks.time += 100
            return super()._draw(flow)

    slow = [
        LastCheckpoint(tmp_path / "last.ckpt", 3),
        SlowGrid(tmp_path, every_n_steps=2, num_samples=2),
    ]
    computing = Pass(ticks, 1.0, "on_before_zero_grad")
    callbacks = [Throughput(), record, *pauses, *slow, computing]
    fit(callbacks, max_steps=10, log_every_n_steps=10, val_check_interval=4)
    assert ticks.time > 900
    assert record.logged[-1]["perf/images_per_second"] == pytest.approx(4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_on_a_gpu_is_that_of_the_interval():
    device = torch.device("cuda", 0)
    held = torch.empty(2**20, dtype=torch.uint8, device=device)
    peak_memory(device)
    del held
    torch.empty(2**22, dtype=torch.uint8, device=device)
    assert peak_memory(device) >= 2**22
    assert peak_memory(device) < 2**40


def test_statistics_are_those_of_the_batch_and_hooks_are_gone_in_other_steps():
    record = Record()
    statistics = TransformStatistics()
    fit([statistics, record], max_steps=4, log_every_n_steps=2)
    assert record.hooks == [0, 3, 0, 3]
    names = {f"transform_{k}/{what}" for k in range(3) for what in ("z_mean_square", "log_det")}
    assert names == {name for name in record.logged[1] if name.startswith("transform_")}
    # mean log-determinants add up to the loss: what is left of it is the base's
    last = record.logged[-1]
    log_det = sum(last[f"transform_{k}/log_det"] for k in range(3))
    base = 0.5 * last["transform_2/z_mean_square"] + 0.5 * float(np.log(2 * np.pi))
    assert base - log_det == pytest.approx(record.losses[-1], rel=1e-5)


def test_hooks_are_removed_from_a_run_that_fails():
    statistics = TransformStatistics()
    modules = []

    class Fail(lightning.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            modules.append(pl_module)
            raise RuntimeError("as told")

    with pytest.raises(RuntimeError, match="as told"):
        fit([statistics, Fail()], log_every_n_steps=1)
    transforms = autoregressive_transforms(modules[0].flow)
    assert not any(transform._forward_hooks for transform in transforms)


def read_csv(run: Path) -> dict:
    """The numbers of the CSV logger, by name and step."""
    lines = (run / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    return {
        (name, int(row["step"])): float(value)
        for row in csv.DictReader(lines)
        for name, value in row.items()
        if value and name != "step"
    }


def read_tensorboard(run: Path) -> tuple[dict, list[str]]:
    """The numbers of TensorBoard, by name and step, and the names of pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [events] = (run / "tensorboard").rglob("events.out.*")
    found = EventAccumulator(str(events)).Reload()
    tags = found.Tags()
    numbers = {
        (name, each.step): each.value for name in tags["scalars"] for each in found.Scalars(name)
    }
    return numbers, tags["images"]


def read_wandb(run: Path) -> tuple[dict, list[str]]:
    """The numbers of an offline run of Weights & Biases, by name and step, and the pictures."""
    [log] = (run / "wandb").glob("offline-run-*/run-*.wandb")
    numbers, pictures = {}, []
    for row in history(log):
        for name, value in row.items():
            if name == "samples" or name.startswith("samples."):
                pictures.append(name)
            elif not name.startswith("_") and name != "trainer/global_step":
                numbers[name, row["trainer/global_step"]] = value
    return numbers, pictures


def test_every_logger_gets_the_same_numbers_and_the_sample_grid(tmp_path):
    # in a process of its own: Weights & Biases leaves threads behind
    command = ["train", "trainer=smoke", "trainer.max_steps=3"]
    options = ["logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true", "run_dir=run"]
    data = ["data.data.validation_fraction=0.1"]
    finished = fresh.tarflow(tmp_path, *command, *options, *data)
    assert finished.returncode == 0, finished.stderr
    run = tmp_path / "run"
    from_csv = read_csv(run)
    from_tensorboard, shown_by_tensorboard = read_tensorboard(run)
    from_wandb, shown_by_wandb = read_wandb(run)
    expected = PERF | {"train/nats_per_dim", "train/grad_norm", "val/bits_per_dim"}
    expected |= {f"transform_{k}/{what}" for k in (0, 1) for what in ("z_mean_square", "log_det")}
    assert expected <= {name for name, _ in from_csv}
    assert {step for name, step in from_csv if name == "perf/mfu"} == {0, 1, 2}
    assert from_csv == from_wandb
    single = {key: float(np.float32(value)) for key, value in from_csv.items()}
    assert from_tensorboard == single
    assert shown_by_tensorboard == ["samples"]
    assert shown_by_wandb
    assert list(run.glob("wandb/offline-run-*/files/media/images/samples*.png"))
    assert (run / "grids" / "step_0000002.png").exists()
