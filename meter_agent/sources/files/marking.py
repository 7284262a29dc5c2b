"""Finds out which mark is decimal in a file's numbers, and which one separates thousands."""

from collections import Counter
from collections.abc import Sequence

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.format import FileFormat
from gridhe.meter_agent.sources.files.layout import ValueColumn
from gridhe.meter_agent.sources.files.survey import Survey

__all__ = ["find_marks"]


def find_marks(
    found: Survey, settings: FileFormat, ats: Sequence[int], values: Sequence[ValueColumn]
) -> tuple[str, str]:
    """The decimal mark, and the thousands mark ("" for none). Raises SourceError if numbers may be either."""
    seen: Counter[str] = Counter()
    for at in ats:
        for code, count in found.columns[at].codes.items():
            if code.startswith("n "):
                seen[code.split(" ")[1]] += count
    decimal, thousands = settings.decimal, settings.thousands
    if decimal == "auto" and thousands in (".", ","):
        decimal = "," if thousands == "." else "."
    if decimal == "auto":
        certain = [mark for mark in ".," if seen[f"dec{mark}"] or seen[f"mix{mark}"]]
        if len(certain) == 2:
            raise SourceError(
                f"{found.path} has numbers with a decimal point and others with a decimal comma; give "
                "--with "
                "decimal=. or decimal=, and the others are set aside"
            )
        split = [mark for mark in ".," if seen[f"tho{mark}"]]
        unclear = [mark for mark in ".," if seen[f"amb{mark}"]]
        if certain:
            decimal = certain[0]  # type: ignore[assignment]  # "." or ","
        elif split:
            decimal = "," if split[0] == "." else "."
        elif unclear:
            kilo = all(each.unit is not None and each.unit.factor > 1 for each in values)
            if len(unclear) == 2 or not kilo or seen["bare"]:
                mark = unclear[0]
                other = "," if mark == "." else "."
                raise SourceError(
                    f'{found.path} has numbers such as "1{mark}234", which may be 1234 or one and a '
                    "bit; give "
                    f"--with thousands={mark} (and decimal={other}), or --with decimal={mark}"
                )
            decimal = unclear[0]  # type: ignore[assignment]  # "." or ","
        else:
            decimal = "."
    if thousands == "auto":
        other = "," if decimal == "." else "."
        grouped = seen[f"mix{decimal}"] or seen[f"tho{other}"] or seen[f"amb{other}"]
        return decimal, other if grouped else ""
    return decimal, "" if thousands == "none" else thousands
