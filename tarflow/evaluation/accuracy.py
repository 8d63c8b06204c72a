"""How often a flow tells the class of an image, by its density and by one gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from tarflow.arguments import check_integer, keep
from tarflow.data import DividedData
from tarflow.data.images import UNLABELLED
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import DataError
from tarflow.evaluation.classification import (
    check_classes,
    class_log_probs,
    classify_by_gradient,
)
from tarflow.evaluation.likelihood import noise_at, noisy_inputs
from tarflow.evaluation.metrics import (
    Metrics,
    PartName,
    WorkOf,
    check_choice,
    check_fit,
    part_of,
    settings_of,
)
from tarflow.evaluation.predictions import Predictions, table_of
from tarflow.evaluation.provenance import content_of, digests, readable
from tarflow.evaluation.reporting import SUMMARY, Report, summary_row
from tarflow.evaluation.work import Rows
from tarflow.flows.flow import Flow
from tarflow.randomness import ExampleStreams
from tarflow.sampling.chunks import ChunkSize

WAYS = ("density", "gradient")
"""What tells a class."""

SHOWN_CLASSES = 20
"""Number of classes up to which confusions are printed; the report's file has them all."""


@dataclass(frozen=True)
class ClassificationMetrics(Metrics):
    """Accuracy of a flow as a classifier, for which it was not trained.

    By density an image takes a pass for each class, by gradient one pass forward and one backward
    (arXiv 2511.22345). Both look at images with noise, as the flow was trained on; what they find
    for an image is the mean over some draws of it.

    Attributes:
        split: Part of the data to evaluate on.
        batch_size: Number of images evaluated at a time; does not change the result.
        seed: Seed of the noise that is added to each image.
        num_draws: Number of draws of the noise.
        noise_level: As in `LikelihoodMetrics`.
    """

    split: PartName = "test"
    batch_size: int = 256
    seed: int = 0
    num_draws: int = 1
    noise_level: float | None = None
    name: ClassVar[str] = "classification"

    def __post_init__(self):
        for name, least in (("seed", None), ("batch_size", 1), ("num_draws", 1)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        check_choice("split", self.split, PartName)

    def evaluate(self, flow: Flow, data: DividedData, work_of: WorkOf) -> Report | None:
        """Evaluate a flow, with other processes perhaps.

        Raises:
            ConfigurationError: The flow has no classes.
            DataError: The data has no such part or no labels, or the flow was trained on other
                data.
        """
        check_classes(flow)
        check_fit(flow, data)
        noise_at(flow, self.noise_level)  # checks it
        part, work = part_of(data, self.split), work_of("classification")
        sizes = [ChunkSize(self.batch_size) for _ in WAYS]
        compute = partial(self._compute, flow.eval(), ReadAhead(part, work.num_workers), sizes)
        title = f"classes of the {self.split} part"
        rows = work.do(title, len(part), self.batch_size, compute)
        return None if rows is None else self._report(flow, data, rows)

    def settings(self, flow: Flow, data: DividedData) -> dict[str, Any]:
        """All that the values of an image depend on, besides the weights."""
        own = {"seed": self.seed, "num_draws": self.num_draws}
        return {**settings_of(flow, data, self.split, noise_at(flow, self.noise_level)), **own}

    def _compute(
        self, flow: Flow, read: ReadAhead, sizes: Sequence[ChunkSize], indices: range
    ) -> Rows:
        """Values of some images for every class; each has a stream of noise of its own."""
        batch = read(indices)
        if batch.context.label is None:
            raise DataError("these images have no labels to compare with")
        streams, found = ExampleStreams(self.seed, indices), []
        for _ in range(self.num_draws):
            inputs = noisy_inputs(flow, batch, streams, noise_at(flow, self.noise_level))
            density = class_log_probs(flow, *inputs, max_batch=sizes[0])
            gradient = classify_by_gradient(flow, *inputs, max_batch=sizes[1])
            found.append(torch.stack([density, gradient]).double().cpu())
        density, gradient = torch.stack(found).mean(dim=0).numpy()
        label = batch.context.label.long().numpy()
        return {"density": density, "gradient": gradient, "label": label, "digest": digests(batch)}

    def _report(self, flow: Flow, data: DividedData, rows: Rows) -> Report:
        """Put the values of all images in words."""
        known = readable(rows["digest"]) & (rows["label"] != UNLABELLED)
        names = data.class_names or tuple(map(str, range(flow.num_classes)))
        values = {**self.settings(flow, data), "content_sha256": content_of(rows["digest"])}
        values["unreadable_or_unlabelled"] = int((~known).sum())
        per_image, table, notes = {"label": rows["label"].tolist()}, [], []
        for way in WAYS:
            predictions = Predictions(rows["label"], rows[way], known)
            values[way] = summary = predictions.summary
            per_image[f"by_{way}"] = predictions.predicted.tolist()
            table.append(summary_row(f"accuracy by {way}", summary["accuracy"]))
            lost = int((~known).sum()) + summary["non_finite"]
            if lost:
                table.append((f"images left out by {way}", str(lost), "", ""))
            if flow.num_classes <= SHOWN_CLASSES:
                notes.append(f"by {way}: classes, and what their images were taken for")
                notes.append(table_of(summary["confusion"], names))
        title = f"classes of {values['count']} {self.split} images of {data.name}"
        return Report(self.name, title, SUMMARY, table, values, per_image, notes)
