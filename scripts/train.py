"""Fits a flow: the command `tarflow train` from a checkout."""

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("train")
