#!/bin/sh
# Fill /opt/venv from a lock: wheels alone where there are any, no tests, compiled, with an SBOM.
set -eu
/pip/bin/pip --python /opt/venv/bin/python install --no-compile --disable-pip-version-check \
    --require-hashes -r "$1"
cd /opt/venv/lib/python3*/site-packages
find . \( -name tests -o -name test -o -name conftest.py -o -name __pycache__ -o -name '.*' ! -name . \) \
    -prune -exec rm -rf {} +
# A few packages carry templates that are no valid Python; they are never imported.
/opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash . || true
/opt/venv/bin/python /build/sbom.py >/opt/venv/sbom.cdx.json
