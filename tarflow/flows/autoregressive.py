"""The autoregressive transform: a causal transformer that predicts an affine map per position."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tarflow.flows.affine import Affine, Scale
from tarflow.flows.conditioning import (
    Conditioner,
    TemperatureConditioner,
    with_null,
)
from tarflow.flows.context import Context
from tarflow.flows.decoding import Decoder, Decoding, Predict, residual
from tarflow.flows.guidance import Guidance
from tarflow.flows.report import TransformReport
from tarflow.flows.transforms import Inverse, Transform
from tarflow.nn.attention import DifferentiableKVCache, KVCache, Window
from tarflow.nn.networks import Network
from tarflow.nn.transformer import CausalTransformer


class AutoregressiveTransform(Transform):
    r"""$z_i = (x_i - \mu_i) \exp(-\alpha_i)$ with $(\alpha_i, \mu_i)$ a function of $x_{<i}$.

    The first position is left as it is. The Jacobian is triangular, so the log-determinant is
    $-\sum_i \alpha_i$ (arXiv 2412.06329, section 2).

    Args:
        network: Its output at position i parameterizes position i + 1.
        scale: How the network's output becomes an affine map.
        conditioners: Read parts of the context; what each learns here is `<part>_embedding`.
    """

    num_decoded = 1

    def __init__(
        self,
        network: CausalTransformer,
        scale: Scale,
        conditioners: Sequence[Conditioner] = (),
    ):
        super().__init__()
        self.network = network
        self.scale = scale
        self.conditioners = (*conditioners, TemperatureConditioner())
        for conditioner in self.conditioners:
            module = conditioner.module(network.model_dim)
            if module is not None:
                self.add_module(f"{conditioner.part}_embedding", module)

    def forward(
        self, x: Float[Tensor, "batch length patch_dim"], context: Context
    ) -> tuple[Float[Tensor, "batch length patch_dim"], Float[Tensor, " batch"]]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        affine = self.predict(self.network, context, x)(x[:, :-1], 0).after_first()
        return affine.to_noise(x), affine.log_det

    def inverse(
        self, z: Float[Tensor, "batch length patch_dim"], context: Context, decoding: Decoding
    ) -> Inverse:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        decoder = decoding.decoder.at(decoding.depth)
        task = Inversion(self, z, context, decoding.active_guidance, decoder)
        lowered = decoding.networks.lowers(self.network)
        if torch.is_grad_enabled():
            solution = task.solve(self.network)
            if lowered:
                solution = solution.unchecked()
        else:
            # The networks were cast once; autocast would cast them again at every step.
            network = decoding.networks.of(self.network)
            with torch.autocast(z.device.type, enabled=False):
                solution = task.solve(network)
                if lowered:
                    exact = decoding.networks.exact.of(self.network)
                    solution = task.repair(solution, exact, decoding.certify)
        return Inverse(solution.x, solution.log_det, (solution.report(decoder),))

    def predict(
        self, network: Network, context: Context, example: Tensor, cache: KVCache | None = None
    ) -> "Prediction":
        """Its prediction in a context, by its network or one made of that."""
        condition = self.condition(context, example)
        return Prediction(
            network, self.scale, condition, context.temperature, cache, example.dtype
        )

    def condition(
        self, context: Context, example: Tensor
    ) -> Float[Tensor, "batch model_dim"] | None:
        """What the network adds at every position."""
        vectors = []
        for conditioner in self.conditioners:
            module = getattr(self, f"{conditioner.part}_embedding", None)
            if module is not None:
                rows = context.get(conditioner.part)
                vectors.append(module(conditioner.null(example) if rows is None else rows))
        return sum(vectors[1:], start=vectors[0]) if vectors else None


@dataclass(frozen=True)
class Prediction:
    """A transform's prediction, with all that stays the same between the steps of decoding."""

    network: Network
    scale: Scale
    condition: Float[Tensor, "batch model_dim"] | None
    temperature: Float[Tensor, " batch"] | None
    cache: KVCache | None
    dtype: torch.dtype

    def __call__(self, x: Float[Tensor, "batch window patch_dim"], start: int) -> Affine:
        """Predict the maps of positions `start + 1 ...` from the values before them."""
        window = Window(start, self.cache, self.temperature)
        return self.scale.affine(self.network(x, self.condition, window).to(self.dtype))


