"""Score distillation: gradients against finite differences, and against what can be proved."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tarflow import ConfigurationError, GaussianNoise, NoNoise, Pixels, TarFlow, UniformLevels
from tarflow.randomness import Share
from tarflow.training import (
    AsIs,
    ByDistance,
    ByMeanSize,
    DistributionMatching,
    InverseRegression,
    ScoreIdentity,
    SecondNetwork,
    UniformWeights,
)
from tarflow.training.distillation.clean import Clean
from tarflow.training.distillation.guidance_weights import GuidanceWeights
from tarflow.training.distillation.score_identity import score_identity
from tarflow.training.distillation.teaching import clean_mean

from ...models import randomized
from .lessons import (
    SMALL,
    SOURCE,
    STD,
    batch,
    drawn,
    gradients,
    overflow,
    tiny_inverse,
    tiny_teacher,
    tiny_velocity,
)

SECOND = SecondNetwork(**SMALL)


class NullWeights(GuidanceWeights):
    """Weights that are drawn, and are all 0."""

    highest = 1.0

    def __call__(self, like, source):
        return like.new_zeros(len(like))


def made(kind=DistributionMatching, teacher=None, **options):
    """A student and an objective whose second network has random weights."""
    teacher = tiny_teacher() if teacher is None else teacher
    student = tiny_inverse(teacher)
    torch.manual_seed(0)
    how = {"second": SECOND, "second_steps": 0, "class_dropout": 0.3, **options}
    objective = kind(student, teacher, **how)
    randomized(objective.second.float(), seed=2)
    return student, objective.double()


def samples(student, objective, weight=0.0):
    """Noisy samples of the student, without gradients."""
    with torch.no_grad():
        noised = objective.noised(student, batch(), SOURCE)
    weights = torch.full((8,), weight, dtype=torch.float64)
    return replace(noised, sample=replace(noised.sample, weight=weights))


class TestSecondDerivatives:
    """The gradient of what a score is in, against finite differences."""

    @pytest.mark.parametrize("guided", [False, True])
    def test_of_the_clean_mean(self, guided):
        teacher = tiny_teacher().eval()
        x = torch.randn(8, 1, 4, 4, dtype=torch.float64)
        along, across = torch.randn_like(x), torch.randn_like(x)
        weight = torch.linspace(0, 2, 8, dtype=torch.float64) if guided else None
        context = teacher.read_context({"label": batch().context["label"]}, x)

        def value(x, **how):
            return (along * clean_mean(teacher, x, context, weight=weight, **how)).sum()

        start = x.clone().requires_grad_()
        gradient = torch.autograd.grad(value(start, differentiable=True), start)[0]
        h = 1e-5
        expected = (value(x + h * across) - value(x - h * across)) / (2 * h)
        torch.testing.assert_close((gradient * across).sum(), expected, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("a", [0.5, 1.0, 1.2])
    def test_of_score_identity(self, a):
        student, objective = made(ScoreIdentity, a=a, scale=ByDistance())
        noised = samples(student, objective)
        gradient, _, kept = objective.directions(noised)
        assert kept.all()
        x, shift = noised.sample.x, noised.x - noised.sample.x
        own = objective.teacher_mean(noised)
        weight = 1 / (x - own).abs().mean(dim=(1, 2, 3))  # held as it is

        def value(x):
            moved = replace(noised, x=x + shift, sample=replace(noised.sample, x=x))
            with torch.no_grad():
                told, mean = objective.student_mean(moved), objective.teacher_mean(moved)
            rows = []
            for i in range(8):
                gap = (mean[i] - told[i]).flatten()
                rows.append(weight[i] * gap @ ((mean[i] - x[i]).flatten() - a * gap))
            return sum(rows)

        across, h = torch.randn_like(x), 1e-5
        expected = (value(x + h * across) - value(x - h * across)) / (2 * h)
        torch.testing.assert_close((gradient * across).sum(), expected, rtol=1e-6, atol=1e-7)


class TestDirections:
    """The gradient at the student's samples."""

    def test_distribution_matching_is_the_difference_of_the_means(self):
        student, objective = made(scale=AsIs())
        noised = samples(student, objective)
        context = noised.context
        score = objective.teacher.score(noised.x, context)
        mean = noised.x + STD**2 * score
        level = torch.full((8,), STD, dtype=torch.float64)
        sample = noised.sample
        told = objective.second(noised.x, level, sample.context, sample.weight)
        gradient, gap, kept = objective.directions(noised)
        assert kept.all()
        torch.testing.assert_close(gradient, (told - mean).detach(), rtol=1e-12, atol=1e-12)
        expected = 0.5 * ((told - mean) / STD).square().sum(dim=(1, 2, 3))
        torch.testing.assert_close(gap, expected.detach())

    def test_the_student_gets_it_and_nobody_else(self):
        student, objective = made(scale=AsIs())
        loss = objective(student, batch(), SOURCE)
        noised = objective.noised(student, batch(), SOURCE)
        direction, gap, _ = objective.directions(noised)
        torch.testing.assert_close(loss.value, gap)
        ours = gradients(student, loss.value.sum())
        theirs = torch.autograd.grad(noised.sample.x, list(student.parameters()), direction)
        torch.testing.assert_close(ours, list(theirs))
        assert not any(g.any() for g in gradients(objective, loss.value.sum()))

    @pytest.mark.parametrize("kind", [DistributionMatching, ScoreIdentity])
    def test_scales(self, kind):
        student, objective = made(kind, scale=AsIs())
        noised = samples(student, objective)
        plain, _, _ = objective.directions(noised)
        objective.scale = ByMeanSize()
        scaled, _, _ = objective.directions(noised)
        torch.testing.assert_close(scaled, plain / plain.abs().mean())
        objective.scale = ByDistance()
        weighted, _, _ = objective.directions(noised)
        away = (noised.sample.x - objective.teacher_mean(noised)).abs().mean(dim=(1, 2, 3))
        torch.testing.assert_close(weighted, plain / away[:, None, None, None])

    def test_scores_are_clamped(self):
        student, objective = made(largest_score=0.5)
        noised = samples(student, objective)
        score = objective.teacher.score(noised.x, noised.context)
        assert (score.abs() > 0.5).any()
        expected = noised.x + STD**2 * score.clamp(-0.5, 0.5)
        torch.testing.assert_close(objective.teacher_mean(noised), expected)

    @pytest.mark.parametrize("kind", [DistributionMatching, ScoreIdentity])
    def test_guidance(self, kind):
        _, plain = made(kind)
        student, guided = made(kind, weights=UniformWeights(2.0, 0.25))
        noised = samples(student, plain)
        weightless = plain.directions(noised)
        torch.testing.assert_close(guided.directions(noised), weightless, rtol=0, atol=0)
        noised = samples(student, guided, weight=1.5)
        label = noised.context["label"]
        assert (label == -1).any()
        nulls = torch.full_like(label, -1)
        scores = [guided.teacher.score(noised.x, {"label": rows}) for rows in (label, nulls)]
        expected = noised.x + STD**2 * (2.5 * scores[0] - 1.5 * scores[1])
        torch.testing.assert_close(guided.teacher_mean(noised), expected)
        _, zero = made(kind, weights=NullWeights())
        values = [each(student, batch(), SOURCE).value for each in (plain, zero)]
        assert torch.equal(*values)

    def test_levels_of_many_are_drawn(self):
        student, objective = made(teacher=tiny_teacher(noise=UniformLevels(0.1, 0.5)))
        noised = samples(student, objective)
        assert len(noised.level.unique()) == 8
        assert (noised.level >= 0.1).all()
        assert (noised.level <= 0.5).all()
        noise = drawn("noise", 1, 4, 4)
        level = noised.level[:, None, None, None]
        torch.testing.assert_close(noised.x, noised.sample.x + level * noise)
        for i in range(8):
            context = {"label": noised.context["label"][i : i + 1], "noise_level": level[i, 0, 0]}
            score = objective.teacher.score(noised.x[i : i + 1], context)
            expected = noised.x[i] + level[i] ** 2 * score[0]
            mean = objective.teacher_mean(noised)[i]
            torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)


