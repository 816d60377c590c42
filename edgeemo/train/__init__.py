"""Training: teacher, distillation, heads, windows."""
