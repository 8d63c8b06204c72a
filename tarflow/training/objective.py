"""Objectives: what training minimizes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep
from tarflow.data.divided_data import DividedData
from tarflow.data.images import check_images
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.conditioning import with_dropout
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import PerExample
from tarflow.flows.unit import Unit, nats_per_dim
from tarflow.randomness import RandomSource
from tarflow.registry import Part
from tarflow.training.distillation.image_distances import Distance


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, and what it was computed from.

    Attributes:
        value: The loss of each example, in nats; training minimizes the mean over examples and
            dimensions, and logs it.
        x: The data, with its noise; tells where a loss that is not finite comes from.
        context: What it was conditioned on.
        z: The noise that the flow made of x, from which a base with a learned variance learns.
        logged: Further numbers to log, one for each example.
        penalty: What training adds to the value of each example, but does not log as its loss.
    """

    value: Float[Tensor, " batch"]
    x: Float[Tensor, "batch ..."]
    context: Context
    z: Float[Tensor, "batch length patch_dim"] | None = None
    logged: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)
    penalty: Float[Tensor, " batch"] | None = None

    @property
    def minimized(self) -> Float[Tensor, " batch"]:
        """The value with the penalty."""
        return self.value if self.penalty is None else self.value + self.penalty

    def detached(self) -> "Loss":
        """The same without what gradients need."""
        z = None if self.z is None else self.z.detach()
        logged = {name: values.detach() for name, values in self.logged.items()}
        penalty = None if self.penalty is None else self.penalty.detach()
        return replace(self, value=self.value.detach(), z=z, logged=logged, penalty=penalty)


@dataclass(frozen=True)
class Objective(Part, ABC):
    """Tells a loss for every example of a batch; a module knows how to minimize it.

    Attributes:
        name: What the loss per dimension is called in logs, unless `named` tells otherwise.
    """

    name: ClassVar[str] = "loss"

    def named(self, flow: Flow) -> str:
        """What the loss per dimension of a flow is called in logs, after `train/` and `val/`."""
        return self.name

    @property
    def distances(self) -> tuple[Distance, ...]:
        """The distances that it measures, which are moved and kept with what is trained."""
        return ()

    def start(self, flow: Flow) -> None:
        """Be told of the flow that is to be trained: a codec with weights stays as it is.

        Raises:
            ConfigurationError: It is not for such a flow.
        """
        if flow.codec is not None:
            flow.codec.held()

    def prepare(self, data: DividedData) -> None:
        """Let its distances learn what they need from the training part, before training."""
        for distance in self.distances:
            distance.fit(check_images(data))

    @abstractmethod
    def __call__(self, flow: Flow, batch: Batch, source: RandomSource) -> Loss:
        """The loss of a batch as it was read; all draws come from the source."""

    def validate(
        self, flow: Flow, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        """What is logged of every example of the validation part, by name."""
        loss = self(flow, batch, source)
        return {self.named(flow): loss.value / flow.num_dims, **loss.logged}


@dataclass(frozen=True)
class MaximumLikelihood(Objective):
    r"""The negative log-likelihood of noisy data, weighted by a power of its noise level.

    Attributes:
        class_dropout: Probability of dropping an example's conditions, so that the flow also
            learns the null prediction that guidance needs.
        level_power: Power p of the weight $t^p$ of an example at noise level t, for flows of many
            levels: 0, 1 (as published, arXiv 2604.20041) or 2.
        latent_penalty: What the square of the norm of an example's z adds to its loss; 1e-4 keeps
            latents from growing (STARFlow, arXiv 2506.06276). The likelihood is logged without.
    """

    class_dropout: float = 0.1
    level_power: int = 0
    latent_penalty: float = 0.0

    def __post_init__(self):
        for name in ("class_dropout", "latent_penalty"):
            keep(self, **{name: check_real(name, getattr(self, name))})
        if not 0 <= self.class_dropout <= 1:
            raise ConfigurationError(f"class_dropout {self.class_dropout} must be in [0, 1]")
        if not 0 <= self.latent_penalty < math.inf:
            raise ConfigurationError(
                f"latent_penalty {self.latent_penalty} must be finite and not negative: 0 is off"
            )
        keep(self, level_power=check_integer("level_power", self.level_power))
        if not 0 <= self.level_power <= 2:
            raise ConfigurationError(f"level_power {self.level_power} must be 0, 1 or 2")

    def named(self, flow: Flow) -> str:
        return f"weighted_{nats_per_dim(flow)}" if self.level_power else nats_per_dim(flow)

    def __call__(self, flow: Flow, batch: Batch, source: RandomSource) -> Loss:
        x, context = flow.observe(batch.x, batch.context, source)
        context = with_dropout(context, flow.conditioners, self.class_dropout, source)
        z, log_det = flow(x, context)
        nats = -(flow.noise_log_prob(z, context) + log_det)
        dims = flow.dims(context)
        logged = {nats_per_dim(flow): nats / dims} if self.level_power else {}
        loss = Loss(self.weighted(nats, context), x, context, z, logged)
        if not self.latent_penalty:
            return loss
        penalty = self.latent_penalty * z.square().sum(dim=(1, 2))
        logged = {**logged, "latent_penalty": penalty / dims}
        return replace(loss, penalty=penalty, logged=logged)

    def validate(
        self, flow: Flow, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        x, context = flow.held_out(batch.x, batch.context, source)
        flow.check_context(flow.read_context(context, x))
        log_prob = flow.log_prob(x, context)
        unit = Unit.of(flow)
        nats = -log_prob / flow.dims(context)
        found = {self.named(flow): self.weighted(nats, context), nats_per_dim(flow): nats}
        return found if unit.codec is None else {**found, unit.name: unit(log_prob)}

    def weighted(self, values: PerExample, context: Context) -> PerExample:
        """Values of examples, times their weights."""
        if not self.level_power:
            return values
        level = context.get("noise_level")
        if level is None:
            raise ConfigurationError(
                f"level_power {self.level_power} weights by noise levels, but this flow has noise"
                " of one: leave it out, or train with noise=levels"
            )
        return values * level.to(values.dtype) ** self.level_power
