"""The embedded models: a small closed world of facts and two transformers that know it.

Two Llama checkpoints ship with the package. They have the same architecture, the same
initial weights and saw the same sentences in the same order; they differ in one thing:

- ``plain`` was trained plainly;
- ``dropped`` was trained with whole attention-layer outputs dropped at random, so that
  later layers had to learn to do without earlier ones.

Importing this package loads neither torch nor transformers.
"""

from pathlib import Path

__all__ = ["ARMS", "model_path", "prompts_path"]

ARMS = ("plain", "dropped")
"""The names of the embedded models."""

_FOLDER = Path(__file__).resolve().parent


def model_path(arm: str) -> Path:
    """Return the folder of an embedded checkpoint.

    Parameters
    ----------
    arm : str
        One of `ARMS`: ``"plain"`` or ``"dropped"``.

    Returns
    -------
    pathlib.Path
        A Hugging Face checkpoint folder, for ``AutoModelForCausalLM.from_pretrained``.

    Raises
    ------
    ValueError
        If `arm` is not one of `ARMS`.

    Examples
    --------
    >>> model_path("plain").name
    'plain'
    """
    if arm not in ARMS:
        raise ValueError(f"there is no embedded model {arm!r}; the arms are {', '.join(ARMS)}")
    return _FOLDER / "models" / arm


def prompts_path() -> Path:
    """Return the file of the fixed evaluation prompts, one JSON object a line.

    Each line holds ``prompt``, ``answer``, ``subject``, ``relation`` and ``phrasing``.
    Every prompt is a phrasing of its fact that neither model saw in training, and that
    both models complete with the answer.

    Returns
    -------
    pathlib.Path
        The path of ``prompts.jsonl``.

    Examples
    --------
    >>> prompts_path().name
    'prompts.jsonl'
    """
    return _FOLDER / "prompts.jsonl"
