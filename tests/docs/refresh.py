"""Run pages and write what they print into them: ``python tests/docs/refresh.py docs/start.md …``.

For outputs whose form has changed; read the difference before it is kept.  Outputs that still agree stay as they are,
``…`` included.
"""

import contextlib
import io
import os
import shlex
import sys
import tempfile
import warnings
from pathlib import Path

from causalnet.cli.main import main as run_command
from causalnet.demo import model_path, prompts_path


def reader_folder() -> Path:
    """Return a folder such as the pages speak of: a checkpoint, prompts, a run."""
    folder = Path(tempfile.mkdtemp())
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "checkpoint").symlink_to(model_path("plain"))
    lines = prompts_path().read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "prompts.jsonl").write_text("".join(lines[:60]), encoding="utf-8")
    return folder


def printed(block, space):
    """Return what a block prints; None where it is not run."""
    if block.not_run or (block.language != "python" and block.shown is None):
        return None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, block.page, "exec"), space)
        else:
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip().removeprefix("$ ").startswith("causalnet "):
                    run_command(shlex.split(line.strip().removeprefix("$ "))[1:])
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines()) + "\n"


def refresh(page: Path) -> int:
    """Write a page's outputs anew and return how many have changed."""
    from reading import blocks, difference  # beside this file, which is run as a script

    text, space, changed = page.read_text(encoding="utf-8"), {"__name__": "__main__"}, 0
    if "runs/hydra" in text:
        words = "hydra --model path/to/checkpoint --prompts prompts.jsonl --donors 3 --quiet --out runs/hydra"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            run_command(words.split())
    for block in blocks(page):
        found = printed(block, space)
        if found is None or block.shown is None or not difference(block.shown, found):
            continue
        old = f"```{block.language}\n{block.text}```\n\n```text\n{block.shown}```"
        text = text.replace(old, old.removesuffix(f"{block.shown}```") + f"{found}```", 1)
        changed += 1
    page.write_text(text, encoding="utf-8")
    return changed


if __name__ == "__main__":
    os.environ.update(MPLBACKEND="Agg", HF_HUB_OFFLINE="1")
    warnings.simplefilter("ignore")
    for page in [Path(name).resolve() for name in sys.argv[1:]]:
        os.chdir(reader_folder())
        print(f"{page.name}: {refresh(page)} outputs written")
