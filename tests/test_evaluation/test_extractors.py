"""Features of images: pixels, Inception from a file, and extractors of one's own."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from tarflow import DataError, ExampleSeeds, GaussianNoise, LinearGuidance, Pixels
from tarflow.data import digits
from tarflow.evaluation import Extractor, Inception, InMemory, PixelFeatures, SampleMetrics
from tarflow.evaluation.extractors import UnavailableError

from ..models import tiny_flow


class Projections(Extractor):
    """Fixed random projections: an extractor as users write them."""

    def __init__(self, seed=0):
        self.seed = seed

    @property
    def identity(self):
        return {"extractor": "projections", "seed": self.seed}

    def check(self, image_shape):
        pass

    def __call__(self, stored, codec):
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(stored[0].numel(), 12, generator=generator)
        return torch.tanh(stored.flatten(1).float() / codec.largest @ weights)


@pytest.fixture(scope="module")
def network():
    """An Inception network with random weights, as their file is made."""
    torch.manual_seed(0)
    made = object.__new__(NoTrainInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", None
        )
        patch.setattr(torch, "load", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        made.__init__("inception-v3-compat", ["2048"], "none", antialias=False)
    return made


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """The file of these weights."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_inception_reads_its_file_and_resizes_as_published(network, weights):
    inception = Inception(str(weights), sha256(weights)[:8])
    inception.check((3, 32, 32))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    features = inception(pixels, Pixels(256))
    with torch.no_grad():
        assert torch.equal(features, network(pixels))
        network.use_antialias = True
        enlarged = network(pixels)
        network.use_antialias = False
    assert features.shape == (2, 2048)
    assert not torch.equal(features, enlarged)  # that antialias is off matters, even enlarging


def test_inception_sees_other_levels_and_grey_as_rounded_bytes(network, weights):
    inception = Inception(str(weights), sha256(weights))
    grey = torch.tensor([[0, 5], [11, 16]], dtype=torch.uint8).view(1, 1, 2, 2)
    as_bytes = torch.tensor([[0, 80], [175, 255]], dtype=torch.uint8).view(1, 1, 2, 2)
    with torch.no_grad():
        assert torch.equal(inception(grey, Pixels(17)), network(as_bytes.repeat(1, 3, 1, 1)))


