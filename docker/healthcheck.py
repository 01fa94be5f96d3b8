"""Exit 0 if the service beside this probe takes work, else 1 with its answer on one line.

Reads MUTUALFORMER_HOST and MUTUALFORMER_PORT as the service does; loads nothing of it, so that a
probe costs little.
"""

from __future__ import annotations

import http.client
import os
import sys


def address() -> tuple[str, int]:
    """Where the service beside this process listens; an empty variable counts as unset.

    Linux takes `0.0.0.0` and `::` for the loopback.
    """
    host = os.environ.get("MUTUALFORMER_HOST") or "127.0.0.1"
    port = os.environ.get("MUTUALFORMER_PORT") or "8000"
    return host, int(port)


def main() -> int:
    """Ask `/readyz` once; 4 seconds at most, because Docker waits 5."""
    try:
        connection = http.client.HTTPConnection(*address(), timeout=4)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer: {error}\n")
        return 1
    sys.stdout.write(f"{answer.status} {body}\n")
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
