"""Questions, images and how they become arrays."""
