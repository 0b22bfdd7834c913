"""A sweep of one model, ready to run chunk by chunk: each chunk is a function of the job and its place alone."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.expr.outcomes import Outcome
from causalnet.expr.positions import Position, Span
from causalnet.expr.values import Mean, Noise, Resample, SiteValue
from causalnet.graph import Node
from causalnet.prompts import Encoded, Prompts, choose_donors
from causalnet.studies.chunks import Chunk, ChunkPlan, Size, plan_chunks
from causalnet.studies.options import ABLATIONS, Options, along, bytes_of, outcome_of, position_of
from causalnet.studies.record import run_record
from causalnet.studies.subjects import Subject, subject

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.effects.sweep import Cell
    from causalnet.effects.vectors import NamedVector
    from causalnet.engine.inputs import Inputs
    from causalnet.graph import CausalGraph
    from causalnet.model.mechanism import Mechanisms

__all__ = ["Job", "Question", "check_vectors", "compute", "inputs_of", "job", "sweep_model", "vectors_of"]


@dataclass(frozen=True)
class Question:
    """What one sweep asks.

    Parameters
    ----------
    ablation
        A key of :data:`causalnet.studies.options.ABLATIONS`.
    position
        Where nodes are set, as in a do-expression but for the ``@``.
    outcome
        What is read; empty: the target's logit.
    heads
        Set heads rather than layers.
    vector
        Name and digest of the vector that the outcome reads along; empty: none.
    """

    ablation: str = "resample"
    position: str = "last"
    outcome: str = ""
    heads: bool = False
    vector: str = ""

    @property
    def value(self) -> SiteValue:
        """What nodes are set to."""
        return ABLATIONS[self.ablation]

    @property
    def where(self) -> Position:
        """Where they are set."""
        return position_of(self.position)

    @property
    def read(self) -> Outcome | None:
        """What is read; None: the default."""
        return outcome_of(self.outcome) if self.outcome else None

    def plain(self) -> dict[str, Any]:
        """Return the question as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Job:
    """One sweep, ready to run.

    Attributes
    ----------
    subject, question, options
        The model on its prompts, and what is asked.
    graph
        Where nodes and responders are read from.
    cells, responders
        The node and the responder axis.
    inputs
        All prompts with their donors.
    plan
        How it is cut.
    """

    subject: Subject
    question: Question
    options: Options
    graph: "CausalGraph"
    cells: "tuple[Cell, ...]"
    responders: tuple[Node, ...]
    inputs: "Inputs"
    plan: ChunkPlan

    @property
    def draws(self) -> int:
        """Size of the donor axis."""
        return self.inputs.count if isinstance(self.question.value, Resample | Noise) else 1

    @property
    def donor_index(self) -> np.ndarray:
        """Donors [prompt, donor]; -1 where none."""
        shape = (len(self.inputs.ids), self.draws)
        return np.full(shape, -1, dtype=np.int64) if self.inputs.donors is None else self.inputs.donors

    @cached_property
    def lookup(self) -> Callable[[str], int] | None:
        """Token number of a text that the outcome names."""
        from causalnet.effects.tokens import token_lookup

        read = self.question.read
        if read is None:
            return None
        subject = self.subject
        vocab = subject.mechanisms.readout.weight.shape[0]
        vectors = {name: one.values for name, one in check_vectors(self.question, self.options).items()}
        return token_lookup(subject.tokenizer, vocab, read.tokens, vectors)

    def labels(self) -> dict[str, Any]:
        """Return what the data set holds besides what is measured: names, texts, donors, attributes."""
        from causalnet.effects.sweep import expression

        subject, read = self.subject, self.question.read
        arguments = {**self.options.recorded(), "question": self.question.plain()}
        return {
            "target_id": np.array(subject.targets, dtype=np.int64),
            "target": subject.target_texts,
            "text": list(subject.prompts.texts),
            "nodes": [str(cell.node) for cell in self.cells],
            "responders": [str(node) for node in self.responders],
            "donor_index": self.donor_index,
            "model": subject.mechanisms.name,
            "ablation": str(self.question.value),
            "run": run_record(subject.mechanisms, subject.prompts, seed=self.options.seed, arguments=arguments),
            "expression": expression(self.cells[0], read),
            "position": str(self.question.where).lstrip("@"),
        }


