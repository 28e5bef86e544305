"""The page on which people label: the app, the work queue behind it, static files. No request leaves the machine."""
