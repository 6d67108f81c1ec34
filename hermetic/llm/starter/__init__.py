"""The first version of a recipe: from a model, a GPU, an engine kind and a quantisation to a file in Python.

`request` says what is asked for and refuses what cannot run, `code` is what recipes are made of, `kinds` puts them
together for each engine kind.
"""
