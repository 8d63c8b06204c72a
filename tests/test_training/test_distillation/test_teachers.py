"""What all objectives have in common: their teacher, their state, and exact resumes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tarflow import ConfigurationError, Pixels
from tarflow.randomness import ExampleSeeds, Share
from tarflow.training import (
    DistributionMatching,
    FlowMatching,
    IndependentCoupling,
    InverseRegression,
    PriorPairs,
    ScoreIdentity,
    SecondNetwork,
    Shortcut,
    UniformWeights,
)
from tarflow.training.distillation.unlearned import average, constant, frozen

from .lessons import (
    SMALL,
    SOURCE,
    batch,
    overflow,
    tiny_inverse,
    tiny_shortcut,
    tiny_teacher,
    tiny_velocity,
)


def inverse(teacher: Any) -> Any:
    student = tiny_inverse(teacher)
    pairs = PriorPairs(size=6, share=0.5, every=2, renewed=2)
    how = {"pairs": pairs, "jitter": 0.1, "weights": UniformWeights()}
    return student, InverseRegression(student, teacher, **how)


def flow_matching(teacher: Any) -> Any:
    student = tiny_velocity(teacher)
    return student, FlowMatching(student, teacher, weights=UniformWeights())


def independent(teacher: Any) -> Any:
    student = tiny_velocity(teacher)
    return student, FlowMatching(student, coupling=IndependentCoupling())


def shortcut(teacher: Any) -> Any:
    student = tiny_shortcut(teacher)
    return student, Shortcut(student, teacher, most_steps=4)


def matching(teacher: Any) -> Any:
    student = tiny_inverse(teacher)
    how = {"second": SecondNetwork(**SMALL), "second_steps": 1, "warm_up": 1}
    return student, DistributionMatching(student, teacher, alongside=InverseRegression, **how)


def identity(teacher: Any) -> Any:
    student = tiny_velocity(teacher)
    how = {"second": SecondNetwork(**SMALL), "second_steps": 1, "steps": [1, 2]}
    return student, ScoreIdentity(student, teacher, **how)


TAUGHT = [inverse, flow_matching, shortcut, matching, identity]
ALL = [*TAUGHT, independent]
Make = Callable[[Any], Any]


def steps(student: Any, objective: Any, optimizer: Any, numbers: range) -> None:
    """Some steps of training, each with draws of its own."""
    for number in numbers:
        optimizer.zero_grad()
        objective(student, batch(), Share(number, 0, 8)).minimized.mean().backward()
        optimizer.step()


def started(make: Make) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    student, objective = make(tiny_teacher())
    objective = objective.double()
    both = [*student.parameters(), *objective.parameters()]
    return student, objective, torch.optim.AdamW(both, lr=1e-3)


@pytest.mark.parametrize("make", ALL)
def test_a_resumed_run_is_the_same(make):
    student, objective, optimizer = started(make)
    steps(student, objective, optimizer, range(3))
    kept = [copy.deepcopy(each.state_dict()) for each in (student, objective, optimizer)]
    steps(student, objective, optimizer, range(3, 7))
    others = started(make)
    for other, state in zip(others, kept, strict=True):
        other.load_state_dict(state)
    steps(*others, range(3, 7))
    for one, other in zip((student, objective), others, strict=False):
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("make", TAUGHT)
def test_the_teacher_is_not_part_of_it(make):
    teacher = tiny_teacher(dropout=0.5)
    assert teacher.training
    held = copy.deepcopy(teacher.state_dict())
    student, objective = make(teacher)
    objective.double().train()
    state = objective.state_dict()
    assert not any("transform" in name or "unlearned" in name for name in state)
    theirs = {id(p) for p in teacher.parameters()} | {
        id(p) for p in objective.teacher.parameters()
    }
    assert not theirs & {id(p) for p in objective.parameters()}
    assert not any(part.training for part in objective.teacher.modules())
    steps(student, objective, torch.optim.SGD(student.parameters(), 0.1), range(3))
    for flow in (teacher, objective.teacher):
        assert all(p.grad is None for p in flow.parameters())
        for name, value in flow.state_dict().items():
            assert torch.equal(value, held[name]), name
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("make", TAUGHT)
def test_the_teacher_drops_nothing_and_moves_along(make):
    student, objective = make(tiny_teacher(dropout=0.5))
    student, objective = student.float(), objective.float()
    assert objective.teacher.base.anchor.dtype == torch.float32
    values = []
    for seed in range(2):
        again = copy.deepcopy(objective)
        torch.manual_seed(seed)  # of dropout
        values.append(again(student, batch(), SOURCE).value)
    assert torch.equal(*values)
    assert values[0].dtype == torch.float32
    assert values[0].isfinite().all()


@pytest.mark.parametrize("make", ALL)
def test_validation_is_finite_draws_by_example_and_changes_nothing(make):
    student, objective, optimizer = started(make)
    steps(student, objective, optimizer, range(2))
    objective.eval()
    held = copy.deepcopy(objective.state_dict())
    whole = objective.validate(student, batch(), ExampleSeeds(0, range(8)))
    part = objective.validate(student, batch().first(3), ExampleSeeds(0, range(3)))
    assert objective.name in whole
    for name, values in whole.items():
        assert values.isfinite().all()
        torch.testing.assert_close(values[:3], part[name])
    for name, value in objective.state_dict().items():
        assert torch.equal(value, held[name]), name


def test_a_frozen_teacher_serves_many():
    teacher = tiny_teacher().eval().requires_grad_(False)
    _, first = inverse(teacher)
    _, second = flow_matching(teacher)
    assert first.teacher is second.teacher is teacher
    assert frozen(tiny_teacher()) is not frozen(tiny_teacher())


def test_a_constant_copy_computes_the_same_and_can_follow():
    student = tiny_velocity(tiny_teacher())
    held = constant(student)
    assert not list(held.parameters())
    x = torch.randn(3, 1, 4, 4).double()
    with torch.no_grad():
        assert torch.equal(held.velocity(x, 0.5, 1), student.velocity(x, 0.5, 1))
        for parameter in student.parameters():
            parameter += 1
    average(held, student, 0.25)
    for name, parameter in student.named_parameters():
        moved = dict(held.named_buffers())[name]
        torch.testing.assert_close(moved, parameter.detach() - 0.75)


def test_no_example_is_left_where_all_overflow():
    student, objective = flow_matching(tiny_teacher())
    for row in range(8):
        overflow(objective.teacher, row)
    loss = objective(student, batch(), SOURCE)
    assert not loss.value.any()
    loss.value.sum().backward()
    assert all(not p.grad.any() for p in student.parameters() if p.grad is not None)


def test_what_does_not_fit_is_refused():
    teacher = tiny_teacher()
    with pytest.raises(ConfigurationError, match="pass it a codec"):
        InverseRegression(tiny_inverse(teacher, codec=None), teacher)
    silent = tiny_teacher(noise=None)
    with pytest.raises(ConfigurationError, match="does not know its noise"):
        InverseRegression(tiny_inverse(silent), silent)
    with pytest.raises(ConfigurationError, match=r"class_dropout 1\.5"):
        FlowMatching(tiny_velocity(teacher), teacher, class_dropout=1.5)
    _, objective = independent(teacher)
    assert not objective.has_teacher
    with pytest.raises(ConfigurationError, match="pass a teacher"):
        _ = objective.teacher
    with pytest.raises(ConfigurationError, match="codec is"):
        FlowMatching(tiny_velocity(teacher), tiny_teacher(codec=Pixels(5)))
