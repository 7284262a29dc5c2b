"""Writes P1 telegrams for tests, in the layout of DSMR 5. Shares no code with the decoder."""

__all__ = ["LINES", "crc_of", "telegram"]

LINES = (
    "1-3:0.2.8(50)",
    "0-0:1.0.0(240717120010S)",
    "0-0:96.1.1(4530303939393030303030303030303031)",
    "1-0:1.8.1(000123.456*kWh)",
    "1-0:1.8.2(000200.000*kWh)",
    "1-0:2.8.1(000000.500*kWh)",
    "1-0:2.8.2(000001.000*kWh)",
    "0-0:96.14.0(0002)",
    "1-0:1.7.0(00.250*kW)",
    "1-0:2.7.0(00.000*kW)",
    "1-0:99.97.0(1)(0-0:96.7.19)(170520130938S)(0000005627*s)",
    "0-0:96.13.0()",
    "1-0:32.7.0(230.1*V)",
    "0-1:24.2.1(240717120000S)(04890.857*m3)",
)


def crc_of(data: bytes) -> int:
    """CRC-16/ARC, bit by bit as DSMR 5.0.2 describes it."""
    crc = 0
    for byte in data:
        for bit in range(8):
            lowest = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0xA001 if lowest else 0)
    return crc


def telegram(
    *lines: str,
    header: str = "/TST5\\2TEST-1",
    checksum: str | None = "{:04X}",
    line_end: str = "\r\n",
    **changed: str,
) -> bytes:
    """A telegram of these lines (of LINES without them), with its checksum; `checksum=None`: without one.

    `changed` replaces lines by their code with underscores: _1_8_1="1-0:1.8.1()"; "" leaves a line out.
    """
    written = []
    for line in lines or LINES:
        code = "_" + line.partition("(")[0].partition(":")[2].replace(".", "_")
        replacement = changed.pop(code, line)
        if replacement:
            written.append(replacement)
    assert not changed, changed
    body = "\r\n".join([header, "", *written, "!"]).encode("latin-1")
    text = body + (b"" if checksum is None else checksum.format(crc_of(body)).encode()) + b"\r\n"
    return text.replace(b"\r\n", line_end.encode())
