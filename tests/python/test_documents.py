"""What SECURITY.md names exists. Must not know what it says beyond that."""

import re

from conftest import ROOT


def test_every_test_that_is_named_exists():
    said = re.findall(r"`([^`\s]+)`", (ROOT / "SECURITY.md").read_text().split("## Before you go live")[0])
    sources = "\n".join(path.read_text() for path in (ROOT / "tests/python").glob("test_*.py"))
    functions = set(re.findall(r"^def (test_\w+)\(", sources, re.MULTILINE))
    tests = [name for name in said if name.startswith("test_") and not name.endswith(".py")]
    assert len(tests) > 20
    assert [name for name in tests if name not in functions] == []
    files = [name for name in said if "/" in name and not name.startswith("/")]
    places = [ROOT, ROOT / "crates/server/src"]
    assert [name for name in files if not any((place / name).exists() for place in places)] == []
