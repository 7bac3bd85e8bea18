"""One file per command of `reflex`: `add` says its words, `run` does it and returns the exit code.

Heavy imports stand inside `run`, so that `reflex --help` and wrong flags answer at once.
"""
