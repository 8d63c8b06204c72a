"""Fits a student of a flow: the command `tarflow distill` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("distill", sys.argv[1:])
