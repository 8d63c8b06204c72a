"""Measures likelihoods: the command `tarflow evaluate metrics=likelihood` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("evaluate", ["metrics=likelihood", *sys.argv[1:]])
