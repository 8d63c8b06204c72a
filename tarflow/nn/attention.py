"""Causal self-attention, with an explicit key/value cache for decoding."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from tarflow.errors import ConfigurationError
from tarflow.nn.cached_kernels import cached_kernel
from tarflow.nn.gates import Gate
from tarflow.nn.kernels import AttentionKernel, FullAttention, TorchAttention
from tarflow.nn.norms import Norm
from tarflow.nn.positions import turn
from tarflow.nn.recording import up_to

MANY_HEADS = 32
"""Examples times heads from which one query is attended to by two matrix products on CPUs."""

New = Float[Tensor, "batch heads window head_dim"]
"""Queries, keys or values of a window of positions, or what the queries attend to."""

Known = Float[Tensor, "batch heads end head_dim"]
"""Keys or values of all positions up to the end of a window."""

Angle = Float[Tensor, "*own window head_dim"]

Turn = tuple[Angle, Angle]
"""Cosines and sines by which queries and keys of a window are turned."""

Start = int | Int[Tensor, ""]
"""A position; as a tensor where steps are recorded, to be run at any position."""

Modulation = Float[Tensor, "#batch *window numbers"]
"""What a layer reads of the condition: so many numbers, the same at every position."""


class KVCache:
    """Keys and values of every layer, allocated once and written at explicit positions.

    Rewriting a window of positions needs no rewind: new keys and values overwrite the old ones.
    Storage takes its batch size, dtype and device from the first keys that each layer writes, so a
    cache follows autocast and the model's device by itself. Writes are in place, hence not
    differentiable.

    Attributes:
        clean: Whether all of it is known to be finite, so that others may read what they mask.
    """

    def __init__(self, num_layers: int, length: int):
        self.length = length
        self.clean = True
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers

    def update(self, layer: int, start: Start, keys: New, values: New) -> tuple[Known, Known]:
        """Write a window at positions `start ...` and return everything up to its end."""
        window, known = keys.shape[2], []
        for store, new in zip(self.storage(layer, keys, values), (keys, values), strict=True):
            # half the time of an index, 5 % of a step
            store.narrow(2, start, window).copy_(new)
            end = start + window
            known.append(store.narrow(2, 0, end) if isinstance(end, int) else up_to(store, end))
        return known[0], known[1]

    def storage(self, layer: int, keys: New, values: New) -> tuple[Tensor, Tensor]:
        """The whole storage of a layer, zeros at first: made for its first keys and values."""
        if self.keys[layer] is None:
            for stores, new in ((self.keys, keys), (self.values, values)):
                stores[layer] = new.new_zeros(*new.shape[:2], self.length, new.shape[3])
        return self.held(layer)

    def clear(self) -> None:
        """Fill all storage with zeros."""
        for store in (*self.keys, *self.values):
            if store is not None:
                store.zero_()

    def first(self, rows: int) -> "KVCache":
        """The cache of the first sequences, in the same storage, which is there."""
        cache = KVCache(len(self.keys), self.length)
        pairs = [self.held(layer) for layer in range(len(self.keys))]
        cache.keys = [keys[:rows] for keys, _ in pairs]
        cache.values = [values[:rows] for _, values in pairs]
        return cache

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """The whole storage of a layer, which is there."""
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None
        assert values is not None
        return keys, values


@dataclass(frozen=True)
class Fronts:
    """Windows that start at a position of their own in each sequence, known to the device alone.

    Every pass over as many sequences and inputs has the same shapes, so that one compiled code or
    CUDA graph serves all positions. In return it reads a fixed number of cached positions, those
    that an input does not see masked out.

    Attributes:
        positions: Those of the inputs; of one row where they are the same in all sequences.
        seen: Which of the cached positions each input sees: those up to its own.
    """

    positions: Int[Tensor, "#batch window"]
    seen: Bool[Tensor, "#batch 1 window keys"]

    @classmethod
    def at(cls, position: Int[Tensor, " #batch"], count: int, num_keys: int) -> "Fronts":
        """Windows of so many inputs; all end within so many positions."""
        steps = torch.arange(max(count, num_keys), device=position.device)
        positions = position[:, None] + steps[:count]
        return cls(positions, (steps[:num_keys] <= positions[..., None])[:, None])

    def behind(self, count: int) -> "Fronts":
        """The same where so many positions, which all inputs see, stand before the others."""
        return Fronts(self.positions + count, F.pad(self.seen, (count, 0), value=True))

    def twice(self) -> "Fronts":
        """Those of all sequences, and of all of them again."""
        if len(self.positions) == 1:
            return self
        return Fronts(self.positions.repeat(2, 1), self.seen.repeat(2, 1, 1, 1))

    def write(self, store: Tensor, new: New) -> None:
        """Overwrite cached keys or values at the positions of the inputs."""
        if len(self.positions) == 1:
            store.index_copy_(2, self.positions[0], new)
        else:
            rows = torch.arange(len(new), device=new.device)[:, None]
            store.transpose(1, 2)[rows, self.positions] = new.transpose(1, 2)

    def attend(self, stored: tuple[Tensor, Tensor], q: New, k: New, v: New) -> New:
        """Write keys and values, and attend to all that each query sees."""
        kernel = cached_kernel(q)
        if kernel is not None:
            first = self.positions[:, 0].expand(len(q))
            return kernel(q, *stored, k, v, first)
        for store, new in zip(stored, (k, v), strict=True):
            self.write(store, new)
        keys, values = (store[:, :, : self.seen.shape[-1]] for store in stored)
        if q.is_cuda or q.shape[2] > 1:
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=self.seen)
        # Products and sums, not a kernel: inductor fuses them into one reading of the cache.
        precise = torch.promote_types(q.dtype, torch.float32)
        logits = (q * keys).sum(dim=-1, dtype=precise) * q.shape[-1] ** -0.5
        weights = logits.masked_fill(~self.seen[:, :, 0], -torch.inf).softmax(dim=-1)
        return (weights.to(values.dtype)[..., None] * values).sum(dim=2, keepdim=True)


@dataclass(frozen=True)
class Window:
    """What a pass through the layers attends to besides its own inputs, and how sharply.

    Attributes:
        start: Position of the first input in all sequences; or where the windows of each lie.
        cache: Keys and values of the positions before; written at those of the inputs.
        temperature: Divisor of the attention logits, one per example.
        places: For each sequence, where in tables by position each of its positions stands; by
            default they stand there in the order in which they are read.
        rotation: How a transformer with rotary positions turns queries and keys of the window.
        modulation: What the layer reads of the condition, where it reads any.
    """

    start: Start | Fronts = 0
    cache: KVCache | None = None
    temperature: Float[Tensor, " batch"] | None = None
    places: Int[Tensor, "batch length"] | None = None
    rotation: Turn | None = None
    modulation: Modulation | None = None

    def rows(
        self, table: Float[Tensor, "length numbers"], count: int
    ) -> Float[Tensor, "*batch window numbers"]:
        """The rows of a table by position that belong to `count` inputs."""
        if self.places is not None:
            return F.embedding(self.own(self.places, count), table)  # whose gradient is fast
        if isinstance(self.start, Fronts):
            return table[self.start.positions]
        return table.narrow(0, self.start, count)

    def own(
        self, sequences: Shaped[Tensor, "batch length *numbers"], count: int
    ) -> Shaped[Tensor, "batch window *numbers"]:
        """What belongs to `count` inputs, of what each sequence has at each of its positions."""
        if isinstance(self.start, Fronts):
            at = self.start.positions.expand(len(sequences), -1)
            return sequences[torch.arange(len(sequences), device=at.device)[:, None], at]
        return sequences.narrow(1, self.start, count)

    def attend(self, layer: int, q: New, k: New, v: New, dropout: float = 0.0) -> New:
        """Write a layer's keys and values into the cache and attend to all up to each query."""
        if self.cache is None:
            return attend(q, k, v, dropout)
        if isinstance(self.start, Fronts):
            return self.start.attend(self.cache.storage(layer, k, v), q, k, v)
        return attend(q, *self.cache.update(layer, self.start, k, v), dropout)


