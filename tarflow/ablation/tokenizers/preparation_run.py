"""What it costs to prepare latents, beside encoding alone."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tarflow.ablation.data_sets import data_of
from tarflow.ablation.study import StudyRun
from tarflow.ablation.tokenizers.tokenizer_runs import TokenizerRun
from tarflow.data import prepare_latents
from tarflow.data.loading.batches import Numbered, collate
from tarflow.data.storage.preparation import BATCH
from tarflow.evaluation.provenance import software
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.pretrained import load
from tarflow.machine.device import medians
from tarflow.sampling.sample_folder import fingerprints
from tarflow.tokenizers import Tokenizer


@dataclass(frozen=True)
class PreparationRun(StudyRun):
    """Times `tarflow prepare` of latents, and the encoding of the same images, in turns.

    Attributes:
        tokenizer: The run that fitted the tokenizer, which is done.
        repetitions: Number of times that both are timed; medians count.
        threads: Number of threads that compute.
    """

    tokenizer: TokenizerRun
    repetitions: int
    threads: int

    @property
    def settings(self) -> dict[str, Any]:
        weights = fingerprints(self.tokenizer.pretrained)[WEIGHTS]
        own = {"data": self.tokenizer.data, "variant": "preparation", "seed": self.tokenizer.seed}
        told = {"repetitions": self.repetitions, "threads": self.threads}
        return {**own, "tokenizer": weights, **told}

    @property
    def name(self) -> str:
        return f"{self.tokenizer.data}-preparation"

    def do(self) -> dict[str, Any]:
        """Time them, in this process alone."""
        torch.set_num_threads(self.threads)
        data, tokenizer = data_of(self.tokenizer.data), load(self.tokenizer.pretrained)
        with tempfile.TemporaryDirectory() as folder:
            free = (Path(folder) / str(number) for number in range(self.repetitions + 1))

            def encode() -> None:
                for part in data.parts.values():
                    _encode(tokenizer, part)

            def prepare() -> None:
                prepare_latents(data, tokenizer, next(free))

            prepare()  # which warms both up
            took = medians({"encoding": encode, "preparing": prepare}, "cpu", self.repetitions)
        overhead = took["preparing"] / took["encoding"] - 1
        told = {"settings": self.settings, "software": software()}
        return {**told, "seconds": took, "overhead": overhead}


@torch.no_grad()
def _encode(tokenizer: Tokenizer, part: Dataset) -> None:
    """Read and encode all images, and do nothing with their latents."""
    for batch in DataLoader(Numbered(part), BATCH, collate_fn=collate):
        tokenizer.encode(batch.x)
