"""Flows of tokens: masks, orders, prefixes and vectors, in every decoder."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import tarflow
from tarflow import (
    ConfigurationError,
    ContextError,
    FixedFirst,
    Jacobi,
    LinearGuidance,
    PrefixConditioner,
    RotaryPositions,
    TarFlow,
    TokenConditioner,
    TokenFlow,
    UnitScale,
    VectorConditioner,
)

from .models import tiny_tokens
from .registry import CONDITIONS, Shuffled

CONDITIONERS = [VectorConditioner(3), TokenConditioner(5, 1), PrefixConditioner(2, 4)]
MASK = torch.tensor(
    [
        [True, True, True, False, False],
        [False, True, False, True, True],
        [True, True, True, True, True],
    ]
)
DECODERS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "windows": {"decoder": Jacobi(2, 1e-10)},
    "whole": {"decoder": Jacobi(64, 1e-10)},
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "conditioned": {"conditioners": CONDITIONERS},
    "shuffled": {"ordering": Shuffled(), "conditioners": CONDITIONERS},
    "rotary": {"positions": RotaryPositions()},
    "fixed first": {"first": FixedFirst()},
}


def conditions(kind: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The context of three examples of a kind of flow."""
    if "conditioners" not in KINDS[kind]:
        return {}
    return {name: torch.tensor(rows, dtype=dtype) for name, rows in CONDITIONS.items()}


@pytest.fixture
def x() -> Tensor:
    """Three sequences of five tokens."""
    return torch.randn(3, 5, 2, dtype=torch.float64)


def assert_jacobian(flow: TokenFlow, x: Tensor, context: dict[str, Tensor]) -> None:
    """Log-determinants are those of what is there."""
    _, log_det = flow(x, context)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, context)[0].sum(dim=0), x)
    for row, there in enumerate(MASK):
        block = jacobian[:, :, row][there][:, :, there].reshape(2 * there.sum(), -1)
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(block).logabsdet)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30, -3.0])
def test_what_stands_in_padding_changes_nothing_to_the_bit(kind, garbage, x):
    flow, context = tiny_tokens(**KINDS[kind]).double(), {**conditions(kind), "mask": MASK}
    other = x.where(MASK[..., None], garbage)
    assert torch.equal(flow(x, context)[0], flow(other, context)[0])
    assert torch.equal(flow.log_prob(x, context), flow.log_prob(other, context))
    assert torch.equal(flow.score(other, context), flow.score(x, context))
    z = torch.randn(3, 5, 2, dtype=torch.float64)
    spoiled = z.where(MASK[..., None], garbage)
    for options in DECODERS.values():
        restored = flow.inverse(z, context, **options)
        assert torch.equal(restored, flow.inverse(spoiled, context, **options))
        assert not restored[~MASK].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_density_is_that_of_what_is_there(kind, x):
    flow, context = tiny_tokens(**KINDS[kind]).double(), {**conditions(kind), "mask": MASK}
    z, log_det = flow(x, context)
    assert not z[~MASK].any()
    assert_jacobian(flow, x, context)
    for row, there in enumerate(MASK):
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z[row][there]).sum()
        torch.testing.assert_close(flow.log_prob(x, context)[row], normal + log_det[row])
    read = flow.read_context(context, x)
    assert flow.dims(read).tolist() == [6, 6, 10]


