"""An encoder of Linky's frames (TIC), for meters that tests invent."""

__all__ = ["historique", "standard"]


def _checksum(covered: str) -> str:
    return chr(sum(covered.encode("latin-1")) % 64 + 0x20)


def historique(*groups: tuple[str, ...]) -> bytes:
    """Label and value, separated by spaces."""
    lines = [" ".join(group) for group in groups]
    return _frame([f"{line} {_checksum(line)}" for line in lines])


def standard(*groups: tuple[str, ...]) -> bytes:
    """Label, perhaps a time stamp, and value, separated by tabs."""
    lines = ["\t".join(group) + "\t" for group in groups]
    return _frame([line + _checksum(line) for line in lines])


def _frame(lines: list[str]) -> bytes:
    return b"\x02" + "".join(f"\n{line}\r" for line in lines).encode("latin-1") + b"\x03"
