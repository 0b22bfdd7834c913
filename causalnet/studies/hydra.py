"""The Hydra study: ablate every layer, split each total effect, and say who compensates.

McGrath et al. (2023), "The Hydra Effect: Emergent Self-repair in Language Model Computations".
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
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

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.graph import CausalGraph

__all__ = ["ABLATIONS", "Arm", "Options", "hydra", "sweep_model"]

ABLATIONS: Mapping[str, SiteValue] = {"resample": RESAMPLE, "zero": ZERO, "mean": MEAN}
"""What a node can be set to in this study."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Arm:
    """One model of the study: a name for its folder (empty for a single model), and where the model is."""

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
    """What one arm gave."""

    arm: Arm
    data: "xr.Dataset"
    summary: dict[str, Any]
    graph: "CausalGraph"


def hydra(
    arms: Sequence[Arm],
    prompts: Prompts,
    *,
    options: Options | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, list[Result], dict[str, Any] | None]:
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
    path, results, comparison
        Where the run is; each arm's data and summary; the comparison of the first two arms, or None.

    Raises
    ------
    InputError, PromptError, UnsupportedModelError, CompileError
        Before anything is written.
    """
    options = Options() if options is None else options
    path = default_folder("hydra") if out is None else Path(out)
    prompts = prompts if options.limit is None else prompts.take(options.limit)
    with fresh_folder(path, overwrite=overwrite) as folder:
        results = []
        for arm in arms:
            results.append(_run_arm(arm, prompts, options, progress))
            _write_arm(folder / arm.name if len(arms) > 1 else folder, results[-1])
        comparison = _compare(results)
        if comparison is not None:
            write_json(folder / "comparison.json", comparison)
        _report(folder, results, comparison)
    return path, results, comparison


def _run_arm(arm: Arm, prompts: Prompts, options: Options, progress: Progress | None) -> Result:
    from causalnet.model.compile import compile_model
    from causalnet.model.load import load_model, load_tokenizer

    started = time.perf_counter()
    model = load_model(arm.model, dtype=options.dtype, device=options.device)
    tokenizer = load_tokenizer(arm.model)
    mechanisms = compile_model(model, name=Path(arm.model).name)
    label = f"{arm.name or mechanisms.name}"
    data = sweep_model(
        mechanisms,
        tokenizer,
        prompts,
        options,
        progress=None if progress is None else lambda done, total: progress(label, done, total),
    )
    wall = time.perf_counter() - started
    summary = summarise(data, wall_s=round(wall, 2), seed=options.seed)
    summary["findings"] = findings(summary)
    return Result(arm, data, summary, mechanisms.graph)


def sweep_model(
    mechanisms: Any,
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
        Where responders are read from; default the model's own graph.
    progress
        Called with (rows done, rows in all).
    """
    from causalnet.effects.sweep import find_targets, sweep
    from causalnet.engine.sources import Inputs

    encoded = encode(
        prompts, tokenizer, context=mechanisms.context, vocab_size=mechanisms.vocab, answers="ignore"
    )
    inputs = Inputs(encoded.ids, seed=options.seed)
    targets = find_targets(mechanisms, inputs)
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
        donors = donors[:, : max(1, int((donors >= 0).sum(1).max()))]
    graph = mechanisms.graph if graph is None else graph
    nodes = [node for node in graph.contributors if node.kind in ("attn", "mlp")]
    return sweep(
        mechanisms,
        Inputs(encoded.ids, targets=tuple(int(token) for token in targets), donors=donors, seed=options.seed),
        nodes,
        ABLATIONS[options.ablation],
        texts=list(prompts.texts),
        decode=lambda token: tokenizer.decode([token]),
        record=run_record(mechanisms, options),
        graph=graph,
        progress=progress,
    )


def run_record(mechanisms: Any, options: Options) -> dict[str, Any]:
    """Return how a result was made: model, precision, device, versions, seed, arguments."""
    return {
        "model": mechanisms.name,
        "revision": getattr(mechanisms.config, "_commit_hash", None),
        "dtype": str(mechanisms.dtype).removeprefix("torch."),
        "device": str(mechanisms.device),
        "attention": getattr(mechanisms.config, "_attn_implementation", None),
        "versions": {name: _version(name) for name in ("causalnet-transformers", "torch", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "seed": options.seed,
        "arguments": options.recorded(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


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
    names = (first.arm.name, second.arm.name)
    comparison = compare(first.summary, first.data, second.summary, second.data, names=names)
    return {"arms": [result.arm.name for result in results], **comparison}


def _report(folder: Path, results: Sequence[Result], comparison: dict[str, Any] | None) -> None:
    from causalnet.draw.report import Arm as Shown
    from causalnet.draw.report import report

    shown = [
        Shown(result.arm.name or str(result.summary["model"]), result.data, result.summary, result.graph)
        for result in results
    ]
    report(shown, folder / "report.html", comparison=comparison)
    if len(results) > 1:
        for result, one in zip(results, shown, strict=True):
            report(one, folder / result.arm.name / "report.html")

