"""Attention and its caches."""

import pytest
import torch

from tarflow.nn.attention import (
    CausalSelfAttention,
    KVCache,
    Window,
    attend,
)

from ..models import randomized


@pytest.fixture
def attention() -> CausalSelfAttention:
    """Two heads of width 4, in float64."""
    return randomized(CausalSelfAttention(8, 4)).double()


@pytest.mark.parametrize("window", [1, 3, 6])
def test_the_last_positions_attend_to_what_precedes_them(window):
    q, k, v = torch.randn(3, 2, 2, 6, 4, dtype=torch.float64)
    logits = q @ k.mT / 4**0.5
    logits = logits.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    expected = (logits.softmax(dim=-1) @ v)[:, :, -window:]
    torch.testing.assert_close(attend(q[:, :, -window:], k, v), expected)


def test_heads_and_projections_are_those_of_the_equations(attention):
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    mask = torch.ones(5, 5).triu(1).bool()
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        logits = q[..., head] @ k[..., head].mT / 2
        heads.append(logits.masked_fill(mask, -torch.inf).softmax(dim=-1) @ v[..., head])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=-1)))


def test_temperature_divides_the_logits_of_its_own_example(attention):
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    tempered = attention(x, Window(temperature=torch.tensor([1.0, 0.5], dtype=torch.float64)))
    with torch.no_grad():
        attention.qkv.weight[:8] *= 2  # queries twice as large
        attention.qkv.bias[:8] *= 2
    doubled = attention(x)
    torch.testing.assert_close(tempered[1], doubled[1])
    assert not torch.allclose(tempered[0], doubled[0])


def test_a_cache_returns_what_it_holds_up_to_the_window():
    cache, new = KVCache(num_layers=2, length=5), torch.randn(2, 1, 2, 4, 3)
    cache.update(1, 0, *new[..., :3, :])
    keys, values = cache.update(1, 3, *new[..., 3:, :])
    assert torch.equal(keys, new[0])
    assert torch.equal(values, new[1])
    assert cache.keys[0] is None


def test_a_window_is_overwritten_without_rewinding():
    cache, new, other = KVCache(1, 5), *torch.randn(2, 2, 1, 2, 5, 3)
    cache.update(0, 0, *new)
    keys, values = cache.update(0, 1, *other[..., 1:3, :])
    assert torch.equal(keys, torch.cat([new[0][..., :1, :], other[0][..., 1:3, :]], dim=-2))
    assert torch.equal(values, torch.cat([new[1][..., :1, :], other[1][..., 1:3, :]], dim=-2))


def test_a_cache_takes_the_dtype_of_what_it_holds():
    cache, new = KVCache(1, 5), torch.randn(1, 2, 3, 4, dtype=torch.float64)
    keys, values = cache.update(0, 0, new, new)
    assert keys.dtype == values.dtype == torch.float64


def test_a_cache_is_written_in_place():
    cache, new = KVCache(1, 5), torch.randn(1, 2, 1, 4)
    first, _ = cache.update(0, 0, new, new)
    second, _ = cache.update(0, 1, new, new)
    assert first.data_ptr() == second.data_ptr()
    assert cache.keys[0].shape == (1, 2, 5, 4)


def test_dropout_acts_in_training_only():
    attention, x = randomized(CausalSelfAttention(8, 4, dropout=0.5)), torch.randn(2, 5, 8)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_a_head_must_divide_the_width():
    with pytest.raises(ValueError, match="model_dim 8 is not a multiple of head_dim 3"):
        CausalSelfAttention(8, 3)
