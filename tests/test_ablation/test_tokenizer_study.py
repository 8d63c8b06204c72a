"""The study of tokenizers: these, flows of their latents, times; a page with claims and a plot."""

import json
from pathlib import Path

import pytest
import torch

from tarflow import ConfigurationError, GaussianNoise, UniformLevels, load
from tarflow.ablation.data_sets import data_of, whole
from tarflow.ablation.marked_page import with_blocks
from tarflow.ablation.small_flow import make_flow
from tarflow.ablation.study import Study
from tarflow.ablation.tokenizers.learning import learn, tune
from tarflow.ablation.tokenizers.recipes import RECIPES
from tarflow.ablation.tokenizers.reconstructing import reconstruction
from tarflow.ablation.tokenizers.tokenizer_runs import LATENTS, NOISE, PIXELS, in_latents
from tarflow.ablation.tokenizers.tokenizer_study import TokenizerStudy
from tarflow.ablation.tokenizers.tokenizer_tables import blocks, fill
from tarflow.ablation.variants import LOWEST
from tarflow.cli import run_command

ROOT = Path(__file__).parents[2]
SCORES = ("frechet_distance", "kernel_distance", "precision", "recall")
DATA = "random_32"
SECONDS = 0.1


def study(directory, **changes):
    told = {"data": DATA, "tokenizers": ["kl"], "seeds": [0], "tokenizer_seconds": SECONDS}
    told |= {"flow_seconds": SECONDS, "num_samples": 4, "repetitions": 1, "threads": 1}
    return TokenizerStudy(directory, **{**told, **changes})


