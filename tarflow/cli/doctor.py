"""`tarflow doctor`: tells whether this machine can train."""

import sys
from collections.abc import Sequence
from pathlib import Path

USAGE = """\
usage: tarflow doctor [key=value ...]

  quick=false        true: no measurements and nothing that takes long, as for a health check
  directory=outputs  the folder that runs are to be written to

It ends with 0 if training can work here, and with 1 if not."""


def doctor(arguments: Sequence[str]) -> None:
    """Examine this machine, print what was found, and tell by the exit code whether it will do."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    options = read_options(arguments)
    from rich.console import Console

    from tarflow.doctor import examine

    console = Console()
    with console.status("examining") as status:
        examination = examine(
            Path(options["directory"]),
            quick=options["quick"] == "true",
            tell=lambda name: status.update(f"examining {name}"),
        )
    examination.print(console)
    sys.exit(1 if examination.broken else 0)


def read_options(arguments: Sequence[str]) -> dict[str, str]:
    """Read `key=value` arguments; the program ends with the usage at any other."""
    options = {"quick": "false", "directory": "outputs"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in options or (key == "quick" and value not in ("true", "false")):
            sys.exit(f"tarflow: {argument} is unknown\n{USAGE}")
        options[key] = value
    return options
