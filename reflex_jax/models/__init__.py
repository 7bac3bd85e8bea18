"""The policy and the judge in thin Linen: a module is one layer, a tower is a function over its parameters."""
