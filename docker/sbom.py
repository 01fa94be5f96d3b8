"""Print what an image is made of, as CycloneDX 1.6: Python packages, Debian packages, Python.

Runs while an image is built, in the environment that it describes.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

_DPKG_STATUS = Path("/var/lib/dpkg/status")
_LIBRARY = "library"


def python_packages(*folders: str) -> list[dict[str, Any]]:
    """One component for each distribution installed in `folders`; by default, on `sys.path`."""
    found = importlib.metadata.distributions(**({"path": list(folders)} if folders else {}))
    components = []
    for distribution in found:
        name = distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        licence = distribution.metadata.get("License-Expression")
        components.append(
            _component(
                _LIBRARY, name, distribution.version, f"pkg:pypi/{name}@{distribution.version}"
            )
            | ({"licenses": [{"expression": licence}]} if licence else {})
        )
    return sorted(components, key=lambda component: str(component["name"]))


def debian_packages(status: str) -> Iterator[dict[str, Any]]:
    """One component for each installed package in the text of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status", "").endswith(" installed"):
            name, version, architecture = (
                fields[key] for key in ("Package", "Version", "Architecture")
            )
            purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
            yield _component(_LIBRARY, name, version, purl)


def bill() -> dict[str, Any]:
    """All of this environment, in CycloneDX' JSON form."""
    status = _DPKG_STATUS.read_text(encoding="utf-8") if _DPKG_STATUS.exists() else ""
    version = platform.python_version()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "name": "mutualformer-serve", "bom-ref": "image"}
        },
        "components": [
            _component("platform", "cpython", version, f"pkg:generic/python@{version}"),
            *python_packages(),
            *debian_packages(status),
        ],
    }


def _component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
