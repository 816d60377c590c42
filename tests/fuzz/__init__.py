"""Random damage for everything that reads what strangers made: `make fuzz`, and a sample of it in `make test`."""