@dataclass(frozen=True)
class GuidedPrediction:
    """Conditional and null prediction as one batch of twice the size, combined by a rule."""

    prediction: Prediction
    guidance: Guidance
    weights: Float[Tensor, "length 1"]

    def __call__(self, x: Float[Tensor, "batch window patch_dim"], start: int) -> Affine:
        """Predict twice and combine."""
        both = self.prediction(torch.cat([x, x]), start)
        log_scale, null_log_scale = both.log_scale.chunk(2)
        shift, null_shift = both.shift.chunk(2)
        weight = self.weights[start + 1 : start + 1 + x.shape[1]]
        return self.guidance(Affine(log_scale, shift), Affine(null_log_scale, null_shift), weight)


@dataclass(frozen=True)
class Solution:
    """What an inversion found, and how far off it may be; see `TransformReport`."""

    x: Float[Tensor, "batch length patch_dim"]
    log_det: Float[Tensor, " batch"]
    residual: Float[Tensor, " batch"]
    iterations: Int[Tensor, " batch"]
    passes: int
    non_finite: Int[Tensor, " batch"]
    redone: Bool[Tensor, " batch"]
    exact: bool

    def report(self, decoder: Decoder) -> TransformReport:
        """The part that is no result."""
        measured = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        return TransformReport(decoder, **{**measured, "residual": self.residual.detach()})

    def unchecked(self) -> "Solution":
        """The same, as one of lower precision that nothing has measured."""
        return replace(self, residual=torch.full_like(self.residual, torch.nan), exact=False)

    def put(self, rows: Int[Tensor, " some"], other: "Solution") -> "Solution":
        """The same with some examples, redone, in place of theirs."""
        return Solution(
            self.x.index_copy(0, rows, other.x),
            self.log_det.index_copy(0, rows, other.log_det),
            self.residual.index_copy(0, rows, other.residual),
            self.iterations.index_add(0, rows, other.iterations),
            self.passes + other.passes,
            self.non_finite.index_add(0, rows, other.non_finite),
            self.redone.index_fill(0, rows, True),
            self.exact,
        )


@dataclass(frozen=True)
class Inversion:
    """The task to invert one transform."""

    transform: AutoregressiveTransform
    z: Float[Tensor, "batch length patch_dim"]
    context: Context
    guidance: Guidance | None
    decoder: Decoder

    def solve(self, network: Network) -> Solution:
        """Decode, with the transform's network or one made of that."""
        decoded = self.decoder(self.predict(network, cached=True), self.z)
        gap = residual(decoded.affine, decoded.x, self.z)
        redone = torch.zeros(len(self.z), dtype=torch.bool, device=self.z.device)
        log_det, tolerance = decoded.affine.log_det, self.decoder.tolerance
        counts = decoded.iterations, decoded.passes, decoded.non_finite
        return Solution(decoded.x, log_det, gap, *counts, redone, exact=tolerance == torch.inf)

    def repair(self, solution: Solution, exact: Network, certify: bool) -> Solution:
        """Measure a solution of lower precision with an exact network; redo what misses.

        Without a tolerance nothing is measured, unless certificates are asked for, and only what
        is not finite is redone.
        """
        x, tolerance = solution.x, self.decoder.tolerance
        missed = ~x.isfinite().all(dim=2).all(dim=1)
        solution = solution.unchecked()
        if certify or tolerance < torch.inf:
            gap = residual(self.predict(exact)(x[:, :-1], 0), x, self.z)
            missed = missed | ~(gap <= tolerance)
            solution = replace(solution, residual=gap)
        rows = missed.nonzero().flatten()
        if not len(rows):
            return solution
        context = self.context.map(lambda part: part[rows])
        again = replace(self, z=self.z[rows], context=context).solve(exact)
        return solution.put(rows, again)

    def predict(self, network: Network, cached: bool = False) -> Predict:
        """The prediction to solve for, guided or not."""
        z, context, guidance = self.z, self.context, self.guidance
        if guidance is None:
            cache = self._cache(network, len(z)) if cached else None
            return self.transform.predict(network, context, z, cache)
        stacked = with_null(context, self.transform.conditioners, z, guidance.temperature)
        cache = self._cache(network, 2 * len(z)) if cached else None
        unguided = self.transform.predict(network, stacked, torch.cat([z, z]), cache)
        position = torch.arange(z.shape[1], dtype=z.dtype, device=z.device)
        return GuidedPrediction(unguided, guidance, guidance.weights(position)[:, None])

    def _cache(self, network: Network, rows: int) -> KVCache:
        """Keys and values for so many sequences, differentiable if gradients are on."""
        if isinstance(network, CausalTransformer) and torch.is_grad_enabled():
            return DifferentiableKVCache(len(network.blocks), network.length)
        return network.new_cache(rows)
