"""The Lightning module that fits a flow."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tarflow.arguments import check_instance
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.nn.kernels import AttentionKernel, AutoAttention
from tarflow.registry import register
from tarflow.training.fit_module import WHOLE, FitModule
from tarflow.training.objective import Loss, MaximumLikelihood, Objective
from tarflow.training.operations import training_operations


@register
class FlowModule(FitModule):
    """Fits a flow; see `FitModule`.

    Args:
        flow: The flow, with the codec and the noise of its data.
        optimizer: Makes the optimizer from the flow's named parameters.
        schedule: Makes the learning-rate schedule, stepped every batch.
        objective: What is minimized.
        max_grad_norm: As for `FitModule`, and so is what follows.
    """

    def __init__(
        self,
        flow: Flow,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        objective: Objective = MaximumLikelihood(),
        max_grad_norm: float = 1.0,
        max_skipped_steps: int = 20,
        attention: AttentionKernel = AutoAttention(),
        compile: bool = False,
        checkpointed_layers: int = 0,
        products: str = "exact",
    ):
        limits = max_grad_norm, max_skipped_steps
        options = compile, checkpointed_layers, products
        super().__init__(optimizer, schedule, objective, *limits, attention, *options)
        if flow.codec is None or flow.noise is None:
            raise ConfigurationError(
                "the flow does not know its data: pass it a codec and a noise, such as"
                " codec=UniformDequantization(), noise=NoNoise()"
            )
        check_instance("objective", objective, Objective, "pass one, such as MaximumLikelihood()")
        self.flow = flow
        objective.start(flow)
        self.distances = nn.ModuleList(objective.distances)

    @property
    def model(self) -> Flow:
        return self.flow

    @property
    def loss_name(self) -> str:
        return self.objective.named(self.flow)

    @property
    def operations(self) -> int:
        return training_operations(self.flow)

    @property
    def length(self) -> int:
        return self.flow.base.shape[0]

    def configure_model(self) -> None:
        codec = self.flow.codec
        learns = isinstance(codec, nn.Module) and any(p.requires_grad for p in codec.parameters())
        if learns and self._device_mesh is not None:
            raise ConfigurationError(WHOLE)
        self.train()  # a codec that was loaded is in eval mode
        super().configure_model()

    def explain(self, loss: Loss) -> None:
        self.flow.check_finite(torch.tensor(torch.nan), loss.x, loss.context)

    def on_step(self, losses: list[Loss], finite: Tensor) -> None:
        """Let the base learn from the whole batch, if that is finite."""
        moments = [self.flow.base.moment(loss.z) for loss in losses if loss.z is not None]
        known = [moment for moment in moments if moment is not None]
        if not known:
            return
        before = [buffer.clone() for buffer in self.flow.base.buffers()]
        self.flow.base.update(self._mean(torch.stack(known).mean(dim=0)))
        for buffer, old in zip(self.flow.base.buffers(), before, strict=True):
            torch.where(finite, buffer, old, out=buffer)
