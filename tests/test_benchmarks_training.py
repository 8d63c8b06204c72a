"""The benchmark of training compares the same loss, and counts and writes what it says."""

import copy
import functools
import json
from dataclasses import replace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from rich.console import Console

from benchmarks import session, training, training_measuring
from benchmarks.loading import Loading, Source, sources
from benchmarks.memory import peak_memory
from benchmarks.plot import draw_training
from benchmarks.precision import PRECISIONS
from benchmarks.results import describe_environment
from benchmarks.roofline import Machine
from benchmarks.training_baseline import NormalizedImages, TrainingBaseline
from benchmarks.training_cases import MODES, Case, Model
from benchmarks.training_measuring import image_data, make_runs, measure_what_fits
from benchmarks.training_results import TrainingMeasurement, TrainingResults
from tarflow import GaussianNoise, Pixels
from tarflow.data import ImageDataModule
from tarflow.training import FlowModule, MaximumLikelihood, adamw, warmup_cosine
from tests.models import randomized, tiny_flow

CPU = torch.device("cpu")
TINY = Model(8, 2, num_transforms=2, num_layers=1, model_dim=64)


def machine(float32: float = 4e9, bfloat16: float = 2e9) -> Machine:
    return Machine({8: 4e9}, {"float32": float32, "bfloat16": bfloat16})


def tiny_case(batch_size: int = 4) -> Case:
    return Case(TINY, batch_size, (PRECISIONS["float32"],), repeats=2, steps=1, warmup=1)


def measurement(mode: str, seconds: list[float], **options) -> TrainingMeasurement:
    found = {"patch_size": 4, "length": 64, "batch_size": 32, "precision": "float32"}
    found |= {"first_seconds": 3.0, "operations": 1e9, "operations_per_second": 4e9}
    return TrainingMeasurement(mode=mode, seconds=seconds, **(found | options))


def fake_results() -> TrainingResults:
    """Two cases of three modes, the second in another precision."""
    modes = (("baseline", 4.0, 2**30), ("tarflow", 2.0, 2**30), ("checkpointed", 3.0, 2**28))
    rows = [
        measurement(mode, [seconds, 9.0, 1.0], peak_bytes=peak, precision=precision)
        for precision in ("float32", "bfloat16")
        for mode, seconds, peak in modes
    ]
    environment = describe_environment(CPU)
    environment |= {"hardware": "A Chip(R), 2 threads", "cpu_flags": ["avx2"]}
    waits = [Loading("digits", "tarflow", "float32", 32, 64, 0, 0.02, 2.0)]
    return TrainingResults(environment, machine(), rows, ["a note"], waits)