WHOLE = Window()
"""A pass over a whole sequence."""


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which every position sees itself and what came before.

    Its `kernel` computes attention over whole sequences, in a `BidirectionalTransformer` of all
    positions to all; a cache has keys and values by `layer`.
    Where the queries and keys of each head are to be normalized, or what is attended to is to be
    gated, parts say how. By default the heads are together as wide as the model.
    """

    def __init__(
        self,
        model_dim: int,
        head_dim: int,
        dropout: float = 0.0,
        layer: int = 0,
        query_key_norm: Norm | None = None,
        gate: Gate | None = None,
        num_heads: int | None = None,
    ):
        super().__init__()
        if model_dim % head_dim:
            raise ConfigurationError(
                f"model_dim {model_dim} is not a multiple of head_dim {head_dim}"
            )
        self.head_dim = head_dim
        self.num_heads = model_dim // head_dim if num_heads is None else num_heads
        width = self.num_heads * head_dim
        self.dropout = dropout
        self.layer = layer
        self.kernel: AttentionKernel | FullAttention = TorchAttention()
        self.qkv = nn.Linear(model_dim, 3 * width)
        self.proj = nn.Linear(width, model_dim)
        self.query_norm = None if query_key_norm is None else query_key_norm(head_dim)
        self.key_norm = None if query_key_norm is None else query_key_norm(head_dim)
        self.gate = None
        if gate is not None:
            same = width == model_dim
            self.gate = gate(model_dim) if same else gate.of_width(model_dim, width)

    def forward(
        self, x: Float[Tensor, "batch *window model_dim"], window: Window = WHOLE
    ) -> Float[Tensor, "batch *window model_dim"]:
        """Attend to the inputs and to what the window's cache holds before them.

        Inputs of a single position may come without its dimension.
        """
        # Views, as in the output: einops costs a tenth of a step at batch 1.
        count = x.shape[1] if x.ndim == 3 else 1
        heads = self.qkv(x).reshape(x.shape[0], count, 3 * self.num_heads, self.head_dim)
        q, k, v = heads.transpose(1, 2).chunk(3, dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            # In the precision of the weights, which under autocast is not that of products.
            q, k = self.query_norm(q.to(x.dtype)), self.key_norm(k.to(x.dtype))
            q, k = q.to(v.dtype), k.to(v.dtype)
        if window.rotation is not None:
            q, k = turn(q, *window.rotation), turn(k, *window.rotation)
        if window.temperature is not None:
            q = q / window.temperature.to(q.dtype)[:, None, None, None]
        dropout = self.dropout if self.training else 0.0
        if window.cache is None:
            attended = self.kernel(q, k, v, dropout)
        else:
            attended = window.attend(self.layer, q, k, v, dropout)
        joined = attended.transpose(1, 2).reshape(*x.shape[:-1], self.num_heads * self.head_dim)
        return self.proj(joined if self.gate is None else self.gate(x, joined))


def attend(q: New, k: Known, v: Known, dropout: float = 0.0) -> New:
    """Causal attention of the last `window` of `end` positions, by the kernel for the shape.

    An explicit mask disables torch's flash kernels, and `is_causal` aligns top-left, which is
    right only when queries and keys start at the same position.
    """
    window, end = q.shape[-2], k.shape[-2]
    if window == 1 and q.device.type == "cpu" and q.shape[:2].numel() >= MANY_HEADS:
        # The fused kernel takes 1.2 to 2 times as long here, and half as long with few heads.
        q = q * q.shape[-1] ** -0.5
        # What multiplies halves would copy all keys to turn them: a tenth of a step.
        logits = torch.matmul(k, q.mT).mT if q.itemsize == 2 else torch.matmul(q, k.mT)
        return torch.matmul(F.dropout(logits.softmax(dim=-1), dropout), v)
    if window == 1:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if window == end:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    from torch.nn.attention.bias import causal_lower_right  # imports dynamo: seconds

    mask = causal_lower_right(window, end)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
