"""The loop: steps until the end, by either objective, and what happens when something goes wrong."""
