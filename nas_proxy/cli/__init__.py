"""The command line: `nas-proxy`."""
