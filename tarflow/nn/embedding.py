"""Embeddings of what a density is conditioned on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class LabelEmbedding(nn.Module):
    """One learned vector per class; the label -1 stands for no class: the mean of all vectors.

    Other labels are NaN, which shows in every result: an error would have to wait for the device.
    """

    def __init__(self, num_classes: int, model_dim: int):
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(num_classes, model_dim))

    def forward(self, label: Int[Tensor, " batch"]) -> Float[Tensor, "batch model_dim"]:
        """Look the labels up."""
        label, last = label.long(), len(self.weight) - 1
        known = self.weight[label.clamp(0, last)]
        vectors = torch.where((label < 0)[:, None], self.weight.mean(dim=0), known)
        return vectors.masked_fill(((label < -1) | (label > last))[:, None], torch.nan)
