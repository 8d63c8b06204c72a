"""The autoregressive transform: a causal transformer that predicts an affine map per position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from tarflow.flows.affine import Scale
from tarflow.flows.conditioning import Conditioner, TemperatureConditioner, with_null
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions, residual
from tarflow.flows.first_position import FirstPosition, FixedFirst
from tarflow.flows.guidance import Guidance
from tarflow.flows.implicit import differentiable
from tarflow.flows.prediction import GuidedPrediction, Prediction
from tarflow.flows.reading_order import Reading
from tarflow.flows.report import Inverse
from tarflow.flows.shapes import PerExample, Sequences
from tarflow.flows.stepping import stepping
from tarflow.flows.transforms import Transform
from tarflow.nn.attention import KVCache
from tarflow.nn.networks import Network, Networks
from tarflow.nn.transformer import CausalTransformer, Condition, Prefix


class AutoregressiveTransform(Transform):
    r"""$z_i = (x_i - \mu_i) \exp(-\alpha_i)$ with $(\alpha_i, \mu_i)$ a function of $x_{<i}$.

    The first position is left as it is, unless a start token precedes it. The Jacobian is
    triangular, so the log-determinant is $-\sum_i \alpha_i$ (arXiv 2412.06329, section 2).

    Args:
        network: Its output at position i parameterizes position i + 1.
        scale: How the network's output becomes an affine map.
        conditioners: Read parts of the context; what each learns here is `<part>_embedding`.
        first: What the first position depends on; the network's length counts what it adds.
    """

    num_decoded = 1

    def __init__(
        self,
        network: CausalTransformer,
        scale: Scale,
        conditioners: Sequence[Conditioner] = (),
        first: FirstPosition = FixedFirst(),
    ):
        super().__init__()
        self.network = network
        self.scale = scale
        self.first = first
        self.conditioners = (*conditioners, TemperatureConditioner())
        for conditioner in self.conditioners:
            module = conditioner.module(network.model_dim)
            if module is not None:
                self.add_module(f"{conditioner.part}_embedding", module)

    def forward(self, x: Sequences, context: Context) -> tuple[Sequences, PerExample]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if context.temperature is not None:  # a wrong one shows: attention may hide its NaN
            known = torch.where(context.temperature > 0, 1.0, torch.nan)
            x = x * known.to(x.dtype)[:, None, None]
        reading, context = self._reading(context)
        x = self.first.extend(reading.arrange(x))
        affine = self.predict(self.network, context, x)(x[:, :-1], 0).after_first()
        return reading.restore(self.first.strip(affine.to_noise(x))), affine.log_det(x)

    def inverse(
        self, z: Sequences, context: Context, options: DecodeOptions = DecodeOptions()
    ) -> Inverse:
        reading, context = self._reading(context)
        z = reading.arrange(z.to(torch.promote_types(z.dtype, torch.float32)))
        z = self.first.extend(z)
        task = Inversion(self, z, context, options)
        networks = options.networks or Networks(options.dtype, options.compile)
        network, lowered = networks.of(self.network), networks.lowers(self.network)
        # The networks were cast once; autocast would cast them again at every step.
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            inverse = task.solve(network)
            if lowered:
                inverse = task.repair(inverse, networks.exact.of(self.network))
            inverse = inverse.marked()
        inputs = (z, *context.parts.values()), self.parameters()
        if torch.is_grad_enabled() and any(x.requires_grad for x in chain(*inputs)):
            x, log_det = differentiable(inverse.x, z, task.predict(self.network))
            inverse = Inverse(x, log_det, inverse.report)
        return replace(inverse, x=reading.restore(self.first.strip(inverse.x)))

    def hold(self, x: Sequences, context: Context) -> tuple[Sequences, Callable[[Tensor], Tensor]]:
        reading, context = self._reading(context)
        x = reading.arrange(x.detach().to(torch.promote_types(x.dtype, torch.float32)))
        x = self.first.extend(x)
        affine = self.predict(self.network, context, x)(x[:, :-1], 0).after_first()

        def inverse(z: Tensor) -> Tensor:
            z = self.first.extend(reading.arrange(z))
            return reading.restore(self.first.strip(affine.to_data(z)))

        return reading.restore(self.first.strip(affine.to_noise(x))).detach(), inverse

    def _reading(self, context: Context) -> tuple[Reading, Context]:
        """In which order positions are read, and what is known of the context, in that order."""
        reading = Reading.of(context)
        return reading, reading.carried(self.known(context), self.by_position)

    def predict(
        self, network: Network, context: Context, example: Tensor, cache: KVCache | None = None
    ) -> Prediction:
        """Its prediction in a context as it is read, by its network or one made of that."""
        prefix, mask = self.prefix(context, example), context.get("mask")
        return Prediction(
            network=network,
            cache=cache,
            condition=network.conditioned(self.condition(context, example)),
            temperature=context.temperature,
            scale=self.scale,
            dtype=example.dtype,
            prefix=prefix,
            places=self._places(context),
            mask=None if mask is None else F.pad(mask, (self.first.num_added, 0), value=True),
        )

    def condition(self, context: Context, example: Tensor) -> Condition:
        """What the network adds at its inputs: the same at all of them, or at each its own."""
        same, each = [], []
        for conditioner in self.conditioners:
            vectors = self._embedded(conditioner, context, example)
            if vectors is not None and not conditioner.num_prefix:
                (each if conditioner.by_position else same).append(vectors)
        condition = sum(same[1:], start=same[0]) if same else None
        if not each:
            return condition
        # Inputs stand behind the prefix, and the last position is none.
        inputs = F.pad(sum(each[1:], start=each[0]), (0, 0, self.num_prefix, 1))
        return inputs if condition is None else inputs + condition[:, None]

    def prefix(self, context: Context, example: Tensor) -> Prefix | None:
        """What stands before the first position."""
        each = [self._embedded(c, context, example) for c in self.conditioners if c.num_prefix]
        made = [vectors for vectors in each if vectors is not None]
        return torch.cat(made, dim=1) if made else None

    @property
    def num_prefix(self) -> int:
        """Number of vectors before the first position."""
        return sum(each.num_prefix for each in self.conditioners)

    def _embedded(
        self, conditioner: Conditioner, context: Context, example: Tensor
    ) -> Tensor | None:
        """What is learned of a part of the context, if anything."""
        module = getattr(self, f"{conditioner.part}_embedding", None)
        if module is None:
            return None
        rows = context.get(conditioner.part)
        rows = conditioner.null(example) if rows is None else rows
        if conditioner.by_position:
            rows = F.pad(rows, (0, 0, self.first.num_added, 0), value=torch.nan)  # the start
        return module(rows)

    def _places(self, context: Context) -> Int[Tensor, "batch length"] | None:
        """Where in the network's tables each position stands, unless that is its own place."""
        order, num_before = context.get("order"), self.num_prefix + self.first.num_added
        if order is None:
            return None
        before = torch.arange(num_before, device=order.device).expand(len(order), -1)
        return torch.cat([before, order + num_before], dim=1)