class Record(Callback):
    """Notes the batch, the loss and the gradients of a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = batch

    def on_before_backward(self, trainer, pl_module, loss):
        self.loss = loss.detach().clone()

    def on_after_backward(self, trainer, pl_module):
        self.gradients = [p.grad.clone() for p in pl_module.flow.parameters()]


def test_the_baseline_has_the_loss_and_the_gradients_of_the_module():
    flow = randomized(TINY.make())
    flow.noise = GaussianNoise(0.0)
    data = TINY.images(4)
    schedule = functools.partial(warmup_cosine, total_steps=9, warmup_steps=0)
    module = FlowModule(copy.deepcopy(flow), adamw, schedule, MaximumLikelihood(0.0))
    record, quiet = Record(), {"enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"logger": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", callbacks=[record], **quiet)
    trainer.fit(module, ImageDataModule(image_data(data), batch_size=4))

    baseline = TrainingBaseline(flow, data, 4, torch.float32, CPU)
    x, context, _ = record.batch
    loss = baseline.loss(x.float() / 127.5 - 1, context["label"])
    loss.backward()
    torch.testing.assert_close(loss, record.loss, rtol=0, atol=1e-6)
    own = dict(baseline.flow.named_parameters())
    assert own["transform.transforms.1.network.blocks.0.attention.qkv.weight"].grad.norm() > 1e-4
    for name, expected in zip(own, record.gradients, strict=True):
        torch.testing.assert_close(own[name].grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_baseline_has_the_density_of_the_flow(num_classes):
    flow = tiny_flow(num_classes=num_classes, codec=Pixels(256), noise=GaussianNoise()).double()
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    label = torch.tensor([0, 2, -1, 1]) if num_classes else None
    baseline = TrainingBaseline(flow, TINY.images(4), 4, torch.float64, CPU)
    expected = -flow.log_prob(x, label).mean() / flow.num_dims
    torch.testing.assert_close(baseline.loss(x, label), expected, rtol=0, atol=1e-12)


def test_the_baseline_in_bfloat16_keeps_the_loss_in_float32():
    flow = randomized(TINY.make())
    x, label = torch.randn(4, 3, 8, 8), torch.arange(4)
    exact, rounded = (
        TrainingBaseline(flow, TINY.images(4), 4, dtype, CPU).loss(x, label)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs() < 0.1


def test_the_baseline_learns_and_leaves_the_flow_as_it_was():
    flow = TINY.make()
    before = copy.deepcopy(flow.state_dict())
    baseline = TrainingBaseline(flow, TINY.images(8), 4, torch.float32, CPU)
    assert baseline.run(1, 2) > 0
    assert not torch.equal(
        baseline.flow.state_dict()["transform.transforms.1.network.proj_out.weight"],
        before["transform.transforms.1.network.proj_out.weight"],
    )
    for name, value in flow.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_images_are_normalized_as_the_noise_does_it():
    data = TINY.images(3)
    x, label = NormalizedImages(data)[2]
    expected = Pixels(256).encode(data.images)[2]
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
    assert label == data.labels[2]


def test_the_peak_counts_what_is_held_at_once_and_no_more():
    held = torch.ones(1000)

    def run():
        for _ in range(3):
            temporary = torch.ones(5000) + 1
            del temporary

    peak = peak_memory(run, CPU, [held])
    assert 4 * 11000 <= peak < 4 * 11200


def test_the_package_lets_go_of_what_a_block_needed():
    run = make_runs(TINY.make(), tiny_case(), ["tarflow"], CPU)["float32, tarflow"].training
    assert run.run(1, 2) > 0
    assert run.run(1, 1) > 0
    assert run.module._trainer is None
    assert run.data.trainer is None
    assert all(parameter.grad is None for parameter in run.module.parameters())


def test_where_memory_runs_out_the_batch_is_halved(monkeypatch):
    def measure(case, *others):
        if case.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [case.batch_size]

    monkeypatch.setattr(training_measuring, "measure", measure)
    found, notes = measure_what_fits(tiny_case(8), [], machine(), CPU)
    assert found == [2]
    assert [note.split(":")[0] for note in notes] == [f"T = 16, batch {size}" for size in (8, 4)]
    monkeypatch.setattr(training_measuring, "measure", lambda *_: measure(tiny_case(8)))
    with pytest.raises(torch.OutOfMemoryError):
        measure_what_fits(tiny_case(1), [], machine(), CPU)


@pytest.mark.parametrize(
    ("device", "length", "names"),
    [
        ("cpu", 64, ["float32", "bfloat16_products", "bfloat16"]),
        ("cuda", 1024, ["tf32_products", "bfloat16"]),
    ],
)
def test_every_type_of_device_has_a_flow_and_precisions(device, length, names):
    options = training.read_options(["--device", device])
    assert [*options.precision] == names
    [case] = training.make_cases(options, tuple(PRECISIONS[name] for name in names))
    assert case.keys == [(length, 32, name) for name in names]


def test_patches_are_as_small_as_the_length_allows():
    with sources(64, 40) as found:
        digits, photographs, *mapped = found
        assert [len(each.data.train) for each in mapped] == [1_281_167, 10_000_000]
        assert (digits.patch_size, photographs.patch_size) == (1, 8)
        assert replace(photographs, length=1024).patch_size == 2
        assert isinstance(digits, Source)
        pixels, context = photographs.data.train[0]
        assert pixels.shape == (3, 64, 64)
        assert context["label"] in (0, 1)


def test_every_mode_is_one_of_the_module():
    flow = TINY.make()
    schedule = functools.partial(warmup_cosine, total_steps=9, warmup_steps=0)
    for name, options in MODES.items():
        module = FlowModule(copy.deepcopy(flow), adamw, schedule, **options(TINY))
        assert module.compiled is (name == "compiled")
        assert bool(module.checkpointed_layers) is (name == "checkpointed")


def test_results_are_written_and_shown(tmp_path):
    results = fake_results()
    path = results.write(tmp_path)
    assert path.name == "training-a-chip-2-threads-avx2.json"
    content = json.loads(path.read_text())
    assert content["notes"] == ["a note"]
    row = content["measurements"][2]
    assert row["mode"] == "checkpointed"
    assert row["steps_per_second"] == 1 / 3
    assert row["images_per_second"] == pytest.approx(32 / 3)
    assert row["ratio_to_baseline"] == pytest.approx(4 / 3)
    assert row["memory_ratio_to_baseline"] == 0.25
    assert row["model_flop_utilization"] == pytest.approx(1e9 / 3 / 4e9)
    [wait] = content["data_loading_share"]
    assert wait["share"] == 0.01
    assert TrainingResults.read(path) == results
    results.forget([(64, 32, "bfloat16")])
    assert [each.precision for each in results.measurements] == 3 * ["float32"]
    assert results.loading == []
    results = TrainingResults.read(path)
    console = Console(width=120, record=True)
    session.show(results, console)
    text = console.export_text()
    assert "1.33 x" in text
    assert "256 MB" in text
    assert "20.00 of 2000.0 ms wait for data (1.00 %)" in text
    assert "…" not in text


def test_the_picture_is_small(tmp_path):
    path = tmp_path / "images" / "training.png"
    draw_training(fake_results(), path)
    assert path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_a_quick_run_from_end_to_end(tmp_path):
    arguments = ["--quick", "--device", "cpu", "--mode", "tarflow", "--output", str(tmp_path)]
    results = training.main(arguments)
    assert [each.mode for each in results.measurements] == ["baseline", "tarflow"]
    weights = sum(4 * p.numel() for p in training.QUICK.make().parameters())
    for each in results.measurements:
        assert len(each.seconds) == 2
        assert 0 < each.utilization < 1
        # At least the weights, their gradients and the two moments.
        assert each.peak_bytes > 4 * weights
    millions = ["1.28 million pictures", "10 million pictures"]
    assert [each.source for each in results.loading] == ["digits", "64 px JPEGs", *millions]
    assert all(0 < each.share < 1 for each in results.loading)
    [written] = tmp_path.glob("training-*.json")
    assert len(json.loads(written.read_text())["measurements"]) == 2
