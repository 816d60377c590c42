"""Operations: the command, a live process, its store of models, canary and metrics. A library user imports none of it."""
