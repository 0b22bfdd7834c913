"""The Hydra study: ablate every layer, split each total effect, and say who compensates.

McGrath et al. (2023), "The Hydra Effect: Emergent Self-repair in Language Model Computations".
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.effects.comparison import compare
from causalnet.effects.findings import findings
from causalnet.effects.schema import save
from causalnet.effects.summary import summarise
from causalnet.errors import InputError, explain
from causalnet.expr.values import MEAN, RESAMPLE, ZERO, SiteValue
from causalnet.prompts import Prompts, choose_donors, encode
from causalnet.studies.folder import default_folder, fresh_folder, write_json
from causalnet.studies.record import run_record

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.graph import CausalGraph
    from causalnet.model.mechanism import Mechanisms

__all__ = ["ABLATIONS", "Arm", "Options", "Result", "Run", "hydra", "sweep_model"]

ABLATIONS: Mapping[str, SiteValue] = {"resample": RESAMPLE, "zero": ZERO, "mean": MEAN}
"""What a node can be set to in this study."""

_CLOSES = {"float32": 1e-4, "float64": 1e-6}
"""Largest relative closure residual by precision; lower ones round too much for the split to be a check."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Arm:
    """One model of the study.

    Parameters
    ----------
    name
        Name of its folder in a run of several models; empty: the model's own name.
    model
        A checkpoint folder or hub name.

    Examples
    --------
    >>> Arm("plain", "path/to/checkpoint").name
    'plain'
    """

    name: str
    model: str


