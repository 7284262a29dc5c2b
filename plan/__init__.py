"""What is collected, and why its totals are exact: plans, their slots, noise, and the planner.

Pure and shared by every role. Nothing here reads a disk, a socket or a clock.
"""
