"""Training a flow together with its autoencoder: the equations, what learns, and what is kept."""

import copy
import functools
import math
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from tarflow import ConfigurationError, GaussianNoise, NoNoise, Pixels, TarFlow, load
from tarflow.cli import main
from tarflow.data.loading.batches import Batch
from tarflow.randomness import Share, normal
from tarflow.tokenizers import (
    Autoencoder,
    FiniteScalar,
    FixedVariance,
    GaussianBottleneck,
    IdentityTokenizer,
)
from tarflow.training import (
    EndToEnd,
    FlowModule,
    LastCheckpoint,
    MaximumLikelihood,
    Objective,
    PretrainedExport,
    WeightAveraging,
    adamw,
    muon,
    warmup_cosine,
)
from tests.models import randomized, tiny_flow
from tests.quiet import QUIET
from tests.test_training.test_resume import KEPT, assert_same
from tests.test_training.tokenizing import autoencoder, images

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
STD = 0.25


def flow_of_latents(**options: Any) -> TarFlow:
    """A tiny flow of latents of 2 x 4 x 4, with the autoencoder of these."""
    torch.manual_seed(0)
    codec = autoencoder(FixedVariance(2, STD)).eval()
    return tiny_flow(num_transforms=2, **{"codec": codec, "noise": GaussianNoise(STD)} | options)


def module_of(flow: TarFlow, objective: Objective, optimizer: Any = adamw) -> FlowModule:
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    return FlowModule(flow, functools.partial(optimizer, lr=3e-3), schedule, objective)


def gradients(flow: TarFlow) -> dict[str, torch.Tensor]:
    return {name: p.grad.double() for name, p in flow.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_a_plain_loop():
    flow, stored, source = flow_of_latents(), images().data.train.images[:5], Share(3, 0, 5)
    objective = EndToEnd(class_dropout=0.0, reconstruction=3.0)
    objective.start(flow)
    wide = copy.deepcopy(flow).double()
    found = objective(flow, Batch(stored, {}, torch.arange(5)), source)
    found.minimized.sum().backward()
    noise = normal((5, 2, 4, 4), source, torch.float32, "cpu", "noise").double()
    codec: Any = wide.codec
    for row, pixels in enumerate(stored.double()):
        y = 2 * pixels[None] / 255 - 1
        x = codec.encoder(y) + STD * noise[row]
        z, log_det = wide(x)
        nats = (z.square() + math.log(2 * math.pi)).sum() / 2 - log_det[0]
        loss = 3.0 * (codec.decoder(x) - y).square().sum() + nats
        assert float(found.value[row].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
        loss.backward()
    expected = gradients(wide)
    assert expected.keys() == {name for name, _ in flow.named_parameters()}
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in gradients(flow).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6 * scale)
    assert all(value.abs().max() > 0 for value in expected.values())


def fit(folder: Path, first: int, last: int, objective: Objective, optimizer: Any = adamw) -> Any:
    """Train from the checkpoint at one step to another; what is left."""
    module, path = module_of(flow_of_latents(), objective, optimizer), folder / f"{last}.ckpt"
    trainer = lightning.Trainer(
        max_steps=last,
        max_epochs=-1,
        **QUIET,
        callbacks=[
            WeightAveraging([0.9]),
            PretrainedExport(folder / "pretrained"),
            LastCheckpoint(path, last),
        ],
    )
    trainer.fit(module, images(), ckpt_path=folder / f"{first}.ckpt" if first else None)
    state = torch.load(path, weights_only=True)
    return trainer, module, {name: state[name] for name in KEPT}


@pytest.mark.parametrize("objective", [MaximumLikelihood(), EndToEnd()])
def test_the_codec_learns_with_this_objective_alone_and_is_in_the_folder(tmp_path, objective):
    learns = isinstance(objective, EndToEnd)
    trainer, module, state = fit(tmp_path, 0, 5, objective)
    before = flow_of_latents().codec.state_dict()
    averages = state["averaging"]["averages"][0.9]
    exported = load(tmp_path / "pretrained").codec
    for name, value in exported.state_dict().items():
        is_buffer = name in ("shift", "scale")
        assert torch.equal(value, before[name]) == (is_buffer or not learns), name
        assert (f"codec.{name}" in averages) == (learns and not is_buffer)
        if learns and not is_buffer:
            assert torch.equal(value, averages[f"codec.{name}"])
    assert not any(p.requires_grad for p in exported.parameters())
    logged = {name for name in trainer.callback_metrics if name.startswith("val/")}
    own = {"val/loss", "val/psnr"} if learns else set()
    assert logged == {"val/nats_per_latent_dim", *own}
    module_of(module.flow, MaximumLikelihood())  # another objective, after this one
    assert not any(p.requires_grad for p in module.flow.codec.parameters())


def test_images_are_told_better_after_some_training(tmp_path):
    losses = [
        float(fit(tmp_path / str(last), 0, last, EndToEnd())[0].callback_metrics["val/loss"])
        for last in (5, 25)
    ]
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_a_stopped_run_goes_on_as_if_it_never_was(tmp_path, optimizer):
    straight = fit(tmp_path, 0, 6, EndToEnd(), optimizer)[2]
    fit(tmp_path, 0, 2, EndToEnd(), optimizer)
    assert_same(fit(tmp_path, 2, 6, EndToEnd(), optimizer)[2], straight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": autoencoder(GaussianBottleneck(2))}, "needs a tokenizer of continuous latents"),
        ({"codec": IdentityTokenizer(4, 2)}, "needs a tokenizer of continuous latents"),
        ({"codec": autoencoder(FiniteScalar((8, 5)), decodes_noise=STD)}, "of continuous latents"),
        ({"codec": Pixels()}, "needs a tokenizer of continuous latents"),
        ({"noise": GaussianNoise(0.5)}, r"give noise=gaussian noise.std=0.25"),
        ({"noise": NoNoise()}, r"give noise=gaussian noise.std=0.25"),
    ],
)
def test_flows_without_such_latents_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        module_of(flow_of_latents(**options), EndToEnd())


