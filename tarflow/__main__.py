"""`python -m tarflow`: the same as the command `tarflow`."""

from tarflow.cli import main

if __name__ == "__main__":
    main()
