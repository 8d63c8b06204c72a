"""What a flow says of the samples of a student, as it is kept beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tarflow.sampling.certificates import Certificates


@dataclass(frozen=True)
class StudentCertificates(Certificates):
    """What a flow says of every sample of a student.

    Attributes:
        log_prob: The log-density at the sample, in nats, summed over dimensions.
        residual: By how much the flow's noise of the sample misses that it was made from.
        draw: Which of its draws the sample is, from 0.
    """

    log_prob: np.ndarray
    residual: np.ndarray
    draw: np.ndarray

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """`log_prob`, `residual` and `draw`."""
        return {
            "log_prob": [f"{each:.6g}" for each in self.log_prob],
            "residual": [f"{each:.3e}" for each in self.residual],
            "draw": [str(each) for each in self.draw],
        }

    @property
    def known(self) -> str:
        fine = np.isfinite(self.log_prob) & np.isfinite(self.residual)
        if not fine.any():
            return f"{super().known}, none of them with a density"
        log_prob, residual = self.log_prob[fine], self.residual[fine]
        lost = f", {(~fine).sum()} without a density" if not fine.all() else ""
        return (
            f"{super().known}, log p {log_prob.mean():.1f} nats in the mean ({log_prob.min():.1f}"
            f" to {log_prob.max():.1f}), residual {np.median(residual):.2g} in the median"
            f" (largest {residual.max():.2g}){lost}"
        )
