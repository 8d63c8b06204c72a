"""Likelihood of a flow on a part of a data set."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, keep
from tarflow.data import DividedData, TableData
from tarflow.data.images import UNLABELLED
from tarflow.data.loading.batches import UNREADABLE, Batch, read_batch
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import ConfigurationError
from tarflow.evaluation.comparison import compare_likelihoods
from tarflow.evaluation.metrics import (
    Metrics,
    PartName,
    WorkOf,
    check_choice,
    check_fit,
    part_of,
    settings_of,
)
from tarflow.evaluation.provenance import content_of, digests, readable
from tarflow.evaluation.reporting import SUMMARY, Report, mean_and_error, summary_row
from tarflow.evaluation.work import Rows
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise
from tarflow.flows.noise_levels import NoiseLevels
from tarflow.flows.unit import Unit
from tarflow.randomness import ExampleSeeds, ExampleStreams

ROUND_TRIPS = 32
"""Number of images, the first ones, that are mapped to noise and back: that takes long."""

UnitName = Literal["auto", "bits", "nats"]

CONTEXT = "context/"
"""Before the names of the columns that tell what an image was conditioned on."""


@dataclass(frozen=True)
class LikelihoodMetrics(Metrics):
    """Likelihoods: bits/dim with uniform dequantization, nats/dim with noise.

    A density of data with noise is not one of pixels, so it is never put in bits.

    The headline takes one draw of the noise for each image: its mean bounds the likelihood of the
    pixels from below. The mean density of K draws is a tighter bound (importance-weighted, Burda
    et al., arXiv 1509.00519) and is shown apart, since published numbers take one.

    A flow of many noise levels tells the mean over the levels drawn for the images, and those of
    three ranges of levels.

    Attributes:
        split: Part of the data to evaluate on.
        batch_size: Number of images evaluated at a time; does not change the result.
        seed: Seed of the noise that is added to each image.
        importance_samples: Number of draws K of the tighter bound; 1 leaves it out.
        unit: Unit to report in; `auto` is bits where the flow has a density of pixels.
        noise_level: The level of the noise, for flows of many; by default one is drawn for each
            image as in training.
    """

    split: PartName = "test"
    batch_size: int = 256
    seed: int = 0
    importance_samples: int = 1
    unit: UnitName = "auto"
    noise_level: float | None = None
    name: ClassVar[str] = "likelihood"

    def __post_init__(self):
        for name, least in (("seed", None), ("batch_size", 1), ("importance_samples", 1)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        for name, kind in (("split", PartName), ("unit", UnitName)):
            check_choice(name, getattr(self, name), kind)

    def evaluate(self, flow: Flow, data: DividedData, work_of: WorkOf) -> Report | None:
        """Evaluate a flow, with other processes perhaps.

        Raises:
            DataError: The data has no such part, or the flow was trained on other data.
            ConfigurationError: A density of pixels was asked for, and the flow has none.
            NonFiniteError: No density is finite.
        """
        check_fit(flow, data)
        self._check_unit(flow)
        noise_at(flow, self.noise_level)  # checks it
        part, title = part_of(data, self.split), f"likelihood of the {self.split} part"
        work = work_of("likelihood")
        compute = partial(self._compute, flow.eval(), ReadAhead(part, work.num_workers))
        rows = work.do(title, len(part), self.batch_size, compute)
        if rows is None:
            return None
        if not np.isfinite(rows["log_prob"]).any():
            batch, source = read_batch(part, range(1)), ExampleSeeds(self.seed, [0])
            inputs = held_out_inputs(flow, batch, source, noise_at(flow, self.noise_level))
            flow.check_finite(torch.tensor(math.nan), *inputs)  # tells which transform it was
        return self._report(flow, data, rows)

    def compare(self, report: Report, baseline: Report) -> Report:
        """Compare image by image; see `compare_likelihoods`."""
        return compare_likelihoods(report, baseline)

    def settings(self, flow: Flow, data: DividedData) -> dict[str, Any]:
        """All that the values of an image depend on, besides the weights."""
        own = {"seed": self.seed, "importance_samples": self.importance_samples}
        return {**settings_of(flow, data, self.split, noise_at(flow, self.noise_level)), **own}

    def _check_unit(self, flow: Flow) -> None:
        """Refuse what a flow without a density of pixels cannot tell."""
        if Unit.of(flow).codec is not None:
            return
        reason = (
            f"the flow was trained with {flow.codec and flow.codec.words} and {flow.noise}: its"
            " density is not one of pixels, and bits/dim do not follow from it"
        )
        if self.unit == "bits":
            raise ConfigurationError(f"{reason}. Leave unit=bits out for its likelihood in nats")
        if self.importance_samples > 1:
            raise ConfigurationError(f"{reason}. Leave importance_samples out")

    @torch.no_grad()
    def _compute(self, flow: Flow, read: ReadAhead, indices: range) -> Rows:
        """The values of some images; every image has a stream of noise of its own."""
        batch = read(indices)
        streams = ExampleStreams(self.seed, indices)
        times = range(self.importance_samples)
        noise = noise_at(flow, self.noise_level)
        inputs = (held_out_inputs(flow, batch, streams, noise) for _ in times)
        x, context = next(inputs)
        known = context.to("cpu").parts.items()
        first = _log_prob(flow, x, context)
        draws = torch.stack([first, *(_log_prob(flow, *each) for each in inputs)])
        lost = batch.index == UNREADABLE  # another image stands in for these
        draws[:, lost] = math.nan
        few = range(indices.start, min(indices.stop, ROUND_TRIPS))
        deviation = np.full(len(indices), math.nan)
        if len(few):
            head = batch.first(len(few))
            deviation[: len(few)] = _round_trip(
                flow, *noisy_inputs(flow, head, ExampleSeeds(self.seed, few), noise)
            )
        columns = {f"{CONTEXT}{k}": _unknown(v, lost).numpy() for k, v in known if v.ndim == 1}
        return {
            "log_prob": draws[0].numpy(),
            "bound": (draws.logsumexp(dim=0) - math.log(len(draws))).numpy(),
            "deviation": deviation,
            "digest": digests(batch),
            **columns,
        }

    def _report(self, flow: Flow, data: DividedData, rows: Rows) -> Report:
        """Put the values of all images in words and units."""
        noise = noise_at(flow, self.noise_level)
        unit = Unit.of(flow, self.unit == "nats", noise)
        is_readable = readable(rows["digest"])
        lost = int((is_readable & ~np.isfinite(rows["log_prob"])).sum())
        unreadable = int((~is_readable).sum())
        deviations = rows["deviation"][:ROUND_TRIPS]
        deviation = float(np.fmax.reduce(deviations))  # NaN where all are
        values = {
            **self.settings(flow, data),
            "content_sha256": content_of(rows["digest"]),
            "non_finite": lost,
            "unreadable": unreadable,
            "largest_round_trip_deviation": deviation,
            "round_trips_non_finite": int(np.isnan(deviations).sum()),
        }
        conditions = sorted(name for name in rows if name.startswith(CONTEXT))
        per_image = {"log_prob_nats": rows["log_prob"].tolist()}
        per_image |= {name.removeprefix(CONTEXT): rows[name].tolist() for name in conditions}
        if data.class_names and "label" in per_image:
            known = {UNLABELLED: "", **dict(enumerate(data.class_names))}
            per_image["class_name"] = [known[int(label)] for label in per_image["label"]]
        kinds, table = [("log_prob", unit.name, unit.words)], []
        if self.importance_samples > 1:
            words = f"{unit.words}, bound by {self.importance_samples} draws"
            kinds.append(("bound", f"{unit.name}_bound", words))
        for column, name, words in kinds:
            densities = torch.from_numpy(rows[column])
            per_image[name] = unit(densities).tolist()
            values[name] = mean_and_error(unit(densities[densities.isfinite()]))
            table.append(summary_row(words, values[name]))
        if isinstance(data, TableData):
            log_prob = torch.from_numpy(rows["log_prob"])
            values["log_likelihood"] = summary = mean_and_error(log_prob[log_prob.isfinite()])
            table.insert(0, summary_row("log-likelihood of a row, nats", summary))
        if isinstance(noise, NoiseLevels):
            values["by_level"] = _by_level(noise, unit, rows)
            table += [summary_row(f"at {k}", each) for k, each in values["by_level"].items()]
        table.append(("largest deviation x -> z -> x", f"{deviation:.1e}", "", ""))
        for reason, count in {"not finite": lost, "unreadable": unreadable}.items():
            if count:
                table.append((f"{data.noun} left out, {reason}", str(count), "", ""))
        title = f"{values['count']} {self.split} {data.noun} of {data.name}"
        return Report("likelihood", title, SUMMARY, table, values, per_image)


def _by_level(noise: NoiseLevels, unit: Unit, rows: Rows) -> dict[str, Any]:
    """Means for the lowest third of all levels, the middle and the highest, in words."""
    level, log_prob = (torch.from_numpy(rows[k]) for k in (f"{CONTEXT}noise_level", "log_prob"))
    ends = noise.quantile(torch.linspace(0, 1, 4)).tolist()
    found = {}
    for low, high in pairwise(ends):
        counted = log_prob[(level >= low) & (level <= high) & log_prob.isfinite()]
        if len(counted):
            found[f"levels {low:.3g} to {high:.3g}"] = mean_and_error(unit(counted))
    return found


def noise_at(flow: Flow, noise_level: float | None) -> Noise | None:
    """The noise that is added: that of training, or one of its levels."""
    if noise_level is None:
        return flow.noise
    if not isinstance(flow.noise, NoiseLevels):
        raise ConfigurationError(
            f"noise_level {noise_level}: the flow was trained with {flow.noise}, which has no"
            " levels to choose from. Leave it out"
        )
    return flow.noise.at(noise_level)


def noisy_inputs(
    flow: Flow, batch: Batch, source: ExampleSeeds, noise: Noise | None = None
) -> tuple[Tensor, Context]:
    """Noisy images and what is known of them, on the flow's device."""
    return _moved(flow, flow.observe(batch.x, batch.context, source, _dtype_of(flow), noise))


