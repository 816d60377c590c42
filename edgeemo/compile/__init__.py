"""The compiler: quantized or float ONNX to one artifact file for one board."""
