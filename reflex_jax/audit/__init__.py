"""Evidence about judge, rewards and runs: fitness, red team, replay, and the page that shows them."""
