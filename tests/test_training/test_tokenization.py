"""Fitting tokenizers: what they minimize, what is logged and written, and that they go on."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tarflow import ConfigurationError, load
from tarflow.data.loading.batches import Batch
from tarflow.flows.context import Context
from tarflow.randomness import ExampleSeeds, Share, normal
from tarflow.tokenizers import (
    Autoencoder,
    Bottleneck,
    FixedVariance,
    GaussianBottleneck,
    IdentityTokenizer,
)
from tarflow.training import CodeUsage, DecoderObjective, FeatureDistance, TokenizerObjective
from tarflow.training.tokenization.decoder_objective import to_tune
from tarflow.training.tokenization.tokenizer_objective import signal_to_noise
from tests.test_training.test_resume import assert_same
from tests.test_training.tokenizing import LAST, autoencoder, fit, images, module_of, run

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")


def batch_of(count: int) -> Batch:
    stored = images().data.train.images[:count]
    return Batch(stored, Context(), torch.arange(count))


class Brightness(FeatureDistance):
    """Compares the mean of all pixels."""

    def maps(self, x: Float[Tensor, "batch ..."]) -> list[Float[Tensor, "batch 1"]]:
        return [x.flatten(1).mean(dim=1, keepdim=True)]


def test_the_loss_is_what_a_plain_loop_makes_of_the_equations():
    tokenizer, batch = autoencoder(GaussianBottleneck(weight=0.3)).double(), batch_of(5)
    source = Share(7, 0, 5)
    objective = TokenizerObjective(Brightness(pixels=0.5, features=2.0))
    found = objective(tokenizer, batch, source)
    noise = normal((5, 4, 4, 4), source, torch.float64, "cpu", "latents")
    for row in range(5):
        x = batch.x[row].double() * 2 / 255 - 1
        mean, log_variance = tokenizer.encoder(x[None])[0].chunk(2)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        latent = mean + (0.5 * log_variance).exp() * noise[row]
        image = tokenizer.decoder(latent[None])[0]
        error = ((image - x) ** 2).mean()
        perceptual = 2.0 * (image.mean() - x.mean()) ** 2
        loss = 0.5 * error + perceptual + 0.3 * kl
        assert float(found.value[row]) / 192 == pytest.approx(float(loss), rel=1e-5)
        assert float(found.logged["kl"][row]) == pytest.approx(float(kl), rel=1e-5)
        assert float(found.logged["perceptual"][row]) == pytest.approx(float(perceptual), rel=1e-3)
        clamped = ((image.clamp(-1, 1) - x) ** 2).mean()
        psnr = 10 * math.log10(4 / float(clamped))
        assert float(found.logged["psnr"][row]) == pytest.approx(psnr, rel=1e-5)
    found.value.mean().backward()
    assert all(each.grad is not None for each in tokenizer.parameters())


def test_a_perfect_reconstruction_has_a_finite_ratio():
    target = torch.rand(2, 3, 4, 4)
    assert signal_to_noise(target, target).tolist() == pytest.approx([106.02] * 2, rel=1e-3)
    black = torch.full((1, 4), -1.0)
    assert signal_to_noise(-black, black).tolist() == pytest.approx([0.0], abs=1e-6)


def test_codes_are_counted_over_batches():
    usage = CodeUsage(4)
    assert math.isnan(usage.share)
    assert math.isnan(usage.perplexity)
    usage.add(torch.tensor([[[0, 0], [0, 0]]]))
    assert (usage.share, usage.perplexity) == (0.25, 1.0)
    usage.add(torch.tensor([[[2, 2], [2, 2]]]))
    assert (usage.share, usage.total) == (0.5, 8)
    assert usage.perplexity == pytest.approx(2.0)
    usage.reset()
    assert usage.total == 0


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, dict]:
    """A run that never stopped, and its folder."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(folder, 0, LAST)


@pytest.mark.parametrize("stop", [1, 5])
def test_a_stopped_run_goes_on_as_if_it_never_was(straight, stop, tmp_path):
    folder, expected = straight
    stopped = run(tmp_path, 0, stop)
    resumed = run(tmp_path, stop, LAST)
    assert stopped["losses"] + resumed["losses"] == expected["losses"]
    assert all(map(math.isfinite, expected["losses"]))
    assert_same(resumed["validation"], expected["validation"][-len(resumed["validation"]) :])
    rest = {"losses", "validation"}
    assert_same(*({k: v for k, v in run.items() if k not in rest} for run in (resumed, expected)))
    exported = [load(each / "pretrained").state_dict() for each in (tmp_path, folder)]
    assert_same(*exported)


def test_batches_that_are_taken_in_parts_are_the_same_to_a_run(straight, tmp_path):
    parts = run(tmp_path, 0, LAST, device_batch_size=4)
    torch.testing.assert_close(
        parts["state_dict"], straight[1]["state_dict"], rtol=0, atol=1e-5, check_dtype=False
    )


def test_what_is_written_is_the_average_with_measured_shift_and_scale(straight):
    folder, left = straight
    tokenizer = load(folder / "pretrained")
    assert isinstance(tokenizer, Autoencoder)
    for name, average in left["averaging"]["averages"][0.9].items():
        assert torch.equal(tokenizer.state_dict()[name], average)
    x = tokenizer.encode(images().data.train.images).double()
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        x.var(dim=(0, 2, 3), correction=0), torch.ones(4).double(), rtol=1e-4, atol=0
    )
    assert (folder / "grids" / f"step_{LAST:07d}.png").exists()
    assert {"val/loss", "val/psnr", "val/kl"} <= left["validation"][-1].keys()


def test_few_images_are_measured_evenly_spaced(tmp_path):
    module = module_of(autoencoder(), num_measured=10)
    fit(tmp_path, module, 0, 1)
    tokenizer = load(tmp_path / "pretrained")
    measured = load(tmp_path / "pretrained")
    measured.measure([images().data.train.images[::5]])
    assert_same(measured.state_dict(), tokenizer.state_dict())


def test_the_units_of_noise_are_left_as_they_are(tmp_path):
    run(tmp_path, 0, 1, FixedVariance(4, 0.5))
    tokenizer = load(tmp_path / "pretrained")
    assert tokenizer.decodes_noise == 0.5
    assert torch.equal(tokenizer.scale, torch.ones(4, 1, 1))
    assert torch.equal(tokenizer.shift, torch.zeros(4, 1, 1))


def test_it_learns(tmp_path):
    module = module_of(autoencoder(), lr=1e-2)
    found = fit(tmp_path, module, 0, 60)
    early, late = found["losses"][:5], found["losses"][-5:]
    assert sum(late) < 0.3 * sum(early)
    assert found["validation"][-1]["val/psnr"] > found["validation"][0]["val/psnr"] + 3
