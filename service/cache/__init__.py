"""Keeping a snapshot fresh enough: `policy` decides purely, `keeper` carries it out."""
