from gridhe.aggregator.fold.groups import GroupTree, depth

ENROLLED = {
    "north/f1": [(0, 5), (7_200, 1)],
    "north/f2": [(0, 4)],
    "south/f1": [(3_600, 3)],
    "island": [(0, 2)],
}


def test_every_wider_group_expects_the_meters_below_it_for_that_window() -> None:
    tree = GroupTree(ENROLLED, ["gridhe/v1/batch/#"])
    assert [tree.expected(group, 0) for group in ("north/f1", "north", "south", "grid")] == [5, 9, 0, 11]
    assert [tree.expected(group, 7_200) for group in ("north/f1", "north", "south", "grid")] == [6, 10, 3, 15]
    assert tree.children("grid", 0) == {"north", "island"}
    assert tree.children("grid", 3_600) == {"north", "south", "island"}
    assert tree.children("north", 0) == {"north/f1", "north/f2"}


def test_a_group_that_the_filters_cover_only_in_part_is_not_rolled_up() -> None:
    tree = GroupTree(ENROLLED, ["gridhe/v1/batch/north/+/+"])
    assert tree.parent("north/f1") == "north"
    assert tree.parent("north") is None
    assert tree.expected("south/f1", 3_600) == 0
    one_feeder = GroupTree(ENROLLED, ["gridhe/v1/batch/north/f1/+"])
    assert one_feeder.parent("north/f1") is None


def test_the_filters_of_two_aggregators_may_cover_a_group_together_only_when_one_has_both() -> None:
    tree = GroupTree(ENROLLED, ["gridhe/v1/batch/north/f1/+", "gridhe/v1/batch/north/f2/+"])
    assert tree.parent("north/f2") == "north"
    assert tree.parent("north") is None


def test_depth_counts_levels_below_the_grid() -> None:
    assert [depth(group) for group in ("grid", "north", "north/f1")] == [0, 1, 2]
