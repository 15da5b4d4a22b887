"""What a lesson checks its own numbers against, and how it hands figures to its chapter.

A trained number differs between processors in its last digits, so a lesson compares it with the
value stored in `lessons/expected/NAME.json`, within the tolerance stored beside it: the larger of
0.02 and half the standard deviation over five seeds. `make expected` measures both again.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Expected:
    """The stored values of one lesson on one data set; unit and tolerance stand with each value.

    `folder` is relative to the notebook's own folder. With the environment variable
    AVI_RECORD=FILE nothing is compared: every value is written into FILE instead.
    """

    lesson: str
    data: str
    folder: Path = Path("expected")

    def check(self, key: str, value: Any, unit: str = "nat", claim: str = "") -> None:
        """Compare with the stored value; the line printed shows that, and no measured digit.

        Raises ValueError for a value that is not finite, KeyError for a key that is not stored,
        AssertionError for a value outside the tolerance.
        """
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{self.lesson}: {key} is {number}; a claim needs a finite number.")
        if record := os.environ.get("AVI_RECORD"):
            _record(Path(record), key, {"value": number, "unit": unit, "claim": claim})
            print(f"{key}: recorded")
            return
        print(f"{key}: {self._compare(key, number)}")

    def _compare(self, key: str, number: float) -> str:
        path = self.folder / f"{self.lesson}.json"
        stored = _read(path).get(self.data)
        if stored is None:
            return f"nothing checked, {path} has no values for {self.data} (see make expected)"
        if key not in stored:
            raise KeyError(f"{path} has no {key!r} for {self.data}; run `make expected`.")
        value, tolerance = stored[key]["value"], stored[key]["tolerance"]
        if abs(number - value) > tolerance:
            raise AssertionError(
                f"{self.lesson}: {key} is {number:.6g}, stored {value:.6g} +- {tolerance:.2g}; "
                "find out why it moved, or measure again with `make expected`."
            )
        unit = stored[key]["unit"]
        return f"agrees with the stored value, {value:.4g} \u00b1 {tolerance:.2g} {unit}"


def glue(key: str, figure: Any, display: bool = True) -> None:
    """Show a figure and store it under `key`, for a page's `{glue:figure}` to embed.

    The output is the one `myst_nb.glue` emits, made without importing myst_nb, so that a lesson
    also runs where only the library is installed. A matplotlib figure is closed, or the notebook
    would show it a second time. With display=False the figure is stored but not shown here; so
    values for an interactive figure are handed over, as IPython.display.JSON.
    """
    from IPython.core.formatters import format_display_data
    from IPython.display import display as show

    data, metadata = format_display_data(figure)
    prefix = "" if display else "application/papermill.record/"
    if prefix and "application/json" in data:  # under a prefix a notebook file holds text only
        data["application/json"] = json.dumps(data["application/json"])
    metadata["scrapbook"] = {"name": key, "mime_prefix": prefix}
    show({prefix + mime: content for mime, content in data.items()}, raw=True, metadata=metadata)
    if type(figure).__module__.startswith("matplotlib."):
        import matplotlib.pyplot as plt

        plt.close(figure)


def use_threads() -> int:
    """Set torch's threads to AVI_THREADS, by default one, and return the number.

    One, because torch's spinning threads make small operations many times slower when other
    lessons keep the cores busy.
    """
    import torch

    threads = int(os.environ.get("AVI_THREADS", 1))
    torch.set_num_threads(threads)
    return threads


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _record(path: Path, key: str, entry: dict[str, Any]) -> None:
    """Add one entry; renamed into place, so that a killed run leaves no half-written file."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**_read(path), key: entry}, indent=1), encoding="utf-8")
    part.replace(path)
