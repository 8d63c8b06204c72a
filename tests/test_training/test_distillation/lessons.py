"""Tiny teachers, students and batches, in float64, and plain loops over them."""

from typing import Any

import torch
from torch import Tensor

from tarflow import (
    AutoregressiveTransform,
    Context,
    GaussianNoise,
    InverseStudent,
    Pixels,
    Reverse,
    ShortcutStudent,
    TarFlow,
    VelocityStudent,
)
from tarflow.data.loading.batches import Batch
from tarflow.randomness import Share, normal, uniform

from ...equations import unpatchify
from ...models import randomized

SOURCE = Share(5, 0, 8)
STD = 0.3
SMALL: dict[str, Any] = {"num_layers": 1, "model_dim": 16, "head_dim": 8}


def tiny_teacher(**options: Any) -> TarFlow:
    """A flow of two transforms over 1 x 4 x 4 images of three classes, in training mode."""
    torch.manual_seed(0)
    known = {"num_classes": 3, "codec": Pixels(17), "noise": GaussianNoise(STD), **options}
    return randomized(TarFlow(4, 2, 1, 2, **SMALL, **known)).double()


def tiny_inverse(teacher: TarFlow, **options: Any) -> InverseStudent:
    torch.manual_seed(0)
    return randomized(InverseStudent.of(teacher, **SMALL, **options), seed=1).double()


def tiny_velocity(teacher: TarFlow, **options: Any) -> VelocityStudent:
    torch.manual_seed(0)
    return randomized(VelocityStudent.of(teacher, **SMALL, **options), seed=1).double()


def tiny_shortcut(teacher: TarFlow) -> ShortcutStudent:
    torch.manual_seed(0)
    return randomized(ShortcutStudent.of(teacher, **SMALL), seed=1).double()


def batch(labelled: bool = True) -> Batch:
    """Eight images."""
    generator = torch.Generator().manual_seed(2)
    stored = torch.randint(0, 17, (8, 1, 4, 4), generator=generator).to(torch.uint8)
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    context = Context(label=label) if labelled else Context()
    return Batch(stored, context, torch.arange(8))


def clean(stored: Tensor) -> Tensor:
    """Pixels of 17 levels in [-1, 1]."""
    return stored.double() / 8 - 1


def labels(probability: float) -> Tensor:
    """The labels of the batch, of which some are dropped."""
    draw = uniform((8,), SOURCE, torch.float32, "cpu", "label")
    return torch.where(draw < probability, -1, batch().context["label"])


def drawn(purpose: str, *shape: int) -> Tensor:
    """Standard normal numbers for the batch."""
    return normal((8, *shape), SOURCE, torch.float64, "cpu", purpose)


@torch.no_grad()
def states(flow: TarFlow, x: Tensor, label: Tensor) -> list[Tensor]:
    """The states of one image after each transform, laid out as images."""
    sequence, found, is_reversed = flow.transform[0](x[None], Context())[0], [], False
    for transform in list(flow.transform)[1:]:
        sequence, _ = transform(sequence, Context(label=label[None]))
        if isinstance(transform, Reverse):
            is_reversed = not is_reversed
        if isinstance(transform, AutoregressiveTransform):
            plain = sequence.flip(1) if is_reversed else sequence
            found.append(unpatchify(plain, 2, (1, 4, 4))[0])
    return found


def upright(flow: TarFlow, z: Tensor) -> Tensor:
    """Noise of a flow with its patches in raster order."""
    count = sum(isinstance(transform, Reverse) for transform in flow.transform)
    return z.flip(1) if count % 2 else z


def overflow(flow: TarFlow, row: int) -> Any:
    """Let the first autoregressive transform of a flow be infinite for an example; a handle."""

    def spoil(module: Any, inputs: Any, output: Any) -> Any:
        z, log_det = output
        spoilt = torch.where(torch.arange(len(z)) % 8 == row, torch.inf, 1.0)
        return z * spoilt[:, None, None], log_det

    transforms = [t for t in flow.transform if isinstance(t, AutoregressiveTransform)]
    return transforms[0].register_forward_hook(spoil)


def gradients(module: torch.nn.Module, value: Tensor) -> list[Tensor]:
    """Of a value, at the parameters that it depends on."""
    parameters = list(module.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    pairs = zip(found, parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]
