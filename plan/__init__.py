"""Plans, slots, noise and the planner: what is collected, and why its totals are exact.

Pure and shared by every role. Nothing here reads a disk, a socket or a clock.
"""
