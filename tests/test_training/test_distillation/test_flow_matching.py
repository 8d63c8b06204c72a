"""Flow matching and shortcuts, against loops written from their equations."""

import pytest
import torch

from tarflow import ConfigurationError, UniformLevels
from tarflow.randomness import Share, uniform
from tarflow.training import (
    FlowCoupling,
    FlowMatching,
    IndependentCoupling,
    LogitNormalTimes,
    PinnedTimes,
    Shortcut,
    UniformTimes,
    UniformWeights,
)
from tarflow.training.distillation.guidance_weights import GuidanceWeights

from ...models import randomized
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
    tiny_shortcut,
    tiny_teacher,
    tiny_velocity,
    upright,
)

LOGIT = LogitNormalTimes(-0.2, 1.0)


class NoWeights(GuidanceWeights):
    """Weights that are drawn, and are all 0."""

    highest = 1.0

    def __call__(self, like, source):
        return like.new_zeros(len(like))


def noise_of_flow(teacher, label):
    """The teacher's noise of each noisy image, and the mean of its squares."""
    noisy = clean(batch().x) + STD * drawn("noise", 1, 4, 4)
    z = torch.stack([states(teacher, noisy[i], label[i])[-1] for i in range(8)])
    return z, z.square().mean()


def plain_loss(student, z, label, weight):
    """The loss of each example, one by one."""
    x, found = clean(batch().x), []
    t = 1 / (1 + torch.exp(0.2 - drawn("time")))
    for i in range(8):
        point = (1 - t[i]) * x[i] + t[i] * z[i]
        target = z[i] - x[i]
        if weight[i] and label[i] >= 0:
            null = student.velocity(point[None], t[i : i + 1], torch.tensor([-1])).detach()[0]
            target = (1 + weight[i]) * target - weight[i] * null
        v = student.velocity(point[None], t[i : i + 1], label[i : i + 1], weight=weight[i : i + 1])
        found.append((v[0] - target).square().sum())
    return torch.stack(found)


