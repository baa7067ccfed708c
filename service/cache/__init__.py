"""Keeping a snapshot fresh enough: `policy` decides purely, `cache` carries it out."""
