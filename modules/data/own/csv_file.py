"""Your own table in a CSV file."""

from __future__ import annotations

from modules.data.own.data_table import DataTable


class CsvFile(DataTable):
    """The name that `data=csv` has had from the first version on; trials contain it, and their ids depend on it."""

    is_component = True
