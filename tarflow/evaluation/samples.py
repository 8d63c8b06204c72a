"""Quality of a flow's samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tarflow.arguments import check_integer, shown
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.evaluation.extractors import Extractor, Inception, PixelValues, UnavailableError
from tarflow.evaluation.likelihood import check_fit
from tarflow.evaluation.provenance import software
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.sample_judge import SampleJudge, WorkOf
from tarflow.evaluation.work import InMemory
from tarflow.flows.guidance import Guidance, LinearGuidance
from tarflow.flows.tar_flow import TarFlow
from tarflow.registry import Part


@dataclass(frozen=True)
class SampleMetrics(Part):
    """Judges samples by distances between features of them and of real training images.

    For every extractor of features: the Fréchet distance, the kernel distance, precision and
    recall. What an extractor needs and cannot find leaves out its columns, with the reason. A
    classifier that has learned the training images, a support vector machine with an RBF kernel,
    tells for small labelled data what share of samples is of the class that was asked for. Every
    step of the method is also left out once: guidance, denoising, both.

    Attributes:
        num_samples: Number of samples for each seed.
        seeds: Seeds; results are means and deviations over them.
        guidance: The rule for guided samples.
        batch_size: Number of samples drawn at a time; does not change the result.
        extractors: What makes features, by name.
        num_reference: Number of training images that samples are compared with, chosen at
            random where there are more; None for all.
        statistics: A file that keeps the features of these from one evaluation to the next.
    """

    num_samples: int = 500
    seeds: Sequence[int] = (0, 1, 2)
    guidance: Guidance = field(default_factory=lambda: LinearGuidance(1.0))
    batch_size: int = 250
    extractors: Mapping[str, Extractor] = field(
        default_factory=lambda: {"pixels": PixelValues(), "inception": Inception()}
    )
    num_reference: int | None = 50_000
    statistics: Path | str | None = None

    def __post_init__(self):
        for name, least in (("num_samples", 4), ("batch_size", 1), ("num_reference", 4)):
            if name != "num_reference" or self.num_reference is not None:
                check_integer(name, getattr(self, name), least=least)
        if isinstance(self.seeds, str) or not isinstance(self.seeds, Sequence):
            raise ConfigurationError(f"seeds {shown(self.seeds)} are no list of integers")
        for seed in self.seeds:
            check_integer("one of seeds,", seed)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds {list(self.seeds)} must be one or more different ones"
            )

    def __call__(self, flow: TarFlow, data: ImageData) -> Report:
        """Evaluate a flow; raises as `evaluate` does."""
        report = self.evaluate(flow, data, lambda name: InMemory())
        assert report is not None
        return report

    def evaluate(self, flow: TarFlow, data: ImageData, work_of: WorkOf) -> Report | None:
        """Evaluate a flow, with others perhaps.

        Args:
            flow: The flow.
            data: The data set.
            work_of: Where values are kept, and who else computes them.

        Returns:
            What was found; None where another process knows.

        Raises:
            DataError: The flow was made for other data, or the kept statistics are of other
                images or features.
        """
        check_fit(flow, data)
        judge = SampleJudge(self, flow.eval(), data)
        return judge(work_of)

    def settings(self, flow: TarFlow, data: ImageData) -> dict[str, Any]:
        """All that the values depend on, besides the weights."""
        return {
            "data": data.name,
            "num_samples": self.num_samples,
            "seeds": list(self.seeds),
            "guidance": repr(self.guidance),
            "noise": repr(flow.noise),
            "dtype": str(next(flow.parameters()).dtype).removeprefix("torch."),
            "num_reference": self.num_reference,
            "software": software(),
        }

    def available(self, data: ImageData) -> tuple[dict[str, Extractor], dict[str, str]]:
        """The extractors that can be used, and why the others cannot."""
        usable, skipped = {}, {}
        for name, extractor in self.extractors.items():
            try:
                extractor.check(data.image_shape)
                usable[name] = extractor
            except UnavailableError as error:
                skipped[name] = str(error)
        return usable, skipped
