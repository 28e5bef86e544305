"""The five assets, their checks and jobs. Thin: they read the ports, call `al_core`, and tell people what happened."""
