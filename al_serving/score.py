"""The name that deployments made before give their scoring script; it lives in `al_serving.azure_ml_script`."""

from al_serving.azure_ml_script import init, run

__all__ = ["init", "run"]