def held_out_inputs(
    flow: Flow, batch: Batch, source: ExampleSeeds, noise: Noise | None = None
) -> tuple[Tensor, Context]:
    """Examples as `log_prob` judges them, and what is known of them, on the flow's device."""
    return _moved(flow, flow.held_out(batch.x, batch.context, source, _dtype_of(flow), noise))


def _dtype_of(flow: Flow) -> torch.dtype:
    """The dtype of the numbers of examples."""
    return torch.promote_types(flow.base.anchor.dtype, torch.float32)


def _moved(flow: Flow, given: tuple[Tensor, Context]) -> tuple[Tensor, Context]:
    """Checked examples on the flow's device."""
    x, known = given
    context = flow.read_context(known, x)
    flow.check_context(context)
    device = flow.base.anchor.device
    return x.to(device), context.to(device)


def _unknown(rows: Tensor, lost: Tensor) -> Tensor:
    """What images are conditioned on, without that of some."""
    return rows.masked_fill(lost, math.nan if rows.is_floating_point() else UNLABELLED)


def _round_trip(flow: Flow, x: Tensor, context: Context) -> np.ndarray:
    """How far x -> z -> x leads from each x; NaN where that is not finite."""
    back = flow.attempt(flow(x, context)[0], context).x
    return (back - x).abs().flatten(1).amax(dim=1).double().cpu().numpy()


def _log_prob(flow: Flow, x: Tensor, context: Context) -> Float[Tensor, " batch"]:
    """Log-densities; NaN where they are not finite."""
    log_prob = flow.log_prob(x, context).cpu().double()
    return log_prob.where(log_prob.isfinite(), math.nan)
