"""`reflex plan`: does a run fit a machine, and how long would a step take, before the machine is rented."""
