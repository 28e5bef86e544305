"""Query strategies: one module each, one contract (`base.py`), one registry (`registry.py`)."""
