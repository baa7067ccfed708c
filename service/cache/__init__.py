"""Keeping a snapshot fresh enough: `policy` decides purely, `account_cache` carries it out."""
