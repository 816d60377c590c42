"""Clips and their manifests, speech corpora, the telephone line."""
