from __future__ import annotations

import json
import subprocess
import sys

from tests.docker.engine import ROOT

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 Status: not a field

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1:1.0
"""


def test_installed_debian_packages_alone_are_listed() -> None:
    script = "import json, sbom, sys; print(json.dumps(list(sbom.debian_packages(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", script, STATUS],
        cwd=ROOT / "docker",
        capture_output=True,
        check=True,
    )

    (component,) = json.loads(done.stdout)
    assert component["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64"
    assert component["version"] == "2.36-9+deb12u10"


def test_every_python_package_of_an_environment_is_listed_once() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docker" / "sbom.py"], capture_output=True, check=True
    )

    bill = json.loads(done.stdout)
    purls = [component["purl"] for component in bill["components"]]
    assert len(purls) == len(set(purls))
    assert any(purl.startswith("pkg:pypi/pydantic-core@") for purl in purls)
    assert all(component["bom-ref"] == component["purl"] for component in bill["components"])
