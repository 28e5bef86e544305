"""Where a training runs when it does not run in this process. The contract is `al_core.learning.contract.Trainer`."""