def test_fid_is_that_of_torchmetrics(weights, network):
    """From bytes to the distance, on a few features: a covariance of 2,048 takes long."""
    torch.manual_seed(0)
    real, fake = (torch.randint(low, 256, (4, 3, 8, 8), dtype=torch.uint8) for low in (0, 60))
    inception = Inception(str(weights), sha256(weights))

    class Few(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            with torch.no_grad():
                return network(x)[:, :3].double()

    theirs = FrechetInceptionDistance(feature=Few()).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    from tarflow.evaluation import frechet_distance

    ours = frechet_distance(*(inception(x, Pixels(256))[:, :3].numpy() for x in (fake, real)))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


@pytest.mark.parametrize("damage", ["missing", "other", "pickle"])
def test_without_its_file_inception_is_unavailable_and_says_where_it_looked(tmp_path, damage):
    path = tmp_path / "weights.pth"
    inception = Inception(str(path), "6726825d")
    match = "there are no weights at"
    if damage == "other":
        path.write_bytes(b"something else")
        match = "SHA-256"
    if damage == "pickle":
        torch.save(Projections(), path)  # what runs code when it is read
        inception, match = Inception(str(path), sha256(path)), "does not hold weights"
    with pytest.raises(UnavailableError, match=match) as caught:
        inception.check((3, 8, 8))
    assert str(path) in str(caught.value)


def test_pixels_of_large_images_are_unavailable():
    PixelFeatures().check((1, 8, 8))
    with pytest.raises(UnavailableError, match="12288 pixels are more than max_dims=1024"):
        PixelFeatures().check((3, 64, 64))


@pytest.fixture(scope="module")
def flow():
    """A flow of digits with random weights."""
    torch.manual_seed(0)
    sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": 10}
    return tiny_flow(8, 2, 1, codec=Pixels(17), noise=GaussianNoise(0.3), **sizes)


def metrics(**options):
    return SampleMetrics(
        **{"num_samples": 20, "seeds": (0, 1), "guidance": LinearGuidance(1.0)} | options
    )


def test_what_is_skipped_says_why_and_the_rest_goes_on(flow, tmp_path, capsys):
    missing = tmp_path / "nowhere.pth"
    inception = Inception(str(missing))
    extractors = {"pixels": PixelFeatures(), "own": Projections(), "inception": inception}
    report = metrics(extractors=extractors)(flow, digits())
    assert report.values["skipped"] == {"inception": f"there are no weights at {missing}"}
    for scores in report.values["samples"].values():
        assert scores.keys() - {"accuracy", "non_finite"} == {"pixels", "own"}
        assert scores["own"]["frechet_distance"]["mean"] > 0
    report.print()
    assert f"inception is skipped: there are no weights at {missing}" in capsys.readouterr().out


def test_features_of_ones_own_are_compared(flow):
    """Against an independent path from samples to the distance."""
    from scipy.linalg import sqrtm

    data, own = digits(), Projections()
    report = metrics(seeds=(3,), extractors={"own": own})(flow, data)
    label = torch.arange(20) % 10
    x = flow.sample(20, label, source=ExampleSeeds(3, range(20)))
    fake = own(flow.codec.decode(x), flow.codec).double().numpy()
    real = own(torch.stack([image for image, _ in data.train]), flow.codec).double().numpy()
    a, b = (np.cov(f, rowvar=False) for f in (fake, real))
    expected = np.square(fake.mean(0) - real.mean(0)).sum()
    expected += np.trace(a + b - 2 * sqrtm(a @ b).real)
    found = report.values["samples"]["no guidance, not denoised"]["own"]
    assert found["frechet_distance"]["mean"] == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def statistics(flow, tmp_path):
    """A file of the features of real digits, and what was found on the way."""
    path = tmp_path / "cache" / "digits.npz"
    report = metrics(extractors={"own": Projections()}, statistics=path)(flow, digits())
    return path, report


def test_features_of_real_images_are_kept(flow, statistics):
    path, report = statistics
    before = path.read_bytes()
    again = metrics(extractors={"own": Projections()}, statistics=path)(flow, digits())
    assert again.values["samples"] == report.values["samples"]
    assert path.read_bytes() == before


class Watched(InMemory):
    """Counts the images whose values are asked for."""

    def __init__(self):
        self.columns = []

    def do(self, title, count, batch_size, compute):
        rows = super().do(title, count, batch_size, compute)
        self.columns.append(rows.keys())
        return rows


def test_kept_features_are_not_computed_again(flow, statistics):
    path, _ = statistics
    watched = Watched()
    again = metrics(extractors={"own": Projections()}, statistics=path)
    again.evaluate(flow, digits(), lambda name: watched if name == "reference" else InMemory())
    assert watched.columns == [{"digest"}]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda: ({"own": Projections(seed=1)}, digits(), {}), "extractors"),
        (lambda: ({"own": Projections()}, digits(validation_fraction=0.1), {}), "content_sha256"),
        (lambda: ({"own": Projections()}, digits(), {"num_reference": 50}), "content_sha256"),
    ],
)
def test_statistics_of_something_else_are_refused(flow, statistics, change, key):
    path, _ = statistics
    before = path.read_bytes()
    extractors, data, options = change()
    with pytest.raises(DataError, match=f"{path}.*{key}.*metrics.statistics="):
        metrics(extractors=extractors, statistics=path, **options)(flow, data)
    assert path.read_bytes() == before


def test_statistics_of_another_torch_and_damaged_ones_are_refused(flow, statistics):
    path, _ = statistics
    with np.load(path) as found:
        arrays = dict(found)
    origin = json.loads(str(arrays["origin"]))
    arrays["origin"] = np.array(json.dumps({**origin, "torch": "1.0"}))
    np.savez(path, **arrays)
    again = metrics(extractors={"own": Projections()}, statistics=path)
    with pytest.raises(DataError, match=r"torch is 1\.0 there"):
        again(flow, digits())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="does not hold statistics"):
        again(flow, digits())


def test_a_part_of_many_real_images_is_chosen(flow):
    report = metrics(num_reference=100, seeds=(0,))(flow, digits())
    everything = metrics(seeds=(0,))(flow, digits())
    name = "no guidance, denoised"
    few, all_ = (each.values["samples"][name]["pixels"] for each in (report, everything))
    assert few["frechet_distance"] != all_["frechet_distance"]
    assert report.values["num_reference"] == 100
