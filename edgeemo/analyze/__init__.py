"""Effect of INT8 on each layer, by itself and to the answers; the page that shows it, and the search for a recipe."""
