"""Live calls over the network: one front process owns the sockets, engine processes run the model (`edgeemo-serve`)."""
