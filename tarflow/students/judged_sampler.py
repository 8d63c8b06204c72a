"""A sampler of students whose samples a flow judges."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tarflow.arguments import check_integer, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.machine.device import now
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.certificates import Certificates
from tarflow.students.judgement import best_of
from tarflow.students.student import Student
from tarflow.students.student_certificates import StudentCertificates
from tarflow.students.student_sampler import StudentSampler, finite


@dataclass
class Price:
    """What samples have taken.

    Attributes:
        draws: Number of draws, each of which a flow judged.
        samples: Number of samples that were kept.
        seconds: How long that took.
    """

    draws: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class JudgedSampler(StudentSampler):
    """Draws several samples of a student for each that is wanted; a flow keeps the likeliest.

    Attributes:
        flow: What judges, on the device of the student.
        count: Number of draws for each sample.
        price: What the samples have taken so far.
    """

    flow: Flow = field(kw_only=True)
    count: int = 1
    price: Price = field(default_factory=Price, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        check_integer("best_of", self.count, least=1)
        check_judge(self.flow, self.model)

    @property
    def certificates(self) -> type[Certificates]:
        return StudentCertificates

    @property
    def choices(self) -> dict[str, Any]:
        return {**super().choices, "best_of": self.count}

    @property
    def notes(self) -> list[str]:
        price = self.price
        if self.count == 1 or not price.samples:
            return []
        each = 1000 * price.seconds / price.samples
        return [
            f"the likeliest of {self.count} draws each: {price.draws} draws, as many passes of"
            f" the flow and {price.seconds:.2f} s for the {price.samples} samples that this"
            f" process drew, {each:.1f} ms for each"
        ]

    def judged(self, source: ExampleSeeds, context: Context) -> tuple[Tensor, Certificates]:
        device = self.model.base.anchor.device
        begin = now(device)
        told = {"weight": self.weight, "steps": self.steps, "source": source}
        chosen = best_of(self.model, self.flow, self.count, len(source), context, **told)
        parts = (chosen.judgement.log_prob, chosen.judgement.residual, chosen.index)
        x, known = finite(chosen.x)
        certificates = StudentCertificates(known.why, *(part.cpu().numpy() for part in parts))
        self.price.draws += self.count * len(source)
        self.price.samples += len(source)
        self.price.seconds += now(device) - begin
        return x, certificates


def check_judge(flow: Flow, student: Student) -> None:
    """Refuse a flow that cannot judge the samples of a student.

    Raises:
        ConfigurationError: It is one of other images or classes.
    """
    pairs: dict[str, tuple[Any, Any]] = {
        "image shape": (student.image_shape, flow.image_shape),
        "codec": (_words(student.codec), _words(flow.codec)),
    }
    if student.num_classes:
        pairs["number of classes"] = (student.num_classes, flow.num_classes)
    for what, (ours, its) in pairs.items():
        if ours != its:
            raise ConfigurationError(
                f"this flow cannot judge the student: its {what} is {shown(its)}, and that of the"
                f" student {shown(ours)}"
            )


def _words(codec: Codec | None) -> str | None:
    """A codec in words: two of the same weights are the same."""
    return None if codec is None else codec.words
