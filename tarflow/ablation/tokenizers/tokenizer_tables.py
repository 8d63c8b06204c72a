"""The page of the study of tokenizers: tables with claims, and a plot."""

from collections.abc import Sequence
from pathlib import Path

from tarflow.ablation.claims import Comparison, Quantity, Results, data_of, verdicts
from tarflow.ablation.marked_page import NOTHING, empty, markdown, write_page
from tarflow.ablation.tokenizers.recipes import RECIPES
from tarflow.ablation.tokenizers.tokenizer_plot import PICTURE, draw
from tarflow.ablation.tokenizers.tokenizer_study import WAYS_OF
from tarflow.ablation.ways_table import QUALITY, WayRow, told, ways_table

RECONSTRUCTION = (
    ("PSNR, dB", "reconstruction/psnr"),
    ("distance", "reconstruction/frechet_distance"),
    ("codes in use", "codes/in_use"),
    ("perplexity", "codes/perplexity"),
    ("steps", "steps"),
)
SAMPLES = (
    *QUALITY,
    ("samples a second", "per_second/{}"),
    ("training, s", "training/own"),
    ("with the tokenizer, s", "training/in_all"),
)
CLEAN, NOISY = "no guidance, denoised", "no guidance, not denoised"
PIXELS = WayRow("pixels", "pixels", CLEAN)
LONGER = WayRow("pixels, with a tokenizer's time as well", "pixels_longer", CLEAN)
LATENTS = {
    name: WayRow(
        f"latents: {recipe.words}",
        f"latents_{name}",
        NOISY if recipe.bottleneck.decodes_noise else CLEAN,
    )
    for name, recipe in RECIPES.items()
}
ROWS = (PIXELS, LONGER, *LATENTS.values())
NOISE = (
    WayRow("left in", f"latents_{WAYS_OF}", NOISY),
    WayRow("one step of the score", f"latents_{WAYS_OF}", CLEAN),
    WayRow("a ladder of levels", f"levels_{WAYS_OF}", CLEAN),
    WayRow("a tuned decoder", f"tuned_{WAYS_OF}", NOISY),
)
"""What becomes of the noise of samples of latents."""


def _less(words: str, path: str, name: str, other: str) -> Comparison:
    """A claim that a number of a tokenizer is less than that of another."""
    ours, theirs = (Quantity(f"tokenizer_{each}", path) for each in (name, other))
    return Comparison(words, ours, theirs)


def _nearer(words: str, one: WayRow, other: WayRow) -> Comparison:
    """A claim that samples are nearer to the data."""
    path = "samples/{}/frechet_distance"
    return Comparison(words, one.quantity(path), other.quantity(path))


PAIRS = (
    ("the rotation trick", "vq_rotation", "straight-through", "vq"),
    ("the linear map", "linear", "straight-through", "vq"),
    ("both", "linear_rotation", "the linear map alone", "linear"),
    ("FSQ", "fsq", "straight-through", "vq"),
)
OF_TOKENIZERS = (
    *(_less(f"{a}: more codes in use than {b}", "codes/unused", x, y) for a, x, b, y in PAIRS),
    *(
        _less(f"{a}: smaller errors than {b}", "reconstruction/error", x, y)
        for a, x, b, y in PAIRS
    ),
)
OF_SAMPLES = (
    *(_nearer(f"{r.words}: nearer to the data than pixels", r, PIXELS) for r in LATENTS.values()),
    _nearer("latents: KL, nearer than pixels with all the time", LATENTS["kl"], LONGER),
)
OF_NOISE = (
    _nearer("one step is nearer than none", NOISE[1], NOISE[0]),
    _nearer("a ladder is nearer than one step", NOISE[2], NOISE[1]),
    _nearer("a tuned decoder is nearer than one step", NOISE[3], NOISE[1]),
)


def blocks(results: Results) -> dict[str, str]:
    """What stands between the marks of the page: the tables, and the plot."""
    words = "What is kept of images and how many codes are in use; samples and their time"
    found = {"plot": f"![{words}](images/{PICTURE})"}
    if not results:
        return {**found, **dict.fromkeys(TABLES, NOTHING)}
    [data] = data_of(results)
    return {**found, **{name: make(results, data) for name, make in TABLES.items()}}


def fill(page: Path, results: Results) -> list[Path]:
    """Bring the tables and the plot of a page up to date; returns the files that were written."""
    found = blocks(results)
    blank = "\n".join(["# Latents\n", *(empty(name) for name in found)])
    picture = draw(page.parent / "images" / PICTURE, results, ROWS)
    write_page(page, found, blank)
    return [page, picture]


def _reconstruction(results: Results, data: str) -> str:
    """What tokenizers keep of held-out images."""
    rows = []
    for name, recipe in RECIPES.items():
        quantities = (Quantity(f"tokenizer_{name}", path) for _, path in RECONSTRUCTION)
        cells = [told(each.spread(results, data)) for each in quantities]
        if any(cells):
            rows.append([recipe.words, *cells])
    table = markdown(["tokenizer", *(heading for heading, _ in RECONSTRUCTION)], *rows)
    return _with(OF_TOKENIZERS, table, results, data)


def _samples(results: Results, data: str) -> str:
    """The quality of samples of all flows."""
    return _with(OF_SAMPLES, _ways(results, data, ROWS), results, data)


def _noise(results: Results, data: str) -> str:
    """The quality of samples whose noise is removed in several ways."""
    return _with(OF_NOISE, _ways(results, data, NOISE), results, data)


def _preparation(results: Results, data: str) -> str:
    """The time of preparation."""
    paths = ("seconds/encoding", "seconds/preparing", "overhead")
    spreads = (Quantity("preparation", path).spread(results, data) for path in paths)
    known = [each[0] for each in spreads if each is not None]
    if not known:
        return NOTHING
    head = ("encoding alone, s", "`tarflow prepare`, s", "more")
    return markdown(head, (f"{known[0]:.2f}", f"{known[1]:.2f}", f"{known[2]:.1%}"))


def _ways(results: Results, data: str, rows: Sequence[WayRow]) -> str:
    """The quality of samples, of what was drawn from."""
    fitted = {each["settings"]["variant"] for each in results}
    drawn = [row for row in rows if row.variant in fitted]
    return ways_table(results, data, drawn, SAMPLES, PIXELS.variant)


def _with(claims: Sequence[Comparison], table: str, results: Results, data: str) -> str:
    """A table, and what the runs say of claims about it, as far as these were measured."""
    known = [each for each in claims if each.verdict(results, data) != "not measured"]
    return f"{table}\n\n{verdicts(known, results)}" if known else table


TABLES = {
    "reconstruction": _reconstruction,
    "samples": _samples,
    "noise": _noise,
    "preparation": _preparation,
}
"""What makes the tables, by the names in the page's marks."""
