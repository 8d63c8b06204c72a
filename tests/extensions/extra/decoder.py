"""A decoder that passes over the whole sequence as often as an exact result needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow import Decoder, Inverse
from tarflow.flows.decoding import Predict


@dataclass(frozen=True)
class WholePasses(Decoder):
    """Every pass makes at least one more position exact, hence T - 1 make all."""

    def __call__(self, predict: Predict, z: Tensor) -> Inverse:
        x, last = z, z.shape[1] - 1
        affine = predict(x[:, :-1], 0)
        for _ in range(last):
            x = torch.cat([z[:, :1], affine.to_data(z[:, 1:])], dim=1)
            affine = predict(x[:, :-1], 0)
        return self.solved(z, x, affine, passes=last + 1)
