"""The Lightning module that fits a student of a flow."""

from collections.abc import Callable, Iterable

from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tarflow.arguments import check_instance
from tarflow.errors import ConfigurationError, NonFiniteError
from tarflow.nn.kernels import AttentionKernel, AutoAttention
from tarflow.registry import register
from tarflow.students.student import Student
from tarflow.training.acceleration import multiplied_in, use_attention
from tarflow.training.distillation.student_objective import StudentObjective
from tarflow.training.fit_module import WHOLE, FitModule
from tarflow.training.objective import Loss


@register
class StudentModule(FitModule):
    """Fits a student, and what its objective learns beside it; see `FitModule`.

    Args:
        student: The student.
        objective: What is minimized: it was made of this student and of its teacher.
        optimizer: Makes the optimizer from the named parameters of student and objective.
        schedule: Makes the learning-rate schedule, stepped every batch.
        max_grad_norm: As for `FitModule`, and so is what follows.
        attention: Computes attention in causal transformers, which are the teacher's.
    """

    objective: StudentObjective

    def __init__(
        self,
        student: Student,
        objective: StudentObjective,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        max_grad_norm: float = 1.0,
        max_skipped_steps: int = 20,
        attention: AttentionKernel = AutoAttention(),
        compile: bool = False,
        checkpointed_layers: int = 0,
        products: str = "exact",
    ):
        limits = max_grad_norm, max_skipped_steps
        options = compile, checkpointed_layers, products
        check_instance("student", student, Student, "pass the model that learns")
        advice = "make one of the student and its flow, such as FlowMatching(student, flow)"
        check_instance("objective", objective, StudentObjective, advice)
        super().__init__(optimizer, schedule, objective, *limits, attention, *options)
        self.student = student
        self.train()  # a student that was loaded is in eval mode

    @property
    def model(self) -> Student:
        return self.student

    @property
    def learned(self) -> nn.Module:
        return self

    @property
    def length(self) -> int:
        return self.student.base.shape[0]

    def configure_model(self) -> None:
        """Choose how to compute, in the teacher as well."""
        strategy = self.trainer.strategy
        if self._device_mesh is not None:
            raise ConfigurationError(WHOLE)
        super().configure_model()
        if isinstance(strategy, DDPStrategy) and self.objective.learns_in_turns:
            strategy._ddp_kwargs["find_unused_parameters"] = True
        if self.objective.has_teacher:
            teacher = self.objective.teacher
            dtype = multiplied_in(str(self.trainer.precision), teacher.base.anchor.dtype)
            use_attention(teacher, self.attention, strategy.root_device, dtype)

    def on_train_start(self) -> None:
        self.objective.go_on(self.trainer.global_step, self.trainer.accumulate_grad_batches)

    def explain(self, loss: Loss) -> None:
        self.student.check_context(loss.context)
        finite = loss.value.isfinite()
        if not loss.x.isfinite().all():
            raise NonFiniteError("the data is not finite: it holds NaN or infinity", None)
        raise NonFiniteError(f"{int((~finite).sum())} of {len(finite)} examples", None)
