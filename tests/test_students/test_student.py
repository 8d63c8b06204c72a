"""Every student keeps the same contract."""

import math

import pytest
import torch

import tarflow
from tarflow import (
    CheckpointError,
    ConfigurationError,
    ContextError,
    Euler,
    ExampleSeeds,
    Flow,
    GaussianNoise,
    Heun,
    InverseStudent,
    Pixels,
    RootMeanSquare,
    RotaryGrid,
    ShortcutStudent,
    StandardNormal,
    Student,
    TarFlow,
    UniformLevels,
    VelocityStudent,
    placed,
)

from ..models import MODERN, NETWORKS, tiny_flow, tiny_student

KINDS = [InverseStudent, VelocityStudent, ShortcutStudent]
LABELS = torch.tensor([0, -1, 2])


@pytest.fixture(scope="module")
def flow():
    names = ("cat", "dog", "cow")
    told = {"codec": Pixels(256), "noise": GaussianNoise(0.1), "class_names": names}
    return tiny_flow(patch_size=(2, 1, 2), num_classes=3, **told).eval()


@pytest.fixture(params=KINDS)
def student(request, flow):
    return tiny_student(request.param, flow).eval()


@pytest.fixture
def z():
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_what_a_flow_tells(student, flow):
    assert student.image_shape == flow.image_shape == (2, 4, 4)
    assert student.num_dims == flow.num_dims == 32
    assert student.codec == flow.codec
    assert student.noise is None
    assert (student.num_classes, student.class_names) == (3, ("cat", "dog", "cow"))
    assert [each.part for each in student.conditioners] == ["label"]
    assert student.base.shape == (4, 8)
    assert student.base.anchor.dtype == torch.float32
    assert student.kind is type(student)
    assert isinstance(student, Student)


def test_an_inverse_has_a_block_for_each_transform_and_one_more(flow):
    student = tiny_student(InverseStudent, flow)
    assert student.description.num_blocks == 4
    assert len(student.network.blocks) == 8


