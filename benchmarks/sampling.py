"""Compares ways to sample: as published code does, sequentially, by plans, by other papers.

    python benchmarks/sampling.py --quick           # some seconds, an untrained flow
    python benchmarks/sampling.py                   # trains two flows first, unless they are kept
    python benchmarks/sampling.py --study peers     # parallel decoders: speed against deviation
    python benchmarks/sampling.py --study lengths   # how time grows with the length and the batch

All ways decode the same noise with guidance 1, in one process, in repetitions that take turns, in
every precision that the machine multiplies fast. The baseline is in baseline.py, the decoders of
other papers in peers.py, the roofline in roofline.py, the flows in photographs.py.
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks import photographs
from benchmarks.measuring import measure
from benchmarks.modes import Case, MakeModes, against_peers, compared, sequential
from benchmarks.precision import Precision
from benchmarks.sampling_results import LengthResults, PeerResults, Results
from benchmarks.session import Tell, make_parser, run
from tarflow import TarFlow

SIZE = 16
"""Side of the images of quick runs."""
Batches = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        kind: Of the results.
        make_modes: The ways to sample.
        batches: Batch sizes by patch size, which are 4 for 64 patches, 2 for 256, 1 for 1,024.
        quick: Those of quick runs, of 16 patches at 4.
        trained: Whether flows are trained: passes of parallel decoders depend on the weights,
            those of sequential ones do not.
    """

    kind: type[Results]
    make_modes: MakeModes
    batches: Batches
    quick: Batches
    trained: bool = True


STUDIES = {
    "speed": Study(Results, compared, {4: (1, 16, 64), 2: (8,)}, {4: (1, 4)}),
    "peers": Study(PeerResults, against_peers, {4: (16,), 2: (8,)}, {4: (2,)}),
    "lengths": Study(
        LengthResults,
        sequential,
        {4: (1, 4, 16, 64), 2: (4,), 1: (4,)},
        {8: (1,), 4: (1, 2, 4), 2: (1,)},
        trained=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> Results:
    """Measure, show, and write a file."""
    options = read_options(arguments)
    study = STUDIES[options.study]
    make_modes = study.make_modes
    if options.compile and make_modes is compared:
        make_modes = functools.partial(compared, compiled=True)

    def measure_case(results: Results, case: Case, device: torch.device, tell: Tell) -> None:
        flow = make_flow(case.patch_size, device, options.quick, study.trained)
        results.measurements += measure(flow, case, make_modes, results.machine, tell)

    return run(study.kind, options, make_cases, measure_case)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--study", choices=STUDIES, default="speed", help="what to compare: speed")
    add("--patch", type=int, nargs="+", choices=(8, 4, 2, 1), help="patch sizes")
    add("--compile", action="store_true", help="measure compiled sequential decoding too")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (2 if options.quick else 5)
    return options


def make_cases(options: argparse.Namespace, precisions: tuple[Precision, ...]) -> list[Case]:
    """What to measure."""
    study = STUDIES[options.study]
    batches = study.quick if options.quick else study.batches
    size = SIZE if options.quick else photographs.SIZE
    return [
        Case(patch_size, (size // patch_size) ** 2, batch_size, precisions, options.repeats)
        for patch_size in options.patch or batches
        for batch_size in options.batch or batches[patch_size]
    ]


def make_flow(patch_size: int, device: torch.device, quick: bool, trained: bool) -> TarFlow:
    """A trained flow of photographs, or one with random weights; of quick runs a tiny one."""
    if trained and not quick:
        return photographs.load(photographs.SETTINGS[patch_size], device)
    sizes: Any = {"num_transforms": 2, "num_layers": 1, "model_dim": 64, "num_classes": 2}
    flow = TarFlow(SIZE, patch_size, 1, **sizes) if quick else photographs.make_flow(patch_size)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():  # as made it is the identity; larger, samples diverge
            parameter += 0.005 * torch.randn(parameter.shape, generator=generator)
    return flow.to(device).eval()


if __name__ == "__main__":
    main()
