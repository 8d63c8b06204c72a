"""What is asked of the runs: the claims of the paper, and what else its readers ask."""

from tarflow.ablation.claims import Comparison, Quantity, Section
from tarflow.ablation.judging import RULES, WEIGHTS

NATS = "nats_per_dim"
BITS = "bits_per_dim"
DRAWN = "samples/drawn/frechet_distance"
DENOISED = "samples/denoised/frechet_distance"
RAW = "samples/raw, denoised/frechet_distance"


def _less(words: str, better: str, worse: str, path: str = DENOISED) -> Comparison:
    """A claim that a number is less for one variant than for another."""
    return Comparison(words, Quantity(better, path), Quantity(worse, path))


def _within(words: str, better: str, worse: str, variant: str = "default") -> Comparison:
    """A claim that one number of a variant is less than another."""
    return Comparison(words, Quantity(variant, better), Quantity(variant, worse))


def guided(rule: str, weight: float, key: str = "frechet_distance") -> str:
    """Where a number of guided samples is."""
    return f"guidance/{rule}/{weight:g}/{key}"


SAMPLES = (("nats/dim", NATS), ("distance, drawn", DRAWN), ("distance, denoised", DENOISED))

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
        (("weight 0", DENOISED), *((f"{w:g}", guided("RULE", w)) for w in WEIGHTS)),
        tuple((rule, "default") for rule in RULES),
        (
            *(
                _within(
                    f"weight 1 ({rule}) has better samples than 0", guided(rule, 1.0), DENOISED
                )
                for rule in RULES
            ),
            _within(
                "at weight 2, a rising weight is better than a constant one",
                guided("linear, rising", 2.0),
                guided("linear", 2.0),
            ),
            _within(
                "weight 4 (linear) is too much: 1 is better",
                guided("linear", 1.0),
                guided("linear", 4.0),
            ),
        ),
    ),
    Section(
        "accuracy",
        (
            ("weight 0", "samples/denoised/accuracy"),
            *((f"{w:g}", guided("RULE", w, "accuracy")) for w in WEIGHTS),
        ),
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
)
