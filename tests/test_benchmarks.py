"""The benchmark compares what is the same, counts what it says, and writes what it found."""

import json
import statistics
from contextlib import suppress

import pytest
import torch
from PIL import Image
from rich.console import Console

from benchmarks import measuring, photographs
from benchmarks.baseline import Baseline
from benchmarks.modes import decoding, plain
from benchmarks.plot import draw_sampling
from benchmarks.precision import PRECISIONS, Precision, choose
from benchmarks.results import describe_environment
from benchmarks.roofline import Counted, Machine, Pass, Transformer
from benchmarks.sampling_results import Measurement, Results
from tarflow import Jacobi, LinearGuidance, Sequential
from tarflow.flows.decoding import PerTransform
from tarflow.nn.networks import Networks
from tests.models import tiny_flow

FLOAT32, BFLOAT16 = PRECISIONS["float32"], PRECISIONS["bfloat16"]


def machine(float32: float = 4e9, bfloat16: float = 2e9) -> Machine:
    return Machine({8: 4e9, 512: 1e9}, {"float32": float32, "bfloat16": bfloat16})


def measurement(mode: str, seconds: list[float], **options) -> Measurement:
    values = {"patch_size": 4, "length": 64, "batch_size": 16, "precision": "float32"}
    found = {"first_seconds": 41.0, "floor_seconds": 0.5}
    found |= {"rms": 1e-6, "maximum": 1e-5, "passes": 252, "positions": 252}
    return Measurement(mode=mode, seconds=seconds, **(values | found | options), windows=[1, 8])


def fake_results() -> Results:
    """Two cases of three modes, the second in another precision."""
    rows = [
        measurement(mode, [seconds, 9.0, 1.0], precision=precision)
        for precision in ("float32", "bfloat16")
        for mode, seconds in (("baseline", 4.0), ("sequential", 2.0), ("windowed", 1.0))
    ]
    environment = describe_environment(torch.device("cpu"))
    environment |= {"hardware": "A Chip(R), 2 threads", "cpu_flags": ["avx2", "avx512f"]}
    return Results(environment, machine(), rows, ["bfloat16 was left out"])


def test_break_even_weighs_the_cost_of_compiling_against_its_gain():
    results, compiled = fake_results(), measurement("compiled", [1.0, 1.5, 1.5])
    results.measurements += [compiled]
    # 39.5 s more for the first batch of 16, and 0.5 s less for each of the others
    assert results.break_even(compiled) == 16 * 79
    [line] = results.remarks()
    assert line.startswith("compiled, T = 64, batch 16, float32: first batch 41.0 s, others 1.5 s")
    assert line.endswith("pays after 1,264 samples")
    slower = measurement("compiled", [2.0], batch_size=8)
    sequential = measurement("sequential", [2.0], batch_size=8)
    results.measurements = [sequential, slower]
    assert results.break_even(slower) == float("inf")
    assert results.remarks()[0].endswith("sequential 2 s; never pays")


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_the_baseline_draws_the_samples_of_the_library(flow, z, y, weight):
    flow, z = flow.float(), z.float()
    guidance = LinearGuidance(weight)
    with torch.no_grad():
        expected = flow.inverse(z, y, guidance=guidance)
    torch.testing.assert_close(Baseline(flow)(z, y, weight), expected, rtol=0, atol=1e-5)


