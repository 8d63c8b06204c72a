"""What only a GPU can show; skipped without one."""

import functools

import lightning
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tarflow import (
    ExampleSeeds,
    Jacobi,
    LinearGuidance,
    Networks,
    NonFiniteError,
    NoNoise,
    PrefixConditioner,
    TarFlow,
    TokenConditioner,
    UniformDequantization,
    VectorConditioner,
    denoise,
)
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.nn.attention import Fronts, attend
from tarflow.nn.cached_kernels import flash_cached
from tarflow.sampling.chunks import ChunkSize
from tarflow.training import FlowModule, WeightAveraging, adamw, muon, warmup_cosine
from tarflow.training.optimizers import orthogonalize
from tests.models import randomized

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def flow() -> TarFlow:
    torch.manual_seed(0)
    return randomized(
        TarFlow(8, 2, num_channels=1, num_transforms=2, num_layers=2, model_dim=64, num_classes=3)
    )


def test_density_samples_and_denoising_agree_with_the_cpu(flow):
    label, source = torch.tensor([0, 1, 2, -1]), ExampleSeeds(0, range(4))
    guidance = LinearGuidance(1.0)
    x = flow.sample(4, label, guidance=guidance, source=source)
    clean, log_prob = denoise(flow, x, label, 0.1), flow.log_prob(x, label)
    flow = flow.cuda()
    on_gpu = flow.sample(4, label, guidance=guidance, source=source)
    torch.testing.assert_close(on_gpu.cpu(), x, rtol=0, atol=1e-3)
    torch.testing.assert_close(denoise(flow, x.cuda(), label, 0.1).cpu(), clean, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        flow.log_prob(x.cuda(), label).cpu(), log_prob, rtol=1e-3, atol=1e-2
    )


def test_bfloat16_keeps_the_state_in_float32(flow):
    flow, x = flow.cuda(), torch.randn(4, 1, 8, 8, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        z, log_det = flow(x)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(z, flow(x)[0], rtol=0, atol=0.1)


def test_orthogonalization_in_bfloat16_is_near_that_in_float32():
    torch.manual_seed(0)
    matrices = torch.randn(3, 32, 64)
    close = orthogonalize(matrices.cuda()).float().cpu()
    assert (close - orthogonalize(matrices)).abs().max() < 0.05


class Unsynchronized(lightning.Callback):
    """Lets torch refuse to wait for the GPU, in all steps but the first ones and those logged."""

    def __init__(self):
        self.steps = 0

    def on_train_batch_start(self, trainer, *_):
        refuses = trainer.global_step > 1 and not trainer._logger_connector.should_update_logs
        torch.cuda.set_sync_debug_mode("error" if refuses else "default")
        self.steps += refuses

    def on_train_end(self, *_):
        torch.cuda.set_sync_debug_mode("default")

    on_exception = on_train_epoch_end = on_train_end


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_training_steps_do_not_wait_for_the_gpu(flow, optimizer, precision):
    pixels = torch.randint(0, 4, (320, 1, 8, 8), dtype=torch.uint8)
    part = ArrayDataset(pixels, torch.arange(320) % 3)
    codec = UniformDequantization(17)
    data = ImageData("made up", part, None, part, codec, num_classes=3, image_shape=(1, 8, 8))
    flow.codec, flow.noise = codec, NoNoise()
    schedule = functools.partial(warmup_cosine, total_steps=20, warmup_steps=1)
    module = FlowModule(flow, functools.partial(optimizer, lr=3e-3), schedule)
    watched = Unsynchronized()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(
        max_steps=10,
        accelerator="gpu",
        devices=1,
        precision=precision,
        log_every_n_steps=5,
        callbacks=[watched, WeightAveraging([0.9])],
        **dict.fromkeys(off, False),
    )
    trainer.fit(module, ImageDataModule(data, batch_size=32))
    assert watched.steps == 6


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # inductor of torch 2.11
@pytest.mark.filterwarnings("ignore:.*The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "options", [{}, {"checkpointed_layers": 2}, {"compile": True, "checkpointed_layers": 1}]
)
def test_training_in_bfloat16_keeps_weights_in_float32_and_lowers_the_loss(flow, options):
    pixels = torch.randint(0, 4, (64, 1, 8, 8), dtype=torch.uint8)
    part = ArrayDataset(pixels, torch.arange(64) % 3)
    codec = UniformDequantization(17)
    data = ImageData("made up", part, None, part, codec, num_classes=3, image_shape=(1, 8, 8))
    flow.codec, flow.noise = codec, NoNoise()
    schedule = functools.partial(warmup_cosine, total_steps=20, warmup_steps=1)
    module = FlowModule(flow, functools.partial(muon, lr=3e-3), schedule, **options)

    @torch.no_grad()
    def held_out():
        return -flow.log_prob(flow.noisy(pixels, ExampleSeeds(0, range(64))), part.labels).mean()

    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(
        max_steps=20,
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        **dict.fromkeys(off, False),
    )
    before = held_out()
    trainer.fit(module, ImageDataModule(data, batch_size=32))
    flow = flow.cpu().eval()
    assert all(parameter.dtype == torch.float32 for parameter in flow.parameters())
    assert held_out() < before


# --- Decoding ---------------------------------------------------------------------------------

LABEL = torch.tensor([0, 1, 2, -1])
GUIDED = {"context": LABEL, "guidance": LinearGuidance(1.0, temperature=1.5)}


def sampled(flow: TarFlow, first: int = 0, **options):
    """Four guided samples."""
    source = ExampleSeeds(0, range(first, first + 4))
    return flow.sample(4, source=source, **(GUIDED | options))


def test_cuda_graphs_draw_the_samples_of_eager_steps(flow):
    flow = flow.cuda()
    networks = Networks(compile=True)
    for first in (0, 4):  # the second batch runs on the graphs and the cache of the first
        compiled = sampled(flow, first, networks=networks)
        torch.testing.assert_close(compiled, sampled(flow, first), rtol=0, atol=1e-4)
    (room,) = networks.memory.caches.values()
    assert [len(graphs) for graphs in room.graphs.values()] == [4, 4]
    unguided = sampled(flow, guidance=None, networks=networks)
    torch.testing.assert_close(unguided, sampled(flow, guidance=None), rtol=0, atol=1e-4)


@pytest.mark.parametrize("window", [2, 5, 99])
def test_windows_on_cuda_graphs_draw_the_samples_of_sequential_steps(flow, window):
    flow = flow.cuda()
    networks, decoder = Networks(compile=True), Jacobi(window, 1e-5)
    for first in (0, 4):
        expected = sampled(flow, first)
        for options in ({}, {"networks": networks}):
            x = sampled(flow, first, decoder=decoder, **options)
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)
    (room,) = networks.memory.caches.values()
    assert all(1 <= len(graphs) <= 4 for graphs in room.graphs.values())


