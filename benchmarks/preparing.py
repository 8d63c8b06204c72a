"""What it costs to keep latents: `tarflow prepare` against reading and encoding alone, in turns.

`python benchmarks/preparing.py TOKENIZER` encodes the photographs by a tokenizer's pretrained
folder, in one process; the target is at most 10 % over bare encoding.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks.measuring import interleave
from tarflow import Tokenizer
from tarflow.data import ImageData, photographs, prepare_latents, read_batch
from tarflow.data.storage.preparation import BATCH


@torch.no_grad()
def encode(data: ImageData, tokenizer: Tokenizer) -> None:
    """Read and encode all images, and keep nothing."""
    for part in data.parts.values():
        for start in range(0, len(part), BATCH):
            indices = range(start, min(start + BATCH, len(part)))
            tokenizer.encode(read_batch(part, indices).x)


def measure(data: ImageData, tokenizer: Tokenizer, repeats: int) -> dict[str, list[float]]:
    """Seconds of every repetition of both."""
    with TemporaryDirectory() as folder:
        outputs = (Path(folder, str(number)) for number in count())
        runs = {
            "bare encoding": lambda: encode(data, tokenizer),
            "preparation": lambda: prepare_latents(data, tokenizer, next(outputs)),
        }
        interleave(runs, 1, tokenizer.scale.device)  # warms up
        return interleave(runs, repeats, tokenizer.scale.device)


def cost(seconds: Mapping[str, Sequence[float]]) -> float:
    """By what share the median preparation takes longer than the median encoding."""
    bare, whole = (statistics.median(seconds[name]) for name in ("bare encoding", "preparation"))
    return whole / bare - 1


def main() -> None:
    """Print the medians and the cost."""
    tokenizer = Tokenizer.from_pretrained(sys.argv[1])
    seconds = measure(photographs(tokenizer.image_shape[1]), tokenizer, repeats=9)
    for name, each in seconds.items():
        print(f"{name}: {statistics.median(each):.2f} s")
    print(f"preparation takes {cost(seconds):+.1%} longer")


if __name__ == "__main__":
    main()
