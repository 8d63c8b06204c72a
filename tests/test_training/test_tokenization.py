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
from tarflow.randomness import Share, normal
from tarflow.tokenizers import Autoencoder, FixedVariance, GaussianBottleneck
from tarflow.training import CollapseWarning, FeatureDistance, TokenizerObjective
from tarflow.training.tokenization.tokenizer_objective import signal_to_noise
from tests import fresh
from tests.test_training.test_pairs import environment_of
from tests.test_training.test_resume import assert_same
from tests.test_training.tokenizing import (
    LAST,
    Signs,
    autoencoder,
    batch_of,
    fit,
    images,
    module_of,
    run,
    together,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")


class Brightness(FeatureDistance):
    """Compares the mean of all pixels."""

    def maps(self, x: Float[Tensor, "batch ..."]) -> list[Float[Tensor, "batch 1"]]:
        return [x.flatten(1).mean(dim=1, keepdim=True)]


def test_the_loss_is_what_a_plain_loop_makes_of_the_equations():
    tokenizer, batch = autoencoder(GaussianBottleneck(weight=0.3)).double(), batch_of(5)
    source = Share(7, 0, 5)
    objective = TokenizerObjective(Brightness(pixels=0.5, features=2.0))
    loss_of_batch = objective(tokenizer, batch, source)
    found = loss_of_batch.detached()
    noise = normal((5, 4, 4, 4), source, torch.float64, "cpu", "latents")
    for row in range(5):
        x = batch.x[row].double() * 2 / 255 - 1
        mean, log_variance = tokenizer.encoder(x[None])[0].detach().chunk(2)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        latent = mean + (0.5 * log_variance).exp() * noise[row]
        image = tokenizer.decoder(latent[None])[0].detach()
        error = ((image - x) ** 2).mean()
        perceptual = 2.0 * (image.mean() - x.mean()) ** 2
        loss = 0.5 * error + perceptual + 0.3 * kl
        assert float(found.value[row]) / 192 == pytest.approx(float(loss), rel=1e-5)
        assert float(found.logged["kl"][row]) == pytest.approx(float(kl), rel=1e-5)
        assert float(found.logged["perceptual"][row]) == pytest.approx(float(perceptual), rel=1e-3)
        clamped = ((image.clamp(-1, 1) - x) ** 2).mean()
        psnr = 10 * math.log10(4 / float(clamped))
        assert float(found.logged["psnr"][row]) == pytest.approx(psnr, rel=1e-5)
    loss_of_batch.value.mean().backward()
    assert all(each.grad is not None for each in tokenizer.parameters())


def test_a_perfect_reconstruction_has_a_finite_ratio():
    target = torch.rand(2, 3, 4, 4)
    assert signal_to_noise(target, target).tolist() == pytest.approx([106.02] * 2, rel=1e-3)
    black = torch.full((1, 4), -1.0)
    assert signal_to_noise(-black, black).tolist() == pytest.approx([0.0], abs=1e-6)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, dict]:
    """A run that never stopped, and its folder."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(folder, 0, LAST)


@pytest.fixture(scope="module")
def coded(tmp_path_factory) -> tuple[Path, dict]:
    """The same with codes."""
    folder = tmp_path_factory.mktemp("coded")
    return folder, run(folder, 0, LAST, Signs())


@pytest.mark.parametrize("stop", [1, 5])
@pytest.mark.parametrize("bottleneck", [GaussianBottleneck(), Signs()])
def test_a_stopped_run_goes_on_as_if_it_never_was(straight, coded, bottleneck, stop, tmp_path):
    folder, expected = straight if bottleneck == GaussianBottleneck() else coded
    stopped = run(tmp_path, 0, stop, bottleneck)
    resumed = run(tmp_path, stop, LAST, bottleneck)
    assert stopped["losses"] + resumed["losses"] == expected["losses"]
    assert all(map(math.isfinite, expected["losses"]))
    assert_same(resumed["validation"], expected["validation"][-len(resumed["validation"]) :])
    rest = {"losses", "validation"}
    assert_same(*({k: v for k, v in run.items() if k not in rest} for run in (resumed, expected)))
    exported = [load(each / "pretrained").state_dict() for each in (tmp_path, folder)]
    assert_same(*exported)


def test_codes_in_use_are_those_of_the_epoch_and_of_the_validation(coded):
    counts = {part: coded[1]["state_dict"][f"{part}_codes.counts"] for part in ("train", "val")}
    assert counts["train"].sum() == 8 * 16  # the second epoch has one step yet
    assert counts["val"].sum() == 7 * 16  # what fills a batch up is left out
    # The state of a step is kept before its validation.
    for part, logged in (("train", coded[1]["last"]), ("val", coded[1]["validation"][-2])):
        shares = counts[part] / counts[part].sum()
        entropy = -sum(float(p * p.log()) for p in shares if p > 0)
        assert logged[f"{part}/perplexity"] == pytest.approx(math.exp(entropy), rel=1e-5)
        assert logged[f"{part}/codes_in_use"] == float((shares > 0).float().mean())
        assert logged[f"{part}/codes_in_use"] > 0.25


def warnings_of(folder: Path, offset: float, steps: int = 5, **options: Any) -> list[str]:
    """What a run warns of a codebook, all of whose latents are of one code with an offset."""
    module = module_of(autoencoder(Signs(offset)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(folder, module, 0, steps, callbacks=(CollapseWarning(0.3, **options),))
    return [str(each.message) for each in caught if "codebook" in str(each.message)]


def test_a_collapsed_codebook_is_warned_of_once_with_what_to_try(tmp_path):
    [message] = warnings_of(tmp_path, offset=100.0, steps=10)
    assert "25.0% of 4 codes are in use after 5 steps" in message
    for advice in ("linear map", "rotation trick", "finite scalar", "commitment", "warm-up"):
        assert advice in message
    assert not warnings_of(tmp_path, offset=0.0)
    assert not warnings_of(tmp_path, offset=100.0, after_steps=6)
    with pytest.raises(ConfigurationError, match=r"least 2\.0 is a share"):
        CollapseWarning(2.0)


def test_latents_that_are_all_the_same_are_told_and_not_the_end_of_a_run(tmp_path):
    with pytest.warns(UserWarning, match="of step 1 are not measured: channel 0"):
        run(tmp_path, 0, 1, Signs(100.0))
    assert torch.equal(load(tmp_path / "pretrained").scale, torch.ones(2, 1, 1))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    """What each of two processes found, which shared a run."""
    folder = tmp_path_factory.mktemp("together")
    told = environment_of(2)
    processes = [fresh.start(together, folder, Signs(), environment=each) for each in told]
    finished = [process.finish() for process in processes]
    assert [each.returncode for each in finished] == [0, 0], finished
    return [torch.load(folder / f"found_{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_do_what_one_does(pair, coded):
    alone = coded[1]
    for found in pair:
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-4, abs=1e-5)
        for one, other in zip(found["validation"], alone["validation"], strict=True):
            assert one == pytest.approx(other, rel=1e-4)
        assert found["last"]["train/perplexity"] == pytest.approx(
            alone["last"]["train/perplexity"], rel=1e-4
        )
    assert_same(pair[0]["state_dict"], pair[1]["state_dict"])


def test_batches_that_are_taken_in_parts_are_the_same_to_a_run(straight, tmp_path):
    parts = run(tmp_path, 0, LAST, device_batch_size=4)
    for one, other in zip(parts["validation"], straight[1]["validation"], strict=True):
        assert one == pytest.approx(other, rel=1e-3)


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