class Known(nn.Module):
    """The exact mean of samples of N(m, v), given noisy ones."""

    def __init__(self, mean: float, variance: float):
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x, level, context, weight):
        square = level.square().view(-1, 1, 1, 1)
        return x + square * (self.mean - x) / (self.variance + square)


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
def test_score_identity_is_distribution_matching_where_means_alone_differ(a):
    """A fresh flow is N(0, I): noisy data of variance 1, against samples of another mean."""
    fresh = TarFlow(4, 2, 1, 2, **SMALL, codec=Pixels(17), noise=GaussianNoise(STD)).double()
    student = tiny_inverse(fresh)
    objectives = [
        DistributionMatching(student, fresh, second=SECOND, scale=AsIs()),
        ScoreIdentity(student, fresh, second=SECOND, scale=AsIs(), a=a),
    ]
    found = []
    for objective in objectives:
        objective.second = Known(0.7, 1 - STD**2)
        sample = Clean(torch.randn(8, 1, 4, 4).double(), batch(False).context, torch.zeros(8))
        noised = objective.with_noise(sample, SOURCE)
        found.append(objective.directions(noised)[0])
    torch.testing.assert_close(found[0], torch.full_like(found[0], STD**2 * 0.7))
    torch.testing.assert_close(found[1], STD**2 * found[0])


