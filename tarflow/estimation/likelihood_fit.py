"""How a flow is fitted to examples in memory."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from tarflow.arguments import check_integer, check_real, keep, keep_positive
from tarflow.errors import ConfigurationError, DataError
from tarflow.flows.conditioning import with_dropout
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.supported_flow import SupportedFlow
from tarflow.training.optimizers import muon, warmup_cosine

EMA = 0.99
"""Largest decay of the average of the weights, which is what is kept; less in the first steps."""

LARGEST_NORM = 1.0
"""To which gradients are clipped."""

WARM_UP = 20
"""Largest number of steps in which the learning rate rises."""


@dataclass
class FitHistory:
    """What a fit was like.

    Attributes:
        validation: Negative log-likelihoods of held-out examples, in nats, at every look.
        steps: Number of steps.
        skipped: Number of steps whose gradient was not finite, and which changed nothing.
        best_step: After how many of them the weights that were kept were reached.
    """

    validation: list[float] = field(default_factory=list)
    steps: int = 0
    skipped: int = 0
    best_step: int = 0


@dataclass(frozen=True)
class LikelihoodFit:
    """Fits a flow by maximum likelihood, until held-out examples get no likelier.

    The flow's standardization is fitted first. Muon and AdamW minimize the weighted mean of
    -log p; the exponential average of weights that is best on held-out examples is kept.

    Attributes:
        batch_size: Number of examples in a step.
        lr: Peak learning rate, which rises and then falls along a cosine over `max_steps`.
        max_steps: Largest number of steps.
        validation_fraction: Share of the examples that are held out; 0 for none, and no stop.
        patience: Number of looks at these without improvement after which the fit ends.
        look_every: Number of steps between two looks.
        context_dropout: Probability of dropping an example's conditions, for guidance.
        progress: Whether a bar tells of it.

    Raises:
        ConfigurationError: A number is out of range.
    """

    batch_size: int = 256
    lr: float = 2e-3
    max_steps: int = 3000
    validation_fraction: float = 0.1
    patience: int = 10
    look_every: int = 50
    context_dropout: float = 0.0
    progress: bool = False

    def __post_init__(self):
        for name in ("batch_size", "max_steps", "patience", "look_every"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        keep_positive(self, "lr")
        for name in ("validation_fraction", "context_dropout"):
            keep(self, **{name: check_real(name, getattr(self, name))})
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(f"{name} {getattr(self, name)} must be in [0, 1)")

    def __call__(
        self,
        flow: SupportedFlow,
        x: Float[Tensor, "num ..."],
        context: ContextLike = None,
        weight: Float[Tensor, " num"] | None = None,
        source: torch.Generator | None = None,
    ) -> FitHistory:
        """Fit a flow, in place, and leave it ready to evaluate.

        Args:
            flow: The flow.
            x: Examples, on its device.
            context: What each of them is conditioned on.
            weight: What each counts for in the mean; by default all the same.
            source: Where draws come from, those of dropout too; on the CPU. By default torch's own
                generator seeds one.

        Raises:
            ConfigurationError: Examples are not of the flow, or are constant in a column.
            DataError: The likelihood of held-out examples was never finite.
        """
        source = torch.Generator().manual_seed(seed_from(None)) if source is None else source
        flow.check_data(x)
        known = flow.read_context(context, x)
        flow.check_context(known)
        flow.check_complete(known, x)
        examples = Weighted(x, known, checked_weight(weight, x)).counted()
        order = torch.randperm(len(examples), generator=source)
        num_held = min(math.ceil(self.validation_fraction * len(order)), len(order) - 1)
        held, train = examples.rows(order[:num_held]), examples.rows(order[num_held:])
        flow.standardize(train.x, train.context)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices=devices):  # dropout draws from torch's own generators
            torch.manual_seed(seed_from(source))
            return self._fit(flow, train, held if num_held else None, source)

    def _fit(
        self,
        flow: SupportedFlow,
        train: "Weighted",
        held: "Weighted | None",
        source: torch.Generator,
    ) -> FitHistory:
        """Take steps; keep the best average."""
        history, average, best = FitHistory(), copy.deepcopy(flow), math.inf
        optimizer = muon(flow.named_parameters(), lr=self.lr)
        schedule = warmup_cosine(optimizer, self.max_steps, min(WARM_UP, self.max_steps // 10))
        kept = copy.deepcopy(flow.state_dict())
        with told_of(self.max_steps, self.progress) as tell:
            for rows in batches(len(train), self.batch_size, source):
                if self._step(flow, optimizer, train.rows(rows), source):
                    schedule.step()
                else:
                    history.skipped += 1
                history.steps += 1
                follow(average, flow, history.steps)
                last = history.steps == self.max_steps
                if held is not None and (history.steps % self.look_every == 0 or last):
                    history.validation.append(held.loss(average, self.batch_size, source))
                    if history.validation[-1] < best:
                        best, history.best_step = history.validation[-1], history.steps
                        kept = copy.deepcopy(average.state_dict())
                found = history.validation
                tell(history.steps, f"held out {found[-1]:.4f} nats" if found else "")
                if last or self._is_late(history):
                    break
        if held is not None and not math.isfinite(best):
            raise DataError(
                f"after {history.steps} steps, {history.skipped} of which were skipped, the"
                " log-likelihood of held-out examples was never finite: lower lr, or look for"
                " examples far from all others"
            )
        flow.load_state_dict(kept if held is not None else average.state_dict())
        flow.eval()
        return history

    def _step(
        self, flow: SupportedFlow, optimizer: Optimizer, batch: "Weighted", source: torch.Generator
    ) -> bool:
        """Take a step; whether it was finite."""
        flow.train()
        dropped = with_dropout(batch.context, flow.conditioners, self.context_dropout, source)
        log_prob = flow.log_prob_bound(batch.x, dropped, source)
        loss = -(batch.weight * log_prob).mean() / flow.num_dims
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(flow.parameters(), LARGEST_NORM)
        if not norm.isfinite():
            return False
        optimizer.step()
        return True

    def _is_late(self, history: FitHistory) -> bool:
        """Whether there was no improvement for as long as patience lasts."""
        if not history.validation:
            return False
        return history.steps - history.best_step >= self.patience * self.look_every


@contextmanager
def told_of(num_steps: int, progress: bool) -> Iterator[Callable[[int, str], None]]:
    """What tells of steps that are done, and of what was found, in a bar if there is to be one."""
    if not progress:
        yield lambda done, told: None
        return
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[told]}")) as bar:
        task = bar.add_task("fitting", total=num_steps, told="")
        yield lambda done, told: bar.update(task, completed=done, told=told)


def seed_from(source: torch.Generator | None) -> int:
    """Draw a seed."""
    return int(torch.randint(2**31, (), generator=source))


@dataclass(frozen=True)
class Weighted:
    """Examples with their context and what each counts for."""

    x: Float[Tensor, "num ..."]
    context: Context
    weight: Float[Tensor, " num"]

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, rows: Int[Tensor, " some"]) -> "Weighted":
        """Some of them."""
        rows = rows.to(self.x.device)
        context = self.context.map(lambda part: part[rows])
        return Weighted(self.x[rows], context, self.weight[rows])

    def counted(self) -> "Weighted":
        """Those that count at all."""
        return self.rows(self.weight.nonzero().flatten())

    @torch.no_grad()
    def loss(self, flow: SupportedFlow, batch_size: int, source: torch.Generator) -> float:
        """The weighted mean of their negative log-likelihoods, in nats."""
        flow.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.x.device)
        for rows in torch.arange(len(self)).split(4 * batch_size):
            part = self.rows(rows)
            bound = flow.log_prob_bound(part.x, part.context, source)
            total -= (part.weight * bound).double().sum()
        return float(total / self.weight.double().sum())


def checked_weight(
    weight: Float[Tensor, " num"] | None, x: Float[Tensor, "num ..."]
) -> Float[Tensor, " num"]:
    """A weight for each example, of mean 1.

    Raises:
        ConfigurationError: They are not finite, negative, or all zero, or there are more or fewer.
    """
    if weight is None:
        return x.new_ones(len(x))
    weight = torch.as_tensor(weight, dtype=x.dtype, device=x.device)
    if weight.shape != (len(x),) or not (weight.isfinite() & (weight >= 0)).all():
        raise ConfigurationError(
            f"weights of shape {tuple(weight.shape)} for {len(x)} examples: give one for each,"
            " finite and not negative"
        )
    if not weight.any():
        raise ConfigurationError("all weights are 0: give examples that count")
    return weight / weight.mean()


def batches(
    num_examples: int, batch_size: int, source: torch.Generator
) -> Iterator[Int[Tensor, " batch"]]:
    """Rows of one batch after the other, for ever: all once in a random order, then again."""
    batch_size = min(batch_size, num_examples)
    while True:
        order = torch.randperm(num_examples, generator=source)
        for rows in order.split(batch_size):
            if len(rows) == batch_size:
                yield rows


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move averaged weights towards those after a step."""
    rate = 1 - min(EMA, (1 + step) / (10 + step))
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, rate)
    for mean, new in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(new)
