"""The gradient of an inverse, from one parallel pass at the solution."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.autograd.function import once_differentiable

from tarflow.flows.decoding import Predict
from tarflow.flows.shapes import PerExample, Sequences

NEGLIGIBLE = 8
"""Change of a solution, in units of rounding, that more iterations would not improve on."""


@dataclass(frozen=True)
class ParallelPass:
    """A transform evaluated at all positions of x, a leaf, at once; the scale has no graph.

    Examples that are not finite are none of its concern: no cotangent is theirs.
    """

    x: Sequences
    z: Sequences
    log_det: PerExample
    scale: Sequences
    finite: Bool[Tensor, "batch 1 1"]

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

        J is block lower triangular with the diagonal $D = 1 / s$ of inverse scales. Each round of
        $v \leftarrow v + D^{-1} (g - J^T v)$ makes one more position exact, from the last one
        back, and all of them much more so: it ends where rounding is all that is left to correct,
        and after T - 1 rounds at the latest.
        """
        v = self.scale * cotangent
        small = NEGLIGIBLE * torch.finfo(v.dtype).eps
        for _ in range(v.shape[1] - 1):
            change = self.scale * (cotangent - self.pull_back(self.z, v))
            v = v + change
            corrected, largest = (each.abs().amax(dim=(1, 2)) for each in (change, v))
            if not bool((corrected > small * largest).any()):  # NaN gets no better
                break
        return v.where(self.finite, 0.0)


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
    exactly the sample of. The prediction is that which was solved for, without a cache. An example
    that is not finite takes no part in gradients.
    """
    finite = x.isfinite().all(dim=2).all(dim=1)[:, None, None]
    x = x.detach().where(finite, 0.0).requires_grad_()
    affine = predict(x[:, :-1], 0).after_first()
    scale = affine.scale(x).detach()
    found = ParallelPass(x, affine.to_noise(x), affine.log_det(x), scale, finite)
    x, log_det = ImplicitInverse.apply(z - found.z, found.log_det, found)  # pyright: ignore
    return x.where(finite, torch.nan), log_det.where(finite.flatten(), torch.nan)
