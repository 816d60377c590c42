"""From lowered Relax to an archive: the step function, assembly, linking, checks of the library, packing."""
