"""How a study ends: with its results, and a page that shows them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tarflow.ablation.claims import Results


def leave_page(
    study: Any,
    page: Path,
    fill: Callable[[Path, Results], Sequence[Path]],
    blocks: Callable[[Results], Mapping[str, str]],
) -> None:
    """Write what a study has found, fill its page, and print the files and the tables."""
    results = study.results()
    for path in (study.write(), *fill(page, results)):
        print(path)
    for name, table in blocks(results).items():
        if name != "plot":
            print(f"\n## {name}\n\n{table}")
