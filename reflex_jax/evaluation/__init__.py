"""Rewards and accuracy on held-out questions."""
