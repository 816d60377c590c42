"""Keys and signatures in minisign's format: whose artifacts a board runs (edgeemo_runtime.trust verifies them)."""
