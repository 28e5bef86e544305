"""The `al` command; thin over everything else."""
