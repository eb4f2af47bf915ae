"""Recipes, one YAML a recipe, installed as package data."""
