"""Strings: tokenisers, chat templates, completions and how answers are compared."""
