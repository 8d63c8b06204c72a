"""Embeddings of what a density is conditioned on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class LabelEmbedding(nn.Module):
    """One learned vector per class; a negative label stands for no class: the mean of all vectors.

    Args:
        num_classes: Number of classes.
        model_dim: Size of a vector.
    """

    def __init__(self, num_classes: int, model_dim: int):
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(num_classes, model_dim))

    def forward(self, label: Int[Tensor, " batch"]) -> Float[Tensor, "batch model_dim"]:
        """Look the labels up."""
        known = self.weight[label.clamp(min=0)]
        return torch.where((label < 0)[:, None], self.weight.mean(dim=0), known)
