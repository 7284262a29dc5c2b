"""Proof that nothing is lost and nothing counted twice: real processes, seeded faults, an oracle.

`world` makes keys, meters and readings; `cluster` owns the processes; `oracle` judges every total; `cases`
are the fault cases. Each run ends in one `CaseOutcome`, which its seed replays.
"""
