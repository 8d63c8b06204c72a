"""The regression of a flow's inverse, against loops written from its equation."""

from itertools import pairwise

import pytest
import torch

from tarflow import ConfigurationError, DecodeOptions, ExampleSeeds, LinearGuidance, UniformLevels
from tarflow.randomness import uniform
from tarflow.training import (
    GuidanceWeights,
    InverseRegression,
    PriorPairs,
    UniformWeights,
)

from .lessons import (
    SOURCE,
    STD,
    batch,
    clean,
    drawn,
    gradients,
    labels,
    overflow,
    states,
    tiny_inverse,
    tiny_teacher,
    upright,
)


class ZeroWeights(GuidanceWeights):
    """Weights that are drawn, and are all 0."""

    highest = 1.0

    def __call__(self, like, source):
        return like.new_zeros(len(like))


def normalized(x):
    return x / (x.square().mean() + 1e-6).sqrt()


def plain_loss(teacher, student, objective, label, weight, jitter=0.0):
    """The loss of each example, one by one."""
    x, noise, moved = clean(batch().x), drawn("noise", 1, 4, 4), drawn("jitter", 1, 4, 4)
    found = []
    for i in range(8):
        noisy = x[i] + STD * noise[i]
        *inner, z = states(teacher, noisy, label[i])
        z = ((z + jitter * moved[i]) / (1 + jitter**2) ** 0.5)[None]
        told = {"weight": weight[i : i + 1]}
        image, hidden = student.states(z, label[i : i + 1], **told)
        target = x[i]
        if weight[i] and label[i] >= 0:
            null = student.generate(z, torch.tensor([-1])).detach()[0]
            target = (1 + weight[i]) * x[i] - weight[i] * null
        loss = (image[0] - target).square().sum()
        for head, h, state in zip(objective.heads, hidden, [*inner[::-1], noisy], strict=False):
            read = student.patchify.restore(head(h))[0]
            loss = loss + 0.5 * (normalized(read) - normalized(state)).square().sum()
        found.append(loss)
    return torch.stack(found)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
