"""Makes a flow smaller: the command `tarflow compress` from a checkout."""

import sys

from tarflow.cli import run_command

if __name__ == "__main__":
    run_command("compress", sys.argv[1:])
