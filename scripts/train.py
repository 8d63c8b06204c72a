"""Fits a flow: the command `tarflow train` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("train", sys.argv[1:])
