"""Transformers made ready to decode, and made anew when their weights change."""

import copy
import operator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tarflow import ConfigurationError, ExampleSeeds, Networks, TarFlow
from tarflow.nn.packing import PackedTransformer
from tarflow.nn.products import has_kernels
from tarflow.nn.transformer import CausalTransformer

from ..models import randomized, tiny_flow, tiny_network


@pytest.fixture
def network() -> CausalTransformer:
    """Five positions, in float32."""
    return tiny_network(2, 3, 5)


def test_on_cpus_what_has_kernels_is_packed_and_the_rest_cast(network):
    assert isinstance(Networks().of(network), PackedTransformer)
    assert isinstance(
        Networks(torch.float32).of(copy.deepcopy(network).bfloat16()), PackedTransformer
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        ready = Networks(dtype).of(network)
        assert isinstance(ready, PackedTransformer) == has_kernels(dtype)
        assert ready.dtype == dtype
        modules = getattr(ready, "network", ready)
        assert {parameter.dtype for parameter in modules.parameters()} == {dtype}
    for name in ("bfloat16_products", "float16_weights"):
        ready = Networks(name).of(network)
        assert isinstance(ready, PackedTransformer)
        assert ready.dtype == torch.float32
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
        (torch.float32, "float32", False),
        (torch.float32, "float16", True),
        (torch.float32, "bfloat16_products", True),
        (torch.float32, "float16_weights", True),
        (torch.float64, "float16_weights", True),
        (torch.bfloat16, "bfloat16_products", True),
    ],
)
def test_what_is_lower_than_exact(network, weights, dtype, lowers):
    network, networks = network.to(weights), Networks(dtype)
    assert networks.lowers(network) == lowers
    exact = torch.promote_types(weights, torch.float32)
    assert networks.exact.of(network).dtype == exact


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigurationError, match=r"dtype torch\.int32: choose one of torch\.fl"):
        Networks(torch.int32)
    with pytest.raises(ConfigurationError, match=r"dtype half: .*torch.float64, bfloat16_product"):
        Networks("half")


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


def copy_data(network: CausalTransformer) -> None:
    """Write where neither versions nor addresses tell of it."""
    weight = network.blocks[0].attention_norm.weight
    weight.data.copy_(weight.data + 0.5)


def adapt(network: CausalTransformer) -> None:
    """Put a module around another."""
    network.blocks[0].mlp[2] = torch.nn.Sequential(network.blocks[0].mlp[2], torch.nn.Tanh())


def swap(network: CausalTransformer) -> None:
    """Replace a layer by one of the same type."""
    network.blocks[1] = randomized(tiny_network(2, 3, 5), std=0.3, seed=3).blocks[1]


def scale_norm(network: CausalTransformer) -> None:
    """Change a number that is not a tensor."""
    network.blocks[0].mlp_norm.eps = 1.0


def hook(network: CausalTransformer) -> None:
    """Add a hook."""
    network.proj_out.register_forward_hook(lambda module, inputs, output: output + 1)


def untie(network: CausalTransformer) -> None:
    """Replace a parameter."""
    network.proj_in.weight = torch.nn.Parameter(network.proj_in.weight.detach() + 1)


def transpose(network: CausalTransformer) -> None:
    """Read the memory of a parameter in another order."""
    weight = network.blocks[0].attention.proj.weight
    weight.data = weight.data.mT


def retype(network: CausalTransformer) -> None:
    """Give a module, in place, another type."""
    network.blocks[1].mlp[1].__class__ = torch.nn.Tanh


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
    "data.copy_": copy_data,
    "adapter": adapt,
    "layer": swap,
    "setting": scale_norm,
    "hook": hook,
    "strides": transpose,
    "type": retype,
}


class Scaled(torch.nn.GELU):
    """A GELU whose result is multiplied by a number in a collection."""

    def __init__(self, gains):
        super().__init__()
        self.gains = gains

    def forward(self, x):
        """Apply the layer."""
        return self.gains[0] * super().forward(x)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64, "bfloat16_products"])
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


@pytest.mark.parametrize("gains", [[1.0], {0: 1.0}, {}])
def test_a_number_in_a_collection_is_seen(network, gains):
    network.blocks[0].mlp[1] = Scaled(gains)
    networks, x = Networks(), torch.randn(2, 5, 2)
    first = networks.of(network)
    assert networks.of(network) is first
    gains[0] = 2.0
    torch.testing.assert_close(networks.of(network)(x), network(x).detach())
    assert networks.of(network) is not first


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
    ready = [networks.of(t.network) for t in flow.transform if t.num_decoded]
    assert len(ready) == 3
    assert torch.equal(flow.sample(3, 1, source=source, networks=networks), first)
    again = [networks.of(t.network) for t in flow.transform if t.num_decoded]
    assert all(map(operator.is_, again, ready))
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


def test_a_hook_is_seen_that_tells_no_weights_of_it(network):
    networks, x, seen = Networks(), torch.randn(2, 5, 2), []
    networks.of(network)(x)
    handle = network.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    networks.of(network)(x)
    assert seen == [1]
    handle.remove()
    networks.of(network)(x)
    assert seen == [1]


def test_a_network_that_is_ready_is_not_prepared_while_another_precision_is(network):
    networks, lowered = Networks(), Networks("bfloat16_products")
    with torch.autocast("cpu", torch.bfloat16):
        half = networks.of(network)
        assert lowered.of(network).dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert networks.of(network).dtype == torch.float32


def test_not_a_number_among_weights_does_not_prepare_anew(network):
    networks = Networks()
    network.proj_out.bias.data[0] = torch.nan
    assert networks.of(network) is networks.of(network)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, "bfloat16_products", "float16_weights"])
def test_eight_threads_may_use_one_flow_and_one_networks(dtype):
    flow, networks = tiny_flow(num_transforms=2, num_layers=1, num_classes=3), Networks(dtype)

    def sample(seed: int, **options) -> torch.Tensor:
        source = ExampleSeeds(seed, range(2 + seed % 3))
        return flow.sample(2 + seed % 3, 1, source=source, **options)

    expected = [sample(seed, networks=Networks(dtype)) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: sample(seed, networks=networks), range(8)))
    assert all(map(torch.equal, found, expected))


def test_threads_that_train_and_decode(network):
    """Each decode is of weights of one moment, and the last of the last."""
    networks, x = Networks(), torch.randn(2, 5, 2)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        for value in range(5):
            network.proj_out.bias.data.fill_(value)
            expected = network(x)
            for found in pool.map(lambda _: networks.of(network)(x).detach(), range(8)):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


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
