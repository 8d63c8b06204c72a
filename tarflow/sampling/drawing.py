"""Drawing many samples, batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from textwrap import shorten
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor

from tarflow.arguments import check_integer, shown
from tarflow.errors import ConfigurationError, ContextError
from tarflow.flows.context import NULL_CLASS, Context, ContextLike, Rows
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.report import Inverse, SamplingReport, tell_non_finite
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.chunks import ChunkSize


def read_classes(
    choice: str | int | Sequence[str | int], num_classes: int, class_names: Sequence[str] = ()
) -> Int[Tensor, " classes"] | None:
    """Turn a choice of classes into those that samples go round; None leaves the label out.

    Args:
        choice: `all` goes round the classes, `none` (or -1) leaves the label out; one class, or
            several to go round, by number or by name.
        num_classes: Number of classes of the flow; one without classes takes `all` and `none`.
        class_names: Their names, where they have any.

    Raises:
        ContextError: The choice is something else, or the flow does not know a class.
    """
    if choice in ("none", NULL_CLASS) or (choice == "all" and not num_classes):
        return None
    listed = range(num_classes) if choice == "all" else choice
    numbers: dict[str | int, int] = {name: number for number, name in enumerate(class_names)}
    known = f"0 ... {num_classes - 1}" if num_classes else "no classes"
    known += f" ({', '.join(class_names)})" * bool(class_names)
    knows = f"this model knows {shorten(known, 200, placeholder=' ...')}"
    try:
        listed = [listed] if isinstance(listed, str | int) else listed
        listed = [numbers.get(each, each) for each in listed]
        classes = torch.tensor([check_integer("label", each) for each in listed], dtype=torch.long)
    except (ConfigurationError, OverflowError, TypeError) as error:
        raise ContextError(
            f"label={choice} is unknown: give all, none, a class or a list of them; {knows}"
        ) from error
    if not len(classes) or not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise ContextError(f"label={choice}: {knows}")
    return classes


def in_turn(rows: Shaped[Tensor, "rows ..."], indices: range) -> Shaped[Tensor, "samples ..."]:
    """What the samples of some indices get, which go round some rows, such as classes."""
    return rows[torch.arange(indices.start, indices.stop) % len(rows)]


def read_others(given: Mapping[str, Any], model: Any) -> Context:
    """Read conditions by name, each one row for all samples or rows to go round.

    Raises:
        ContextError: The model does not know one, or a row is not one of it.
    """
    examples = torch.empty(1, device=model.base.anchor.device)
    read = {name: _read_rows(name, value) for name, value in given.items()}
    for name, rows in read.items():
        try:
            for row in rows.split(1):
                model.check_context(model.read_context({name: row}, examples))
        except ContextError as error:
            raise ContextError(f"context.{name}: {error}") from error
    return Context(**read)


def _read_rows(name: str, value: Any) -> Rows:
    """Turn one value, or a list of them, into rows."""
    wanted = f"context.{name}={shown(value)}: give a number, or a list of one or more"
    try:
        rows = torch.atleast_1d(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContextError(wanted) from error
    if not rows.numel() or rows.dtype is torch.bool:
        raise ContextError(wanted)
    return rows


def sample_batches(
    flow: Flow,
    num_samples: int,
    label: Integer[Tensor, " num_samples"] | None,
    seed: int,
    batch_size: int,
    *,
    options: DecodeOptions = DecodeOptions(),
    **keywords: Unpack[DecodeKeywords],
) -> Iterator[tuple[Float[Tensor, "batch ..."], Integer[Tensor, " batch"] | None]]:
    """Draw samples in batches; sample n of a seed is the same whatever the batch size.

    Where memory runs out, a batch is drawn in smaller chunks, with a warning. Samples that are not
    finite are NaN, and a warning counts them; a batch of nothing else is an error.

    Args:
        flow: What to sample from.
        num_samples: Number of samples.
        label: A label for each.
        seed: Seed of the run.
        batch_size: Number of samples drawn at a time.
        options: How to decode.
        **keywords: The fields of `DecodeOptions` to be other than in the options.

    Yields:
        A batch of samples and its labels.
    """
    options = DecodeOptions.of(options, keywords).prepared()
    chunks = ChunkSize()
    for indices in batches_of(num_samples, batch_size):
        part = None if label is None else label[indices.start : indices.stop]
        x, report = draw(flow, indices, part, seed, chunks, options)
        drawn = Inverse(x, x.new_zeros(len(x)), report)
        tell_non_finite(drawn.finite, partial(flow.transform.blame, report))
        yield x, part


def batches_of(num_samples: int, batch_size: int) -> list[range]:
    """The indices of every batch.

    Raises:
        ConfigurationError: There is nothing to draw, or a batch is empty.
    """
    count = check_integer("num_samples", num_samples, least=1)
    size = check_integer("batch_size", batch_size, least=1)
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def draw(
    flow: Flow,
    indices: range,
    context: ContextLike,
    seed: int,
    chunks: ChunkSize,
    options: DecodeOptions,
) -> tuple[Float[Tensor, "batch ..."], SamplingReport]:
    """Draw the samples of some indices, in chunks that fit memory; NaN where they overflow."""
    reports = []
    given = Context.of(context, len(indices), "cpu")

    def compute(rows: slice) -> Tensor:
        source = ExampleSeeds(seed, indices[rows])
        part = given.map(lambda each: each[rows])
        with torch.no_grad():
            inverse = flow.attempt(flow.base.sample(len(source), source), part, options=options)
        reports.append(inverse.report)
        return flow.values(inverse.x)

    return chunks.map(compute, len(indices)), SamplingReport.cat(reports)
