"""The gradient of an inverse, from one parallel pass at the solution."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tarflow.flows.decoding import Predict
from tarflow.flows.shapes import PerExample, Sequences

NEGLIGIBLE = 8
"""Change of a solution, in units of rounding, that more iterations would not improve on."""


@dataclass(frozen=True)
class ParallelPass:
    """A transform evaluated at all positions of x at once, with the graph that leads to x.

    Attributes:
        x: The data; a leaf.
        z: Its noise.
        log_det: Its log-determinant.
        scale: The scales in between, of all positions, without a graph.
    """

    x: Sequences
    z: Sequences
    log_det: PerExample
    scale: Sequences

    @classmethod
    def at(cls, x: Sequences, predict: Predict) -> "ParallelPass":
        """Evaluate the maps that a prediction, without a cache, gives at x."""
        x = x.detach().requires_grad_()
        affine = predict(x[:, :-1], 0).after_first()
        return cls(x, affine.to_noise(x), affine.log_det, affine.log_scale.detach().exp())

    def pull_back(self, output: Tensor, cotangent: Tensor) -> Tensor:
        """The cotangent of x that belongs to one of an output."""
        if not output.requires_grad:
            return torch.zeros_like(self.x)
        [pulled] = torch.autograd.grad(
            output, self.x, cotangent, retain_graph=True, materialize_grads=True
        )
        return pulled

    def solve(self, cotangent: Sequences) -> Sequences:
        r"""Find v with $J^T v = g$ for the Jacobian $J = dz/dx$.

        J is block lower triangular with the diagonal $D = e^{-\alpha}$. Each round of
        $v \leftarrow v + D^{-1} (g - J^T v)$ makes one more position exact, from the last one
        back, and all of them much more so: it ends where rounding is all that is left to correct,
        and after T - 1 rounds at the latest.
        """
        v = self.scale * cotangent
        small = NEGLIGIBLE * torch.finfo(v.dtype).eps
        for _ in range(v.shape[1] - 1):
            change = self.scale * (cotangent - self.pull_back(self.z, v))
            v = v + change
            if bool((_largest(change) <= small * _largest(v)).all()):
                break
        return v


def _largest(v: Sequences) -> PerExample:
    """The largest number of each example."""
    return v.abs().flatten(1).amax(dim=1)


class ImplicitInverse(torch.autograd.Function):
    r"""x as a function of $r = z - F(x^*)$, which is zero but for the tolerance of its decoder.

    By the implicit function theorem $dx = J^{-1} dr$; r carries on to z, to the weights and to
    the context. The log-determinant is that of the same pass, as a function of x too. The memory
    is that of the pass. There are no second derivatives.
    """

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, log_det: Tensor, found: ParallelPass
    ) -> tuple[Tensor, Tensor]:
        ctx.found = found
        return found.x.detach(), log_det.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_x: Tensor, by_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        found: ParallelPass = ctx.found
        through_log_det = found.pull_back(found.log_det, by_log_det)
        return found.solve(by_x + through_log_det), by_log_det, None


def differentiable(x: Sequences, z: Sequences, predict: Predict) -> tuple[Sequences, PerExample]:
    r"""The same x, and its log-determinant, with the gradients of the inverse.

    Where a decoder has a tolerance, they are those of the exact inverse at the noise that x is
    exactly the sample of.

    Args:
        x: What z was decoded to.
        z: The noise.
        predict: The prediction that was solved for, without a cache.
    """
    found = ParallelPass.at(x, predict)
    return ImplicitInverse.apply(z - found.z, found.log_det, found)  # pyright: ignore
