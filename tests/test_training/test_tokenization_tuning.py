"""Decoders that learn to remove noise from latents, which stay the same."""

import math

import lightning
import pytest
import torch

from tarflow import ConfigurationError, load
from tarflow.randomness import Share, normal
from tarflow.tokenizers import Autoencoder, IdentityTokenizer
from tarflow.training import DecoderObjective
from tarflow.training.tokenization.decoder_objective import to_tune
from tests.test_training.tokenizing import autoencoder, batch_of, fit, images, module_of

NOISE = 2.0

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Autoencoder:
    """An autoencoder that has learned a little."""
    lightning.seed_everything(5, verbose=False)
    folder = tmp_path_factory.mktemp("trained")
    found = fit(folder, module_of(autoencoder(), lr=3e-2), 0, 60)
    assert sum(found["losses"][-5:]) < 0.5 * sum(found["losses"][:5])  # it learns
    first, last = (found["validation"][place]["val/psnr"] for place in (0, -1))
    assert last > first + 3
    return load(folder / "pretrained")


def error(tokenizer: Autoencoder, noise: float) -> float:
    """The mean squared error of validation images that are decoded of noisy latents."""
    stored = images().data.validation.images.repeat(8, 1, 1, 1)
    x = tokenizer.encode(stored)
    noisy = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return float((tokenizer.images(noisy) - tokenizer.pixels.encode(stored)).square().mean())


def test_a_tuned_decoder_removes_noise_of_the_same_latents(trained, tmp_path):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    tuned = to_tune(trained, NOISE)
    learned = {name for name, each in tuned.named_parameters() if each.requires_grad}
    assert learned == {name for name in before if name.startswith("decoder.")}
    fit(tmp_path, module_of(tuned, lr=1e-2), 0, 40)
    left = load(tmp_path / "pretrained")
    assert left.latents_sha256 == trained.latents_sha256
    assert (left.decodes_noise, trained.decodes_noise) == (NOISE, 0.0)
    assert error(left, NOISE) < 0.9 * error(trained, NOISE)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(left.state_dict()[name], value) != name.startswith("decoder.")


def test_the_loss_is_that_of_images_of_noisy_latents(trained):
    tuned, batch, source = to_tune(trained, NOISE).double(), batch_of(4), Share(7, 0, 4)
    found = DecoderObjective()(tuned, batch, source).detached()
    noise = normal((4, 4, 4, 4), source, torch.float64, "cpu", "noise")
    for row in range(4):
        target = batch.x[row].double() * 2 / 255 - 1
        mean = tuned.encoder(target[None]).chunk(2, dim=1)[0]
        x = (mean - tuned.shift) * tuned.scale + NOISE * noise[row]
        image = tuned.decoder(x / tuned.scale + tuned.shift)[0].detach()
        loss = float(((image - target) ** 2).sum())
        assert float(found.value[row]) == pytest.approx(loss, rel=1e-5)
    assert found.codes is None


def test_what_cannot_be_tuned_is_refused(trained):
    for noise in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(
            ConfigurationError, match=f"noise_std {noise} must be finite and positive"
        ):
            to_tune(trained, noise)
    with pytest.raises(ConfigurationError, match="a IdentityTokenizer has no decoder"):
        to_tune(IdentityTokenizer(8), 0.3)
