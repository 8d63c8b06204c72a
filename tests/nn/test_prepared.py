"""Transformers made ready to decode, and made anew when their weights change."""

import copy

import pytest
import torch

from tarflow import ConfigurationError, ExampleSeeds, Networks, TarFlow
from tarflow.nn.packing import PackedTransformer
from tarflow.nn.transformer import CausalTransformer

from ..models import randomized, tiny_flow, tiny_network


@pytest.fixture
def network() -> CausalTransformer:
    """Five positions, in float32."""
    return tiny_network(2, 3, 5)


def test_on_cpus_float32_is_packed_and_the_rest_cast(network):
    assert isinstance(Networks().of(network), PackedTransformer)
    assert isinstance(
        Networks(torch.float32).of(copy.deepcopy(network).bfloat16()), PackedTransformer
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        ready = Networks(dtype).of(network)
        assert ready.dtype == dtype
        assert {parameter.dtype for parameter in ready.parameters()} == {dtype}
        assert not isinstance(ready, PackedTransformer)
    assert network.dtype == torch.float32


def test_what_needs_no_preparation_is_left_alone(network):
    double = network.double()
    assert Networks().of(double) is double
    assert Networks(torch.float64).of(double) is double


@pytest.mark.parametrize(
    ("weights", "dtype", "lowers"),
    [
        (torch.float32, None, False),
        (torch.float32, torch.float32, False),
        (torch.float32, torch.float64, False),
        (torch.float32, torch.float16, True),
        (torch.float32, torch.bfloat16, True),
        (torch.float64, None, False),
        (torch.float64, torch.float32, True),
        (torch.bfloat16, None, True),
        (torch.bfloat16, torch.float32, False),
        (torch.float16, torch.bfloat16, True),
    ],
)
def test_what_is_lower_than_exact(network, weights, dtype, lowers):
    network, networks = network.to(weights), Networks(dtype)
    assert networks.lowers(network) == lowers
    exact = torch.promote_types(weights, torch.float32)
    assert networks.exact.of(network).position_embedding.dtype == exact


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigurationError, match=r"dtype torch\.int32: choose one of torch\.fl"):
        Networks(torch.int32)


# --- Kept, and made anew --------------------------------------------------------------------


def train(network: CausalTransformer, optimizer_type) -> None:
    """Take a step."""
    optimizer = optimizer_type(network.parameters(), lr=0.1)
    network(torch.randn(2, 5, 2)).square().sum().backward()
    optimizer.step()


def load(network: CausalTransformer) -> None:
    """Read other weights."""
    network.load_state_dict(randomized(tiny_network(2, 3, 5), std=0.3, seed=3).state_dict())


def assign(network: CausalTransformer) -> None:
    """Read other weights into new parameters."""
    other = randomized(tiny_network(2, 3, 5), std=0.3, seed=3)
    network.load_state_dict(other.state_dict(), assign=True)


def replace(network: CausalTransformer) -> None:
    """Put another tensor into one parameter, as moves between devices do."""
    weight = network.blocks[1].mlp[2].weight
    weight.data = weight.data + 1


def write(network: CausalTransformer) -> None:
    """Change one number."""
    with torch.no_grad():
        network.proj_out.bias[1] += 1


def untie(network: CausalTransformer) -> None:
    """Replace a parameter."""
    network.proj_in.weight = torch.nn.Parameter(network.proj_in.weight.detach() + 1)


CHANGES = {
    "SGD": lambda network: train(network, torch.optim.SGD),
    "AdamW": lambda network: train(network, torch.optim.AdamW),
    "fused AdamW": lambda network: train(
        network, lambda *args, **options: torch.optim.AdamW(*args, **options, fused=True)
    ),
    "load_state_dict": load,
    "load_state_dict(assign=True)": assign,
    "data": replace,
    "in place": write,
    "parameter": untie,
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_weights_are_prepared_anew(network, dtype, change):
    networks, x = Networks(dtype), torch.randn(2, 5, 2)
    first = networks.of(network)
    assert networks.of(network) is first
    before = first(x).detach()
    change(network)
    second = networks.of(network)
    assert second is not first
    assert networks.of(network) is second
    after = second(x).detach()
    fresh = Networks(dtype).of(network)
    assert torch.equal(after, fresh(x))
    assert not torch.allclose(after, before, rtol=0, atol=1e-3)


def test_networks_of_several_transformers_are_kept_apart(network):
    networks, other = Networks(), tiny_network(2, 3, 5)
    first, second = networks.of(network), networks.of(other)
    assert first is not second
    assert networks.of(network) is first
    assert networks.of(other) is second
    assert networks.exact.of(network) is networks.exact.of(network)


def test_dropout_ends_with_training():
    network = randomized(CausalTransformer(2, 3, 5, 16, 1, head_dim=8, dropout=0.5), std=0.3)
    networks, x = Networks(), torch.randn(2, 5, 2)
    training = networks.of(network)
    assert not torch.equal(training(x), training(x))
    network.eval()
    torch.testing.assert_close(networks.of(network)(x), network(x).detach())


def test_batches_share_what_was_prepared():
    flow, networks = tiny_flow(num_classes=3), Networks(torch.bfloat16)
    source = ExampleSeeds(0, range(3))
    first = flow.sample(3, 1, source=source, networks=networks)
    ready = {key: kept[2] for key, kept in networks.ready.items()}
    assert len(ready) == 3
    assert torch.equal(flow.sample(3, 1, source=source, networks=networks), first)
    assert all(networks.ready[key][2] is kept for key, kept in ready.items())
    assert torch.equal(flow.sample(3, 1, source=source, dtype=torch.bfloat16), first)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_samples_follow_training(dtype):
    flow, networks = tiny_flow(), Networks(dtype)

    def sample(**options) -> torch.Tensor:
        return flow.sample(3, source=ExampleSeeds(0, range(3)), **options)

    before = sample(networks=networks)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=0.01)
    (-flow.log_prob(torch.randn(4, 2, 4, 4)).mean()).backward()
    optimizer.step()
    after = sample(networks=networks)
    assert not torch.allclose(after, before, rtol=0, atol=1e-2)
    assert torch.equal(after, sample(dtype=dtype))


def test_weights_made_in_inference_mode_can_be_prepared():
    with torch.inference_mode():
        flow = tiny_flow()
    networks = Networks()
    z = torch.randn(2, 4, 8)
    with torch.inference_mode():
        x = flow.inverse(z, networks=networks)
        expected = flow.inverse(z)
    assert isinstance(flow, TarFlow)
    assert torch.equal(x, expected)
