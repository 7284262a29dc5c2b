"""Meters with an optical port by IEC 62056-21 (D0): asked in modes A and C, listened to in mode D."""