@pytest.mark.parametrize("guided", [False, True])
def test_it_is_a_loop_over_its_equation(guided, jitter):
    teacher = tiny_teacher()
    student = tiny_inverse(teacher)
    options = {"weights": UniformWeights(2.0, 0.25)} if guided else {}
    how = {"alignment": 0.5, "jitter": jitter, "class_dropout": 0.4}
    objective = InverseRegression(student, teacher, **how, **options)
    loss = objective(student, batch(), SOURCE)
    label, weight = labels(0.4), torch.zeros(8, dtype=torch.float64)
    assert (label == -1).any()
    assert (label >= 0).any()
    if guided:
        draw = uniform((8,), SOURCE, torch.float64, "cpu", "weight")
        weight = 2 * ((draw - 0.25) / 0.75).clamp(min=0)
        assert (weight == 0).any()
        assert (weight[label >= 0] > 0).any()
    expected = plain_loss(teacher, student, objective, label, weight, jitter)
    torch.testing.assert_close(loss.value, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = (gradients(student, v.sum()) for v in (loss.value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    ours, theirs = (gradients(objective.heads, v.sum()) for v in (loss.value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_guidance_weight_0_is_no_guidance():
    teacher = tiny_teacher()
    student = tiny_inverse(teacher)
    values = []
    for options in ({}, {"weights": ZeroWeights()}):
        torch.manual_seed(0)
        objective = InverseRegression(student, teacher, **options)
        values.append(objective(student, batch(), SOURCE).value)
    assert torch.equal(*values)


def test_validation_drops_and_guides_nothing():
    teacher = tiny_teacher()
    student = tiny_inverse(teacher)
    how = {"class_dropout": 0.5, "jitter": 0.3, "alignment": 0.5}
    objective = InverseRegression(student, teacher, weights=UniformWeights(), **how).eval()
    found = objective.validate(student, batch(), SOURCE)
    weight = torch.zeros(8, dtype=torch.float64)
    expected = plain_loss(teacher, student, objective, batch().context["label"], weight) / 16
    torch.testing.assert_close(found["loss"], expected.detach(), rtol=1e-9, atol=1e-9)


def test_an_example_that_overflows_is_left_out():
    teacher = tiny_teacher()
    student = tiny_inverse(teacher)
    objective = InverseRegression(student, teacher, class_dropout=0.0)
    whole = objective(student, batch(), SOURCE).value
    handle = overflow(objective.teacher, row=3)
    loss = objective(student, batch(), SOURCE)
    kept = torch.arange(8) != 3
    assert loss.value[3] == 0
    torch.testing.assert_close(loss.value.mean(), whole[kept].mean())
    assert loss.logged["left_out"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    spoilt, spared = (gradients(student, v) for v in (loss.value.mean(), whole[kept].mean()))
    torch.testing.assert_close(spoilt, spared, rtol=1e-9, atol=1e-12)
    found = objective.eval().validate(student, batch(), SOURCE)
    assert found["loss"].isnan().tolist() == [not each for each in kept]
    handle.remove()


def test_a_level_of_many_is_chosen():
    teacher = tiny_teacher(noise=UniformLevels(0.1, 0.4))
    student = tiny_inverse(teacher)
    x, noise, near = clean(batch().x), drawn("noise", 1, 4, 4), {"rtol": 1e-5, "atol": 1e-5}
    for given, level in ((None, 0.4), (0.2, 0.2)):
        objective = InverseRegression(student, teacher, noise_level=given, class_dropout=0.0)
        lesson = objective.lesson(student, batch(), SOURCE)
        context = {"label": batch().context["label"], "noise_level": torch.full((8,), level)}
        z, _ = teacher.eval()(x + torch.tensor(level, dtype=torch.float64) * noise, context)
        torch.testing.assert_close(student.patches(lesson.z), upright(teacher, z), **near)


class TestPairs:
    """Pairs of prior noise and what the teacher decodes."""

    def made(self, **options):
        teacher = tiny_teacher()
        student = tiny_inverse(teacher)
        pairs = PriorPairs(size=12, share=0.5, every=2, renewed=5, **options)
        return teacher.eval(), student, InverseRegression(student, teacher, pairs=pairs)

    def test_they_are_what_the_teacher_decodes(self):
        teacher, student, objective = self.made()
        objective(student, batch(), SOURCE)
        pool = objective.pairs
        z, _ = teacher(pool.noisy, pool.label)
        assert 0.5 < z.std() < 1.5
        x = teacher.inverse(z, pool.label)
        torch.testing.assert_close(x, pool.noisy, rtol=1e-9, atol=1e-9)
        denoised = pool.noisy + STD**2 * teacher.score(pool.noisy, pool.label)
        torch.testing.assert_close(denoised, pool.clean, rtol=1e-6, atol=1e-6)

    def test_they_stand_in_for_a_share(self):
        _, student, objective = self.made()
        lesson = objective.lesson(student, batch(), SOURCE)
        own = clean(batch().x)
        in_pool = (lesson.clean.x[:, None] == objective.pairs.clean).flatten(2).all(2)
        is_own = (lesson.clean.x == own).flatten(1).all(1)
        assert (in_pool.any(1) ^ is_own).all()
        assert 0 < in_pool.any(1).sum() < 8
        for i in in_pool.any(1).nonzero().flatten():
            which = in_pool[i].nonzero()[0, 0]
            assert lesson.clean.context["label"][i] == objective.pairs.label[which]
            torch.testing.assert_close(lesson.states[-1][i], objective.pairs.noisy[which])
            *_, z = states(objective.teacher, lesson.states[-1][i], objective.pairs.label[which])
            torch.testing.assert_close(lesson.z[i], z)

    def test_the_oldest_are_drawn_anew(self):
        _, student, objective = self.made()
        pools = []
        for _ in range(4):
            objective.lesson(student, batch(), SOURCE)
            pools.append(objective.pairs.noisy.clone())
        changed = [(a != b).flatten(1).any(1) for a, b in pairwise(pools)]
        assert [int(each.sum()) for each in changed] == [0, 5, 0]
        assert changed[1][:5].all()

    def test_a_resumed_run_goes_on_with_them(self):
        _, student, objective = self.made()
        for _ in range(3):
            objective.lesson(student, batch(), SOURCE)
        _, _, other = self.made()
        other.load_state_dict(objective.state_dict())
        for _ in range(3):
            lessons = [each.lesson(student, batch(), SOURCE) for each in (objective, other)]
            assert torch.equal(lessons[0].z, lessons[1].z)
        assert torch.equal(objective.pairs.noisy, other.pairs.noisy)

    def test_validation_takes_none(self):
        _, student, objective = self.made()
        objective.eval()
        lesson = objective.lesson(student, batch(), ExampleSeeds(0, range(8)))
        assert torch.equal(lesson.clean.x, clean(batch().x))
        assert not objective.pairs.noisy.any()


def test_what_does_not_fit_is_refused():
    teacher = tiny_teacher()
    student = tiny_inverse(teacher)
    deep = tiny_inverse(teacher, num_blocks=5)
    with pytest.raises(ConfigurationError, match="num_blocks=3"):
        InverseRegression(deep, teacher)
    InverseRegression(deep, teacher, alignment=0.0)
    with pytest.raises(ConfigurationError, match="alignment -1"):
        InverseRegression(student, teacher, alignment=-1.0)
    with pytest.raises(ConfigurationError, match="class_dropout 0"):
        InverseRegression(student, teacher, class_dropout=0.0, weights=UniformWeights())
    with pytest.raises(ConfigurationError, match="student's num_classes is 3"):
        InverseRegression(student, tiny_teacher(num_classes=2))
    with pytest.raises(ConfigurationError, match="guidance"):
        PriorPairs(options=DecodeOptions(guidance=LinearGuidance(1.0)))
    plain = tiny_teacher(num_classes=0)
    with pytest.raises(ConfigurationError, match="without classes"):
        InverseRegression(tiny_inverse(plain), plain, weights=UniformWeights())
    with pytest.raises(ConfigurationError, match="not with many"):
        InverseRegression(student, teacher, noise_level=0.1)
