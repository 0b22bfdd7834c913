"""Make the tiny models and the peers importable as ``peers_models`` and ``peers_players``."""

import importlib.util
import sys
from pathlib import Path

for name in ("models", "players"):
    spec = importlib.util.spec_from_file_location(f"peers_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
