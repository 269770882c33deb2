"""Passes over float programs, after import."""
