"""Fits a flow: the command `tarflow train` from a checkout."""

from tarflow.cli import train

if __name__ == "__main__":
    train()
