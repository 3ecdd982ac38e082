"""The written tables say what the rules say."""

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_primitives_is_up_to_date():
    """If not: ``python docs/primitives.py``. In a process of its own: other tests register rules."""
    code = (
        f"import runpy; print(runpy.run_path({str(DOCS / 'primitives.py')!r})['table'](), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (DOCS / "PRIMITIVES.md").read_text() == done.stdout
    assert "docs/PRIMITIVES.md" in (DOCS.parent / "README.md").read_text()
