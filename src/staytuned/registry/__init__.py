"""The effectful end: gate, ledger, versions and lineage."""
