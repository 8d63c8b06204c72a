"""The ways in which a model is drawn from, where its samples are judged."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.sampling.denoiser import Denoiser
from tarflow.sampling.denoising import can_denoise
from tarflow.sampling.drawing import read_classes
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.sampler import Sampler
from tarflow.students.student import Student
from tarflow.students.student_sampler import StudentSampler


@dataclass(frozen=True)
class Ways(ABC):
    """The ways in which a kind of model is drawn from; labels go round the classes.

    Attributes:
        model: The model, in evaluation mode.
        guidance: The rule for guided samples.
    """

    model: Any
    guidance: Guidance

    @property
    def classes(self) -> Any:
        """The classes that samples go round."""
        return read_classes("all", self.model.num_classes)

    def samplers(self, conditioned: bool) -> dict[str, Sampler]:
        """A sampler for each way, by what it is called; guided ones where that changes anything.

        Args:
            conditioned: Whether samples are conditioned on anything.
        """
        rules: dict[str, Guidance | None] = {"no guidance": None}
        if conditioned and self.guidance.weight:
            rules = {f"guidance {self.guidance.weight:g}": self.guidance, **rules}
        return self.guided(rules)

    @abstractmethod
    def guided(self, rules: Mapping[str, Guidance | None]) -> dict[str, Sampler]:
        """A sampler for each way, under each of some rules, by their names."""

    @property
    @abstractmethod
    def panels(self) -> dict[str, str]:
        """What is judged of each sample: the end of its name, and the sampler's name of it."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What samples depend on besides the weights."""


@dataclass(frozen=True)
class FlowWays(Ways):
    """Exact samples, with and without denoising.

    Attributes:
        denoiser: How noise is removed, where the flow was trained with it.
    """

    model: Flow
    denoiser: Denoiser

    def guided(self, rules: Mapping[str, Guidance | None]) -> dict[str, Sampler]:
        options = DecodeOptions().prepared()  # once for all
        told = {"classes": self.classes, "denoise": True, "denoiser": self.denoiser}
        return {
            name: FlowSampler(
                self.model, **told, options=DecodeOptions.of(options, {"guidance": r})
            )
            for name, r in rules.items()
        }

    @property
    def panels(self) -> dict[str, str]:
        denoised = {", denoised": "denoised"} if can_denoise(self.model) else {}
        return {**denoised, ", not denoised": "samples"}

    @property
    def settings(self) -> dict[str, Any]:
        removable = can_denoise(self.model)
        return {
            "guidance": repr(self.guidance),
            "denoiser": repr(self.denoiser.fitted(self.model.noise)) if removable else None,
            "codec": self.model.codec and self.model.codec.words,
            "noise": repr(self.model.noise),
        }


@dataclass(frozen=True)
class StudentWays(Ways):
    """Samples of a student in several numbers of steps; the weight of guidance is a condition.

    Attributes:
        steps: Numbers of steps; none for the student's own.
    """

    model: Student
    steps: Sequence[int] = ()

    def guided(self, rules: Mapping[str, Guidance | None]) -> dict[str, Sampler]:
        found = {}
        for name, rule in rules.items():
            for steps in self._steps:
                passes = self.model.passes(steps)
                words = f"{name}, {passes} pass{'es' if passes > 1 else ''}"
                weight = 0.0 if rule is None else float(rule.weight)
                found[words] = StudentSampler(
                    self.model, classes=self.classes, weight=weight, steps=steps
                )
        return found

    @property
    def _steps(self) -> list[int]:
        """The numbers of steps, in order."""
        return sorted(map(self.model.read_steps, self.steps or [None]))

    @property
    def panels(self) -> dict[str, str]:
        return {"": "samples"}

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "guidance": self.guidance.weight,
            "steps": self._steps,
            "codec": self.model.codec and self.model.codec.words,
        }
