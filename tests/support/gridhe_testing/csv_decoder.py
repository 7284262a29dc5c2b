"""The reader of files of readings, to be fuzzed: any bytes are a file, or are refused."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.files.check import as_lines, as_record
from gridhe.meter_agent.sources.files.read import read_file
from gridhe_testing.decoder import Decoder, seeds_of

__all__ = ["SEEDS", "csv"]

# One for each reader and layout: small, so that a mutation hits what matters.
_HOURS = b";".join(b"%02d:00-%02d:00" % (hour, hour + 1) for hour in range(24))
_GREEN_BUTTON = (
    b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><link href="ReadingType/1"/><content><ReadingType>'
    b"<uom>72</uom><powerOfTenMultiplier>0</powerOfTenMultiplier></ReadingType></content></entry><entry>"
    b'<link href="UsagePoint/1/MeterReading/1/IntervalBlock/1"/><content><IntervalBlock><IntervalReading>'
    b"<timePeriod><duration>900</duration><start>1717258500</start></timePeriod><value>6</value>"
    b"</IntervalReading></IntervalBlock></content></entry></feed>"
)
_SDAT = (
    b"<ValidatedMeteredData_14><MeteringData><Interval><StartDateTime>2024-03-30T23:00:00Z</StartDateTime>"
    b"<EndDateTime>2024-03-30T23:30:00Z</EndDateTime></Interval><Resolution><Resolution>15</Resolution>"
    b"<Unit>MIN</Unit></Resolution><Product><MeasureUnit>KWH</MeasureUnit></Product><Observation><Position>"
    b"<Sequence>1</Sequence></Position><Volume>0.162</Volume></Observation></MeteringData>"
    b"</ValidatedMeteredData_14>"
)
_NEM12 = (
    b"100,NEM12,202401170900,A,B\n200,NMI0000001,E1,E1,E1,N1,M,kWh,30,\n300,20240116" + b",0.1" * 48
) + b",V,,,20240117090000,\n400,1,40,A,,\n400,41,48,S14,,\n900\n"
_LOAD_PROFILE = (
    b"Datum;von;bis;Leistung [kW];Status\r\n27.10.2024;00:00;00:15;0,648;W\r\n"
    b"27.10.2024;00:15;00:30;0,460;E\r\n"
)
_HISTORY = (
    b"entity_id,state,last_changed\ns.a,1.5,2025-01-10T00:00:03.000Z\n"
    b"s.a,unknown,2025-01-10T00:13:10.000Z\ns.a,1.7,2025-01-10T01:44:59.000Z\n"
)
# One for each reader and layout: small, so that a mutation hits what matters.
SEEDS = (
    b"time,m1,m2\n2024-03-01T00:00Z,1,2\n2024-03-01T01:00Z,,4\nSumme,1,6\n",
    b"slot,a,b\nw1,1,2\nw2,3,n/a\nw3,4,5\n",
    _LOAD_PROFILE,
    b"Zeitstempel;Wert;Einheit\n10.01.2024 00:00;4'851;Wh\n10.01.2024 01:00;2'052;Wh\n",
    b"cups;fecha;hora;consumo_kWh\nES;2024/10/27;01:00;0,933\nES;2024/10/27;25:00;0,626\n",
    b"Giorno;" + _HOURS + b"\n31/03/2024" + b";0,1" * 24 + b"\n",
    b"timestamp,total_kwh\n" + b"".join(b"2024-01-01T%02d:00Z,%d.5\n" % (h, 999990 + h) for h in range(14)),
    _HISTORY,
    b'"Datum";"kWh"\n"45293,0000000000";"0,094"\n"45293,0104166667";"0,212"\n',
    _NEM12,
    _GREEN_BUTTON,
    _SDAT,
    "Datum\tFörbrukning (kWh)\n2024-07-02 00:00\t0,790\n2024-07-02 01:00\t0,817\n".encode("utf-16"),
)
_NOT_SAID = {"zone": "Europe/Berlin", "unit": "kWh", "date": "dmy", "decimal": ","}


def _zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("r.csv", data)
    return buffer.getvalue()


def csv(directory: Path) -> Decoder:
    """Files of the fuzzer's; the second mode also says what files leave open."""
    path = directory / "readings.csv"

    def read(options: dict[str, str]) -> Callable[[bytes], None]:
        def feed(data: bytes) -> None:
            path.write_bytes(data)
            table = read_file(path, options=options)
            as_record(table)
            list(as_lines(table))
            for number, _ in enumerate(table.intervals()):
                if number > 10_000:
                    break

        return feed

    packed = (gzip.compress(SEEDS[0], mtime=0), _zipped(SEEDS[0]))
    return Decoder(
        feeders=tuple(read(options) for options in ({}, _NOT_SAID, {"kind": "register", "unit": "kWh"})),
        errors=(SourceError, ConfigError),
        seeds=seeds_of((*SEEDS, *packed), SEEDS[4], _HISTORY),
    )
