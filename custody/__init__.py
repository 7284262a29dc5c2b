"""What opens a total: ring arithmetic with the secret key.

The authority's alone. Meters and aggregators never import this room.
"""
