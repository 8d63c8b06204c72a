"""Autoencoders: images to latents and back, saved and loaded, alone and with a flow."""

import sys
from dataclasses import replace

import pytest
import torch

import tarflow
from tarflow import CheckpointError, ConfigurationError, DataError, TarFlow, UniformDequantization
from tarflow.tokenizers import Autoencoder, FiniteScalar, FixedVariance

from .tiny_autoencoders import BOTTLENECKS, QUANTIZERS, some_images, tiny_autoencoder


@pytest.fixture(params=BOTTLENECKS)
def autoencoder(request):
    return tiny_autoencoder(request.param)


@pytest.fixture
def images() -> torch.Tensor:
    return some_images()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [16, (8, 24)])
def test_latents_are_smaller_by_the_factor(factor, size):
    tiny = Autoencoder(size, 1, BOTTLENECKS["Gaussian"], factor, width=8)
    height, width = (size, size) if isinstance(size, int) else size
    stored = torch.randint(256, (2, 1, height, width), dtype=torch.uint8)
    latents = tiny.encode(stored)
    assert tiny.latent_shape == (3, height // factor, width // factor) == latents.shape[1:]
    decoded = tiny.decode(latents)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == stored.shape


def test_encoding_is_the_same_in_all_modes_and_draws_nothing(autoencoder, images):
    before = torch.get_rng_state()
    x = autoencoder.train().encode(images)
    assert torch.equal(autoencoder.eval().encode(images), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_reconstructions_are_decoded_latents(autoencoder, images):
    inputs = autoencoder.pixels.encode(images)
    found = autoencoder.reconstruct(inputs, torch.Generator().manual_seed(0))
    assert torch.equal(found.images, autoencoder.decoder(found.latents))
    again = autoencoder.eval().reconstruct(inputs, torch.Generator().manual_seed(0))
    assert torch.equal(again.images, found.images)
    assert torch.equal(again.loss, found.loss)
    if autoencoder.num_codes is not None:
        assert torch.equal(found.images, autoencoder.to_images(autoencoder.to_latents(inputs)))
        assert found.codes.max() < autoencoder.num_codes


def test_training_reaches_every_weight(autoencoder, images):
    found = autoencoder.reconstruct(autoencoder.pixels.encode(images))
    (found.images.square().sum() + found.loss.sum()).backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("bottleneck", ["Gaussian", "vector quantization", "finite scalars"])
def test_a_few_steps_learn_images(bottleneck, images):
    learner = tiny_autoencoder(bottleneck)
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    inputs = learner.pixels.encode(images)
    errors = []
    for _ in range(40):
        found = learner.reconstruct(inputs)
        error = (found.images - inputs).square().mean()
        optimizer.zero_grad()
        (error + found.loss.mean()).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


def test_bottlenecks_are_never_below_single_precision(autoencoder, images):
    inputs = autoencoder.pixels.encode(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = autoencoder.reconstruct(inputs)
    assert found.latents.dtype == found.loss.dtype == torch.float32
    double = autoencoder.double()
    assert double.reconstruct(inputs.double()).images.dtype == torch.float64


@pytest.mark.parametrize("bottleneck", ["Gaussian", "linear map", "finite scalars"])
def test_measured_latents_have_mean_0_and_variance_1(bottleneck, images):
    tiny = tiny_autoencoder(bottleneck)
    tiny.measure([images[:2], images[2:]])
    x = tiny.encode(images)
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.var(dim=(0, 2, 3), correction=0), torch.ones(3))


def test_latents_of_fixed_variance_keep_the_units_of_their_noise(images):
    tiny = tiny_autoencoder(bottleneck="fixed variance")
    tiny.measure([images])
    assert not tiny.shift.any()
    assert (tiny.scale == 1).all()
    assert tiny.decodes_noise == 0.5
    assert Autoencoder(8, bottleneck=FixedVariance(std=0.2), width=8).decodes_noise == 0.2
    tuned = Autoencoder(8, bottleneck=FixedVariance(std=0.2), width=8, decodes_noise=0.3)
    assert tuned.decodes_noise == 0.3


@pytest.mark.parametrize("name", QUANTIZERS)
def test_noise_beside_codes_is_snapped_away_before_decoding(name, images):
    tiny = tiny_autoencoder(name)
    tiny.measure([images])
    x = tiny.encode(images)
    noisy = x + 1e-4 * torch.randn_like(x)
    assert not torch.equal(noisy, x)
    assert torch.equal(tiny.images(noisy), tiny.images(x))


def test_a_decoder_tuned_for_noise_gets_the_noise(images):
    plain = tiny_autoencoder("vector quantization")
    plain.measure([images])
    tuned = Autoencoder(**vars(replace(plain.description, decodes_noise=0.3)))
    tuned.load_state_dict(plain.state_dict())
    assert tuned.latents_sha256 == plain.latents_sha256
    x = plain.encode(images)
    torch.testing.assert_close(tuned.images(x), plain.images(x))
    assert not torch.allclose(tuned.images(x + 0.3), plain.images(x + 0.3))


def test_what_is_saved_is_loaded(autoencoder, images, tmp_path):
    autoencoder.measure([images])
    autoencoder.save_pretrained(tmp_path)
    loaded = tarflow.load(tmp_path)
    assert isinstance(loaded, Autoencoder)
    assert loaded.description == autoencoder.description
    assert loaded.latents_sha256 == autoencoder.latents_sha256
    x = autoencoder.encode(images)
    assert torch.equal(loaded.encode(images), x)
    assert torch.equal(loaded.decode(x), autoencoder.decode(x))


def test_a_flow_keeps_its_autoencoder(autoencoder, images, tmp_path):
    autoencoder.measure([images])
    sizes = {"num_transforms": 1, "num_layers": 1, "model_dim": 8, "head_dim": 8}
    channels, *size = autoencoder.latent_shape
    flow = TarFlow(tuple(size), 1, channels, codec=autoencoder, **sizes)
    flow.save_pretrained(tmp_path)
    loaded = tarflow.load(tmp_path)
    assert loaded.codec.latents_sha256 == autoencoder.latents_sha256
    x = autoencoder.encode(images)
    assert torch.equal(loaded.codec.encode(images), x)
    assert torch.equal(loaded.codec.decode(x), autoencoder.decode(x))


def test_loading_tells_of_a_missing_package(tmp_path, monkeypatch):
    tiny_autoencoder("finite scalars").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(CheckpointError, match=r"pip install 'tarflow\[latents\]'"):
        tarflow.load(tmp_path)


def changed(autoencoder: Autoencoder, name: str) -> bool:
    """Whether a change of one part of the state makes other latents."""
    before = autoencoder.latents_sha256
    autoencoder.state_dict()[name].view(-1)[0] += 1
    return autoencoder.latents_sha256 != before


def test_the_hash_of_latents_is_that_of_all_but_the_decoder(autoencoder):
    for name in autoencoder.state_dict():
        assert changed(autoencoder, name) != name.startswith("decoder.")


def test_other_levels_are_other_latents():
    torch.manual_seed(0)
    one = Autoencoder(8, bottleneck=FiniteScalar((8, 5)), width=8)
    other = Autoencoder(8, bottleneck=FiniteScalar((5, 8)), width=8)
    weights = one.state_dict()
    other.load_state_dict({k: v for k, v in weights.items() if k != "squeeze.levels"}, False)
    assert other.latents_sha256 != one.latents_sha256


def test_images_of_another_size_are_refused():
    tiny = tiny_autoencoder()
    with pytest.raises(DataError, match=r"reads images of shape \(3, 8, 16\)"):
        tiny.encode(torch.zeros(2, 3, 16, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factor": 3}, "factor 3 must be a power of 2, and at least 2"),
        ({"factor": 1}, "factor 1 must be a power of 2"),
        ({"factor": 16}, r"image_size \(8, 16\) must be a multiple of the factor 16"),
        ({"width": 12}, "width 12 must be a multiple of 8"),
        ({"num_blocks": 0}, "num_blocks 0 must be at least 1"),
        ({"num_channels": 0}, "num_channels 0 must be at least 1"),
        ({"image_size": 0}, "image_size 0 must be at least 1"),
        ({"pixels": UniformDequantization(17)}, r"encoding draws nothing: pass Pixels\(17\)"),
        ({"decodes_noise": -0.1}, "decodes_noise -0.1 must be finite and not negative"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        tiny_autoencoder(**options)
