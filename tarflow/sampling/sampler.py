"""A sampler: samples by their index, as pixels."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec
from tarflow.flows.context import Context
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.drawing import in_turn


@dataclass(frozen=True)
class Sampler(ABC):
    """Draws samples by their index and turns them into pixels.

    Attributes:
        model: What is drawn from.
        classes: The classes that samples go round; None leaves the label out.
        others: Rows of other conditions than the label, which samples go round.
    """

    model: Any
    seed: int = 0
    classes: Int[Tensor, " classes"] | None = None
    others: Context = Context()

    @property
    def codec(self) -> Codec:
        """The codec of the model's training, which the model has to know."""
        if self.model.codec is None:
            raise ConfigurationError("this model does not name the codec of its training")
        return self.model.codec

    @property
    @abstractmethod
    def panels(self) -> tuple[str, ...]:
        """What is made of every sample; the last is the one to keep."""

    @property
    @abstractmethod
    def certificates(self) -> type[Certificates]:
        """The kind of what is known of every sample."""

    @property
    def notes(self) -> list[str]:
        """What else is to be said of how this process drew samples, a line for each."""
        return []

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of the pixels of a sample, in all panels."""
        return math.prod(self.stored_shape) * self.codec.itemsize * len(self.panels)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of a sample, once it is decoded."""
        return self.codec.decoded_shape(self.model.image_shape or self.model.base.shape)

    @property
    def settings(self) -> dict[str, Any]:
        """All that sample n depends on besides n and the model, in a form that JSON keeps."""
        return {
            "seed": self.seed,
            "label": None if self.classes is None else str(self.classes.tolist()),
            **self.choices,
            **{name: str(rows.tolist()) for name, rows in self.others.parts.items()},
        }

    @property
    @abstractmethod
    def choices(self) -> dict[str, Any]:
        """How the model is drawn from, as far as samples depend on it."""

    def context(self, indices: range) -> Context:
        """What the samples of some indices are conditioned on."""
        others = self.others.map(lambda rows: in_turn(rows, indices))
        label = None if self.classes is None else in_turn(self.classes, indices)
        return others.updated(label=label)

    def __call__(self, indices: range) -> dict[str, np.ndarray]:
        """Draw the samples of some indices.

        Returns:
            The pixels of each panel, the arrays of their certificates, and `labels` if there are
            any. What is not finite has black pixels, and its certificate tells why.
        """
        context = self.context(indices)
        panels, certificates = self.draw(indices, context)
        pixels = {name: self.codec.decode(x).cpu().numpy() for name, x in panels.items()}
        arrays = {**pixels, **vars(certificates)}
        return arrays if context.label is None else {**arrays, "labels": context.label.numpy()}

    @abstractmethod
    def draw(self, indices: range, context: Context) -> tuple[dict[str, Tensor], Certificates]:
        """Draw the samples of some indices, and tell what is known of them.

        Returns:
            Samples of each panel, in the units of `Codec.encode`; NaN where they are not finite.
        """