def test_half_is_the_gradient_of_the_gap():
    """Flow generator matching's theorem (arXiv 2410.19310), on Gaussians by exact quadrature."""
    nodes, weights = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(12))
    weights = weights / weights.sum()
    z, e = torch.meshgrid(nodes, nodes, indexing="ij")
    probability = (weights[:, None] * weights).flatten()
    mean, variance, t = 0.3, 0.8, 0.5  # of the teacher's data, and the level

    def denoised(x, m, v):
        return x + t**2 * (m - x) / (v + t**2)

    def gap(m, s):
        x = m + (s**2 + t**2).sqrt() * nodes
        difference = denoised(x, mean, variance) - denoised(x, m, s**2)
        return 0.5 * (weights * difference.square()).sum()

    def loss(m, s, a):
        x = (m + s * z).flatten()[:, None]
        noisy = x + t * e.flatten()[:, None]
        told = denoised(noisy, m.detach(), s.detach() ** 2)  # its weights are held
        values = score_identity(x, denoised(noisy, mean, variance), told, a)
        return (probability * values).sum()

    where = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.4, 0.6)]
    expected = torch.autograd.grad(gap(*where), where)
    torch.testing.assert_close(torch.autograd.grad(loss(*where, 0.5), where), expected)
    other = torch.autograd.grad(loss(*where, 1.0), where)
    assert all(abs(float(p - q)) > 1e-3 for p, q in zip(other, expected, strict=True))


