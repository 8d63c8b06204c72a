"""Fitting every variant for the same time, going on where a study was cut short."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tarflow import (
    ConfigurationError,
    GaussianNoise,
    Permute,
    TarflowError,
    UniformDequantization,
)
from tarflow.ablation import judging
from tarflow.ablation.data_sets import DATA
from tarflow.ablation.fitting import Fit, fit, rate, validation_loss
from tarflow.ablation.judging import Judge
from tarflow.ablation.study import Study, read_results
from tarflow.ablation.variant_runs import ablation
from tarflow.ablation.variants import CHANGES, VARIANTS
from tarflow.data import digits
from tarflow.flows.reordering import Reverse
from tarflow.machine.files import json_text
from tarflow.sampling.denoiser import ProbabilityFlow, StochasticDenoising

from ..models import randomized


@pytest.fixture(scope="module")
def judge():
    """That of the digits, with a validation part."""
    return Judge(digits(validation_fraction=0.1), 6)


ROOT = Path(__file__).parents[2]
MUON = {"optimizer": "muon", "lr": 1e-2}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_numbers_of_transforms_share_the_same_parameters(judge):
    counts = [count(VARIANTS[f"transforms_{n}"].flow(judge.data)) for n in (1, 2, 8)]
    default = count(VARIANTS["default"].flow(judge.data))
    assert all(0.95 * default < each < 1.05 * default for each in counts)


def test_settings_are_those_by_which_finished_runs_are_known():
    assert VARIANTS["volume_preserving"].settings == {
        "num_transforms": 4,
        "scale": "UnitScale()",
        "alternating": True,
        "noise_std": 0.1,
        "labelled": True,
        "optimizer": "muon",
        "lr": 0.01,
        "max_grad_norm": 1.0,
        "guided": False,
        "batch_size": 64,
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_json_keeps_the_settings_of_every_variant(variant):
    settings = VARIANTS[variant].settings
    assert json.loads(json_text(settings)) == settings


def test_published_results_are_those_of_runs_that_need_not_be_done_again(tmp_path):
    earlier = read_results(ROOT / "benchmarks" / "results" / "ablations.json")
    study = ablation(tmp_path, [*DATA], [*VARIANTS], [0, 1, 2], 40.0, 1000, earlier)
    assert len(study.results()) == len(study.runs) == len(earlier)
    assert len(json.loads(study.write().read_text())) == len(earlier)


def test_a_variant_changes_any_argument_of_the_flow_and_is_known_by_it(judge):
    for name, changes in CHANGES.items():
        variant = VARIANTS[name]
        told = {key: repr(value) for key, value in changes.items()}
        assert variant.settings == {**VARIANTS["adamw"].settings, **MUON, "changes": told}
        description = variant.flow(judge.data).description
        for key, value in changes.items():
            assert getattr(description, key) == value
    counts = [count(VARIANTS[f"deep_near_{end}"].flow(judge.data)) for end in ("noise", "data")]
    assert counts == [count(VARIANTS["default"].flow(judge.data))] * 2


def test_in_a_fixed_order_nothing_is_reversed(judge):
    flow = randomized(VARIANTS["fixed_order"].flow(judge.data), std=0.01).eval()
    assert not [each for each in flow.transform.transforms if isinstance(each, Reverse | Permute)]
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    z, _ = flow(x, label)
    assert torch.allclose(flow.inverse(z, label), x, atol=1e-4)
    # the first patch of the image depends on the first patch of the noise alone
    z[:, 1:] += 1
    assert torch.allclose(flow.inverse(z, label)[:, :, :2, :2], x[:, :, :2, :2], atol=1e-4)


@pytest.mark.parametrize("name", ["real_nvp", "masked_autoregressive", "neural_spline"])
def test_baselines_are_densities_of_what_they_draw(judge, name):
    variant = VARIANTS[name]
    model = variant.make(judge.data)
    x = model.sample(5)
    assert x.shape == (5, 1, 8, 8)
    inputs = x.flatten(1)[:1].double()
    model = randomized(model, 0.01).double()
    found = model.log_prob(inputs.view(1, 1, 8, 8)).item()

    def to_noise(row):
        if name == "real_nvp":
            z = row[None]
            for layer in reversed(model.flow.flows):
                z, _ = layer.inverse(z)
            return z[0]
        return model.flow().transform(row)

    jacobian = torch.autograd.functional.jacobian(to_noise, inputs[0])
    z = to_noise(inputs[0])
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum()
    expected += torch.linalg.slogdet(jacobian).logabsdet
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_the_gaussian_is_that_of_the_training_images(judge):
    variant = VARIANTS["gaussian"]
    model = variant.make(judge.data)
    x = UniformDequantization(17).encode(judge.train.x, torch.Generator().manual_seed(0))
    x = x.flatten(1)
    ours = float(model.log_prob(x).mean())
    best = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov() + 1e-4 * torch.eye(64))
    assert ours == pytest.approx(float(best.log_prob(x).mean()), rel=1e-4)


def test_a_fit_lasts_its_time_and_keeps_the_best_weights(judge):
    variant = VARIANTS["real_nvp"]
    torch.manual_seed(0)
    model = variant.make(judge.data)
    before = validation_loss(model, judge.validation)
    fitted = fit(model, variant, judge.train, judge.validation, 0.5)
    assert fitted.steps > 1
    assert 1 <= len(fitted.curve) <= 10
    assert validation_loss(fitted.average, judge.validation) == pytest.approx(min(fitted.curve))
    assert min(fitted.curve) < before
    assert [rate(0.0), rate(0.05), rate(0.1)] == [1e-3, 0.5, 1.0]
    assert rate(1.0) == 1e-3


def test_steps_that_are_not_finite_change_nothing(judge):
    variant = VARIANTS["real_nvp"]
    model = variant.make(judge.data)
    kept = {name: value.clone() for name, value in model.state_dict().items()}

    class Broken(UniformDequantization):
        def encode(self, stored, source=None, dtype=torch.float32):
            return torch.full(stored.shape, torch.nan)

    model.codec = Broken(17)
    fitted = fit(model, variant, judge.train, judge.validation, 0.05)
    assert fitted.skipped == fitted.steps > 0
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())


def test_judging_a_flow_finds_everything(judge):
    variant = replace(VARIANTS["default"], num_transforms=2)
    torch.manual_seed(0)
    flow = randomized(variant.flow(judge.data))
    fitted = fit(flow, variant, judge.train, judge.validation, 0.01)
    found = judge(fitted, variant, 0)
    assert found["samples"].keys() == {"drawn", "denoised", "raw, drawn", "raw, denoised"}
    assert found["guidance"].keys() == {"linear", "linear, rising", "Gaussian"}
    assert found["guidance"]["linear"].keys() == {"0.5", "1", "2", "3", "4"}
    assert judge.real["accuracy"] > 0.95
    assert judge.real["frechet_distance"] < found["samples"]["drawn"]["frechet_distance"]
    assert 0 == found["non_finite"] <= found["samples"]["drawn"]["accuracy"]


def test_judging_a_flow_of_many_levels_goes_down_ladders(judge, monkeypatch):
    monkeypatch.setitem(judging.LADDERS, "denoised", ProbabilityFlow(2))
    monkeypatch.setitem(judging.LADDERS, "stochastic", StochasticDenoising(2))
    variant = replace(VARIANTS["levels_0.3"], num_transforms=1)
    flow = randomized(variant.flow(judge.data)).eval()
    found = judge(Fit(flow, flow), variant, 0)
    assert found["samples"].keys() == {"drawn", "one step", "stochastic", "denoised"}
    assert len({each["frechet_distance"] for each in found["samples"].values()}) == 4
    log_probs = []
    for seed in range(100, 104):
        source = torch.Generator().manual_seed(seed)
        x = GaussianNoise(0.1)(judge.data.codec.encode(judge.test.x, source), source)
        context = {"label": judge.test.context.label, "noise_level": torch.full((len(x),), 0.1)}
        log_probs.append(flow.log_prob(x, context).detach().double().mean() / 64)
    expected = -float(torch.stack(log_probs).mean())
    assert found["at_0.1"]["nats_per_dim"] == pytest.approx(expected, rel=1e-5)


def study(directory, variants=("gaussian",), seeds=(0, 1), seconds=0.2):
    return ablation(directory, ["digits"], variants, seeds, seconds, 8)


def test_a_study_goes_on_where_it_was_cut_short(tmp_path):
    first = study(tmp_path, ("real_nvp",), seeds=(0,))
    first.do(1)
    kept = first.path(first.runs[0]).read_bytes()
    [result] = first.results()
    assert result["steps"] > 0
    assert result["samples"]["drawn"]["frechet_distance"] > result["real"]["frechet_distance"]
    whole = study(tmp_path, ("real_nvp", "gaussian"), seeds=(0,))
    whole.do(1)
    assert first.path(first.runs[0]).read_bytes() == kept
    names = [result["settings"]["variant"] for result in whole.results()]
    assert names == ["real_nvp", "gaussian"]
    assert whole.results()[1]["bits_per_dim"] == pytest.approx(2.94, abs=0.02)
    assert not list(tmp_path.rglob(".*"))


def test_what_another_study_has_done_is_not_done_again(tmp_path):
    first = study(tmp_path / "first", seeds=(0,))
    path = first.path(first.runs[0])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": first.runs[0].settings, "nats_per_dim": 2.0}))
    earlier = read_results(first.write())
    assert earlier == first.results()
    again, other = (
        ablation(tmp_path / "second", ["digits"], ["gaussian"], [0], seconds, 8, earlier)
        for seconds in (0.2, 0.3)
    )
    again.do(1)
    assert again.results() == earlier
    assert not list((tmp_path / "second" / "runs").iterdir())
    assert other.results() == []


@pytest.mark.parametrize("text", ["{", "[1]", "[{}]", '[{"settings": {}}]'])
def test_what_are_not_results_is_refused(tmp_path, text):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ConfigurationError, match="not hold the results of a study"):
        read_results(tmp_path / "wrong.json")


def test_a_study_of_other_settings_is_refused(tmp_path):
    other = study(tmp_path, seconds=0.3)
    path = other.path(other.runs[0])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": other.runs[0].settings}))
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="other settings \\(seconds\\)"):
        study(tmp_path).do(1)
    assert path.read_bytes() == before


def test_a_run_that_fails_is_named_and_the_others_are_done(tmp_path, capsys):
    failing = study(tmp_path, variants=("gaussian", "real_nvp"), seeds=(0,))
    failing.path(failing.runs[0]).parent.mkdir(parents=True)
    bad = replace(failing.runs[1], num_samples=0)
    both = Study(tmp_path, [bad, failing.runs[0]])
    with pytest.raises(TarflowError, match=r"1 of 2 runs failed: digits-real_nvp-0 \("):
        both.do(1)
    assert [result["settings"]["variant"] for result in Study(tmp_path, both.runs).results()] == [
        "gaussian"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ("colour",)}, "variants=.*colour.*choose among default"),
        ({"variants": ()}, "variants="),
        ({"seeds": ()}, "must name one"),
        ({"seconds": 0.0}, "seconds=0.0 must be positive"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        study(tmp_path, **options)


def test_photographs_are_split_by_region(judge):
    data = DATA["photographs"]()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [17638, 979, 1360]
    assert data.image_shape == (3, 16, 16)
    assert data.num_classes == len(data.class_names) == 7
    from skimage.data import astronaut

    image = torch.tensor(astronaut()).permute(2, 0, 1)
    rows = {part: getattr(data, part).labels == 2 for part in ("train", "test")}
    test = data.test.images[rows["test"]]
    first = round(0.8 * image.shape[2])
    assert torch.equal(test[0], image[:, :16, first : first + 16])
    train = data.train.images[rows["train"]]
    assert torch.equal(train[1], image[:, :16, 8:24])
    last = round(0.65 * image.shape[2])
    assert len(train) == (512 // 8 - 1) * ((last - 16) // 8 + 1)