def made_up_times(run):
    """What the times of a run's samples might be."""
    return {way: {"batch_1": 40.0, "batch_64": 4.0} for way in run.samplers()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study whose runs this process has done, without starting others."""
    directory, threads = tmp_path_factory.mktemp("study"), torch.get_num_threads()
    here = study(directory)
    (directory / "runs").mkdir()
    for run in (*here.fitted, *here.sampled):
        Study(directory, [run]).path(run).write_text(json.dumps(run.do()))
    # Their settings hold hashes of the models. Timing is that of the study of samplers.
    times = {run.name: made_up_times(run) for run in here.sampled}
    for run, result in (
        (here.times, {"settings": here.times.settings, "milliseconds": times}),
        (here.preparation, here.preparation.do()),
    ):
        Study(directory, [run]).path(run).write_text(json.dumps(result))
    torch.set_num_threads(threads)
    return here


def test_settings_are_those_of_a_file_and_tell_tokenizers_apart():
    texts = [json.dumps(recipe.settings) for recipe in RECIPES.values()]
    assert [json.loads(text) for text in texts] == [r.settings for r in RECIPES.values()]
    assert len(set(texts)) == len(RECIPES) == 7


@pytest.mark.parametrize("name", RECIPES)
def test_every_tokenizer_is_fitted_in_its_time_and_judged(name):
    data = data_of(DATA)
    tokenizer, taken = learn(RECIPES[name], data, SECONDS, seed=0)
    assert taken["steps"] > 0
    assert taken["skipped"] == 0
    assert not tokenizer.training
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    x = tokenizer.encode(whole(data.train).x)
    assert x.shape[2:] == (8, 8)
    if not tokenizer.bottleneck.decodes_noise:  # measured on training images
        assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.zeros(len(x[0])), atol=1e-3)
        assert torch.allclose(x.std(dim=(0, 2, 3)), torch.ones(len(x[0])), atol=1e-2)
    found = reconstruction(tokenizer, DATA)
    assert found["reconstruction"]["error"] > 0
    if tokenizer.num_codes is None:
        assert "codes" not in found
    else:
        codes = {tuple(vector.tolist()) for vector in x.permute(0, 2, 3, 1).flatten(0, 2)}
        assert found["codes"]["in_use"] == pytest.approx(len(codes) / tokenizer.num_codes)
        assert found["codes"]["unused"] == pytest.approx(1 - found["codes"]["in_use"])
        assert 1 <= found["codes"]["perplexity"] <= len(codes) + 1e-6


def test_a_perfect_tokenizer_is_at_no_distance(monkeypatch):
    tokenizer, _ = learn(RECIPES["kl"], data_of(DATA), SECONDS, seed=0)
    images = whole(data_of(DATA).test).x
    monkeypatch.setattr(tokenizer, "decode", lambda x: images)
    found = reconstruction(tokenizer, DATA)["reconstruction"]
    assert found["error"] == 0
    assert found["frechet_distance"] == pytest.approx(0, abs=1e-6)


def test_a_tuned_decoder_has_the_same_latents():
    data = data_of(DATA)
    tokenizer, _ = learn(RECIPES["kl"], data, SECONDS, seed=0)
    tuned, taken = tune(tokenizer, 0.3, data, SECONDS, seed=0)
    assert taken["steps"] > 0
    assert tuned.decodes_noise == 0.3
    assert tuned.latents_sha256 == tokenizer.latents_sha256
    assert not torch.equal(tuned.decoder[0].weight, tokenizer.decoder[0].weight)


def test_latents_of_a_data_set_are_what_its_flow_is_made_for():
    data, tokenizer = data_of(DATA), RECIPES["kl"].make(data_of(DATA)).eval()
    encoded = in_latents(data, tokenizer)
    batch, images = whole(encoded.test), whole(data.test)
    assert torch.equal(batch.x, tokenizer.encode(images.x))
    assert torch.equal(batch.context.label, images.context.label)
    assert make_flow(data, **PIXELS).image_shape == (3, 32, 32)
    flow = make_flow(encoded, **LATENTS)
    assert flow.image_shape == (4, 8, 8)
    assert torch.equal(flow.codec.encode(batch.x), batch.x)


def test_the_study_fits_and_judges_what_it_says(done):
    found = {result["settings"]["variant"]: result for result in done.results()}
    sampled = ("pixels", "pixels_longer", "latents_kl", "levels_kl", "tuned_kl")
    assert list(found) == ["tokenizer_kl", "preparation", *sampled]
    for name in sampled:
        clean = found[name]["samples"]["no guidance, denoised"]
        noisy = found[name]["samples"]["no guidance, not denoised"]
        assert clean.keys() == noisy.keys() >= set(SCORES)
        assert found[name]["per_second"] == dict.fromkeys(found[name]["samples"], 250.0)
    training = {name: found[name]["training"] for name in sampled}
    assert training["pixels"]["in_all"] == SECONDS
    assert training["pixels_longer"]["own"] == training["latents_kl"]["in_all"] == 2 * SECONDS
    assert found["preparation"]["seconds"]["encoding"] > 0


def test_models_that_are_kept_have_the_noise_that_they_should(done):
    flow, levels = (load(run.pretrained) for run in done.flows[2:])
    [tuned] = (load(run.pretrained) for run in done.tuned)
    assert flow.noise == GaussianNoise(NOISE)
    assert levels.noise == UniformLevels(LOWEST, NOISE)
    assert (flow.codec.decodes_noise, tuned.codec.decodes_noise) == (0.0, NOISE)
    assert flow.codec.latents_sha256 == tuned.codec.latents_sha256
    weights = ((name, value) for name, value in flow.state_dict().items() if "codec" not in name)
    assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in weights)


def test_samples_of_latents_are_drawn_as_they_are_judged(done):
    [tuned] = done.tuned
    for way, sampler in tuned.samplers().items():
        assert sampler.panels[-1] == ("samples" if "not" in way else "denoised")
        panels, _ = sampler.draw(range(2), sampler.context(range(2)))
        assert panels[sampler.panels[-1]].shape == (2, 4, 8, 8)
        assert sampler.codec.decode(panels["samples"]).shape == (2, 3, 32, 32)


def test_the_command_goes_on_with_what_is_there(done, tmp_path, capsys):
    runs = {path: path.stat().st_mtime_ns for path in (done.directory / "runs").iterdir()}
    given = [f"output={done.directory}", f"page={tmp_path}/page.md", f"dataset={DATA}"]
    given += ["tokenizers=[kl]", "seeds=[0]", f"flow_seconds={SECONDS}", "num_samples=4"]
    given += [f"tokenizer_seconds={SECONDS}", "repetitions=1", "threads=1", "workers=1"]
    run_command("compare-tokenizers", given)
    told = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    for path in (tmp_path / "page.md", tmp_path / "images/tokenizers.png"):
        assert path.is_file()
        assert str(path) in told
    assert json.loads((done.directory / "results.json").read_text()) == done.results()
    assert "| latents: KL |" in told


def test_noise_of_fixed_variance_is_the_tokenizers_own(tmp_path):
    here = study(tmp_path, tokenizers=["fixed_variance", "vq"])
    noises = {run.variant: run.recipe.get("noise") for run in here.flows}
    assert noises["latents_fixed_variance"] == "GaussianNoise(std=0.5)"
    assert noises["latents_vq"] == f"GaussianNoise(std={NOISE})"
    assert here.tuned == []


def made_up(variant, seed, **numbers):
    """A result."""
    return {"settings": {"data": DATA, "variant": variant, "seed": seed}, **numbers}


def made_up_flow(variant, seed, distance, speed):
    ways = ("no guidance, denoised", "no guidance, not denoised")
    samples = {way: dict.fromkeys(SCORES, distance + i) for i, way in enumerate(ways)}
    told = {"samples": samples, "per_second": dict.fromkeys(ways, speed)}
    real = dict.fromkeys(SCORES, 0.25)
    return made_up(variant, seed, **told, training={"own": 150.0, "in_all": 270.0}, real=real)


def made_up_tokenizer(name, seed, psnr, used):
    kept = {"psnr": psnr, "error": 10 ** (-psnr / 10), "frechet_distance": 1.5}
    found = {"reconstruction": kept, "steps": 700}
    if used is not None:
        found["codes"] = {"in_use": used, "unused": 1 - used, "perplexity": 900 * used}
    return made_up(f"tokenizer_{name}", seed, **found)


RESULTS = [
    result
    for seed in (0, 1)
    for result in (
        made_up_tokenizer("kl", seed, 25.0 + seed, None),
        made_up_tokenizer("vq", seed, 21.0 + seed, 0.1 + seed / 100),
        made_up_tokenizer("linear", seed, 21.5 + seed / 2, 0.98),
        made_up_flow("pixels", seed, 6.0 + seed / 10, 20.0),
        made_up_flow("latents_kl", seed, 3.0 + seed / 9, 80.0),
        made_up_flow("latents_fixed_variance", seed, 3.0, 90.0),
        made_up_flow("tuned_kl", seed, 2.0, 85.0),
    )
] + [made_up("preparation", 0, seconds={"encoding": 4.0, "preparing": 4.2}, overhead=0.05)]


def test_tables_have_what_was_measured_and_what_it_says_of_claims():
    found = blocks(RESULTS)
    kept = found["reconstruction"].splitlines()
    assert kept[0] == "| tokenizer | PSNR, dB | distance | codes in use | perplexity | steps |"
    assert kept[2] == "| KL | 25.5 ± 0.7 | 1.5 |  |  | 700 |"
    assert kept[3].startswith(
        "| VQ, straight-through | 21.5 ± 0.7 | 1.5 | 0.105 ± 0.007 | 94.5 ± 6 "
    )
    assert [line.split(" | ")[0] for line in kept[8:]] == [
        "| the linear map: more codes in use than straight-through",
        "| the linear map: smaller errors than straight-through",
    ]
    assert "| holds (" in kept[8]
    assert "| undecided (" in kept[9]
    drawn = found["samples"].splitlines()
    assert drawn[2].startswith("| pixels | 6.05 ± 0.07 |")
    assert drawn[2].endswith("| 20 | 150 | 270 |")
    assert drawn[4].startswith("| latents: fixed variance | 4 |")  # with its noise
    assert drawn[5].startswith("| real held-out images | 0.25 |")
    assert "latents: KL: nearer to the data than pixels | holds (+2.9" in found["samples"]
    noise = found["noise"].splitlines()
    assert [line.split(" | ")[1] for line in noise[2:5]] == ["4.06 ± 0.08", "3.06 ± 0.08", "3"]
    assert found["preparation"].splitlines()[2] == "| 4.00 | 4.20 | 5.0% |"
    assert blocks(RESULTS[:1])["preparation"] == "Not measured."


def test_a_page_keeps_its_words_and_gets_tables_and_a_plot(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- table: preparation -->\nold\n<!-- end -->\n\nAfter.\n")
    assert fill(page, RESULTS) == [page, tmp_path / "images" / "tokenizers.png"]
    assert (tmp_path / "images" / "tokenizers.png").stat().st_size
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    fill(tmp_path / "new.md", [])
    text = (tmp_path / "new.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in blocks([]))


def test_the_published_page_shows_the_published_results():
    page = (ROOT / "docs" / "latents.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "tokenizers.json").read_text())
    fitted = {f"tokenizer_{name}" for name in RECIPES}
    assert fitted <= {result["settings"]["variant"] for result in results}
    assert with_blocks(page, blocks(results)) == page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "faces"}, "dataset=.*choose among photographs_32"),
        ({"tokenizers": ["magic"]}, "tokenizers=.*choose among kl"),
        ({"seeds": []}, "must name one"),
        ({"flow_seconds": 0.0}, "flow_seconds=0.0 must be positive"),
        ({"num_samples": 3}, "num_samples 3 must be at least 4"),
        ({"repetitions": 0}, "repetitions 0 must be at least 1"),
        ({"threads": 0}, "threads 0 must be at least 1"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        study(tmp_path, **options)
