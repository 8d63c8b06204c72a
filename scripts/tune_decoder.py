"""Tunes a decoder on noisy latents: the command `tarflow tune-decoder` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("tune-decoder", sys.argv[1:])