def agree(student, value, expected):
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = (gradients(student, v.sum()) for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_it_is_a_loop_over_its_equation(coupled, guided):
    teacher = tiny_teacher()
    student = tiny_velocity(teacher)
    label, weight = labels(0.4), torch.zeros(8, dtype=torch.float64)
    options = {"weights": UniformWeights(2.0, 0.25)} if guided else {}
    if coupled:
        objective = FlowMatching(student, teacher, times=LOGIT, class_dropout=0.4, **options)
        z, square = noise_of_flow(teacher, label)
        z = z / square.sqrt()
    else:
        how = {"coupling": IndependentCoupling(), "times": LOGIT, "class_dropout": 0.4}
        objective = FlowMatching(student, **how, **options)
        z = drawn("prior", 1, 4, 4)
    if guided:
        draw = uniform((8,), SOURCE, torch.float64, "cpu", "weight")
        weight = 2 * ((draw - 0.25) / 0.75).clamp(min=0)
    objective = objective.double()
    loss = objective(student, batch(), SOURCE)
    agree(student, loss.value, plain_loss(student, z, label, weight))


def test_guidance_weight_0_is_no_guidance():
    teacher = tiny_teacher()
    student = tiny_velocity(teacher)
    values = [
        FlowMatching(student, teacher, **options)(student, batch(), SOURCE).value
        for options in ({}, {"weights": NoWeights()})
    ]
    assert torch.equal(*values)


def test_an_example_that_overflows_is_left_out():
    teacher = tiny_teacher()
    student = tiny_velocity(teacher)
    objective = FlowMatching(student, teacher, class_dropout=0.0).double()
    objective(student, batch(), SOURCE)
    objective.coupling.batches = 1  # nothing is measured any more
    whole = objective(student, batch(), SOURCE).value
    overflow(objective.teacher, row=3)
    loss = objective(student, batch(), SOURCE)
    kept = torch.arange(8) != 3
    assert loss.value[3] == 0
    torch.testing.assert_close(loss.value.mean(), whole[kept].mean())
    spoilt, spared = (gradients(student, v) for v in (loss.value.mean(), whole[kept].mean()))
    torch.testing.assert_close(spoilt, spared, rtol=1e-9, atol=1e-12)
    found = objective.eval().validate(student, batch(), SOURCE)
    assert found["loss"].isnan().tolist() == [not each for each in kept]


class TestFlowCoupling:
    """The noise of the flow, brought to variance 1."""

    def made(self, batches):
        teacher = tiny_teacher()
        student = tiny_velocity(teacher)
        coupling = FlowCoupling(batches)
        return student, FlowMatching(student, teacher, coupling=coupling).double()

    def test_the_scale_is_the_mean_over_the_first_batches(self):
        student, objective = self.made(batches=3)
        seen, squares = [], []
        for number in range(5):
            source = Share(number, 0, 8)
            info = objective.read(student, batch(), source)
            raw = FlowCoupling(1).double().eval()(objective.teacher, info, source)
            squares.append(raw.square().mean())
            objective(student, batch(), source)
            seen.append(objective.coupling.mean_square.clone())
        expected = [torch.stack(squares[: min(n, 3)]).mean() for n in range(1, 6)]
        torch.testing.assert_close(seen, expected, rtol=1e-9, atol=1e-9)

    def test_what_overflows_is_not_measured(self):
        _, objective = self.made(batches=3)
        z = torch.tensor([[1.0, 3.0], [torch.nan, 5.0], [2.0, torch.inf]], dtype=torch.float64)
        objective.coupling.measure(z)
        assert objective.coupling.mean_square == 5
        objective.coupling.measure(z[1:])
        assert objective.coupling.mean_square == 5
        assert objective.coupling.measured == 1
        objective.coupling.measure(torch.full((2, 2), 3.0, dtype=torch.float64))
        assert objective.coupling.mean_square == 7

    def test_validation_measures_nothing(self):
        student, objective = self.made(batches=3)
        objective.eval().validate(student, batch(), SOURCE)
        assert objective.coupling.measured == 0

    def test_a_resumed_run_goes_on_with_it(self):
        student, objective = self.made(batches=3)
        _, other = self.made(batches=3)
        for number in range(2):
            objective(student, batch(), Share(number, 0, 8))
        other.load_state_dict(objective.state_dict())
        values = [each(student, batch(), SOURCE).value for each in (objective, other)]
        assert torch.equal(*values)
        assert torch.equal(objective.coupling.mean_square, other.coupling.mean_square)

    def test_a_flow_of_many_levels_is_taken_at_its_highest(self):
        teacher = tiny_teacher(noise=UniformLevels(0.1, STD))
        student = tiny_velocity(teacher)
        objective = FlowMatching(student, teacher, class_dropout=0.0).double()
        info = objective.read(student, batch(), SOURCE)
        z = objective.coupling(objective.teacher, info, SOURCE)
        noisy = clean(batch().x) + STD * drawn("noise", 1, 4, 4)
        level = torch.full((8,), STD)
        context = {"label": batch().context["label"], "noise_level": level}
        expected = upright(teacher, teacher.eval()(noisy, context)[0])
        expected = expected / expected.square().mean().sqrt()
        torch.testing.assert_close(student.patches(z), expected, rtol=1e-5, atol=1e-5)


def test_times_are_distributed_as_they_say():
    like, source = torch.zeros(20_000, dtype=torch.float64), torch.Generator().manual_seed(0)
    logit = LogitNormalTimes(-0.5, 0.7)(like, source).logit()
    assert abs(float(logit.mean()) + 0.5) < 0.02
    assert abs(float(logit.std()) - 0.7) < 0.02
    time = UniformTimes()(like, source)
    assert 0 <= time.min() < 0.01 < 0.99 < time.max() < 1
    pinned = PinnedTimes(0.3, LogitNormalTimes(-0.5, 0.7))(like, source)
    assert abs(float((pinned == 1).double().mean()) - 0.3) < 0.02
    assert abs(float(pinned[pinned < 1].logit().mean()) + 0.5) < 0.02


class TestShortcut:
    """Velocities over steps of any size."""

    def made(self, **options):
        teacher = tiny_teacher()
        student = tiny_shortcut(teacher)
        return student, Shortcut(student, teacher, **options).double()

    def test_it_is_a_loop_over_its_equation(self):
        student, objective = self.made(times=LOGIT, class_dropout=0.4, most_steps=4, decay=0.5)
        objective(student, batch(), SOURCE)
        randomized(student.float(), 0.02, seed=3).double()
        loss = objective(student, batch(), SOURCE)
        label = labels(0.4)
        z, square = noise_of_flow(objective.teacher, label)
        z, x = z / square.sqrt(), clean(batch().x)
        expected = plain_loss(student, z, label, torch.zeros(8))
        expected = list(expected)
        draw = uniform((8, 2), SOURCE, torch.float64, "cpu", "step")
        for i in (3, 7):
            whole = 2.0 ** -int(3 * draw[i, 0])
            assert whole in (1, 0.5, 0.25)
            t = whole * (int(draw[i, 1] / whole) + 1)
            half = whole / 2
            told = 0.0 if half < 0.25 else half
            point = ((1 - t) * x[i] + t * z[i])[None]
            rows, slow = label[i : i + 1], objective.averaged
            first = slow.velocity(point, t, rows, step=told)
            second = slow.velocity(point - half * first, t - half, rows, step=told)
            v = student.velocity(point, t, rows, step=whole)
            expected[i] = (v - (first + second) / 2).square().sum()
        agree(student, loss.value, torch.stack(expected))

    def test_step_sizes_and_times_fit_each_other(self):
        _, objective = self.made(most_steps=8)
        like = torch.zeros(4000, 1, dtype=torch.float64)
        steps = objective.half_steps(like, torch.Generator().manual_seed(0))
        whole = 2 * steps.half
        sizes, counts = whole.unique(return_counts=True)
        assert sizes.tolist() == [0.125, 0.25, 0.5, 1]
        assert (counts > 850).all()
        assert torch.equal((steps.time / whole).round(), steps.time / whole)
        assert (whole <= steps.time).all()
        assert steps.time.max() == 1
        told = steps.half.where(whole > 0.125, 0)
        assert torch.equal(steps.told, told)

    def test_the_averaged_weights_follow_as_they_should(self):
        student, objective = self.made(decay=0.25)
        name = "network.proj_out.weight"
        weight = dict(student.named_parameters())[name]
        expected = None
        for number in range(6):
            with torch.no_grad():
                weight += 0.1
            objective(student, batch(), SOURCE)
            rate = min(0.25, (1 + number) / (10 + number))
            own = weight.detach().clone()
            expected = own if expected is None else rate * expected + (1 - rate) * own
            held = dict(objective.averaged.named_buffers())[name]
            torch.testing.assert_close(held, expected)
        objective.eval().validate(student, batch(), SOURCE)
        assert torch.equal(dict(objective.averaged.named_buffers())[name], held)

    def test_the_averaged_weights_are_no_parameters(self):
        student, objective = self.made()
        assert not list(objective.parameters())
        held = {f"averaged.{name}" for name, _ in student.named_parameters()}
        assert held <= objective.state_dict().keys()

    def test_a_batch_of_three_teaches_no_consistency(self):
        student, objective = self.made()
        assert objective(student, batch().first(3), Share(5, 0, 3)).value.isfinite().all()


def test_what_does_not_fit_is_refused():
    teacher = tiny_teacher()
    student, told = tiny_velocity(teacher), tiny_shortcut(teacher)
    with pytest.raises(ConfigurationError, match="pass a teacher"):
        FlowMatching(student)
    with pytest.raises(ConfigurationError, match="power of two"):
        Shortcut(told, teacher, most_steps=6)
    with pytest.raises(ConfigurationError, match="decay"):
        Shortcut(told, teacher, decay=1.0)
    with pytest.raises(ConfigurationError, match="std -1"):
        LogitNormalTimes(std=-1.0)
    with pytest.raises(ConfigurationError, match="high 0"):
        UniformWeights(0.0)
    with pytest.raises(ConfigurationError, match=r"unguided 1\.0"):
        UniformWeights(1.0, 1.0)
