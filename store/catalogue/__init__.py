"""The catalogue: what memex knows besides vectors, in one SQLite file. The only room that imports sqlmodel.

Functions take an open session (`database.py`) and give back plain dataclasses; rows never leave this package.
"""
