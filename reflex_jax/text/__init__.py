"""Strings: tokenisers, statements, completions."""
