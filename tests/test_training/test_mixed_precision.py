"""Training keeps float32 whatever its products are computed in, and says what it cannot do."""

import functools

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from tarflow import ConfigurationError
from tarflow.training import DivergenceError, WeightAveraging, adamw, muon
from tarflow.training.averaging import averages
from tarflow.training.precision import check_precision, check_products, multiplying
from tests.test_cli import error_of
from tests.test_training.scenarios import images
from tests.test_training.test_module import fit, poison, tiny_flow, tiny_module


@pytest.fixture
def data():
    return images(torch.arange(24) % 3)


def half(init_scale: float = 2.0**16) -> MixedPrecision:
    """The precision 16-mixed, which Lightning does not make on a CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=init_scale))


class Norms(lightning.Callback):
    """Notes the norm of the gradients before and after they were clipped."""

    def __init__(self):
        self.told, self.clipped = [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            self.clipped.append(float(torch.nn.utils.get_total_norm(gradients)))

    def on_train_batch_end(self, trainer, *_):
        self.told.append(float(trainer.callback_metrics["train/grad_norm"]))


def test_gradients_of_a_scaled_loss_are_clipped_at_their_own_size(data):
    found = []
    for plugins in ([], [half()]):
        norms, flow = Norms(), tiny_flow()
        data.batches.first = 0
        torch.manual_seed(0)
        module = tiny_module(flow, max_grad_norm=0.1)
        options = {"log_every_n_steps": 1, "limit_val_batches": 0}
        trainer = fit(module, data, 4, callbacks=[norms], plugins=plugins, **options)
        moments = [each["exp_avg"] for each in trainer.optimizers[0].state.values()]
        assert norms.clipped == pytest.approx([0.1] * 3, rel=1e-3)
        found.append((norms.told, float(torch.nn.utils.get_total_norm(moments))))
    (told, moment), (told_half, moment_half) = found
    assert told_half == pytest.approx(told, rel=0.02)
    assert min(told) > 0.1
    assert moment_half == pytest.approx(moment, rel=0.02)


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_an_overflow_of_a_scaled_loss_is_passed_over_and_does_not_count(data, optimizer):
    flow, plugin, changed = tiny_flow(), half(2.0**24), []
    weight = flow.transform[1].network.proj_out.weight

    class Look(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            changed.append(bool(weight.any()))

    module = tiny_module(flow, max_skipped_steps=0)
    module.make_optimizer = functools.partial(optimizer, lr=3e-3)
    keep = [Look(), WeightAveraging([0.5])]
    trainer = fit(module, data, 15, callbacks=keep, plugins=[plugin], limit_val_batches=0)
    assert not changed[0]
    assert changed[-1]
    assert plugin.scaler.get_scale() < 2.0**24
    assert module.skipped_steps == 0
    for _, state in averages(trainer, flow):
        for name, value in (*state.items(), *flow.state_dict().items()):
            assert value.isfinite().all(), name
            assert value.dtype in (torch.float32, torch.int64, torch.bool), name


@pytest.mark.filterwarnings("ignore:the step after:UserWarning")
def test_what_no_scale_mends_counts(data):
    flow = tiny_flow()
    message = r"after 2 is not finite \(loss: the output of transform 3 is not finite\), and 0 oth"
    with pytest.raises(DivergenceError, match=message):
        fit(
            tiny_module(flow, max_skipped_steps=0),
            data,
            callbacks=[poison(flow, (2,))],
            plugins=[half()],
        )
    flow = tiny_flow()
    flow.transform[1].network.proj_out.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(
        DivergenceError, match=r"after \d+ is not finite \(a gradient\), and 1 oth"
    ):
        fit(tiny_module(flow, max_skipped_steps=1), data, 20, plugins=[half(8.0)])


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_precisions_that_round_what_is_kept_are_refused(data, precision):
    message = f"precision {precision} is not one of .*: use bf16-mixed, which .* or 32-true"
    flow = tiny_flow()
    with pytest.raises(ConfigurationError, match=message):
        fit(tiny_module(flow), data, precision=precision)
    assert {parameter.dtype for parameter in flow.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["16", "16-mixed"])
def test_a_scaled_loss_is_refused_where_weights_are_divided(precision, tmp_path):
    sharded = ["trainer=fsdp2", "trainer.accelerator=cpu", f"trainer.precision={precision}"]
    told = error_of("train", *sharded, f"run_dir={tmp_path / 'run'}")
    assert "(trainer=fsdp2) do not support: use bf16-mixed" in told
    check_precision(precision)


def test_weights_of_16_bits_are_refused(data):
    message = r"position_embedding is bfloat16.*: call .float\(\) first; .*=bf16-mixed mult"
    with pytest.raises(ConfigurationError, match=message):
        fit(tiny_module(tiny_flow().bfloat16()), data)


class Products(lightning.Callback):
    """Asks for coarser products once the module has been checked, and notes where they are."""

    def __init__(self):
        self.seen = {}

    def on_train_start(self, trainer, pl_module):
        def look(name):
            self.seen.setdefault(name, set()).add(torch.get_float32_matmul_precision())

        def forward(module, inputs, output):
            look("training" if module.training else "validation")
            if output[0].requires_grad:
                output[0].register_hook(lambda _: look("backward"))

        pl_module.products = "tf32"
        pl_module.flow.transform[1].register_forward_hook(forward)

    def on_train_batch_end(self, *_):
        self.seen.setdefault("between", set()).add(torch.get_float32_matmul_precision())


def test_products_are_coarser_in_training_steps_alone(data):
    products = Products()
    fit(tiny_module(tiny_flow()), data, 4, callbacks=[products], val_check_interval=2)
    expected = {"training": {"high"}, "backward": {"high"}}
    assert products.seen == expected | {"validation": {"highest"}, "between": {"highest"}}


def test_an_error_leaves_products_exact():
    def fail():
        with multiplying("bf16"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert torch.get_float32_matmul_precision() == "highest"


def test_products_that_there_are_not_are_refused(data):
    with pytest.raises(ConfigurationError, match="products half must be one of exact, tf32, bf16"):
        fit(tiny_module(tiny_flow(), products="half"), data)
    with pytest.raises(ConfigurationError, match=r"tf32 are of NVIDIA GPUs .* not of cpu here"):
        fit(tiny_module(tiny_flow(), products="tf32"), data)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(ConfigurationError, match=r"bf16 .* of CPUs with AVX-512"):
            check_products("bf16", torch.device("cpu"))
