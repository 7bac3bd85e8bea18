"""The phantom checkpoints that ship with the package."""
