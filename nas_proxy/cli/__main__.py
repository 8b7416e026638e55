"""`python -m nas_proxy.cli`, as `nas-proxy`."""

from __future__ import annotations

from nas_proxy.cli.main import main

if __name__ == "__main__":
    main()
