"""The second driver: the derivation graph as Nix reads it, and what runs inside Nix's own sandbox.

`export` writes a recipe's graph as JSON, with `choice` of the wheels for a declared Python; ``nix/`` makes one Nix
derivation of each stage. `building`, `installing` and `unpacking` are the builders of those derivations.
"""