class TestSecondNetworkLearns:
    """Which network learns from which batch, and what."""

    def test_its_loss_is_a_loop_over_its_equation(self):
        student, objective = made(second_steps=1)
        loss = objective(student, batch(), SOURCE)
        noised = samples(student, objective)
        expected = []
        for i in range(8):
            row = slice(i, i + 1)
            context = noised.sample.context.map(lambda part, row=row: part[row])
            told = objective.second(noised.x[row], noised.level[row], context, torch.zeros(1))
            expected.append(((told[0] - noised.sample.x[i]) / STD).square().sum())
        torch.testing.assert_close(loss.value, torch.stack(expected))
        ours, theirs = (
            gradients(objective.second, v.sum()) for v in (loss.value, torch.stack(expected))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        assert not any(g.any() for g in gradients(student, loss.value.sum()))

    def test_turns(self):
        student, objective = made(second_steps=2, warm_up=1, parts=2)
        turns = ""
        for number in range(20):
            loss = objective(student, batch(), Share(number, 0, 8))
            taught = any(g.any() for g in gradients(student, loss.value.sum()))
            assert taught != any(g.any() for g in gradients(objective, loss.value.sum()))
            assert {"denoising", "gap", "left_out"} == loss.logged.keys()
            turns += "S" if taught else "2"
        assert turns == "222222SS2222SS2222SS"

    def test_its_gradients_alone_are_none_in_a_turn_of_the_student(self):
        student, objective = made(second_steps=1)
        optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=0.1)
        for changes in ("second", "student", "second"):
            before = [p.clone() for p in (*student.parameters(), *objective.parameters())]
            count = len(list(student.parameters()))
            optimizer.zero_grad()
            objective(student, batch(), SOURCE).value.mean().backward()
            optimizer.step()
            after = [*student.parameters(), *objective.parameters()]
            moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert any(moved[:count]) == (changes == "student")
            assert any(moved[count:]) == (changes == "second")

    def test_steps_take_turns(self):
        teacher = tiny_teacher()
        student = tiny_velocity(teacher)
        objective = DistributionMatching(
            student, teacher, second=SECOND, second_steps=1, steps=[1, 3]
        )
        seen = []
        for number in range(8):
            with torch.no_grad():
                x = objective.noised(student, batch(), Share(number, 0, 8)).sample.x
            clean = objective.read(student, batch(), Share(number, 0, 8))
            z = student.draw_noise(8, Share(number, 0, 8))
            told = {"context": clean.context, "weight": clean.weight}
            one, three = (student.generate(z, steps=n, **told) for n in (1, 3))
            assert torch.equal(x, one) or torch.equal(x, three)
            seen.append(1 if torch.equal(x, one) else 3)
            objective(student, batch(), Share(number, 0, 8))
        assert seen == [1, 1, 3, 3, 1, 1, 3, 3]


@pytest.mark.parametrize("kind", [DistributionMatching, ScoreIdentity])
def test_an_example_that_overflows_is_left_out(kind):
    student, objective = made(kind, class_dropout=0.0, scale=ByMeanSize())
    noised = samples(student, objective)
    plain, _, _ = made(kind, class_dropout=0.0, scale=AsIs())[1].directions(noised)
    handle = overflow(objective.teacher, row=3)
    direction, _, kept = objective.directions(noised)
    assert kept.tolist() == [True, True, True, False, True, True, True, True]
    assert not direction[3].any()
    expected = plain[kept] / plain[kept].abs().mean()
    torch.testing.assert_close(direction[kept], expected, rtol=1e-8, atol=1e-8)
    loss = objective(student, batch(), SOURCE)
    assert loss.value.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(student, loss.value.mean()))
    found = objective.eval().validate(student, batch(), SOURCE)
    assert found["loss"].isnan().tolist() == [not each for each in kept]
    handle.remove()


def test_another_objective_alongside():
    student, alone = made(scale=AsIs(), class_dropout=0.0)
    regression = partial(InverseRegression, class_dropout=0.0)
    _, both = made(scale=AsIs(), class_dropout=0.0, alongside=regression, alongside_weight=0.5)
    assert both.alongside.teacher is both.teacher
    other = both.alongside(student, batch(), SOURCE)
    values = [each(student, batch(), SOURCE).value for each in (alone, both)]
    torch.testing.assert_close(values[1], values[0] + 0.5 * other.value)
    ours = gradients(student, values[1].sum())
    theirs = gradients(student, values[0].sum() + 0.5 * other.value.sum())
    torch.testing.assert_close(ours, theirs)
    names = both(student, batch(), SOURCE).logged.keys()
    assert {"alongside", "alongside_image", "alongside_left_out"} <= names


def test_what_does_not_fit_is_refused():
    teacher = tiny_teacher()
    student = tiny_inverse(teacher)
    silent = tiny_teacher(noise=NoNoise())
    with pytest.raises(ConfigurationError, match="Gaussian noise"):
        DistributionMatching(tiny_inverse(silent), silent)
    with pytest.raises(ConfigurationError, match="steps 2"):
        DistributionMatching(student, teacher, steps=2)
    with pytest.raises(ConfigurationError, match="largest_score"):
        ScoreIdentity(student, teacher, largest_score=0.0)
    with pytest.raises(ConfigurationError, match="a -1"):
        ScoreIdentity(student, teacher, a=-1.0)