def test_the_baseline_draws_the_samples_of_a_flow_without_classes(unconditional, z):
    expected = unconditional.inverse(z)
    found = Baseline(unconditional, torch.float64)(z, None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_baseline_in_bfloat16_keeps_the_state_in_float32(flow, z, y):
    flow, z = flow.float(), z.float()
    x = Baseline(flow, torch.bfloat16)(z, y, 1.0)
    assert x.dtype == torch.float32
    exact = Baseline(flow)(z, y, 1.0)
    assert 0 < (x - exact).abs().max() < 0.1


def test_the_floor_is_that_of_the_formula():
    transformer = Transformer(num_weights=1000, num_layers=2, model_dim=8, length=16)
    # 2 rows, positions 3 and 4, the first after keys of positions 0 ... 2
    assert transformer.num_bytes(2, 5, FLOAT32) == 4 * (1000 + 2 * 2 * 8 * 2 * 5)
    assert transformer.num_bytes(2, 5, BFLOAT16) == 2 * (1000 + 2 * 2 * 8 * 2 * 5)
    rounded = PRECISIONS["float16_weights"]
    assert transformer.num_bytes(2, 5, rounded) == 2 * 1000 + 4 * 2 * 2 * 8 * 2 * 5
    assert transformer.operations(2, 3, 2) == 2 * 1000 * 2 * 2 + 4 * 2 * 8 * 2 * (4 + 5)
    reading = transformer.floor(machine(float32=1e30), [Pass(1, 3, 2)] * 2, FLOAT32)
    assert reading == pytest.approx(2 * transformer.num_bytes(2, 5, FLOAT32) / 4e9)
    computing = transformer.floor(machine(float32=1.0), [Pass(2, 3, 2)], FLOAT32, False)
    assert computing == transformer.operations(2, 3, 2)


def test_weights_that_fit_into_a_cache_are_read_at_its_bandwidth():
    assert machine().bandwidth_for(2**20) == 4e9
    assert machine().bandwidth_for(100 * 2**20) == machine().bandwidth_for(2**40) == 1e9


def test_numbers_that_multiply_slowly_can_be_widened():
    assert machine(float32=4e9, bfloat16=2e9).rate_for(BFLOAT16) == 4e9
    assert machine(float32=4e9, bfloat16=9e9).rate_for(BFLOAT16) == 9e9


def test_the_sizes_of_a_transformer_are_those_of_its_matrices(flow):
    found = Transformer.of(flow)
    assert (found.num_layers, found.model_dim, found.length) == (2, 16, 4)
    assert found.num_weights == 8 * 16 + 2 * 12 * 16 * 16 + 16 * 16


@torch.no_grad()
def test_passes_are_counted_as_they_are_made(flow, z, y):
    counted = Counted(PerTransform((Sequential(), Jacobi(3, 1e-9), Sequential())))
    x = flow.inverse(z, y, decoder=counted)
    torch.testing.assert_close(x, flow.inverse(z, y), rtol=0, atol=1e-7)
    sequential = [Pass(4, i, 1) for i in range(3)]
    assert counted.passes[:3] == counted.passes[-3:] == sequential
    assert counted.passes[3] == Pass(4, 0, 3)
    float64 = Precision("float64", 1e-9)
    for decoder in (Sequential(), counted.decoder):
        mode = decoding("", flow, float64, Networks(torch.float64), decoder)
        assert measuring.count(flow, measuring.Run(mode, float64, z, y))[:3] == sequential
    assert measuring.windows(counted.decoder, flow) == [1, 3, 1]


def test_repetitions_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = measuring.interleave(runs, 3, "cpu")
    assert order == list("abccbaabc")
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_results_are_written_and_shown(tmp_path):
    results = fake_results()
    path = results.write(tmp_path)
    assert path.name == "sampling-a-chip-2-threads-avx512.json"
    content = json.loads(path.read_text())
    assert content["environment"]["torch"] == torch.__version__
    assert content["machine"]["rate"]["float32"] == 4e9
    assert content["notes"] == ["bfloat16 was left out"]
    windowed = content["measurements"][2]
    assert windowed["seconds"] == [1.0, 9.0, 1.0]
    assert windowed["median_seconds"] == statistics.median([1.0, 9.0, 1.0])
    assert windowed["ratio_to_baseline"] == 4
    assert Results.read(path) == results
    assert windowed["images_per_second"] == 16
    assert windowed["roofline_fraction"] == 0.5
    console = Console(width=120, record=True)
    console.print(results.table())
    text = console.export_text()
    assert "4.00 x" in text
    assert "50 %" in text
    assert "…" not in text


def test_the_picture_is_small(tmp_path):
    path = tmp_path / "images" / "sampling.png"
    draw_sampling(fake_results(), path)
    assert path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_a_row_is_held_against_the_best_baseline():
    results = fake_results()
    results.measurements[3] = measurement("baseline", [2.0], precision="bfloat16")
    results.measurements += [measurement("baseline", [0.1], batch_size=1)]
    windowed = results.measurements[2]
    assert (results.ratio(windowed), results.ratio_to_best(windowed)) == (4, 2)


def test_what_is_not_finite_comes_back_from_a_file(tmp_path):
    results = fake_results()
    results.measurements[0] = measurement("baseline", [4.0], rms=float("inf"))
    path = results.write(tmp_path)
    assert json.loads(path.read_text())["measurements"][0]["rms"] is None
    assert Results.read(path).measurements == results.measurements


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["avx2"], "chip-2-threads-avx2"),
        (["avx2", "avx512f"], "chip-2-threads-avx512"),
        (["avx2", "avx512f", "avx512_bf16"], "chip-2-threads-avx512-bf16"),
        (["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"], "chip-2-threads-amx"),
        ([], "chip-2-threads"),
    ],
)
def test_names_of_files_tell_processors_of_one_name_apart(flags, name):
    environment = {"hardware": "Chip(R), 2 threads", "device": "cpu", "cpu_flags": flags}
    assert Results(environment, machine()).slug == name
    assert Results(environment | {"device": "cuda"}, machine()).slug == "chip-2-threads"


