"""The recipe of the assets that ship with the package: a tiny judge and a tiny policy, made from a seed."""