@dataclass(frozen=True)
class Inversion:
    """The task to invert one transform."""

    transform: AutoregressiveTransform
    z: Sequences
    context: Context
    options: DecodeOptions

    @property
    def rule(self) -> Guidance | None:
        """The guidance, where the null prediction is another one than the conditional."""
        rule, transform = self.options.rule, self.transform
        tempered = self.context.temperature is not None or (rule and rule.temperature != 1)
        return rule if tempered or any(c.dropped for c in transform.conditioners) else None

    def solve(self, network: Network) -> Inverse:
        """Decode, with the transform's network or one made of that."""
        cache = network.new_cache(len(self.z) * (1 if self.rule is None else 2))
        decoder = self.options.decoder.at(self.options.depth)
        prediction = self.predict(network, cache)
        prediction.fill(self.z[:, :1])
        inverse = decoder(stepping(prediction), self.z)
        # Of a device this cannot be known without waiting for it.
        cache.clean = self.z.device.type == "cpu" and bool(inverse.report.finite.all())
        return inverse

    def repair(self, inverse: Inverse, exact: Network) -> Inverse:
        """Measure an inverse of lower precision with an exact network; redo what misses.

        Without a tolerance nothing is measured, unless certificates are asked for, and only what
        is not finite is redone, unless its noise is not.
        """
        x, report = inverse.x, inverse.report
        unknown = torch.full_like(report.residual, torch.nan)
        report = replace(report, residual=unknown, exact=(False,))
        missed = ~report.finite[0]
        tolerance = report.decoder[0].tolerance
        if self.options.certify or tolerance < torch.inf:
            gap = residual(self.predict(exact)(x[:, :-1], 0), x, self.z)
            missed = missed | ~(gap <= tolerance)
            report = replace(report, residual=gap[None])
        missed = missed & self.z.isfinite().all(dim=2).all(dim=1)
        inverse, rows = replace(inverse, report=report), missed.nonzero().flatten()
        if not len(rows):
            return inverse
        context = self.context.map(lambda part: part[rows])
        return inverse.put(rows, replace(self, z=self.z[rows], context=context).solve(exact))

    def predict(self, network: Network, cache: KVCache | None = None) -> Prediction:
        """The prediction to solve for, guided or not."""
        z, context, rule = self.z, self.context, self.rule
        if rule is None:
            return self.transform.predict(network, context, z, cache)
        stacked = with_null(context, self.transform.conditioners, z, rule.temperature)
        unguided = self.transform.predict(network, stacked, torch.cat([z, z]), cache)
        first = self.transform.first
        length = z.shape[1] - first.num_added
        weights = rule.weights(torch.arange(length, dtype=z.dtype, device=z.device))
        told = {"guidance": rule, "weights": first.extend(weights[None, :, None])[0]}
        mask = None if unguided.mask is None else unguided.mask[: len(z)]
        return GuidedPrediction(**{**vars(unguided), "mask": mask}, **told)
