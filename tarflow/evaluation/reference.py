"""What samples are compared with: features of real images, kept for other evaluations."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.utils.data import Subset

from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import DataError
from tarflow.evaluation.distances import (
    NEIGHBOUR,
    Moments,
    distance_of_moments,
    kernel_between,
    kernel_within,
    precision_and_recall,
)
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.evaluation.metrics import WorkOf
from tarflow.evaluation.provenance import content_of, digests, of_readable
from tarflow.evaluation.work import Rows
from tarflow.machine.files import json_text, write_atomically

MOST_KEPT = 10_000
"""Vectors that are kept for what needs more than their moments."""
REFERENCE_SEED = 0
"""Of the choice among real images, where not all are taken."""
FORMAT = 1
"""Of the file; raised when what is in it changes."""


@dataclass(frozen=True)
class Reference:
    """What distances need of the features of real images: their moments, and the first of them."""

    moments: Moments
    features: Float[np.ndarray, "num features"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "num features"]) -> "Reference":
        """Those of the features of all images."""
        return cls(Moments.of(features), features[:MOST_KEPT])

    def compare(self, features: Float[np.ndarray, "num features"]) -> dict[str, float]:
        """All distances of samples from these; NaN where there are too few samples."""
        if len(features) <= NEIGHBOUR:
            names = ("frechet_distance", "kernel_distance", "precision", "recall")
            return dict.fromkeys(names, math.nan)
        few = features[:MOST_KEPT]
        precision, recall = precision_and_recall(few, self.features)
        kernel = kernel_within(few) + self._kernel_within - 2 * kernel_between(few, self.features)
        return {
            "frechet_distance": distance_of_moments(Moments.of(features), self.moments),
            "kernel_distance": kernel,
            "precision": precision,
            "recall": recall,
        }

    @cached_property
    def _kernel_within(self) -> float:
        """The part of kernel distances that these alone have in it."""
        return kernel_within(self.features)


def references_of(
    features: ImageFeatures, part: Subset, kept: Path | None, work_of: WorkOf
) -> tuple[dict[str, Reference], int] | None:
    """What samples are compared with, for every extractor, and how many images are unreadable.

    None where another process knows.

    A file that is kept holds it from an earlier evaluation, or will from now on.

    Raises:
        DataError: The file is of other images or features, or damaged.
    """
    is_kept = kept is not None and kept.exists()
    work = work_of("reference")
    read = ReadAhead(part, work.num_workers)
    compute = partial(_digests if is_kept else features.of_part, read)
    rows = work.do("real images", len(part), 1024 if is_kept else 256, compute)
    if rows is None:
        return None
    total, rows = len(rows["digest"]), of_readable(rows)
    unreadable = total - len(rows["digest"])
    origin = {
        "data": features.data.name,
        "count": len(rows["digest"]),
        "content_sha256": content_of(rows["digest"]),
        "extractors": {name: each.identity for name, each in features.extractors.items()},
        "torch": str(torch.__version__),
    }
    if kept is not None and is_kept:
        return load(kept, origin), unreadable
    references = {name: Reference.of(rows[name]) for name in features.extractors}
    if kept is not None:
        save(kept, origin, references)
    return references, unreadable


def chosen(part: Any, most: int | None) -> Subset:
    """The images of a part that are looked at: the same random ones, where there are more."""
    if most is None or len(part) <= most:
        return Subset(part, range(len(part)))
    order = np.random.default_rng(REFERENCE_SEED).permutation(len(part))
    return Subset(part, np.sort(order[:most]).tolist())


def save(path: Path, origin: Mapping[str, Any], references: Mapping[str, Reference]) -> None:
    """Write the references of all extractors with all that they depend on."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {"origin": np.array(json_text({"format": FORMAT, **origin}))}
    for name, reference in references.items():
        columns = {**vars(reference.moments), "features": reference.features}
        arrays |= {f"{name}/{key}": column for key, column in columns.items()}
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def load(path: Path, origin: Mapping[str, Any]) -> dict[str, Reference]:
    """Read references, if they are of what is asked for.

    Raises:
        DataError: They are of something else, or the file is damaged.
    """
    advice = "delete it, or give another metrics.statistics=..."
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            arrays = dict(found)
        held, references = json.loads(str(arrays.pop("origin"))), {}
        for name in dict.fromkeys(name.split("/")[0] for name in arrays):
            moments = Moments(arrays[f"{name}/mean"], arrays[f"{name}/covariance"])
            references[name] = Reference(moments, arrays[f"{name}/features"])
    except Exception as error:  # damage shows in many ways
        raise DataError(f"{path} does not hold statistics of real images: {advice}") from error
    wanted = json.loads(json_text({"format": FORMAT, **origin}))
    for key in sorted(held.keys() | wanted.keys()):
        if held.get(key) != wanted.get(key):
            raise DataError(
                f"{path} holds statistics of other real images or features ({key} is"
                f" {held.get(key)} there, and {wanted.get(key)} here): {advice}"
            )
    return references


def _digests(read: ReadAhead, indices: range) -> Rows:
    """What tells real images from others."""
    return {"digest": digests(read(indices))}
