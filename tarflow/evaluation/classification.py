r"""The class of an image, from a flow that knows classes, without any training for that.

By density, a flow is a generative classifier: Bayes' rule on $\log p(x | c)$ takes a pass for each
class. By gradient it takes one pass forward and one backward for all classes (arXiv 2511.22345).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples
from tarflow.sampling.chunks import ChunkSize

PerClass = Float[Tensor, "batch num_classes"]
"""A number for each class, of each example."""


@torch.no_grad()
def class_log_probs(
    flow: Flow,
    x: Examples,
    context: ContextLike = None,
    *,
    max_batch: ChunkSize | int | None = 256,
) -> PerClass:
    r"""The log-density $\log p(x | c)$ of each example under every class, in nats.

    Args:
        flow: A flow with classes.
        x: Data as the flow was trained on, with its noise.
        context: Conditions besides the class.
        max_batch: Number of rows, each an example under a class, that are computed at a time;
            lowered where memory runs out.

    Raises:
        ConfigurationError: The flow has no classes.
    """
    given, count = _others(flow, x, context), flow.num_classes

    def compute(rows: slice) -> Tensor:
        index = torch.arange(rows.start, rows.stop, device=x.device)
        example, label = index // count, index % count
        own = given.map(lambda part: part[example]).updated(label=label)
        return flow.log_prob(x[example], own)

    return ChunkSize.of(max_batch).map(compute, len(x) * count).view(len(x), count)


def classify_by_density(
    flow: Flow,
    x: Examples,
    context: ContextLike = None,
    *,
    prior: Float[Tensor, " num_classes"] | None = None,
    max_batch: ChunkSize | int | None = 256,
) -> PerClass:
    r"""The log-probability of every class, $\log p(c | x)$, by comparing densities.

    $p(c | x) \propto p(x | c) \, p(c)$: exact, for a pass through the flow for each class.

    Example:
        >>> from tarflow import TarFlow
        >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1, num_classes=3)
        >>> classify_by_density(flow, flow.sample(5)).exp().sum(dim=1).round(decimals=3)
        tensor([1., 1., 1., 1., 1.])

    Args:
        flow: A flow with classes.
        x: Data as the flow was trained on, with its noise.
        context: Conditions besides the class.
        prior: The probability of each class, up to a factor; by default the same for all.
        max_batch: As in `class_log_probs`.

    Raises:
        ConfigurationError: The flow has no classes, or the prior is not one of them.
    """
    log_prob = class_log_probs(flow, x, context, max_batch=max_batch)
    if prior is None:
        return log_prob.log_softmax(dim=1)
    weights = prior.to(log_prob)
    if weights.shape != log_prob.shape[1:] or not (weights >= 0).all() or not weights.any():
        raise ConfigurationError(
            f"prior {weights.tolist()}: give the probability of each of the {flow.num_classes}"
            " classes"
        )
    return (log_prob + weights.log()).log_softmax(dim=1)


def classify_by_gradient(
    flow: Flow,
    x: Examples,
    context: ContextLike = None,
    *,
    max_batch: ChunkSize | int | None = 256,
) -> PerClass:
    r"""The gradient of the log-density by class logits: the class is where it is largest.

    The flow is conditioned on the mixture of its class vectors by softmax weights of logits l.
    At equal logits that is the null class, and

    $$\frac{\partial \log p(x | l)}{\partial l_c}$$

    tells towards which class the density grows fastest (arXiv 2511.22345). That takes one pass
    forward and one backward, whatever the number of classes; unlike densities, it looks at the
    null class alone, from which it extrapolates.

    Args:
        flow: A flow with classes.
        x: Data as the flow was trained on, with its noise.
        context: Conditions besides the class.
        max_batch: Number of examples that are computed at a time; lowered where memory runs out.

    Raises:
        ConfigurationError: The flow has no classes.
    """
    given, count = _others(flow, x, context), flow.num_classes

    def compute(rows: slice) -> Tensor:
        # Clones, since what was made in inference mode takes no gradient.
        with torch.inference_mode(False), torch.enable_grad():
            own, part = x[rows].detach().clone(), given.map(lambda part: part[rows].clone())
            logits = own.new_zeros(len(own), count).requires_grad_()
            log_prob = flow.log_prob(own, part.updated(label=logits.softmax(dim=1)))
            return torch.autograd.grad(log_prob.sum(), logits)[0]

    return ChunkSize.of(max_batch).map(compute, len(x))


def check_classes(flow: Flow) -> None:
    """Refuse a flow that knows no classes to tell apart."""
    if flow.num_classes < 2:
        raise ConfigurationError(
            f"a flow of {flow.num_classes} classes cannot tell them apart: train one with labels"
        )


def _others(flow: Flow, x: Examples, context: ContextLike) -> Context:
    """The conditions besides the label, for a flow with classes."""
    check_classes(flow)
    flow.check_data(x)
    return flow.read_context(context, x).updated(label=None)
