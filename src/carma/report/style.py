"""One look for all pictures (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from carma.files import write_whole

__all__ = ["INK", "PALETTE", "Figure", "Panels", "legend", "save_figure"]

# Okabe & Ito's colours, told apart with every kind of colour vision; without their yellow, which
# is too pale on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#555555")
INK = "#333333"
# Inches that a legend's patch and each letter beside it take.
PATCH, LETTER = 0.75, 0.085


class Panels:
    """A figure of equal panels in rows, in the house's look.

    Args:
        n: Number of panels, at least 1.
        most: Panels in a row at most.
        width: Of one panel, inches.
        height: Of one panel, inches.
        title: Above all.

    Attributes:
        figure: The matplotlib figure.

    Example:
        >>> panels = Panels(2, title="Two")
        >>> panels.start("first", x="income", y="people") is panels.axes[0]
        True
    """

    def __init__(
        self, n: int, *, most: int = 3, width: float = 4.0, height: float = 3.1, title: str = ""
    ) -> None:
        n_columns = min(most, n)
        n_rows = -(-n // n_columns)
        size = (max(width * n_columns, 5.5), height * n_rows + 0.7)
        self.figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        grid: Any = self.figure.subplots(n_rows, n_columns, squeeze=False)
        self.axes: list[Any] = list(grid.flat)
        for axis in self.axes[n:]:
            axis.set_visible(False)
        self._next = 0
        if title:
            self.figure.suptitle(title, fontsize=14, color=INK)

    def start(self, title: str = "", *, x: str = "", y: str = "") -> Any:
        """The next empty panel's axis, with title and labels."""
        axis = self.axes[self._next]
        self._next += 1
        axis.set_title(title, fontsize=12, color=INK)
        axis.set_xlabel(x, fontsize=10, color=INK)
        axis.set_ylabel(y, fontsize=10, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#888888")
        axis.tick_params(labelsize=9, colors=INK, color="#888888")
        return axis


def legend(figure: Figure, colours: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """One legend below all panels: name to colour."""
    entries = dict(colours)
    handles = [Patch(color=colour) for colour in entries.values()]
    widest = PATCH + LETTER * max(map(len, entries), default=0)
    figure.legend(
        handles,
        list(entries),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / widest))),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole; the extension (png, svg, pdf) gives the format.

    Raises:
        FileError: The path cannot be written.
    """
    buffer = BytesIO()
    kind = Path(path).suffix[1:] or "png"
    # Equal pictures are equal files: no date, no random names.
    with rc_context({"svg.hashsalt": "carma"}):
        figure.savefig(
            buffer, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else {}
        )
    return write_whole(path, buffer.getvalue())
