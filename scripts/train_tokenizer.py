"""Fits an autoencoder: the command `tarflow train-tokenizer` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("train-tokenizer", sys.argv[1:])
