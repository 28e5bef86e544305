"""Azure on this machine, for tests and for `al demo --profile azure-emulated`: real protocols, real clients."""
