"""Judges samples: the command `tarflow evaluate metrics=samples` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("evaluate", ["metrics=samples", *sys.argv[1:]])