def test_flash_attention_to_a_cache_is_that_of_torch():
    pytest.importorskip("flash_attn")
    q, k, v = torch.randn(3, 4, 2, 5, 64, device="cuda", dtype=torch.bfloat16)
    cache = torch.randn(2, 4, 2, 16, 64, device="cuda", dtype=torch.bfloat16)
    fronts = Fronts.at(torch.tensor([0, 3, 7, 11], device="cuda"), 5, 16)
    (keys, values), (own_keys, own_values) = cache.clone(), cache.clone()
    attended = flash_cached(q, keys, values, k, v, fronts.positions[:, 0])
    for store, new in ((own_keys, k), (own_values, v)):
        fronts.write(store, new)
    expected = scaled_dot_product_attention(
        q.float(), own_keys.float(), own_values.float(), attn_mask=fronts.seen
    )
    torch.testing.assert_close(attended.float(), expected, rtol=0, atol=2e-2)
    assert torch.equal(keys, own_keys)
    assert torch.equal(values, own_values)


def test_batches_of_other_sizes_share_the_storage_of_the_largest(flow):
    flow = flow.cuda()
    networks = Networks(compile=True)
    sampled(flow, networks=networks)
    (room,) = networks.memory.caches.values()
    held = torch.cuda.memory_allocated()
    few = {"guidance": None, "context": LABEL[:2], "source": ExampleSeeds(0, range(2))}
    found = flow.sample(2, networks=networks, **few)
    torch.testing.assert_close(found, flow.sample(2, **few), rtol=0, atol=1e-4)
    assert [*networks.memory.caches.values()] == [room]
    keys, _ = room.cache.held(0)
    assert torch.cuda.memory_allocated() - held < 4 * keys.nbytes  # a cache of 2 would take them
    many = {"context": LABEL.repeat(4), "source": ExampleSeeds(0, range(16))}
    many["guidance"] = GUIDED["guidance"]
    found = flow.sample(16, networks=networks, **many)
    torch.testing.assert_close(found, flow.sample(16, **many), rtol=0, atol=1e-4)
    (larger,) = networks.memory.caches.values()
    assert (room.rows, larger.rows) == (8, 32)
    again = sampled(flow, networks=networks)
    torch.testing.assert_close(again, sampled(flow), rtol=0, atol=1e-4)
    assert [*networks.memory.caches.values()] == [larger]