def test_weights_of_a_codec_that_learns_are_not_divided():
    module = module_of(flow_of_latents(), EndToEnd())
    module._device_mesh = object()  # as Lightning sets it
    with pytest.raises(ConfigurationError, match="trainer=ddp"):
        module.configure_model()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reconstruction": 0.0}, "reconstruction 0.0 must be finite and positive"),
        ({"level_power": 1}, "level_power 1 must be 0"),
        ({"class_dropout": 2.0}, r"class_dropout 2.0 must be in \[0, 1\]"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        EndToEnd(**arguments)


def tarflow(monkeypatch: Any, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tarflow", *arguments])
    main()


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = Autoencoder(8, 1, FixedVariance(2), factor=2, width=8, pixels=Pixels(17))
    randomized(digits).save_pretrained("tokenizer")
    settings = ["objective=end_to_end", "objective/distance=classifier", "trainer=smoke"]
    settings += ["tokenizer=tokenizer", "+objective.distance.steps=2"]
    with pytest.raises(SystemExit, match=r"give noise=gaussian noise.std=0.5"):
        tarflow(monkeypatch, "train", "data=digits", "noise=gaussian", *settings)
    settings += ["noise=gaussian", "noise.std=0.5"]
    tarflow(monkeypatch, "train", "data=digits", *settings, "run_dir=run")
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert "distances.0.network.linear.weight" in state
    assert load("run/pretrained").codec.latents_sha256 != digits.latents_sha256
    tarflow(monkeypatch, "sample", "checkpoint=run", "num_samples=3", "output=drawn")
    assert Path("drawn/grid.png").exists()
    tarflow(monkeypatch, "prepare", "data=digits", "tokenizer=tokenizer", "output=latents")
    with pytest.raises(SystemExit, match="holds prepared latents"):
        tarflow(monkeypatch, "train", "data=latents", "data.data.root=latents", *settings)
