"""INT8 quantization: calibration, thresholds, recipes, and plain QDQ ONNX as the result."""

# Of the recipes with a name: the quickest, and nearer to float than any with KL (docs/quantization.md).
DEFAULT_RECIPE = "int8-mse-reduced-range"
