"""The commands, each in a module of its own. The only package that knows Hydra."""

import importlib
import sys
from collections.abc import Sequence

USAGE = """\
usage: tarflow COMMAND [key=value ...]

  train     experiment=digits_likelihood           fit a flow; `resume=auto` goes on after a kill
  evaluate  checkpoint=DIR data=digits             likelihood (metrics=samples: sample quality)
  sample    checkpoint=DIR num_samples=100         draw samples (label=3 guidance=1.5 seed=0 ...)
  sweep-guidance checkpoint=DIR weights=[0,1,2]    compare weights of guidance by samples
  calibrate checkpoint=DIR batch_size=100          find what samples fastest on this machine
  compress  checkpoint=DIR data=digits             a smaller flow, at most tolerance=0.01 worse
  distill   checkpoint=DIR method=inverse          a student of a flow: samples in a few passes
  train-tokenizer experiment=photographs_kl        an autoencoder, in whose latents flows learn
  tune-decoder checkpoint=DIR noise_std=0.3        its decoder, to remove noise from latents
  convert   WEIGHTS DIR [image_size=32]            read a published flow, or an autoencoder
  prepare   data=imagenet64 data.data.root=SOURCE output=FOLDER     convert a data set, once
  ablate    [seconds=40]                            what each part of the method is worth
  compare-samplers [seconds=120]                   exact samples and students', by quality and time
  compare-tokenizers [flow_seconds=150]            what tokenizers keep, and flows of their latents
  compare-compression [flow_seconds=600]           what flows lose and save that are made smaller
  compare-densities [seconds=60]                   densities of points and tables, beside others'
  doctor    [quick=true]                           tell whether this machine can train, how fast

`tarflow COMMAND --help` shows every key and its choices. DIR is a run or a pretrained folder."""

COMMANDS = (
    *("train", "evaluate", "sample", "sweep-guidance", "calibrate"),
    *(
        "compress",
        "distill",
        "train-tokenizer",
        "tune-decoder",
        "convert",
        "prepare",
        "ablate",
        "compare-samplers",
        "compare-tokenizers",
        "compare-compression",
        "compare-densities",
        "doctor",
    ),
)

PLAIN = ("convert", "doctor")
"""Commands that read their arguments themselves."""


def main() -> None:
    """Run the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked_for_help = len(sys.argv) == 2 and sys.argv[1] in ("-h", "--help", "help")
        sys.exit(print(USAGE) if asked_for_help else USAGE)
    run_command(sys.argv[1], sys.argv[2:])


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Run a command on its arguments."""
    # What one command needs, the others do not wait for.
    from tarflow.cli.streams import lasting_streams

    with lasting_streams():
        own = name.replace("-", "_")
        task = getattr(importlib.import_module(f"tarflow.cli.{own}"), own)
        if name in PLAIN:
            task(arguments)
            return
        from tarflow.cli.command import run

        run(task, arguments)
