"""What is asked of the runs: the claims of the paper, and what else its readers ask."""

from collections.abc import Mapping

from tarflow.ablation.claims import Comparison, Quantity, Section
from tarflow.ablation.judging import LEVEL, RULES, WEIGHTS
from tarflow.ablation.variants import REFERENCE

NATS = "nats_per_dim"
BITS = "bits_per_dim"
DRAWN = "samples/drawn/frechet_distance"
DENOISED = "samples/denoised/frechet_distance"
RAW = "samples/raw, denoised/frechet_distance"
AT_LEVEL = f"at_{LEVEL:g}/nats_per_dim"
ONE_STEP = "samples/one step/frechet_distance"
STOCHASTIC = "samples/stochastic/frechet_distance"


def _less(words: str, better: str, worse: str, path: str = DENOISED) -> Comparison:
    """A claim that a number is less for one variant than for another."""
    return Comparison(words, Quantity(better, path), Quantity(worse, path))


def _within(words: str, better: str, worse: str, variant: str = "default") -> Comparison:
    """A claim that one number of a variant is less than another."""
    return Comparison(words, Quantity(variant, better), Quantity(variant, worse))


def _at(rule: str, weight: str, key: str = "frechet_distance") -> str:
    """Where a number of samples at a weight of guidance is."""
    return f"guidance/{rule}/{weight}/{key}"


def by_weight(rule: str, key: str) -> list[tuple[str, str]]:
    """Headings and paths of a number of samples without and with guidance."""
    weights = [f"{weight:g}" for weight in WEIGHTS]
    guided = [(weight, _at(rule, weight, key)) for weight in weights]
    return [("weight 0", f"samples/denoised/{key}"), *guided]


SAMPLES = (("nats/dim", NATS), ("distance, drawn", DRAWN), ("distance, denoised", DENOISED))
LEVELS = (("0.02 to 0.15", "levels_0.15"), ("0.02 to 0.3", "levels_0.3"))
SIZES = (("parameters", "parameters"), ("steps", "steps"))


def _against(name: str, words: str, others: Mapping[str, str]) -> Section:
    """A section that asks whether other choices than the default's are better for equal time."""
    claims = []
    for variant, other in others.items():
        claims.append(_less(f"{other} has a higher likelihood", variant, REFERENCE, NATS))
        claims.append(_less(f"{other} has better samples", variant, REFERENCE))
    rows = [(f"{words} (default)", REFERENCE), *((w, variant) for variant, w in others.items())]
    return Section(name, (*SAMPLES, *SIZES), rows, claims)


def _levels() -> Section:
    """One noise level against all of them, the likelihood at that level."""
    claims = []
    for high in ("0.15", "0.3"):
        at = Quantity(f"levels_{high}", AT_LEVEL)
        words = f"one level has a higher likelihood than levels up to {high}, at its own"
        claims.append(Comparison(words, Quantity(REFERENCE, NATS), at))
        words = f"levels up to {high} have better samples than one"
        claims.append(_less(words, f"levels_{high}", REFERENCE))
    rows = [("one level, 0.1 (default)", REFERENCE), *LEVELS]
    columns = (("nats/dim at 0.1", AT_LEVEL), *SAMPLES[1:], *SIZES)
    return Section("levels", columns, rows, claims)


def _ladder() -> Section:
    """Ways from the samples of a flow of many noise levels to clean ones."""
    ways = {"one step": ONE_STEP, "the stochastic ladder": STOCHASTIC}
    claims = [
        _within(f"the ladder has better samples than {words} from {high}", DENOISED, path, name)
        for words, path in ways.items()
        for high, name in (("0.15", "levels_0.15"), ("0.3", "levels_0.3"))
    ]
    columns = (
        SAMPLES[1],
        ("one step", ONE_STEP),
        ("ladder", DENOISED),
        ("ladder, stochastic", STOCHASTIC),
    )
    return Section("ladder", columns, LEVELS, claims)


OF_LATER_PAPERS = (
    _levels(),
    _ladder(),
    _against(
        "stack",
        "4 transforms of 2 layers",
        {
            "deep_near_noise": "one of 5 layers nearest the noise",
            "deep_near_data": "one of 5 layers nearest the data",
        },
    ),
    _against(
        "positions",
        "learned",
        {"rotary": "rotary", "rotary_grid": "rotary in the grid"},
    ),
    _against(
        "norm",
        "LayerNorm",
        {
            "rms_norm": "RMSNorm",
            "query_key_norm": "LayerNorm and query-key norm",
            "adaptive_norm": "adaptive LayerNorm",
        },
    ),
    _against(
        "mlp", "GELU MLP", {"swiglu": "SwiGLU", "gated_attention": "GELU MLP and gated attention"}
    ),
    _against("scales", "exp", {"softplus": "softplus", "soft_clip": "exp of a soft clip"}),
    _against("first", "the first position fixed", {"start_token": "a start token"}),
)
"""What later papers added to the method."""

