"""Other people's ONNX files made into what quantize and compile take: batch, shapes, loops and recurrent operators rewritten."""
