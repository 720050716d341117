"""Every test named in docs/reliability.md exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_test_of_each_documented_fault_exists():
    rows = [line for line in (ROOT / "docs/reliability.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    faults = [row for row in rows if not row.startswith(("| fault", "| ---"))]
    assert len(faults) > 20
    for row in faults:
        file, name = re.findall(r"`([\w/]+\.py)::(\w+)`", row)[-1]
        assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8"), row
