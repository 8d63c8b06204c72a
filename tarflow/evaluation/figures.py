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


def set_logarithmic(panel: Any, *names: str) -> None:
    """Let axes of a panel, `x` or `y`, be logarithmic, with 1, 2, 5, 10 and so on told plainly."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in names:
        getattr(panel, f"set_{name}scale")("log")
        axis = getattr(panel, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
