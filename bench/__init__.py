"""Figures of the project, each beside its peers' on the same machine in the same run.

A figure is one file under ``bench/figures`` with a function ``measure(place: Place) -> Iterator[Row]``; its name is the
file's. ``python -m bench`` runs them all, ``python -m bench NAME...`` some.
"""
