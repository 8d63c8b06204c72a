"""`tarflow calibrate`: finds the fastest decoders for this machine."""

from dataclasses import replace

from omegaconf import DictConfig

from tarflow.arguments import check_integer
from tarflow.cli.choices import device_of, find_pretrained, guidance_of, read_dtype
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.tar_flow import TarFlow
from tarflow.machine.files import check_writable, writing
from tarflow.sampling import calibration
from tarflow.sampling.drawing import read_labels
from tarflow.sampling.plan_table import PlanTable
from tarflow.sampling.sample_folder import fingerprints


def calibrate(config: DictConfig) -> None:
    """Measure decoders and leave a plan in the pretrained folder."""
    check_integer("batch_size", config.batch_size, least=1)
    directory = find_pretrained(config.checkpoint)
    check_writable(directory)
    flow = TarFlow.from_pretrained(directory).to(device_of(config.device))
    table = PlanTable()
    with table.measuring():
        plan = calibration.calibrate(
            flow,
            config.batch_size,
            read_labels(config.label, config.batch_size, flow.num_classes),
            guidance=guidance_of(config),
            dtype=read_dtype(config.dtype),
            tolerance=config.tolerance,
            windows=config.windows,
            repetitions=config.repetitions,
            show=table.show,
            tell=table.tell,
        )
    table.print(plan)
    weights = fingerprints(directory)[WEIGHTS]
    plan = replace(plan, conditions=replace(plan.conditions, weights=weights))
    with writing(directory):
        path = plan.save(directory)
    print(f"the plan is in {path}: `tarflow sample` uses it where it holds")
