"""Tables on standard output: for people on a terminal, and plain columns for pipes."""

import sys
from collections.abc import Sequence

from csi.base.text import printable

#: Cells of these columns are shown in red unless they have one of these values.
_WELL = {"STATE": ("serving",), "PHASE": ("Bound", "Running", "Pending", "Updating")}


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Prints a table; what is not printable in a cell is escaped: names are chosen by others."""
    rows = [tuple(printable(cell) for cell in row) for row in rows]
    if not sys.stdout.isatty():
        # Nothing is cut off.
        widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
        for row in [columns, *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        cells = [escape(cell) for cell in row]
        for index, column in enumerate(columns):
            if row[index] not in _WELL.get(column, (row[index],)):
                cells[index] = f"[bold red]{cells[index]}[/]"
        table.add_row(*cells)
    Console().print(table)
