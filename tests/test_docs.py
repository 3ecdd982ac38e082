"""The written tables say what the rules say."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_primitives_is_up_to_date():
    """If not: ``python docs/primitives.py``."""
    written = (DOCS / "PRIMITIVES.md").read_text()
    assert written == runpy.run_path(str(DOCS / "primitives.py"))["table"]()
    assert "docs/PRIMITIVES.md" in (DOCS.parent / "README.md").read_text()
