"""The doors to the outside world: one module or folder per port, its adapters side by side."""
