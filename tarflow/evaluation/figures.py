"""Figures of matplotlib, which is an extra."""

from typing import Any

from tarflow.errors import ConfigurationError


def new_figure(**options: Any) -> Any:
    """Make a figure; options are those of `matplotlib.figure.Figure`.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "pictures need matplotlib: pip install 'tarflow[plots]'"
        ) from error
    return Figure(layout="constrained", **options)
