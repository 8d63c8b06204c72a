"""A metric: how far the brightness of samples is from what was asked for."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tarflow import ExampleSeeds, Flow
from tarflow.data import ImageData, read_batch
from tarflow.evaluation import Metrics, Report
from tarflow.evaluation.metrics import WorkOf


@dataclass(frozen=True)
class BrightnessError(Metrics):
    """Samples in the contexts of held-out images, compared with these in brightness."""

    num_samples: int = 8
    name: ClassVar[str] = "brightness"

    def settings(self, flow: Flow, data: ImageData) -> dict[str, Any]:
        return {"data": data.name, "num_samples": self.num_samples}

    def evaluate(self, flow: Flow, data: ImageData, work_of: WorkOf) -> Report | None:
        assert flow.codec is not None
        codec = flow.codec

        def compute(indices: range) -> dict[str, np.ndarray]:
            context = flow.known(read_batch(data.test, indices).context)
            x = flow.sample(len(indices), context, source=ExampleSeeds(0, indices))
            shown = codec.to_bytes(codec.decode(x)).double().flatten(1).mean(dim=1) / 255
            return {"error": (shown - context["brightness"]).abs().numpy()}

        rows = work_of("samples").do("brightness of samples", self.num_samples, 4, compute)
        if rows is None:
            return None
        mean = float(rows["error"].mean())
        values = {**self.settings(flow, data), "brightness_error": mean}
        cells = [("mean error of brightness", f"{mean:.3f}")]
        return Report(self.name, data.name, ("", "mean"), cells, values)
