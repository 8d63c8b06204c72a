"""What a smaller flow is worth, on images by which nothing was chosen, and what it saves."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from tarflow.compression.cost import Cost
from tarflow.compression.search import Tried
from tarflow.data import ImageData
from tarflow.evaluation.comparison import compare_likelihoods
from tarflow.evaluation.likelihood import LikelihoodMetrics
from tarflow.evaluation.reporting import Report
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.unit import Unit
from tarflow.machine.device import medians
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.drawing import in_turn, read_classes

COLUMNS = ("", "before", "after", "change")


def report_on(
    flow: Flow,
    tried: Tried,
    data: ImageData,
    metrics: LikelihoodMetrics,
    num_samples: int,
    repetitions: int,
) -> Report:
    """Measure a flow and a smaller one that was made of it.

    Args:
        flow: The larger one.
        tried: The smaller one.
        data: The data, whose part that the metrics name was used for nothing else.
        metrics: How likelihoods are measured.
        num_samples: Number of samples that are drawn at a time, to time it.
        repetitions: Number of times that each draws them, in turns.
    """
    unit, flows = Unit.of(flow), {"before": flow, "after": tried.flow}
    reports = {name: metrics(each, data) for name, each in flows.items()}
    compared = compare_likelihoods(reports["after"], reports["before"])
    change = compared.values[f"{unit.name}_difference"]
    means = [reports[name].values[unit.name]["mean"] for name in flows]
    costs = {name: Cost.of(each) for name, each in flows.items()}
    rates = samples_per_second(flows, num_samples, repetitions)
    rows: list[tuple[str, ...]]
    rows = [(unit.words, *(f"{mean:.4f}" for mean in means), told(change))]
    for name in ("parameters", "operations", "mlp_operations", "cache_bytes"):
        pair = [getattr(cost, name) for cost in costs.values()]
        rows.append(_row(name.replace("_", " ").replace("mlp", "MLP"), *pair))
    rows.append(_row("samples per second", *rates.values(), form=",.1f"))
    for name in ("neurons", "heads"):
        rows += _rows_of_layers(name, *(getattr(cost, name) for cost in costs.values()))
    values = {
        "unit": unit.name,
        **{name: compared.values[name] for name in ("data", "split", "compared")},
        "threshold": tried.threshold,
        "validation_rise": tried.rise,
        "difference": change,
        "likelihood": {name: reports[name].values[unit.name] for name in flows},
        "deviation": {
            name: reports[name].values["largest_round_trip_deviation"] for name in flows
        },
        "cost": {name: asdict(cost) for name, cost in costs.items()},
        "samples_per_second": rates,
        "samples_at_a_time": num_samples,
    }
    title = f"compressed: {compared.values['compared']} {metrics.split} images of {data.name}"
    per_image = {name: reports[name].per_image[unit.name] for name in flows}
    return Report("compression", title, COLUMNS, rows, values, per_image)


def samples_per_second(
    flows: Mapping[str, Flow], num_samples: int, repetitions: int
) -> dict[str, float]:
    """Samples that flows draw in a second, unguided and one position after the other.

    They draw them in turns, after a turn that does not count; the median is taken.
    """
    draw = {}
    for name, flow in flows.items():
        classes = read_classes("all", flow.num_classes, flow.class_names)
        context = None if classes is None else in_turn(classes, range(num_samples))
        options = DecodeOptions().prepared()
        seeds = ExampleSeeds(0, range(num_samples))
        draw[name] = partial(flow.sample, num_samples, context, source=seeds, options=options)
        draw[name]()
    device = next(iter(flows.values())).base.anchor.device
    return {name: num_samples / s for name, s in medians(draw, device, repetitions).items()}


def told(change: Mapping[str, Any]) -> str:
    """A difference with its standard error."""
    return f"{change['mean']:+.4f} ± {change['standard_error']:.4f}"


def _row(name: str, before: int | float, after: int | float, form: str = ",") -> tuple[str, ...]:
    """A row of the table."""
    return (name, f"{before:{form}}", f"{after:{form}}", f"{after / before:.2f} x")


def _rows_of_layers(name: str, before: Any, after: Any) -> list[tuple[str, ...]]:
    """For every transform with a network of its own, how many units its layers have."""
    rows = []
    for index, pair in enumerate(zip(before, after, strict=True)):
        cells = (" ".join(map(str, counts)) for counts in pair)
        share = sum(pair[1]) / sum(pair[0])
        rows.append((f"{name} of network {index}", *cells, f"{share:.2f} x"))
    return rows