def job(
    subject: Subject,
    question: Question,
    options: Options,
    *,
    graph: "CausalGraph | None" = None,
    donors: np.ndarray | None = None,
) -> Job:
    """Prepare a sweep: nodes, responders, donors, chunks.

    Parameters
    ----------
    subject
        The model on its prompts.
    question, options
        What is asked.
    graph
        Where nodes and responders are read from; default the model's own.
    donors
        Those drawn before [prompt, donor], where the work was begun before.

    Raises
    ------
    PromptError
        If a prompt has no donor, or lacks the position; it is named.
    InputError
        If the outcome cannot be swept, names no token or another vector than before, or a layer's heads cannot be told
        apart.
    UnknownNameError
        If it reads along a vector that is not given.
    """
    import torch

    from causalnet.effects.sweep import adds_up, answering, cells, swept_outcome
    from causalnet.engine.inputs import Inputs, check_tokens
    from causalnet.engine.plan import Reading
    from causalnet.expr.world import NATURAL_WORLD

    mechanisms, encoded = subject.mechanisms, subject.encoded
    outcome = swept_outcome(mechanisms, question.read)
    graph = mechanisms.graph if graph is None else graph
    graph = graph.with_heads() if question.heads else graph
    kinds = ("head",) if question.heads else ("attn", "mlp")
    nodes = [node for node in graph.contributors if node.kind in kinds]
    found = cells(graph, nodes, question.value, question.where)
    spans = _spans(encoded, question.where)
    inputs = Inputs(encoded.ids, spans=spans, targets=subject.targets, seed=options.seed)
    if isinstance(question.value, Resample):
        inputs = replace(inputs, donors=_donors(subject, question, options, inputs) if donors is None else donors)
    elif isinstance(question.value, Noise):
        inputs = replace(inputs, draws=options.donors)
    responders = answering(found, graph) if adds_up(mechanisms, outcome) else ()
    drawn = inputs.count if isinstance(question.value, Resample | Noise) else 1
    size = Size(
        prompts=len(encoded),
        nodes=len(found),
        donors=drawn,
        responders=len(responders),
        width=mechanisms.width,
        item=torch.tensor([], dtype=mechanisms.dtype).element_size(),
    )
    plan = plan_chunks(size, memory=bytes_of(options.memory), step=options.chunk)
    made = Job(subject, question, options, graph, found, responders, inputs, plan)
    # An outcome that names no token, or no vector of this model's size, is refused before anything is written.
    check_tokens(mechanisms, (Reading(NATURAL_WORLD, outcome),), None, made.lookup)
    return made


def check_vectors(question: Question, options: Options) -> "dict[str, NamedVector]":
    """Return the vectors that an outcome reads along, which must be those that the work was begun with.

    Raises
    ------
    InputError
        If they are others.
    """
    held = vectors_of(question.read, options)
    told = " ".join(map(str, held.values()))
    if told != question.vector:
        what = f"{question.outcome} was asked of {question.vector or 'no vector'}, and this is {told}"
        raise InputError(explain(what, mend="give the same vector"))
    return held


def vectors_of(read: Outcome | None, options: Options) -> "dict[str, NamedVector]":
    """Read the vectors that an outcome reads along from the files that the options name.

    Raises
    ------
    InputError, DataError
        If a file cannot be used.
    """
    from causalnet.effects.vectors import named_files, read_vector

    files = named_files(options.vectors)
    return {name: read_vector(name, files[name]) for name in along(read)}


def _spans(encoded: Encoded, position: Position) -> tuple[Mapping[str, tuple[int, int]], ...]:
    if not isinstance(position, Span):
        return ()
    return tuple({position.name: place} for place in encoded.span(position.name))


