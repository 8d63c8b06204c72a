"""Fits tokenizers for some processor time, by what the commands fit them by."""

from functools import partial
from typing import Any

import torch

from tarflow.ablation.time_budget import TimeBudget, fit_in
from tarflow.ablation.tokenizers.recipes import Recipe
from tarflow.data import ImageData
from tarflow.tokenizers import Autoencoder, Tokenizer
from tarflow.training import DecoderObjective, TokenizerModule, TokenizerObjective, adamw
from tarflow.training.tokenization.decoder_objective import to_tune

FITTING: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3, "batch_size": 64}
"""How all are fitted; the learning rate is that at the peak."""


def learn(
    recipe: Recipe, data: ImageData, seconds: float, seed: int
) -> tuple[Autoencoder, dict[str, Any]]:
    """Fit a new tokenizer; returns it with averaged weights, and counts."""
    torch.manual_seed(seed)
    tokenizer = recipe.make(data)
    return tokenizer, _fit(tokenizer, TokenizerObjective(), data, seconds)


def tune(
    tokenizer: Tokenizer, noise: float, data: ImageData, seconds: float, seed: int
) -> tuple[Tokenizer, dict[str, Any]]:
    """Let another tokenizer's decoder learn to remove noise, as `learn` does."""
    torch.manual_seed(seed)
    tuned = to_tune(tokenizer, noise)
    return tuned, _fit(tuned, DecoderObjective(), data, seconds)


def _fit(
    tokenizer: Tokenizer, objective: TokenizerObjective, data: ImageData, seconds: float
) -> dict[str, Any]:
    """Fit a tokenizer, and leave it ready for use."""
    budget = TimeBudget(seconds)
    objective.prepare(data)
    optimizer = partial(adamw, lr=FITTING["lr"])
    module = TokenizerModule(tokenizer, objective, optimizer, budget.schedule)
    steps = fit_in(budget, module, data, FITTING["batch_size"])
    tokenizer.eval().held()
    return {"steps": steps, "skipped": module.skipped_steps}
