"""Truss configs: ``hermetic realise|plan|lint config.yaml``.

A config is read (`document`), checked (`config`, `section`, `checks`) and mapped to a build plan (`plan`); the same
config gets the same verdict as ``truss push`` gives it, see ``docs/truss.md``.
"""
