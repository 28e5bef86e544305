"""What is Azure's own: who logs in, the workspace, Data Explorer, the queue of blob events, checks of them all."""