SECTIONS = (
    Section(
        "real",
        (("distance", "real/frechet_distance"), ("accuracy", "real/accuracy")),
        (("test images", "default"),),
    ),
    Section(
        "scale",
        SAMPLES,
        (("affine", "default"), ("volume-preserving", "volume_preserving")),
        (
            _less("affine has the higher likelihood", "default", "volume_preserving", NATS),
            _less("affine has better samples", "default", "volume_preserving"),
        ),
    ),
    Section(
        "transforms",
        SAMPLES,
        (
            ("1 transform of 8 layers", "transforms_1"),
            ("2 of 4", "transforms_2"),
            ("4 of 2 (default)", "default"),
            ("8 of 1", "transforms_8"),
        ),
        (
            _less("4 transforms have a higher likelihood than 1", "default", "transforms_1", NATS),
            _less("4 transforms have better samples than 1", "default", "transforms_1"),
            _less("4 transforms have better samples than 2", "default", "transforms_2"),
            _less("8 transforms have better samples than 4", "transforms_8", "default"),
        ),
    ),
    Section(
        "order",
        SAMPLES,
        (("alternating (default)", "default"), ("the same in all", "fixed_order")),
        (
            _less("alternating has the higher likelihood", "default", "fixed_order", NATS),
            _less("alternating has better samples", "default", "fixed_order"),
        ),
    ),
    Section(
        "noise",
        SAMPLES[1:],
        (
            ("none", "noise_0"),
            ("σ = 0.02", "noise_0.02"),
            ("σ = 0.05", "noise_0.05"),
            ("σ = 0.1 (default)", "default"),
            ("σ = 0.2", "noise_0.2"),
            ("uniform dequantization", "uniform"),
        ),
        (
            _less("σ = 0.1 has better samples than none", "default", "noise_0"),
            _less("σ = 0.1 has better samples than 0.02", "default", "noise_0.02"),
            Comparison(
                "σ = 0.1 has better samples than uniform",
                Quantity("default", DENOISED),
                Quantity("uniform", DRAWN),
            ),
        ),
    ),
    Section(
        "denoising",
        SAMPLES[1:],
        (("σ = 0.05", "noise_0.05"), ("σ = 0.1 (default)", "default"), ("σ = 0.2", "noise_0.2")),
        tuple(
            _within(f"denoised samples are better at σ = {std}", DENOISED, DRAWN, name)
            for std, name in (("0.05", "noise_0.05"), ("0.1", "default"), ("0.2", "noise_0.2"))
        ),
    ),
    Section(
        "guidance",
        by_weight("RULE", "frechet_distance"),
        tuple((rule, "default") for rule in RULES),
        (
            *(
                _within(f"weight 1 ({rule}) has better samples than 0", _at(rule, "1"), DENOISED)
                for rule in RULES
            ),
            _within(
                "at weight 2, a rising weight is better than a constant one",
                _at("linear, rising", "2"),
                _at("linear", "2"),
            ),
            _within(
                "weight 4 (linear) is too much: 1 is better",
                _at("linear", "1"),
                _at("linear", "4"),
            ),
        ),
    ),
    Section(
        "accuracy",
        by_weight("RULE", "accuracy"),
        tuple((rule, "default") for rule in RULES),
    ),
    Section(
        "training",
        (*SAMPLES, ("nats/dim, raw weights", f"raw/{NATS}"), ("distance, raw, denoised", RAW)),
        (("default", "default"), ("not clipped", "unclipped"), ("AdamW", "adamw")),
        (
            _within("averaged weights have the higher likelihood", NATS, f"raw/{NATS}"),
            _within("averaged weights have better samples", DENOISED, RAW),
            _less("clipping helps the likelihood", "default", "unclipped", NATS),
            _less("clipping helps samples", "default", "unclipped"),
            _less("Muon has a higher likelihood than AdamW", "default", "adamw", NATS),
            _less("Muon has better samples than AdamW", "default", "adamw"),
        ),
    ),
    Section(
        "baselines",
        (("bits/dim", BITS), SAMPLES[1], ("parameters", "parameters"), ("steps", "steps")),
        (
            ("TarFlow, labelled", "uniform"),
            ("TarFlow", "unlabelled"),
            ("neural spline flow (zuko)", "neural_spline"),
            ("masked autoregressive flow (zuko)", "masked_autoregressive"),
            ("RealNVP (normflows)", "real_nvp"),
            ("Gaussian", "gaussian"),
        ),
        tuple(
            _less(f"TarFlow has a higher likelihood than {words}", "unlabelled", name, BITS)
            for words, name in (
                ("a neural spline flow", "neural_spline"),
                ("a masked autoregressive flow", "masked_autoregressive"),
                ("RealNVP", "real_nvp"),
                ("a Gaussian", "gaussian"),
            )
        ),
    ),
    *OF_LATER_PAPERS,
)
