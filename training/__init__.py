"""Recipes that made the embedded models. Not installed with the package."""
