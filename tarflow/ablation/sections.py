"""What is asked of the runs: the claims of the paper, and what else its readers ask."""

from tarflow.ablation.claims import Comparison, Quantity, Section
from tarflow.ablation.judging import RULES, WEIGHTS

NATS = "nats_per_dim"
BITS = "bits_per_dim"
DRAWN = "samples/drawn/frechet_distance"
DENOISED = "samples/denoised/frechet_distance"
RAW = "samples/raw, denoised/frechet_distance"


def _less(words: str, better: tuple[str, str], worse: tuple[str, str]) -> Comparison:
    """A claim about two quantities, by variant and path."""
    return Comparison(words, Quantity(*better), Quantity(*worse))


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
            _less(
                "affine has the higher likelihood", ("default", NATS), ("volume_preserving", NATS)
            ),
            _less(
                "affine has better samples", ("default", DENOISED), ("volume_preserving", DENOISED)
            ),
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
            _less(
                "4 transforms have a higher likelihood than 1",
                ("default", NATS),
                ("transforms_1", NATS),
            ),
            _less(
                "4 transforms have better samples than 1",
                ("default", DENOISED),
                ("transforms_1", DENOISED),
            ),
            _less(
                "4 transforms have better samples than 2",
                ("default", DENOISED),
                ("transforms_2", DENOISED),
            ),
            _less(
                "8 transforms have better samples than 4",
                ("transforms_8", DENOISED),
                ("default", DENOISED),
            ),
        ),
    ),
    Section(
        "order",
        SAMPLES,
        (("alternating (default)", "default"), ("the same in all", "fixed_order")),
        (
            _less(
                "alternating has the higher likelihood", ("default", NATS), ("fixed_order", NATS)
            ),
            _less(
                "alternating has better samples", ("default", DENOISED), ("fixed_order", DENOISED)
            ),
        ),
    ),
    Section(
        "noise",
        (
            ("distance, drawn", DRAWN),
            ("distance, denoised", DENOISED),
        ),
        (
            ("none", "noise_0"),
            ("σ = 0.02", "noise_0.02"),
            ("σ = 0.05", "noise_0.05"),
            ("σ = 0.1 (default)", "default"),
            ("σ = 0.2", "noise_0.2"),
            ("uniform dequantization", "uniform"),
        ),
        (
            _less(
                "σ = 0.1 has better samples than none",
                ("default", DENOISED),
                ("noise_0", DENOISED),
            ),
            _less(
                "σ = 0.1 has better samples than 0.02",
                ("default", DENOISED),
                ("noise_0.02", DENOISED),
            ),
            _less(
                "σ = 0.1 has better samples than uniform",
                ("default", DENOISED),
                ("uniform", DRAWN),
            ),
        ),
    ),
    Section(
        "denoising",
        (("distance, drawn", DRAWN), ("distance, denoised", DENOISED)),
        (("σ = 0.05", "noise_0.05"), ("σ = 0.1 (default)", "default"), ("σ = 0.2", "noise_0.2")),
        tuple(
            _less(f"denoised samples are better at σ = {std}", (name, DENOISED), (name, DRAWN))
            for std, name in (("0.05", "noise_0.05"), ("0.1", "default"), ("0.2", "noise_0.2"))
        ),
    ),
    Section(
        "guidance",
        (
            ("weight 0", DENOISED),
            *((f"{w:g}", f"guidance/RULE/{w:g}/frechet_distance") for w in WEIGHTS),
        ),
        tuple((rule, "default") for rule in RULES),
        (
            *(
                _less(
                    f"weight 1 ({rule}) has better samples than 0",
                    ("default", f"guidance/{rule}/1/frechet_distance"),
                    ("default", DENOISED),
                )
                for rule in RULES
            ),
            _less(
                "at weight 2, a rising weight is better than a constant one",
                ("default", "guidance/linear, rising/2/frechet_distance"),
                ("default", "guidance/linear/2/frechet_distance"),
            ),
            _less(
                "weight 4 (linear) is too much: 1 is better",
                ("default", "guidance/linear/1/frechet_distance"),
                ("default", "guidance/linear/4/frechet_distance"),
            ),
        ),
    ),
    Section(
        "accuracy",
        (
            ("weight 0", "samples/denoised/accuracy"),
            *((f"{w:g}", f"guidance/RULE/{w:g}/accuracy") for w in WEIGHTS),
        ),
        tuple((rule, "default") for rule in RULES),
    ),
    Section(
        "training",
        (*SAMPLES, ("nats/dim, raw weights", f"raw/{NATS}"), ("distance, raw, denoised", RAW)),
        (("default", "default"), ("not clipped", "unclipped"), ("AdamW", "adamw")),
        (
            _less(
                "averaged weights have the higher likelihood",
                ("default", NATS),
                ("default", f"raw/{NATS}"),
            ),
            _less("averaged weights have better samples", ("default", DENOISED), ("default", RAW)),
            _less("clipping helps the likelihood", ("default", NATS), ("unclipped", NATS)),
            _less("clipping helps samples", ("default", DENOISED), ("unclipped", DENOISED)),
            _less("Muon has a higher likelihood than AdamW", ("default", NATS), ("adamw", NATS)),
            _less(
                "Muon has better samples than AdamW", ("default", DENOISED), ("adamw", DENOISED)
            ),
        ),
    ),
    Section(
        "baselines",
        (
            ("bits/dim", BITS),
            ("distance, drawn", DRAWN),
            ("parameters", "parameters"),
            ("steps", "steps"),
        ),
        (
            ("TarFlow, labelled", "uniform"),
            ("TarFlow", "unlabelled"),
            ("neural spline flow (zuko)", "neural_spline"),
            ("masked autoregressive flow (zuko)", "masked_autoregressive"),
            ("RealNVP (normflows)", "real_nvp"),
            ("Gaussian", "gaussian"),
        ),
        tuple(
            _less(
                f"TarFlow has a higher likelihood than {words}", ("unlabelled", BITS), (name, BITS)
            )
            for words, name in (
                ("a neural spline flow", "neural_spline"),
                ("a masked autoregressive flow", "masked_autoregressive"),
                ("RealNVP", "real_nvp"),
                ("a Gaussian", "gaussian"),
            )
        ),
    ),
)
