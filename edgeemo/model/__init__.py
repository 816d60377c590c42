"""Model definitions in torch and their committed weights: one definition for training, export and tests."""
