"""One file for each layout of official files: a function that reads them into rows, and the `LAYOUT` that names it."""
