"""ONNX on the ground: reading, graph queries, the stream contract, sessions in ONNX Runtime, feeds. Imports no other room."""
