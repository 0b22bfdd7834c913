"""The face of causalnet: :func:`compile` and the model that it returns.

torch and transformers are loaded when a model is compiled, not before.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from causalnet.errors import InputError, explain
from causalnet.expr import Query
from causalnet.prompts import Prompts

if TYPE_CHECKING:
    from causalnet.effects.prepare import Prepared
    from causalnet.effects.prompted import Prompted
    from causalnet.effects.result import Result
    from causalnet.engine.crew import Executor
    from causalnet.engine.elsewhere import Elsewhere, Source
    from causalnet.engine.plan import Plan
    from causalnet.expr import World
    from causalnet.graph import CausalGraph
    from causalnet.model.check import CheckReport
    from causalnet.model.mechanism import Mechanisms

__all__ = ["CausalModel", "check", "compile", "compile_config"]

Asked = Query | str
"""One query, as an object or as text."""


class Chosen(TypedDict, total=False):
    """The options of :meth:`CausalModel.evaluate`, for type checkers."""

    donors: int
    pool: Prompts | str | None
    seed: int
    target: str
    vectors: Mapping[str, Any] | None
    level: float
    strata: str | None
    same_target_donors: bool
    memory: int | None
    progress: Callable[[int, int], None] | None
    executor: "Executor | None"


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A language model as a structural causal model.

    Made by :func:`compile`.  It holds the model; it never changes it.

    Attributes
    ----------
    mechanisms
        The graph's nodes, bound to the model's own modules.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import causalnet as cn
    >>> from causalnet import TE, attn, last, zero
    >>> config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=2, num_key_value_heads=2)
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> model = cn.compile(LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
    >>> print(model)
    CausalModel(llama: 2 layers, d_model 16, 16 tokens; layer graph of 7 nodes; float32 on cpu)
    >>> effect = model.evaluate(TE(attn[1] @ last << zero), ["a bc " + "d" * (1 + i % 9) for i in range(30)])
    >>> effect.expression, effect.n, effect.units_table.shape
    ('TE(attn[1]@last = zero)', 30, (30, 1))
    """

    mechanisms: "Mechanisms"
    _find_tokenizer: Callable[[], Any] = field(repr=False)
    _source: "Source | None" = field(default=None, repr=False)

    def __repr__(self) -> str:
        mechanisms, graph = self.mechanisms, self.graph
        dtype = str(mechanisms.dtype).removeprefix("torch.")
        return (
            f"CausalModel({mechanisms.name}: {graph.layers} layers, d_model {mechanisms.width}, {mechanisms.vocab} "
            f"tokens; {graph.granularity} graph of {len(graph)} nodes; {dtype} on {mechanisms.device})"
        )

    @property
    def graph(self) -> "CausalGraph":
        """The causal graph."""
        return self.mechanisms.graph

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer: the one given, else the one that lies beside the model's weights.

        Raises
        ------
        InputError
            If there is none.
        """
        return self._find_tokenizer()

    # -- asking ----------------------------------------------------------------------------------------

    @overload
    def evaluate(self, query: Asked, prompts: Prompts | Iterable[str], **options: Unpack[Chosen]) -> "Result": ...
    @overload
    def evaluate(
        self, query: Sequence[Asked], prompts: Prompts | Iterable[str], **options: Unpack[Chosen]
    ) -> "list[Result]": ...
    def evaluate(
        self,
        query: Asked | Sequence[Asked],
        prompts: Prompts | Iterable[str],
        *,
        donors: int = 15,
        pool: Prompts | str | None = None,
        seed: int = 0,
        target: str = "argmax",
        vectors: Mapping[str, Any] | None = None,
        level: float = 0.95,
        strata: str | None = None,
        same_target_donors: bool = False,
        memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        executor: "Executor | None" = None,
    ) -> "Result | list[Result]":
        """Answer a do-expression: the mean over prompts, with its interval.

        The arithmetic of a query is done unit by unit (prompt, donor), so that what its worlds share
        cancels; then the mean is taken over each prompt's donors, then over prompts.

        Parameters
        ----------
        query
            A query, its text, or several of them: those share the worlds that they have in common.
        prompts
            The prompts, or plain texts.
        donors
            For ``resample``: how many donors each prompt gets, at most.  For ``noise``: how many draws.
        pool
            Where donors and means come from.  None: the other prompts; the interval is conditional on
            them.  Prompts: those.  ``"random"``: the other prompts, and the interval covers the draw of
            donors too (crossed bootstrap).
        seed
            Of donors, noise and resampling.
        target
            What ``target`` means: ``"argmax"``, the most likely token of the natural world, or
            ``"answer"``, the first token of the prompts' answers.
        vectors
            Vectors [d_model] or [prompt, d_model] by name, for ``value``, ``add`` and ``project_out``.
        level
            Confidence level.
        strata
            Name of a feature of the prompts that donors must share.
        same_target_donors
            Allow donors whose target equals the prompt's.
        memory
            Bytes that rows and natural runs may take together, see :func:`causalnet.engine.run.run`; default: found
            from the device.
        progress
            Called with (rows done, rows in all).
        executor
            Who runs it: None: this process; :class:`causalnet.interop.ray.Ray`: workers of a cluster, each of which
            loads the model from where this one was loaded.  The numbers are the same to rounding, and the same to
            the bit for any number of workers.

        Returns
        -------
        Result, or a list of them
            In the units of the outcome; an effect is ``Y(do) − Y``.

        Raises
        ------
        ExpressionError, UnknownNodeError, UnknownNameError, PromptError, InputError
            Before anything is run.
        InterventionError, NonFiniteError, OutOfMemory
            During the run.

        References
        ----------
        Pearl (2001), Direct and indirect effects.
        """
        on = self.on(
            prompts,
            donors=donors,
            pool=pool,
            seed=seed,
            target=target,
            vectors=vectors,
            level=level,
            strata=strata,
            same_target_donors=same_target_donors,
            memory=memory,
            progress=progress,
            executor=executor,
        )
        return on.evaluate(query)

    def on(self, prompts: Prompts | Iterable[str], **options: Unpack[Chosen]) -> "Prompted":
        """Put the model on prompts, from where every estimand can be asked for.

        Parameters
        ----------
        prompts
            The prompts, or plain texts.
        **options
            As in :meth:`evaluate`: ``donors, pool, seed, target, vectors, level, strata, same_target_donors, memory,
            progress, executor``; the executor runs do-expressions and the estimands made of them.

        Returns
        -------
        Prompted
            ``on.split(s)``, ``on.natural_effects(s)``, ``on.four_way(s, held=…)``, ``on.path_specific(s, edges=…)``,
            ``on.interaction(s1, s2)``, ``on.self_repair(s)``, ``on.compensation()``, ``on.shapley(s)``,
            ``on.responsibility(…)``, ``on.approximate(…)``.

        Raises
        ------
        InputError
            If an option does not exist or does not fit.
        """
        from causalnet.effects.options import Options
        from causalnet.effects.prompted import Prompted

        given: dict[str, Any] = dict(options)
        memory, progress, executor = (given.pop(name, None) for name in ("memory", "progress", "executor"))
        for name in given:
            if name not in Chosen.__annotations__:
                raise InputError(explain(f"unknown option {name!r}", legal=Chosen.__annotations__, got=name))
        if given.get("vectors", {}) is None:
            del given["vectors"]
        elsewhere = None if executor is None else self._elsewhere(executor)
        asked = (_prompts(prompts), Options(**given), memory, progress, elsewhere)
        return Prompted(self.mechanisms, self.tokenizer, *asked)

    def _elsewhere(self, executor: "Executor") -> "Elsewhere":
        from causalnet.engine.elsewhere import Elsewhere

        if self._source is None:
            what = "workers load the model themselves, and this one was compiled from an object"
            raise InputError(explain(what, mend="compile it from a folder or a hub name"))
        return Elsewhere(executor, self._source)

    def plan(
        self,
        query: Asked | Sequence[Asked],
        prompts: Prompts | Iterable[str],
        *,
        donors: int = 15,
        pool: Prompts | str | None = None,
        target: str = "argmax",
        vectors: Mapping[str, Any] | None = None,
    ) -> "Plan | tuple[Plan, ...]":
        """Return what :meth:`evaluate` would run, without running anything; print it to read the cost.

        The number of draws is the most that there can be: donors with the prompt's own target are known
        only after a forward pass.

        Returns
        -------
        Plan, or a tuple of them
            One plan, except for several queries that draw differently.
        """
        from causalnet.effects.given import queries_of
        from causalnet.effects.options import Options
        from causalnet.effects.prepare import prepare

        queries, _ = queries_of(query)
        options = Options(donors, pool, 0, target, {} if vectors is None else vectors)
        ready: Prepared = prepare(self.mechanisms, self.tokenizer, queries, _prompts(prompts), options, draw=False)
        plans = tuple(batch.plan for batch in ready.batches)
        return plans[0] if len(plans) == 1 else plans

    def explain(self, query: Asked) -> str:
        """Say in plain English what a query runs on this model, and which assignments give way to which."""
        return _one(query).explain(self.graph)

    def worlds(self, query: Asked) -> "tuple[World, ...]":
        """Return the distinct worlds that a query runs on this model, the natural one first."""
        return _one(query).worlds(self.graph)

    def mutilated(self, query: Asked, world: int | None = None) -> "CausalGraph":
        """Return the graph of one world of a query: arrows into what is set are cut.

        Parameters
        ----------
        query
            The query.
        world
            Number of the world, as :meth:`worlds` counts them; default: the first that is read and set.
        """
        return _one(query).graph(self.graph, world)

    def check(self) -> "CheckReport":
        """Hold the compiled form against the real model: every closure, with its misfit and tolerance."""
        from causalnet.model.check import check as measure

        return measure(self.mechanisms)


def compile(
    model: Any,
    *,
    granularity: str = "layer",
    dtype: Any = None,
    device: str | None = None,
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tokenizer: Any = None,
) -> CausalModel:
    """Compile a causal language model into a causal graph over its own modules, and check it.

    Parameters
    ----------
    model
        A ``transformers`` causal LM in eval mode, a checkpoint folder, or a hub name.
    granularity
        ``"layer"``, or ``"head"`` for a graph whose attention nodes are split into heads.  Queries may
        name heads on either.
    dtype, device, device_map, revision, trust_remote_code
        How a folder or hub model is loaded: float32 on the CPU unless asked.  A model that is already
        loaded stays as it is.
    tokenizer
        The model's tokenizer; default the one beside its weights, loaded when it is first needed.

    Returns
    -------
    CausalModel

    Raises
    ------
    InputError
        If there is no such model, or an argument does not fit.
    UnsupportedModelError
        If its computation cannot be expressed truthfully.
    CompileError
        If the compiled form does not reproduce the model.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                      num_attention_heads=1, num_key_value_heads=1)
    >>> compile(LlamaForCausalLM(config).eval()).graph.has_edge("attn[0]", "mlp[0]")
    True
    """
    how = {"dtype": dtype, "device": device, "device_map": device_map, "revision": revision}
    return _compiled(model, how, granularity, trust_remote_code, tokenizer, verify=True)


def check(model: Any, *, dtype: Any = None, device: str | None = None, revision: str | None = None) -> "CheckReport":
    """Measure every closure of a model's compiled form; nothing is raised where one fails.

    Parameters
    ----------
    model, dtype, device, revision
        As in :func:`compile`.

    Returns
    -------
    CheckReport
        ``report.holds``, ``report.worst``, ``report.rows``.

    Raises
    ------
    UnsupportedModelError
        If its computation cannot be expressed at all.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                      num_attention_heads=1, num_key_value_heads=1)
    >>> check(LlamaForCausalLM(config).eval()).holds
    True
    """
    how = {"dtype": dtype, "device": device, "revision": revision}
    return _compiled(model, how, "layer", False, None, verify=False).check()


def compile_config(
    config: Any, *, granularity: str = "layer", revision: str | None = None, trust_remote_code: bool = False
) -> "CausalGraph":
    """Return the causal graph of the model that a config describes, without weights.

    Parameters
    ----------
    config
        A ``transformers`` config, a ``config.json``, a checkpoint folder or a hub name.
    granularity, revision, trust_remote_code
        As in :func:`compile`.

    Examples
    --------
    >>> from transformers import GPT2Config
    >>> compile_config(GPT2Config(n_layer=48)).layers
    48
    """
    from causalnet.model.compile import compile_config as graph_of
    from causalnet.model.load import load_config

    name = ""
    if isinstance(config, str | Path):
        name = _name(config)
        config = load_config(config, revision=revision, trust_remote_code=trust_remote_code)
    return graph_of(config, granularity=granularity, name=name)


def _compiled(
    model: Any, how: Mapping[str, Any], granularity: str, trust: bool, tokenizer: Any, *, verify: bool
) -> CausalModel:
    from causalnet.engine.elsewhere import Source
    from causalnet.model.compile import compile_model
    from causalnet.model.load import load_model, load_tokenizer

    given = {name: value for name, value in how.items() if value is not None}
    revision, name, loaded_from = how.get("revision"), "", None
    source = str(getattr(model, "name_or_path", "") or "")
    if isinstance(model, str | Path):
        name, source = _name(model), str(model)
        if "dtype" in given:
            given["dtype"] = str(given["dtype"]).removeprefix("torch.")
        given["trust_remote_code"] = trust
        # Workers may have another working folder.
        folder = Path(model).expanduser()
        loaded_from = Source(str(folder.resolve()) if folder.exists() else str(model), given)
        model = load_model(model, **given)
    elif given:
        what = f"{', '.join(given)} cannot be set on a model that is already loaded"
        raise InputError(explain(what, mend="give a folder or a hub name, or load the model that way"))
    elif hasattr(model, "model_type") and not hasattr(model, "forward"):
        raise InputError(explain("a config has no weights to compute with", mend="compile_config gives its graph"))

    def find() -> Any:
        if tokenizer is not None:
            return tokenizer
        mend = "give one: compile(model, tokenizer=…)"
        if not source:
            raise InputError(explain("the model has no tokenizer", mend=mend))
        try:
            return load_tokenizer(source, revision=revision, trust_remote_code=trust)
        except InputError as error:
            raise InputError(explain(str(error), mend=mend)) from error

    compiled = compile_model(model, granularity=granularity, name=name, verify=verify)
    return CausalModel(compiled, find, loaded_from)


def _name(model: str | Path) -> str:
    """Return how a model is called in results: a folder's name, or the hub name as it is."""
    path = Path(model).expanduser()
    return (path.resolve().name if path.exists() else "") or str(model)


def _one(query: Asked) -> Query:
    from causalnet.effects.given import queries_of

    return queries_of(query)[0][0]


def _prompts(prompts: Any) -> Prompts:
    return prompts if isinstance(prompts, Prompts) else Prompts.from_texts(prompts)
