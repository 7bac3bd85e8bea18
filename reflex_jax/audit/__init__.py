"""Whether what a run was paid by can be trusted."""