def test_precisions_without_instructions_are_left_out_and_named():
    taken, notes = choose([*PRECISIONS], torch.device("cpu"))
    assert taken[0] == FLOAT32
    left_out = [name for name in PRECISIONS if PRECISIONS[name] not in taken]
    assert [note.partition(" ")[0] for note in notes] == left_out
    assert "tf32_products" in left_out
    assert choose(["tf32_products"], torch.device("cpu")) == ((PRECISIONS["tf32_products"],), [])


@pytest.mark.parametrize("name", ["bfloat16_products", "tf32_products"])
def test_torch_is_told_of_products_for_a_while(name):
    before, precision = torch.get_float32_matmul_precision(), PRECISIONS[name]
    with suppress(ZeroDivisionError), precision.applied():
        assert torch.get_float32_matmul_precision() == precision.matmul != before
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before
    with precision.for_networks():  # those of the package know one of them by themselves
        told = torch.get_float32_matmul_precision()
    assert (told == before) is (name == "bfloat16_products")


@pytest.mark.parametrize("name", [name for name in PRECISIONS if name != "tf32_products"])
def test_the_library_and_the_baseline_compute_in_every_precision(name, flow, z, y):
    flow, precision, z = flow.float().eval(), PRECISIONS[name], z.float()
    networks = Networks(precision.parts.name)
    exact = measuring.in_float64(flow, z, y)
    for mode in plain(flow, precision, networks):
        assert 0 < (mode.sample(z, y) - exact).abs().max() < 0.1, mode.name


def test_crops_are_no_part_of_the_held_out_columns():
    data = photographs.Photographs()
    for side in data.sides:
        side[0][:], side[1][:] = 1, 1
    for held_out in data.held_out:
        held_out[:] = 2
    images, labels = data.batch(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 3, 32, 32)
    assert (images == 1).all()
    assert labels.unique().tolist() == [0, 1]
    images, labels = data.test()
    assert images.shape == (52, 3, 32, 32)
    assert (images == 2).all()
    assert labels.bincount().tolist() == [26, 26]


def test_a_trained_flow_is_kept(tmp_path, monkeypatch):
    def make(patch_size):
        known = {"codec": photographs.CODEC, "noise": photographs.NOISE}
        return tiny_flow(32, patch_size, 3, num_transforms=1, num_classes=2, **known)

    monkeypatch.setattr(photographs, "CACHE", tmp_path)
    monkeypatch.setattr(photographs, "make_flow", make)
    settings = photographs.Settings(8, num_steps=3, batch_size=2)
    first = photographs.load(settings)
    record = json.loads((tmp_path / "photographs_T16_p8" / "training.json").read_text())
    assert len(record["nats_per_dim"]) == 3
    monkeypatch.setattr(photographs, "train", None)
    again = photographs.load(settings)
    assert not again.training
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TypeError):
        photographs.load(photographs.Settings(8, num_steps=4, batch_size=2))
