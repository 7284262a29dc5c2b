"""The key authority's room, and the records that every role shares.

Plan, parameters, slots, bundle, roster and credentials are for all and cannot decrypt. Vault,
decrypt, release and ledger are the authority's alone; meters and aggregators never import them.
"""
