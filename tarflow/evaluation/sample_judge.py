"""Draws samples and makes features of them."""

from typing import Any

from torch.utils.data import Subset

from tarflow.data.loading.reading import ReadAhead
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.evaluation.work import Rows
from tarflow.flows.context import Context
from tarflow.sampling.sampler import Sampler


class SampleJudge:
    """Draws samples and makes features of them.

    Labels are those of the sampler. Other parts of a context that its model knows are those of
    the data's training examples, one after the other.
    """

    def __init__(self, sampler: Sampler, features: ImageFeatures):
        self.sampler, self.features = sampler, features

    def __call__(self, indices: range) -> Rows:
        """Features of some samples in every panel, whose name comes first in those of columns."""
        context, rows = self.context(indices), {}
        panels, _ = self.sampler.draw(indices, context)
        for panel, x in panels.items():
            columns = self.features(self.sampler.codec.decode(x), context.label)
            columns["finite"] = x.isfinite().flatten(1).all(dim=1).cpu().numpy()
            rows |= {f"{panel}/{name}": column for name, column in columns.items()}
        return rows

    def context(self, indices: range) -> Context:
        """What the samples of some indices are conditioned on."""
        label = self.sampler.context(indices).label
        train: Any = self.features.data.train
        known = {each.part for each in self.sampler.model.conditioners} - {"label"}
        known &= set(ReadAhead(train)(range(1)).context)
        if not known:
            return Context(label=label)
        repeated = Subset(train, [index % len(train) for index in indices])
        context = ReadAhead(repeated)(range(len(indices))).context
        return Context(label=label, **{name: context[name] for name in known})