def _donors(subject: Subject, question: Question, options: Options, inputs: "Inputs") -> np.ndarray:
    """Draw donors for each prompt; they must fill as many tokens as are set."""
    names = list(subject.prompts.texts)
    donors = choose_donors(
        subject.targets,
        donors=options.donors,
        seed=options.seed,
        exclude_same_target=not options.same_target_donors,
        strata=[len(inputs.columns(prompt, question.where)) for prompt in range(len(names))],
        keys=subject.encoded.ids,
        names=names,
    )
    # Where no prompt has as many donors as asked, the axis is as long as the most that one has.
    return donors[:, : int((donors >= 0).sum(1).max())]


def compute(job: Job, chunk: Chunk, *, progress: Callable[[int, int], None] | None = None) -> dict[str, np.ndarray]:
    """Compute one chunk: a function of the job and the chunk alone, wherever and in whatever order it is run.

    Parameters
    ----------
    job
        The sweep.
    chunk
        Some of its prompts and nodes.
    progress
        Called with (rows done, rows in all).

    Returns
    -------
    dict of numpy.ndarray
        The measured variables of the schema for these prompts and nodes, in float32.
    """
    from causalnet.effects.sweep import measure

    found = job.cells[slice(*chunk.nodes)]
    made = measure(
        job.subject.mechanisms,
        inputs_of(job, slice(*chunk.prompts)),
        found,
        graph=job.graph,
        responders=job.responders,
        outcome=job.question.read,
        lookup=job.lookup,
        memory=bytes_of(job.options.memory) // 2,
        progress=progress,
    )
    return {name: array.astype(np.float32) for name, array in made.arrays().items()}


def inputs_of(job: Job, block: slice) -> "Inputs":
    """Return the inputs of some prompts; their donors become a pool of their own."""
    from causalnet.engine.inputs import part

    return part(job.inputs, block, whole_pool=isinstance(job.question.value, Mean | Noise))


def sweep_model(
    mechanisms: "Mechanisms",
    tokenizer: Any,
    prompts: Prompts,
    options: Options,
    *,
    question: Question | None = None,
    graph: "CausalGraph | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> "xr.Dataset":
    """Set every attention and MLP layer in turn and split its effect, in memory.

    Parameters
    ----------
    mechanisms, tokenizer
        The compiled model and the tokenizer that belongs to it.
    prompts
        The prompts, whose other members are the donors.
    options
        Ablation, donors and seed.
    question
        What is asked; default the main ablation at the last token, read off the target's logit.
    graph
        Where the nodes to set and the responders are read from; default the model's own graph.
    progress
        Called with (rows done, rows in all) of the chunk at work.

    Returns
    -------
    xarray.Dataset
        ``te, de, ce, norm, residual [prompt, node, donor]`` and the rest of the sweep schema, in the outcome's
        units; the same numbers, to the bit, as the study's store.

    Raises
    ------
    PromptError
        If a prompt is empty or too long for the model, or has no donor; it is named.

    Examples
    --------
    >>> from causalnet.demo import model_path, prompts_path
    >>> from causalnet.model.compile import compile_model
    >>> from causalnet.model.load import load_model, load_tokenizer
    >>> mechanisms = compile_model(load_model(model_path("plain")), name="plain")
    >>> prompts = Prompts.from_file(prompts_path()).take(3)
    >>> data = sweep_model(mechanisms, load_tokenizer(model_path("plain")), prompts, Options(ablation="zero"))
    >>> dict(data.sizes)
    {'prompt': 3, 'node': 16, 'donor': 1, 'responder': 15}
    """
    from causalnet.effects.schema import sweep_dataset

    question = Question(options.ablations[0]) if question is None else question
    one = job(subject(mechanisms, tokenizer, prompts, options), question, options, graph=graph)
    whole = {}
    for chunk in one.plan:
        for name, array in compute(one, chunk, progress=progress).items():
            by_node = name not in ("clean_responder", "clean_logit")
            shape = (
                (one.plan.prompts, one.plan.nodes, *array.shape[2:])
                if by_node
                else (one.plan.prompts, *array.shape[1:])
            )
            table = whole.setdefault(name, np.empty(shape, dtype=np.float32))
            place = (slice(*chunk.prompts), slice(*chunk.nodes)) if by_node else (slice(*chunk.prompts),)
            table[place] = array
    return sweep_dataset(**whole, **one.labels())
