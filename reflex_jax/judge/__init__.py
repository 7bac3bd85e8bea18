"""The frozen BiomedCLIP judge: where a statement looks in an image, and whether image and texts agree."""
