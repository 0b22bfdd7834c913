"""Joint ablation and actual causes: questions about nodes together, asked of some of the prompts."""

from dataclasses import replace
from pathlib import Path

from causalnet.errors import UnknownNodeError, explain
from causalnet.graph import Node
from causalnet.studies.options import Options, bytes_of
from causalnet.studies.sweeps import Job, inputs_of
from causalnet.studies.tables import write_table

__all__ = ["JOINT_PROMPTS", "RESPONSIBLE_PROMPTS", "check_nodes", "write_together"]

JOINT_PROMPTS, JOINT_DONORS = 100, 3
"""Joint ablation asks a world per candidate and step, so it is asked of the first prompts and donors."""

RESPONSIBLE_PROMPTS = 20
"""A search for witnesses asks many worlds of every prompt; one donor each."""


def check_nodes(job: Job, options: Options) -> None:
    """Refuse nodes that are not among those that the study sets.

    Raises
    ------
    UnknownNodeError
        Naming the nearest.
    """
    legal = [str(cell.node) for cell in job.cells]
    for name in options.responsible:
        if name not in legal:
            raise UnknownNodeError(explain(f"no node {name!r} is ablated", legal=legal, got=name))


def write_together(folder: Path, job: Job, options: Options) -> None:
    """Write ``joint.csv``, ``responsibility.csv`` and ``causes.csv`` where they are asked for.

    Parameters
    ----------
    folder
        The arm's tables.
    job
        Its main sweep.
    options
        ``joint`` steps, ``responsible`` nodes.
    """
    from causalnet.effects.asking import PromptedModel
    from causalnet.effects.causality import actual_causes
    from causalnet.effects.joint import assignments, cause_rows, joint_ablation, responsibility_rows

    def asked(prompts: int, donors: int) -> PromptedModel:
        inputs = inputs_of(job, slice(0, prompts))
        if inputs.donors is not None:
            inputs = replace(inputs, donors=inputs.donors[:, :donors])
        elif job.draws > 1:
            inputs = replace(inputs, draws=donors)
        return PromptedModel(job.subject.mechanisms, inputs, job.lookup, bytes_of(options.memory) // 2)

    value = job.question.value
    if options.joint is not None:
        nodes = [cell.node for cell in job.cells]
        steps = min(options.joint, len(nodes))
        rows = joint_ablation(asked(JOINT_PROMPTS, JOINT_DONORS), nodes, value, steps=steps, seed=options.seed)
        write_table(folder / "joint.csv", rows)
    if options.responsible:
        contrasts = assignments([Node.parse(name) for name in options.responsible], value)
        found = actual_causes(asked(RESPONSIBLE_PROMPTS, 1), *contrasts)
        write_table(folder / "responsibility.csv", responsibility_rows(found))
        write_table(folder / "causes.csv", cause_rows(found))
