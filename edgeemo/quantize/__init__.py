"""INT8 quantization: recipes, calibration, thresholds, QDQ."""

# The recipe of the command line, of quantize_model() and of what a recipe leaves out: the quickest of those with a name, and
# nearer to float than any with KL (docs/quantization.md).
DEFAULT_RECIPE = "int8-mse-winograd"