def test_shapes(student, z):
    assert student.generate(z, LABELS, weight=1.0).shape == z.shape
    assert student.sample(5, 1).shape == (5, 2, 4, 4)
    assert student.sample(0).shape == (0, 2, 4, 4)
    assert not student.sample(2).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_student_is_simple(kind, flow, z):
    student = kind.of(flow, num_layers=1, model_dim=16, head_dim=8)
    expected = torch.zeros_like(z) if kind is InverseStudent else z
    assert torch.equal(student.generate(z, LABELS, weight=2.0), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_noise_of_any_dtype(student, z, dtype):
    x = student.generate(z.to(dtype), LABELS)
    assert x.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(x.float(), student.generate(z, LABELS), rtol=1e-2, atol=1e-2)


def test_float64(student, z):
    wide = student.remade().double()
    wide.load_state_dict(student.state_dict())
    wide = wide.double().eval()
    x = wide.generate(z.double(), LABELS, weight=0.5)
    assert x.dtype == wide.sample(1).dtype == torch.float64
    torch.testing.assert_close(
        x, student.generate(z, LABELS, weight=0.5).double(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(student, z, dtype):
    exact = student.generate(z, LABELS, weight=0.5)
    with torch.autocast("cpu", dtype=dtype):
        mixed = student.generate(z, LABELS, weight=0.5)
    half = student.to(dtype)
    lowered = half.generate(z, LABELS, weight=0.5)
    for x in (mixed, lowered, half.sample(3)):
        assert x.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(lowered, exact, rtol=0.05, atol=0.05)
    student.float()


@pytest.mark.parametrize("parts", [*NETWORKS.values()], ids=[*NETWORKS])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind(kind, parts, flow, z):
    student = tiny_student(kind, flow, num_layers=1, **parts).eval()
    x = student.generate(z, LABELS, weight=1.0)
    assert x.isfinite().all()
    changed = z.clone()
    changed[:, :, -1, -1] += 1
    # Every patch sees every other.
    assert ((student.generate(changed, LABELS, weight=1.0) - x).abs() > 0).all()


def test_gradients_reach_everything(student, z):
    z.requires_grad_()
    weight = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    student.generate(z, LABELS, weight=weight).square().sum().backward()
    for name, each in [("z", z), ("weight", weight), *student.named_parameters()]:
        assert each.grad is not None, name
        assert each.grad.isfinite().all(), name
        if "step_embedding" not in name:  # d = 0: it is zero, and learns nothing
            assert each.grad.any(), name
    student.zero_grad()


def test_the_gradient_is_that_of_finite_differences(student, z):
    student = student.double()
    z, direction = z.double().requires_grad_(), torch.randn(z.shape, dtype=torch.float64)

    def value(z):
        return student.generate(z, LABELS, weight=0.7).sin().sum()

    [gradient] = torch.autograd.grad(value(z), z)
    step = 1e-6 * direction
    slope = (value(z.detach() + step) - value(z.detach() - step)).item() / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6)
    student.float()


def test_the_weight_enters_the_network(student, z):
    plain, half, one = (student.generate(z, LABELS, weight=w) for w in (0.0, 0.5, 1))
    assert torch.equal(plain, student.generate(z, LABELS))
    assert len({x.sum().item() for x in (plain, half, one)}) == 3
    rows = student.generate(z, LABELS, weight=torch.tensor([0.0, 0.5, 1.0]))
    mixed = torch.stack([plain[0], half[1], one[2]])
    torch.testing.assert_close(rows, mixed, rtol=0, atol=1e-6)


def test_the_label_enters_the_network(student, z):
    found = [student.generate(z, label) for label in (0, 1, -1)]
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], student.generate(z))
    rows = torch.eye(3)[[0, 0, 0]]
    torch.testing.assert_close(student.generate(z, rows), found[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_sample_depends_on_seed_and_index_alone(student, weight):
    whole = student.sample(5, 1, weight=weight, source=ExampleSeeds(3, range(5)))
    parts = [
        student.sample(len(r), 1, weight=weight, source=ExampleSeeds(3, r))
        for r in (range(2), range(2, 3), range(3, 5))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)
    other = student.sample(5, 1, weight=weight, source=ExampleSeeds(4, range(5)))
    assert not torch.equal(other, whole)


def test_samples_of_a_seed_start_at_the_noise_of_the_flow(student, flow):
    source = ExampleSeeds(0, range(4))
    z = placed(flow, flow.base.sample(4, source))
    assert torch.equal(student.draw_noise(4, source), z)
    assert torch.equal(student.sample(4, 2, source=source), student.generate(z, 2))


def test_one_that_is_not_finite_leaves_the_others_alone(student, z):
    bad = z.clone()
    bad[1, 0, 0, 0] = torch.nan
    x, expected = student.generate(bad, LABELS), student.generate(z, LABELS)
    assert x[1].isnan().all()
    torch.testing.assert_close(x[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-6)


def test_saved_and_loaded(student, z, tmp_path):
    student.save_pretrained(tmp_path, "a student")
    loaded = tarflow.load(tmp_path)
    assert type(loaded) is type(student)
    assert loaded.description == student.description
    assert not loaded.training
    steps = student.allowed_steps[0]
    for label in (1, LABELS):
        x = loaded.generate(z, label, weight=0.3, steps=steps)
        assert torch.equal(x, student.generate(z, label, weight=0.3, steps=steps))
    type(student).from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="which is not a TarFlow"):
        TarFlow.from_pretrained(tmp_path)


def test_parts_are_saved(flow, z, tmp_path):
    parts = {"layer": MODERN, "positions": RotaryGrid(), "output_norm": RootMeanSquare()}
    student = tiny_student(VelocityStudent, flow, solver=Heun(), steps=3, **parts).eval()
    student.save_pretrained(tmp_path)
    loaded = tarflow.load(tmp_path)
    assert (loaded.solver, loaded.steps, loaded.passes()) == (Heun(), 3, 6)
    assert torch.equal(loaded.generate(z, 1), student.generate(z, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_depth_is_refused_before_it_is_made(kind, flow, tmp_path):
    tiny_student(kind, flow).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text()
    field = "num_blocks" if kind is InverseStudent else "num_layers"
    number = 4 if kind is InverseStudent else 2
    config.write_text(text.replace(f'"{field}": {number}', f'"{field}": 10000000'))
    with pytest.raises(CheckpointError, match=f"{field} 10000000 does not fit"):
        tarflow.load(tmp_path)


def test_another_of_the_same_description(student):
    other = student.remade()
    assert other.description == student.description
    assert other.state_dict().keys() == student.state_dict().keys()


def test_a_student_without_classes(z):
    flow = tiny_flow()
    for kind in KINDS:
        student = tiny_student(kind, flow).eval()
        assert student.num_classes == 0
        assert student.sample(2, weight=1.0).isfinite().all()
        with pytest.raises(ContextError, match="this model has no classes"):
            student.generate(z, LABELS)


def test_a_student_of_noise_levels_is_told_none(z):
    student = tiny_student(InverseStudent, tiny_flow(num_classes=3, noise=UniformLevels()))
    assert [each.part for each in student.conditioners] == ["label"]
    with pytest.raises(ContextError, match="noise_level is unknown: this model knows label"):
        student.generate(z, {"noise_level": 0.1})


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (3, "labels go from 3 to 3, but this model knows 0 ... 2"),
        (torch.tensor([0, 7]), "labels go from 0 to 7"),
        (torch.tensor([0.5, 1.0]), "labels are integers, not torch.float32"),
        ({"label": [0]}, r"label has shape \(1,\), but there are 2 examples"),
        ({"label": "cat"}, "labels are integers, not 'cat'"),
        ({"vector": [1.0, 2.0]}, "vector is unknown: this model knows label"),
    ],
)
def test_wrong_labels(student, label, message):
    with pytest.raises(ContextError, match=message):
        student.sample(2, label)


def test_an_unknown_label_shows_where_values_are_not_looked_at(student, z):
    x = student.generate(z, torch.tensor([0, 5, 1]))
    assert x.isnan().flatten(1).all(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (math.nan, "weight nan must be finite"),
        (torch.tensor(math.inf), "weight inf must be finite"),
        (True, "weight True must be a number"),
        (torch.zeros(2), r"weight of shape \(2,\) and torch.float32: give a number, or one for"),
        (torch.zeros(3, 1), "give a number, or one for each of the 3 examples"),
        (torch.ones(3, dtype=torch.bool), "and torch.bool"),
    ],
)
def test_wrong_weights(student, z, weight, message):
    with pytest.raises(ConfigurationError, match=message):
        student.generate(z, weight=weight)


def test_wrong_noise(student):
    with pytest.raises(ConfigurationError, match=r"z has shape \(3, 4, 8\), but this model takes"):
        student.generate(torch.zeros(3, 4, 8))


@pytest.mark.parametrize(
    ("steps", "message"),
    [(0, "at least 1"), (1001, "takes at most 1"), (True, "must be an integer")],
)
def test_wrong_steps(student, z, steps, message):
    with pytest.raises(ConfigurationError, match=message):
        student.generate(z, steps=steps)


def test_an_inverse_takes_one_step(flow, z):
    student = tiny_student(InverseStudent, flow)
    assert (student.steps, student.passes(), student.passes(1)) == (1, 1, 1)
    assert torch.equal(student.generate(z, steps=1), student.generate(z))
    with pytest.raises(ConfigurationError, match="steps 2: InverseStudent takes at most 1"):
        student.generate(z, steps=2)


def test_hidden_states_of_every_block(flow, z):
    student = tiny_student(InverseStudent, flow).eval()
    x, hidden = student.states(z, LABELS, weight=0.5)
    assert torch.equal(x, student.generate(z, LABELS, weight=0.5))
    assert [each.shape for each in hidden] == [(3, 4, 16)] * 4
    seen = []
    for block in student.network.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    student.generate(z, LABELS, weight=0.5)
    assert len(seen) == 8
    assert all(torch.equal(a, b) for a, b in zip(hidden, seen[1::2], strict=True))


def test_hidden_states_have_gradients_also_where_layers_are_computed_again(flow, z):
    student = tiny_student(InverseStudent, flow)
    gradients = []
    for student.network.num_recomputed in (0, 5):
        student.zero_grad()
        x, hidden = student.states(z, LABELS)
        (x.sum() + sum(each.square().mean() for each in hidden)).backward()
        gradients.append([p.grad.clone() for p in student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("solver", [Euler(), Heun()])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", [VelocityStudent, ShortcutStudent])
def test_samples_follow_the_velocity(kind, solver, steps, flow, z):
    if kind is ShortcutStudent and solver == Heun():
        pytest.skip("its steps are those of Euler")
    student = tiny_student(kind, flow, solver=solver).eval().double()
    z, told = z.double(), {"context": LABELS, "weight": 0.5}
    told["step"] = 1 / steps if kind is ShortcutStudent else 0.0
    x, size = z, 1 / steps
    for k in range(steps):
        t = 1 - k * size
        slope = student.velocity(x, t, **told)
        if solver == Heun():
            there = student.velocity(x - size * slope, t - size, **told)
            slope = (slope + there) / 2
        x = x - size * slope
    torch.testing.assert_close(student.generate(z, LABELS, weight=0.5, steps=steps), x)
    assert student.passes(steps) == steps * (2 if solver == Heun() else 1)


@pytest.mark.parametrize("kind", [VelocityStudent, ShortcutStudent])
def test_time_and_step_enter_the_network(kind, flow, z):
    student = tiny_student(kind, flow).eval()
    plain = student.velocity(z, 0.5, LABELS)
    assert not torch.equal(plain, student.velocity(z, 0.25, LABELS))
    assert not torch.equal(plain, student.velocity(z, 0.5, LABELS, step=0.5))
    rows = student.velocity(z, torch.tensor([0.5, 0.0, 1.0]), LABELS)
    torch.testing.assert_close(rows[0], plain[0], rtol=0, atol=1e-6)
    assert not torch.equal(rows[1:], plain[1:])


def test_default_steps_and_weights_of_one_serve_the_other(flow, z, tmp_path):
    student = tiny_student(VelocityStudent, flow, steps=3).eval()
    assert torch.equal(student.generate(z), student.generate(z, steps=3))
    shortcut = tiny_student(ShortcutStudent, flow, steps=3).eval()
    shortcut.load_state_dict(student.state_dict())
    assert torch.equal(shortcut.velocity(z, 0.5), student.velocity(z, 0.5))


def test_a_shortcut_takes_the_steps_of_euler(flow):
    with pytest.raises(ConfigurationError, match=r"solver Heun\(\) is not a Euler: pass Euler"):
        tiny_student(ShortcutStudent, flow, solver=Heun())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "patch_size 3 does not divide the image size 4 x 4"),
        ({"model_dim": 0}, "model_dim 0 must be at least 1"),
        ({"head_dim": 7}, "model_dim 16 is not a multiple of head_dim 7"),
        ({"dropout": 1.0}, "dropout 1.0 is out of range"),
        ({"num_classes": 2}, "class_names .*: give one for each of the 2 classes"),
    ],
)
def test_wrong_sizes(kind, options, message, flow):
    with pytest.raises(ConfigurationError, match=message):
        tiny_student(kind, flow, **options)


def test_a_flow_without_images_tells_nothing():
    flow = Flow([], StandardNormal(2, 2))
    with pytest.raises(ConfigurationError, match="the flow does not know the shape"):
        InverseStudent.of(flow)


def test_dropout_is_that_of_training(flow, z):
    student = tiny_student(InverseStudent, flow, dropout=0.5)
    assert not torch.equal(student.generate(z), student.generate(z))
    student.eval()
    assert torch.equal(student.generate(z), student.generate(z))
