"""SIGKILL while a refused part is sent again in strands; `make hostile` does it 200 times."""

from pathlib import Path

from gridhe_testing.strand_kills import kills


def test_kills_leave_each_refused_part_whole_or_in_its_strands(tmp_path: Path) -> None:
    figures = kills(15, 3, tmp_path)
    assert figures["broken_rules"] == []
    assert figures["strands"]
    assert figures["killed"] != figures["finished_before_the_kill"]
