"""The authority's package: all code that can decrypt is here, and no other role imports it.

`home` holds keys and enrolments, `release` turns totals into integers under a policy, `cli` is the command.
"""
