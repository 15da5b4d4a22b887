"""Hidden checks of the assignment museum: each task is a test, tried on right and wrong versions.

The versions of an exhibit stand in exhibits/NAME.py: functions right_... and wrong_..., the
docstring of a wrong one saying what it is about. wrong_shown is the one that hangs in the notebook.
"""

import ast
from pathlib import Path

from avi_classroom.tasks import Tests

FOLDER = Path(__file__).parent / "exhibits"


def room(path: Path) -> Tests:
    """The task of one exhibit: its imports go before every version."""
    body = ast.parse(path.read_text()).body
    imports = [part for part in body if isinstance(part, ast.Import | ast.ImportFrom)]
    versions = [part for part in body if isinstance(part, ast.FunctionDef)]
    right = [ast.unparse(one) for one in versions if one.name.startswith("right_")]
    wrong = {
        ast.get_docstring(one): ast.unparse(one)
        for one in versions
        if one.name.startswith("wrong_")
    }
    return Tests(right, wrong, preamble="".join(f"{ast.unparse(part)}\n" for part in imports))


CHECKS = {f"test_{path.stem}": room(path) for path in sorted(FOLDER.glob("*.py"))}
