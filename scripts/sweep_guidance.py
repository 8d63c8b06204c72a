"""Compares weights of guidance: the command `tarflow sweep-guidance` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("sweep-guidance", sys.argv[1:])
