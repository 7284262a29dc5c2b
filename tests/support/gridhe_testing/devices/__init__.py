"""Simulated meters with seeded faults, on pseudo-terminals, for whole runs of gridhe-meter.

python -m gridhe_testing.devices --telegrams 10000 --seed 1
"""
