"""Distances between images."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tarflow import ConfigurationError
from tarflow.data.loading.batches import read_batch
from tarflow.data.sources.digits import digits
from tarflow.training import (
    ClassifierFeatures,
    FlowMatching,
    InverseRegression,
    NetworkFeatures,
    SquaredError,
)

from .lessons import SOURCE, batch, gradients, tiny_inverse, tiny_teacher, tiny_velocity


def test_squared_error_is_a_loop_over_dimensions():
    x, y = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for row in range(2):
            for column in range(2):
                expected[i] += (x[i, 0, row, column] - y[i, 0, row, column]) ** 2
    torch.testing.assert_close(SquaredError()(x, y), expected)


class Pyramid(nn.Module):
    """Two layers of features."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        a = self.first(x).relu()
        return [a, self.second(a)]


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(module).save(path)
    return path


def exported(module: nn.Module, path: Path, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("count", min=1)},) if dynamic else None
    program = torch.export.export(module, (torch.zeros(2, 1, 4, 4),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.fixture
def data():
    """Twelve digits in another shape, for checks."""
    return replace(digits(), image_shape=(1, 4, 4))


@pytest.mark.parametrize("save", [scripted, exported])
class TestNetworkFeatures:
    """A network of the user's, from a file."""

    def test_it_is_a_loop_over_layers(self, save, tmp_path, data):
        network = Pyramid()
        distance = NetworkFeatures(save(network, tmp_path / "network.pt2"), 0.5, 2.0)
        distance.fit(data)
        x, y = torch.randn(2, 3, 1, 4, 4)
        x.requires_grad_()
        expected = []
        for a, b in zip(x, y, strict=True):
            layers = zip(network(a[None]), network(b[None]), strict=True)
            features = sum((p - q).square().mean() for p, q in layers)
            expected.append(0.5 * (a - b).square().sum() + 2 * 16 * features)
        value = distance(x, y)
        torch.testing.assert_close(value, torch.stack(expected))
        slopes = [torch.autograd.grad(v.sum(), x)[0] for v in (value, torch.stack(expected))]
        torch.testing.assert_close(*slopes)

    def test_the_network_is_neither_learned_nor_saved(self, save, tmp_path):
        distance = NetworkFeatures(save(Pyramid(), tmp_path / "network.pt2"))
        assert not list(distance.parameters())
        assert not distance.state_dict()
        distance.double()
        x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
        assert distance(x, x + 1).dtype == torch.float64

    def test_a_student_learns_by_it(self, save, tmp_path, data):
        teacher = tiny_teacher()
        path = save(Pyramid(), tmp_path / "network.pt2")
        inverse, velocity = tiny_inverse(teacher), tiny_velocity(teacher)
        one = InverseRegression(inverse, teacher, distance=NetworkFeatures(path))
        two = FlowMatching(velocity, teacher, distance=NetworkFeatures(path))
        for student, objective in ((inverse, one), (velocity, two)):
            objective.prepare(data)
            loss = objective.double()(student, batch(), SOURCE)
            assert any(g.any() for g in gradients(student, loss.value.sum()))


class Blind(nn.Module):
    """Features that do not look at images."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().flatten(1)[:, :2] * self.weight


class Whole(nn.Module):
    """One vector for a whole batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).mean(dim=0)


def test_files_that_hold_no_such_network_are_refused(tmp_path, data):
    with pytest.raises(ConfigurationError, match="no file"):
        NetworkFeatures(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(ConfigurationError, match="neither TorchScript"):
        NetworkFeatures(tmp_path / "text.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        NetworkFeatures(tmp_path / "weights.pt")
    blind = NetworkFeatures(scripted(Blind(), tmp_path / "blind.pt"))
    with pytest.raises(ConfigurationError, match="no gradient"):
        blind.fit(data)
    whole = NetworkFeatures(scripted(Whole(), tmp_path / "whole.pt"))
    with pytest.raises(ConfigurationError, match="a row for each image"):
        whole.fit(data)
    fixed = NetworkFeatures(exported(Pyramid(), tmp_path / "fixed.pt2", dynamic=False))
    with pytest.raises(ConfigurationError, match="dynamic batch"):
        fixed.fit(data)
    wide = NetworkFeatures(scripted(Pyramid(), tmp_path / "wide.pt"))
    with pytest.raises(ConfigurationError, match="does not take"):
        wide.fit(replace(data, image_shape=(3, 4, 4)))


@pytest.fixture(scope="module")
def fitted():
    """A classifier's features, for the tests below."""
    state = torch.get_rng_state()
    distance = ClassifierFeatures(width=16, steps=150, batch_size=64)
    distance.fit(digits(validation_fraction=0.1))
    assert torch.equal(torch.get_rng_state(), state)
    return distance


class TestClassifierFeatures:
    """A classifier that is trained on the data's labels."""

    def test_it_knows_the_classes(self, fitted):
        assert fitted.accuracy > 0.9

    def test_it_is_the_same_for_the_same_seed(self, fitted):
        again = ClassifierFeatures(width=16, steps=150, batch_size=64)
        again.fit(digits(validation_fraction=0.1))
        for name, value in fitted.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])
        again.fit(digits())  # which changes nothing any more
        assert again.accuracy == fitted.accuracy

    def test_its_weights_are_saved_but_not_learned(self, fitted):
        assert not list(fitted.parameters())
        assert "network.linear.weight" in fitted.state_dict()

    def test_it_is_a_loop_over_places(self, fitted):
        distance = copy.deepcopy(fitted).double()
        distance.pixels, distance.features = 0.25, 3.0
        x, y = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
        expected = []
        for a, b in zip(x, y, strict=True):
            total = torch.zeros((), dtype=torch.float64)
            layers = (distance.network.maps(each[None]) for each in (a, b))
            for p, q in zip(*layers, strict=True):
                errors = []
                for row in range(p.shape[2]):
                    for column in range(p.shape[3]):
                        u, v = p[0, :, row, column], q[0, :, row, column]
                        errors.append((u / u.norm() - v / v.norm()).square().sum())
                total = total + torch.stack(errors).mean()
            expected.append(0.25 * (a - b).square().sum() + 3 * 64 * total)
        torch.testing.assert_close(distance(x, y), torch.stack(expected))

    def test_other_classes_are_farther(self, fitted):
        distance, data = copy.deepcopy(fitted), digits()
        distance.pixels = 0.0
        batch = read_batch(data.test, range(60))
        images, labels = data.codec.encode(batch.x), batch.context["label"]
        one = torch.arange(60).repeat_interleave(60)
        two = torch.arange(60).repeat(60)
        far = distance(images[one], images[two])
        same = labels[one] == labels[two]
        assert far[~same].mean() > 1.3 * far[same & (one != two)].mean()

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ConfigurationError, match="not trained"):
            ClassifierFeatures()(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
        with pytest.raises(ConfigurationError, match="classes"):
            ClassifierFeatures().fit(replace(digits(), num_classes=0))
