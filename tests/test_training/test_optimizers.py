"""Optimizers move what they should, as far as they should."""

import copy

import pytest
import torch
from torch import nn

from tarflow import ConfigurationError
from tarflow.training import adamw, muon, optimizers, warmup_cosine
from tarflow.training.optimizers import orthogonalize

from ..models import NETWORKS, tiny_flow


class Tiny(nn.Module):
    """A hidden matrix, another matrix, an embedding and biases."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 12)])
        self.proj_out = nn.Linear(12, 3)
        self.embedding = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return self.proj_out(self.blocks[0](x + self.embedding)).square().mean()


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def hidden(model: Tiny) -> nn.Parameter:
    return model.blocks[0].weight


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_singular_vectors(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    result = orthogonalize(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ result @ vt.mT
    off_diagonal = core - torch.diag_embed(torch.diagonal(core, dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def test_first_muon_step_is_an_orthogonal_matrix_of_the_documented_size(model):
    optimizer = muon(model.named_parameters(), lr=0.01, weight_decay=0.0)
    before = hidden(model).detach().clone()
    model(torch.randn(4, 6)).backward()
    gradient = hidden(model).grad.clone()
    optimizer.step()
    expected = orthogonalize(gradient[None])[0] * 0.01 * 0.2 * 12**0.5
    torch.testing.assert_close(before - hidden(model), expected)


def test_muon_moves_many_matrices_in_pieces_as_it_does_at_once(monkeypatch):
    weights, sizes = [], []

    def noted(matrices):
        sizes.append(len(matrices))
        return orthogonalize(matrices)

    monkeypatch.setattr(optimizers, "orthogonalize", noted)
    for limit in (2**26, 80):
        monkeypatch.setattr(optimizers, "PIECE", limit)
        torch.manual_seed(0)
        matrices = [nn.Parameter(torch.randn(4, 9)) for _ in range(5)]
        optimizer = muon((f"blocks.{i}", matrix) for i, matrix in enumerate(matrices))
        for _ in range(2):
            for matrix in matrices:
                matrix.grad = torch.randn(4, 9)
            optimizer.step()
        weights.append([matrix.detach() for matrix in matrices])
    assert sizes == [5, 5, 2, 2, 1, 2, 2, 1]
    torch.testing.assert_close(*weights)


def test_muon_moves_everything_but_hidden_matrices_as_adamw_does(model):
    twin = copy.deepcopy(model)
    optimizers = [
        make(m.named_parameters(), lr=0.01, weight_decay=0.1)
        for make, m in ((muon, model), (adamw, twin))
    ]
    for _ in range(3):
        x = torch.randn(4, 6)
        for m, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            m(x).backward()
        # hidden matrices part ways at the first step, so that later gradients differ
        twin.load_state_dict(model.state_dict())
        for m, p in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = m.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for name, parameter in model.named_parameters():
            if name != "blocks.0.weight":
                torch.testing.assert_close(parameter, twin.get_parameter(name))


def test_muon_takes_the_matrices_of_layers_and_leaves_what_they_read_of_the_condition():
    flow = tiny_flow(num_transforms=1, num_layers=1, num_classes=3, **NETWORKS["all parts"])
    names = {id(parameter): name for name, parameter in flow.named_parameters()}
    hidden, others, free = (
        {names[id(parameter)].removeprefix("transform.transforms.1.network.") for parameter in g}
        for g in (group["params"] for group in muon(flow.named_parameters()).param_groups)
    )
    layer = ("attention.qkv", "attention.proj", "attention.gate.linear", "mlp.up", "mlp.down")
    assert hidden == {f"blocks.0.{name}.weight" for name in layer}
    assert others == {f"{name}.weight" for name in ("proj_in", "proj_out", "modulation.linear")}
    assert {"blocks.0.attention.query_norm.weight", "modulation.linear.bias"} < free


def test_muon_state_survives_saving(model):
    optimizer = muon(model.named_parameters(), lr=0.01)
    model(torch.randn(4, 6)).backward()
    optimizer.step()
    twin = copy.deepcopy(model)
    restored = muon(twin.named_parameters(), lr=0.5)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    x = torch.randn(4, 6)
    for m, o in ((model, optimizer), (twin, restored)):
        o.zero_grad()
        m(x).backward()
        o.step()
    torch.testing.assert_close(hidden(model), hidden(twin), rtol=0, atol=0)


def test_only_matrices_decay(model):
    optimizer = adamw(model.named_parameters(), lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in ("blocks.0.weight", "proj_out.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_warmup_cosine_starts_low_peaks_after_warmup_and_ends_low(model):
    optimizer = adamw(model.named_parameters(), lr=0.1)
    schedule = warmup_cosine(optimizer, total_steps=20, warmup_steps=4, final_lr=1e-3)
    rates = []
    for _ in range(21):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1e-3)
    assert rates[4] == max(rates) == pytest.approx(0.1)
    assert rates[12] == pytest.approx((0.1 + 1e-3) / 2)
    assert rates[20] == pytest.approx(1e-3)


def test_warmup_longer_than_the_run_is_refused(model):
    with pytest.raises(ConfigurationError, match=r"warmup_steps 20 must be in \[0, tot"):
        warmup_cosine(adamw(model.named_parameters()), total_steps=20, warmup_steps=20)