def test_storage_is_let_go_where_memory_runs_out_and_the_samples_are_the_same(flow):
    flow = flow.cuda()
    networks, chunk, failures = Networks(compile=True), ChunkSize(), iter([True])
    expected = sampled(flow)
    sampled(flow, networks=networks)

    def compute(rows: slice) -> torch.Tensor:
        count = rows.stop - rows.start
        source = ExampleSeeds(0, range(rows.start, rows.stop))
        options = GUIDED | {"context": LABEL[rows], "networks": networks}
        x = flow.sample(count, source=source, **options)
        if next(failures, False):
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return x

    with pytest.warns(RuntimeWarning, match="memory ran out"):
        x = chunk.map(compute, 4)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)
    (room,) = networks.memory.caches.values()
    assert room.rows == 4  # of two examples with guidance: that of four is gone


def test_graphs_made_in_inference_mode_serve_outside_of_it(flow):
    flow = flow.cuda()
    networks = Networks(compile=True)
    with torch.inference_mode():
        sampled(flow, networks=networks)
    torch.testing.assert_close(sampled(flow, networks=networks), sampled(flow), rtol=0, atol=1e-4)


def test_what_is_not_finite_in_one_batch_is_not_seen_by_the_next(flow):
    flow, networks = flow.cuda(), Networks(compile=True)
    z = flow.base.sample(4, ExampleSeeds(0, range(4)))
    with torch.no_grad():
        expected = flow.inverse(z, LABEL)
        with pytest.raises(NonFiniteError, match="not finite"):
            flow.inverse(z.sign() * torch.finfo().max, LABEL, networks=networks)
        found = flow.inverse(z, LABEL, networks=networks)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [1, 5, 16])
def test_windows_are_certified_in_every_precision(flow, window, dtype, compile):
    flow, tolerance = flow.cuda(), {torch.float32: 1e-4}.get(dtype, 0.05)
    options = {"decoder": Jacobi(window, tolerance), "dtype": dtype, "compile": compile}
    x, report = sampled(flow, return_report=True, **options)
    assert report.certified.all()
    assert (report.residual <= tolerance).all()
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, sampled(flow), rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lower_precision_keeps_the_state_in_float32(flow, dtype):
    flow = flow.cuda()
    x = sampled(flow, dtype=dtype)
    assert x.dtype == torch.float32
    assert 0 < (x - sampled(flow)).abs().max() < 0.2


@pytest.mark.parametrize("window", [2, 5, 16])
def test_flash_kernels_align_queries_with_the_last_keys(window):
    q, k, v = (torch.randn(2, 4, n, 64, device="cuda").half() for n in (window, 16, 16))
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = attend(q, k, v)
    visible = torch.ones(window, 16, device="cuda").tril(16 - window).bool()
    logits = (q.float() @ k.float().mT / 8).masked_fill(~visible, -torch.inf)
    expected = logits.softmax(dim=-1) @ v.float()
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("options", [{}, {"compile": True}, {"decoder": Jacobi(2, 1e-5)}])
def test_masks_orders_and_prefixes_agree_with_the_cpu(options):
    conditioners = [VectorConditioner(3), TokenConditioner(6, 2), PrefixConditioner(2, 4)]
    sizes = {"num_transforms": 2, "num_layers": 2, "model_dim": 64, "num_classes": 3}
    torch.manual_seed(0)
    flow = randomized(TarFlow.for_tokens(6, 3, conditioners=conditioners, **sizes))
    context = {
        "label": torch.tensor([0, 1, 2, -1]),
        "vector": torch.randn(4, 3),
        "tokens": torch.randn(4, 6, 2),
        "prefix": torch.randn(4, 2, 4),
        "mask": torch.arange(6) < torch.tensor([[6], [4], [1], [5]]),
        "order": torch.stack([torch.randperm(6) for _ in range(4)]),
    }
    z, guidance = torch.randn(4, 6, 3), LinearGuidance(1.0)
    x = flow.inverse(z, context, guidance=guidance)
    log_prob, flow = flow.log_prob(x, context), flow.cuda()
    context = {name: part.cuda() for name, part in context.items()}
    on_gpu = flow.inverse(z.cuda(), context, guidance=guidance, **options)
    torch.testing.assert_close(on_gpu.cpu(), x, rtol=0, atol=1e-3)
    found = flow.log_prob(x.cuda(), context)
    torch.testing.assert_close(found.cpu(), log_prob, rtol=1e-3, atol=1e-2)
