"""What INT8 does to each layer, by itself and to the answers; the page that shows it, and the search for a recipe."""
