"""Generations as Lance tables: the only room that imports lancedb and lance. Arrow and Lance types never leave it."""

from store.vectors.candidates import Candidate as Candidate
from store.vectors.candidates import Sought as Sought
from store.vectors.generations import CREATED as CREATED
from store.vectors.generations import Generations as Generations
from store.vectors.upkeep import Shape as Shape
