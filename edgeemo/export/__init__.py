"""A torch model to the ONNX file of one streaming step."""
