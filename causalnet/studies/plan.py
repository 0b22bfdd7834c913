"""The plan of a run, ``plan.json``: what was asked of which models and prompts, and how the work is cut.

It is written before anything is computed.  A run goes on only where everything in it is still the same.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from causalnet.errors import DataError, InputError, explain
from causalnet.model.identity import versions
from causalnet.prompts import Prompts
from causalnet.studies.chunks import ChunkPlan
from causalnet.studies.folder import write_json
from causalnet.studies.options import Options
from causalnet.studies.sweeps import Question

__all__ = ["PLAN", "RunPlan", "Sweep", "check_same", "digest", "read_plan", "refuse"]

PLAN = "plan.json"
_SCHEMA = "causalnet-run/1"


@dataclass(frozen=True)
class Sweep:
    """One sweep of a run: where its data lie, which model and question it has, how it is cut.

    Parameters
    ----------
    folder
        Relative to the run's folder.
    arm
        Number of the arm that it belongs to.
    model
        The checkpoint: the arm's own, or one of a folder of checkpoints.
    question
        What it asks.
    plan
        How it is cut.
    weights
        Digest of the model's config and weights.
    """

    folder: str
    arm: int
    model: str
    question: Question
    plan: ChunkPlan
    weights: str

    @property
    def family(self) -> str:
        """Name of the variant's family, such as ``ablation``; empty for an arm's main sweep."""
        parts = Path(self.folder).parts
        return parts[-2] if "variants" in parts else ""

    def within(self, run: Path) -> Path:
        """Return where its data lie in a run (behind a URL ``.`` is a name like any other)."""
        return run if self.folder == "." else run / self.folder

    @property
    def label(self) -> str:
        """Name of the variant, such as ``ablation zero``; empty for an arm's main sweep."""
        return f"{self.family} {Path(self.folder).name}" if self.family else ""


@dataclass(frozen=True)
class RunPlan:
    """What a run does.

    Parameters
    ----------
    arms
        Names of the arms; the folder of a single one is the run's own.
    arguments
        Every option, given or defaulted.
    prompts
        Source, number, digest of the prompts as they were given.
    versions
        Of causalnet and the libraries that compute.
    sweeps
        Every sweep that is run, in order.
    """

    arms: tuple[str, ...]
    arguments: Mapping[str, Any]
    prompts: Mapping[str, Any]
    versions: Mapping[str, str]
    sweeps: tuple[Sweep, ...] = ()

    @classmethod
    def of(cls, arms: Sequence[str], prompts: Prompts, options: Options, sweeps: Sequence[Sweep] = ()) -> "RunPlan":
        """Return the plan of a run of given options on given prompts."""
        given = {"source": prompts.name, "count": len(prompts), "digest": digest(prompts)}
        arguments = json.loads(json.dumps(asdict(options)))
        return cls(tuple(arms), arguments, given, versions(), tuple(sweeps))

    @property
    def options(self) -> Options:
        """The options that the run was begun with."""
        held: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.arguments.items()
        }
        return Options(**held)

    def title(self, number: int) -> str:
        """Return how a sweep is called in progress and errors: its model and its variant."""
        sweep = self.sweeps[number]
        name = self.arms[sweep.arm] or Path(sweep.model).name
        return f"{name}: {sweep.label or 'sweep'}"

    def write(self, folder: Path) -> None:
        """Write ``plan.json``."""
        write_json(folder / PLAN, {"schema": _SCHEMA, **asdict(self)})


def read_plan(folder: Path) -> RunPlan:
    """Read ``plan.json``.

    Raises
    ------
    DataError
        If there is none, or it cannot be read.
    """
    path = folder / PLAN
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held.pop("schema") != _SCHEMA:
            raise ValueError(f"not {_SCHEMA}")
        sweeps = [
            Sweep(**{**one, "question": Question(**one["question"]), "plan": ChunkPlan(**one["plan"])})
            for one in held["sweeps"]
        ]
        return RunPlan(**{**held, "arms": tuple(held["arms"]), "sweeps": tuple(sweeps)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        mend = "begin anew with --overwrite"
        raise DataError(explain(f"is not the plan of a run ({problem})", where=str(path), mend=mend)) from problem


def check_same(begun: RunPlan, now: RunPlan, path: Path) -> None:
    """Refuse to go on with a run that was begun with something else.

    Raises
    ------
    InputError
        Saying everything that differs: arguments, models by name, prompts, versions.
    """
    found = []
    if begun.arms != now.arms:
        found.append(f"models {', '.join(filter(None, begun.arms)) or 'one'} became {', '.join(now.arms) or 'one'}")
    for what, old, new in (
        ("", begun.arguments, now.arguments),
        ("prompts: ", begun.prompts, now.prompts),
        ("version of ", begun.versions, now.versions),
    ):
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                found.append(f"{what}{name} was {_shown(old.get(name))} and is {_shown(new.get(name))}")
    refuse(found, path)


def refuse(found: Sequence[str], path: Path) -> None:
    """Raise if anything differs."""
    if found:
        mend = "give what it was begun with, another --out, or --overwrite"
        raise InputError(explain(f"this run was begun differently: {'; '.join(found)}", where=str(path), mend=mend))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 24 else f"{text[:20]}…"


def digest(prompts: Prompts) -> str:
    """Return a digest of prompts with their answers, spans, features and pairs."""
    return hashlib.sha256(prompts.to_jsonl().encode()).hexdigest()