def test_padding_behind_is_as_if_it_were_not():
    """A transform that reads forwards knows nothing of what follows."""
    options = {"ordering": tarflow.Raster()}
    long, x = tiny_tokens(5, **options).double(), torch.randn(2, 5, 2, dtype=torch.float64)
    short = tiny_tokens(3, **options).double()
    weights = long.state_dict()
    for name, value in short.state_dict().items():
        weights[name] = weights[name][: len(value)] if "position" in name else weights[name]
    short.load_state_dict(weights)
    mask = torch.tensor([[True, True, True, False, False]]).expand(2, -1)
    expected = short.log_prob(x[:, :3])
    torch.testing.assert_close(long.log_prob(x, {"mask": mask}), expected)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_undoes_the_transforms(kind, decoder, mask, x):
    flow, context = tiny_tokens(**KINDS[kind]).double(), conditions(kind)
    context = context if mask is None else {**context, "mask": mask}
    x = x if mask is None else x.where(mask[..., None], 0.0)
    z, log_det = flow(x, context)
    inverse = flow.decode(z, context, **DECODERS[decoder])
    torch.testing.assert_close(inverse.x, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(inverse.log_det, log_det, rtol=0, atol=1e-8)
    assert inverse.report.certified.all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_guided_mixture_of_vectors_is_decoded_alike(kind):
    flow, context = tiny_tokens(**KINDS[kind]).double(), conditions(kind)
    context |= {"mask": MASK}
    z = torch.randn(3, 5, 2, dtype=torch.float64)
    rule = LinearGuidance(1.5, temperature=0.8)
    expected = flow.inverse(z, context, guidance=rule)
    if "conditioners" in KINDS[kind]:
        assert not torch.allclose(expected, flow.inverse(z, context))
    for options in DECODERS.values():
        found = flow.inverse(z, context, guidance=rule, **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_recorded_steps_are_those_of_the_modules(kind):
    flow, context = tiny_tokens(**KINDS[kind]), conditions(kind, torch.float32)
    context |= {"mask": MASK}
    for rule in (None, LinearGuidance(1.5, temperature=0.8)):
        z = torch.randn(3, 5, 2)
        exact = flow.double().inverse(z.double(), context, guidance=rule)
        for options in ({}, {"dtype": torch.float32}):
            found = flow.float().inverse(z, context, guidance=rule, **options)
            torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-4)


def test_a_conditional_density_depends_on_every_condition(x):
    flow, context = tiny_tokens(conditioners=CONDITIONERS).double(), conditions("conditioned")
    before = flow.log_prob(x, context)
    for name in context:
        changed = flow.log_prob(x, {**context, name: context[name] + 0.1})
        given = ~context[name].isnan().flatten(1).all(dim=1)
        assert ((changed - before).abs() > 1e-9).tolist() == given.tolist()
        without = {each: rows for each, rows in context.items() if each != name}
        null = {**context, name: torch.full_like(context[name], torch.nan)}
        assert torch.equal(flow.log_prob(x, without), flow.log_prob(x, null))


def test_the_first_position_depends_on_its_context(x):
    for first, differs in ((tarflow.StartToken(), True), (FixedFirst(), False)):
        flow = tiny_tokens(first=first, conditioners=[VectorConditioner(1)], num_transforms=1)
        flow = flow.double()
        z = [flow(x, {"vector": torch.full((3, 1), value)})[0] for value in (0.0, 1.0)]
        assert (z[0][:, 0] != z[1][:, 0]).all() == differs
        assert (z[0][:, 1] != z[1][:, 1]).all()


def test_a_position_knows_its_own_token_and_those_before_it(x):
    flow = tiny_tokens(conditioners=[TokenConditioner(5, 1)], num_transforms=1).double()

    def shifts(tokens):
        return flow(x[:1], {"tokens": tokens[None]})[0][0].sum(dim=1)

    jacobian = torch.autograd.functional.jacobian(shifts, torch.randn(5, 1).double())[..., 0]
    assert torch.equal(jacobian != 0, torch.ones(5, 5).tril().bool())


def test_an_order_is_that_of_dependence(x):
    flow = tiny_tokens(num_transforms=1).double()
    order = torch.tensor([3, 0, 4, 1, 2])
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flow(x[None], {"order": order[None]})[0][0].sum(dim=1), x[0]
    ).any(dim=2)
    rank = order.argsort()
    assert torch.equal(jacobian, rank[:, None] >= rank)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_flow_itself_is_none(kind, x):
    flow, context = tiny_tokens(**KINDS[kind]).double(), conditions(kind)
    own = {**context, "order": torch.arange(5).expand(3, -1)}
    torch.testing.assert_close(flow.log_prob(x, own), flow.log_prob(x, context))
    other = {**context, "order": torch.tensor([[1, 0, 2, 3, 4]] * 3)}
    assert not torch.allclose(flow.log_prob(x, other), flow.log_prob(x, context))


@pytest.mark.parametrize("kind", KINDS)
def test_orders_and_masks_go_together(kind, x):
    flow, context = tiny_tokens(**KINDS[kind]).double(), conditions(kind)
    order = torch.tensor([[4, 1, 0, 3, 2], [0, 2, 1, 3, 4], [2, 0, 3, 1, 4]])
    context |= {"order": order, "mask": MASK}
    x = x.where(MASK[..., None], 0.0)
    z, _ = flow(x, context)
    assert not z[~MASK].any()
    assert_jacobian(flow, x, context)
    for options in DECODERS.values():
        restored = flow.inverse(z, context, **options)
        torch.testing.assert_close(restored, x, rtol=0, atol=1e-8)


