"""Server-side apply: `fields` are sets of field paths, `compare` finds who touched what, `merge` applies."""
