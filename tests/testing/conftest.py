"""Make the faults importable as ``testing_faults``."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("testing_faults", Path(__file__).with_name("faults.py"))
assert spec is not None
assert spec.loader is not None
module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
spec.loader.exec_module(module)
