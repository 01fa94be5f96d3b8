"""`models`: what lies in the folder of bundles, without running any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.start import AsJson, BundlesFolder, print_json, read_settings, stop, warn
from model.bundle import Bundle, BundleError, bundle_folders, equal_names, open_bundle

cli = typer.Typer(no_args_is_help=True, help="List, show and verify bundles.")


@cli.command("list")
def list_(bundles: BundlesFolder = None, as_json: AsJson = False) -> None:
    """List every bundle: its task, its size, when and where it was made."""
    opened, broken = _open_all(_folder(bundles), verify=False)
    if as_json:
        print_json({"models": [_describe(bundle) for bundle in opened], "broken": broken})
    else:
        rows = [("MODEL", "TASK", "INPUT", "MB", "CREATED", "FOLDER")]
        for bundle in opened:
            manifest = bundle.manifest
            height, width = manifest.input_size
            size = f"{_size_bytes(bundle) / 1e6:.1f}"
            side = f"{height}x{width}"
            model, task = manifest.model_id, manifest.task
            rows.append((model, task, side, size, manifest.created, str(bundle.path)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            typer.echo("  ".join(cells).rstrip())
    if broken:
        raise stop("\n".join(broken))


@cli.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a bundle, as `list` shows it.")],
    bundles: BundlesFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show one bundle: what made it, how good it is, what it may be used for."""
    folder = _folder(bundles)
    opened, broken = _open_all(folder, verify=False)
    named = {bundle.manifest.name: bundle for bundle in opened}
    bundle = named.get(name.partition("@")[0])
    if bundle is None or name not in (bundle.manifest.name, bundle.manifest.model_id):
        there = ", ".join(other.manifest.model_id for other in opened) or "none"
        raise stop("\n".join([f"{folder}: no bundle is named {name!r}; there is {there}", *broken]))
    for line in broken:
        warn(line)
    if as_json:
        print_json(_describe(bundle))
        return
    for line in _lines(_describe(bundle)):
        typer.echo(line)
    typer.echo(f"its card: {bundle.path / 'README.md'}")


@cli.command()
def verify(bundles: BundlesFolder = None, as_json: AsJson = False) -> None:
    """Recompute the digest of every file of every bundle; `check` runs them, too."""
    opened, broken = _open_all(_folder(bundles), verify=True)
    if as_json:
        print_json({"good": [bundle.manifest.model_id for bundle in opened], "broken": broken})
    else:
        for bundle in opened:
            files = len(bundle.manifest.files)
            typer.echo(f"{bundle.manifest.model_id}: {files} files are what the manifest says")
    if broken:
        raise stop("\n".join(broken))


def _folder(bundles: Path | None) -> Path:
    return read_settings(bundles=bundles).bundles


def _open_all(folder: Path, *, verify: bool) -> tuple[list[Bundle], list[str]]:
    """Every bundle that opens, and a line on every other one."""
    opened: list[Bundle] = []
    broken: list[str] = []
    try:
        paths = bundle_folders(folder)
    except BundleError as error:
        raise stop(str(error)) from error
    if not paths:
        raise stop(f"{folder}: no bundle in this folder")
    for path in paths:
        try:
            opened.append(open_bundle(path, verify=verify))
        except BundleError as error:
            broken.append(str(error))
    return opened, broken + equal_names(opened)


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "model_id": bundle.manifest.model_id,
        "path": str(bundle.path),
        "size_bytes": _size_bytes(bundle),
        "manifest": bundle.manifest.model_dump(mode="json"),
        "parity": bundle.parity,
    }


def _size_bytes(bundle: Bundle) -> int:
    return sum((bundle.path / name).stat().st_size for name in bundle.manifest.files)


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """Nested fields as indented lines."""
    lines = []
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            lines += [f"{indent}{name}:", *_lines(inner, indent + "  ")]
        elif isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
            for item in inner:
                lines += [f"{indent}{name}:", *_lines(item, indent + "  ")]
        elif isinstance(inner, list) and any(isinstance(item, str) for item in inner):
            lines += [f"{indent}{name}:", *(f"{indent}  - {item}" for item in inner)]
        elif isinstance(inner, float):
            lines.append(f"{indent}{name}: {inner:.4g}")
        elif isinstance(inner, list):
            lines.append(f"{indent}{name}: {', '.join(map(str, inner))}")
        else:
            lines.append(f"{indent}{name}: {inner}")
    return lines