@dataclass(frozen=True)
class Options:
    """What a reader may choose; every field is recorded in the run.

    Parameters
    ----------
    ablation
        A key of :data:`ABLATIONS`.
    donors
        Donors per prompt (resample only).
    limit
        Use the first so many prompts; None: all.
    seed
        Of donors and of all resampling.
    device, dtype
        Where and in which precision the model runs.
    same_target_donors
        Allow donors whose target equals the prompt's.

    Raises
    ------
    InputError
        If the ablation is unknown or a number is too small.

    Examples
    --------
    >>> Options(ablation="zero", limit=100).recorded()["given"]
    {'ablation': 'zero', 'limit': 100}
    """

    ablation: str = "resample"
    donors: int = 15
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    same_target_donors: bool = False

    def __post_init__(self) -> None:
        if self.ablation not in ABLATIONS:
            raise InputError(explain(f"unknown ablation {self.ablation!r}", legal=ABLATIONS, got=self.ablation))
        for name, least in (("donors", 1), ("limit", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")

    def recorded(self) -> dict[str, Any]:
        """Return the options as given and as defaulted."""
        defaults = {option.name: option.default for option in fields(self)}
        chosen = asdict(self)
        return {
            "given": {name: value for name, value in chosen.items() if value != defaults[name]},
            "defaulted": {name: value for name, value in chosen.items() if value == defaults[name]},
        }


@dataclass(frozen=True, eq=False)
class Result:
    """What one arm gave.

    Parameters
    ----------
    arm
        The model.
    data
        Its sweep, see docs/schema.md.
    summary
        The content of ``summary.json``.
    graph
        Its causal graph.
    """

    arm: Arm
    data: "xr.Dataset"
    summary: dict[str, Any]
    graph: "CausalGraph"

    @property
    def name(self) -> str:
        """The arm's name, else the model's."""
        return self.arm.name or str(self.summary["model"])


@dataclass(frozen=True, eq=False)
class Run:
    """A finished study: where it is and what it holds.

    Parameters
    ----------
    path
        The run folder.
    results
        One for each arm.
    comparison
        The first two arms side by side (the content of ``comparison.json``); None for one arm.
    """

    path: Path
    results: tuple[Result, ...]
    comparison: dict[str, Any] | None = None

    @property
    def misfits(self) -> list[str]:
        """Which arms do not close: their parts do not add up to the total effect in the model's precision."""
        found = []
        for result in self.results:
            dtype = json.loads(result.data.attrs["run"])["dtype"]
            limit, size = _CLOSES.get(dtype), result.summary["closure_max_rel"]
            if limit is not None and size > limit:
                found.append(f"{result.name}: closure residual {size:.1e} is above {limit:.0e} for {dtype}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all that the run says in words and numbers, ready for JSON."""
        return {
            "run": str(self.path),
            "report": str(self.path / "report.html"),
            "arms": {result.name: result.summary for result in self.results},
            "comparison": self.comparison,
        }


def hydra(
    arms: Sequence[Arm],
    prompts: Prompts,
    *,
    options: Options | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run the study on one model, or on several on the same prompts, and write the run folder.

    Parameters
    ----------
    arms
        The models.  One arm fills the run folder itself, several get one folder each and a comparison.
    prompts
        The prompts.
    options
        Ablation, donors, seed, device and so on.
    out
        The run folder; default ``runs/hydra-<time>``.
    overwrite
        Replace a run that stands there; it is kept until the new one is complete.
    progress
        Called with (what, done, total).

    Returns
    -------
    Run
        Where the run is, each arm's data and summary, and the comparison of the first two arms.

    Raises
    ------
    InputError, PromptError, RunExistsError, UnsupportedModelError, CompileError
        If something cannot be used as given; nothing is written then.

    References
    ----------
    McGrath et al. (2023), arXiv 2307.15771.

    Examples
    --------
    >>> import tempfile
    >>> from causalnet.demo import model_path, prompts_path
    >>> prompts, options = Prompts.from_file(prompts_path()), Options(ablation="zero", limit=30)
    >>> place = Path(tempfile.mkdtemp()) / "run"
    >>> run = hydra([Arm("", str(model_path("plain")))], prompts, options=options, out=place)
    >>> sorted(entry.name for entry in place.iterdir() if entry.stem != "graph")
    ['effects.zarr', 'report.html', 'summary.json']
    >>> run.results[0].summary["closure_max_rel"] < 1e-4
    True
    """
    options = Options() if options is None else options
    _check_arms(arms)
    path = default_folder("hydra") if out is None else Path(out)
    prompts = prompts if options.limit is None else prompts.take(options.limit)
    several = len(arms) > 1
    say: Progress = (lambda what, done, total: None) if progress is None else progress
    with fresh_folder(path, overwrite=overwrite) as folder:
        results = tuple(_run_arm(arm, prompts, options, say) for arm in arms)
        say("figures and report", 0, 1)
        for result in results:
            _write_arm(folder / result.arm.name if several else folder, result)
        comparison = _compare(results)
        if comparison is not None:
            write_json(folder / "comparison.json", comparison)
        _report(folder, results, comparison)
        say("figures and report", 1, 1)
    return Run(path, results, comparison)


def _check_arms(arms: Sequence[Arm]) -> None:
    if not arms:
        raise InputError("no model was given")
    names = [arm.name for arm in arms]
    if len(arms) > 1:
        for name in names:
            if names.count(name) > 1 or name != Path(name).name or name in ("", ".", ".."):
                raise InputError(f"arm {name!r}: of several arms each needs a name of its own that can name a folder")


def _run_arm(arm: Arm, prompts: Prompts, options: Options, say: Progress) -> Result:
    from causalnet.model.compile import compile_model
    from causalnet.model.load import load_model, load_tokenizer

    started = time.perf_counter()
    model = load_model(arm.model, dtype=options.dtype, device=options.device)
    tokenizer = load_tokenizer(arm.model)
    mechanisms = compile_model(model, name=arm.name or Path(arm.model).expanduser().resolve().name)
    label = f"{mechanisms.name}: sweep"
    data = sweep_model(mechanisms, tokenizer, prompts, options, progress=lambda done, total: say(label, done, total))
    wall = time.perf_counter() - started
    summary = summarise(data, wall_s=round(wall, 2), seed=options.seed)
    summary["findings"] = findings(summary)
    return Result(arm, data, summary, mechanisms.graph)


def sweep_model(
    mechanisms: "Mechanisms",
    tokenizer: Any,
    prompts: Prompts,
    options: Options,
    *,
    graph: "CausalGraph | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> "xr.Dataset":
    """Set every attention and MLP layer in turn at the last position; see :func:`causalnet.effects.sweep.sweep`.

    Parameters
    ----------
    mechanisms, tokenizer
        The compiled model and the tokenizer that belongs to it.
    prompts
        The prompts, whose other members are the donors.
    options
        Ablation, donors and seed.
    graph
        Where the nodes to set and the responders are read from; default the model's own graph.
    progress
        Called with (rows done, rows in all).

    Returns
    -------
    xarray.Dataset
        ``te, de, ce, norm, residual [prompt, node, donor]`` and the rest of the sweep schema, in logits.

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
    from causalnet.effects.sweep import find_targets, sweep
    from causalnet.engine.inputs import Inputs

    encoded = encode(
        prompts, tokenizer, context=mechanisms.context, vocab_size=mechanisms.vocab, spans=(), answers="ignore"
    )
    targets = find_targets(mechanisms, Inputs(encoded.ids, seed=options.seed))
    donors = None
    if options.ablation == "resample":
        donors = choose_donors(
            targets.tolist(),
            donors=options.donors,
            seed=options.seed,
            exclude_same_target=not options.same_target_donors,
            keys=encoded.ids,
            names=list(prompts.texts),
        )
        # Where no prompt has as many donors as asked, the axis is as long as the most that one has.
        donors = donors[:, : int((donors >= 0).sum(1).max())]
    graph = mechanisms.graph if graph is None else graph
    nodes = [node for node in graph.contributors if node.kind in ("attn", "mlp")]
    return sweep(
        mechanisms,
        Inputs(encoded.ids, targets=tuple(int(token) for token in targets), donors=donors, seed=options.seed),
        nodes,
        ABLATIONS[options.ablation],
        texts=list(prompts.texts),
        decode=lambda token: tokenizer.decode([token]),
        record=run_record(mechanisms, prompts, seed=options.seed, arguments=options.recorded()),
        graph=graph,
        progress=progress,
    )


def _write_arm(folder: Path, result: Result) -> None:
    from causalnet.draw import draw

    folder.mkdir(parents=True, exist_ok=True)
    save(result.data, folder / "effects.zarr")
    write_json(folder / "summary.json", result.summary)
    (folder / "graph.json").write_text(result.graph.to_json(), encoding="utf-8")
    strongest = max(result.summary["nodes"], key=lambda node: abs(node["de"]))["name"]
    draw(result.graph, result.data, node=strongest, path=folder / "graph.svg")


def _compare(results: Sequence[Result]) -> dict[str, Any] | None:
    if len(results) < 2:
        return None
    first, second = results[:2]
    names = (first.name, second.name)
    comparison = compare(first.summary, first.data, second.summary, second.data, names=names)
    return {"arms": [result.name for result in results], **comparison}


def _report(folder: Path, results: Sequence[Result], comparison: dict[str, Any] | None) -> None:
    from causalnet.draw.report import Arm as Shown
    from causalnet.draw.report import report

    shown = [Shown(result.name, result.data, result.summary, result.graph) for result in results]
    report(shown, folder / "report.html", comparison=comparison)
    if len(shown) > 1:
        for one in shown:
            report(one, folder / one.name / "report.html")