def test_gradients_of_samples_reach_contexts():
    flow = tiny_tokens(3, 1, conditioners=[VectorConditioner(2), PrefixConditioner(1, 2)])
    flow = flow.double()
    z = torch.randn(2, 3, 1, dtype=torch.float64, requires_grad=True)
    parts = [torch.randn(2, *shape).double().requires_grad_() for shape in ((2,), (1, 2))]
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def sample(z, vector, prefix):
        context = {"vector": vector, "prefix": prefix, "mask": mask}
        inverse = flow.decode(z, context)
        return inverse.x, inverse.log_det

    assert gradcheck(sample, (z, *parts))


def test_samples_and_their_density_come_in_one_pass():
    flow, context = tiny_tokens(conditioners=CONDITIONERS).double(), conditions("conditioned")
    x, log_prob = flow.sample_and_log_prob(3, {**context, "mask": MASK})
    torch.testing.assert_close(log_prob, flow.log_prob(x, {**context, "mask": MASK}))


def test_log_prob_under_transforms_of_functions(x):
    flow, context = tiny_tokens(conditioners=CONDITIONERS).double(), conditions("conditioned")
    context |= {"mask": MASK, "order": torch.tensor([[4, 1, 0, 3, 2]] * 3)}

    def one(x, parts):
        return flow.log_prob(x[None], {name: part[None] for name, part in parts.items()})[0]

    each = torch.func.vmap(one)(x, context)
    torch.testing.assert_close(each, flow.log_prob(x, context))
    gradient = torch.func.vmap(torch.func.grad(one))(x, context)
    torch.testing.assert_close(gradient, flow.score(x, context))


def test_a_learned_variance_is_that_of_what_is_there():
    flow = tiny_tokens(scale=UnitScale())
    z = torch.full((2, 5, 2), 3.0)
    mask = torch.tensor([[True, False, False, False, True], [True, True, False, False, False]])
    moment = flow.base.moment(z.where(mask[..., None], 0.0), mask)
    assert moment[:, 0].tolist() == [9.0, 9.0, 1.0, 1.0, 9.0]


def test_a_flow_of_tokens_is_saved_and_loaded(tmp_path, x):
    flow = tiny_tokens(conditioners=CONDITIONERS)
    flow.standardize(5 * x.float() + 3, {"mask": MASK})
    flow.save_pretrained(tmp_path)
    again, context = tarflow.load(tmp_path), conditions("conditioned", torch.float32)
    assert torch.equal(flow.log_prob(x.float(), context), again.log_prob(x.float(), context))


def test_for_tokens_is_a_flow_of_tokens():
    flow = TarFlow.for_tokens(4, 3, num_transforms=2, num_layers=1, model_dim=16, head_dim=8)
    assert flow.example_shape == (4, 3)
    assert flow.sample(2).shape == (2, 4, 3)


WRONG = {
    "mask": (torch.ones(3, 4, dtype=torch.bool), "true or false for each of the 5 positions"),
    "mask of numbers": (torch.ones(3, 5), "true or false"),
    "mask of nothing": (torch.zeros(3, 5, dtype=torch.bool), "every row of a mask needs a true"),
    "order": (torch.zeros(3, 5, dtype=torch.long), "each comes once"),
    "vector": (torch.ones(3, 2), "pass one of \\('examples', 3\\)"),
    "vector of truth": (torch.ones(3, 3, dtype=torch.bool), "real numbers, not torch.bool"),
    "vector that is not finite": (torch.tensor([[1.0, math.inf, 0.0]] * 3), "not finite"),
    "tokens": (torch.ones(3, 4, 1), "pass one of \\('examples', 5, 1\\)"),
    "prefix": (torch.ones(3, 2, 5), "pass one of \\('examples', 2, 4\\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_part_of_a_context_is_refused(case, x):
    rows, message = WRONG[case]
    flow = tiny_tokens(conditioners=CONDITIONERS).double()
    with pytest.raises(ContextError, match=message):
        flow.inverse(x, {case.split()[0]: rows})


def test_circles_are_for_vectors():
    with pytest.raises(ConfigurationError, match=r"use TarFlow\.for_vectors"):
        tiny_tokens(supports=tarflow.Circle())
