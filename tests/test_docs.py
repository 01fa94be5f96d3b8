"""Every Markdown file: its links lead somewhere, and its snippets name what exists.

Commands are parsed by the command line that they are for, which is then not run; what the README
shows is run by `test_readme`, what `docker/README.md` shows by `tests/docker`.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer.main

from app import reference
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]
ADDRESS = "127.0.0.1:8000"
ELSEWHERE = {"docker", "nginx", "pip", "gzip", "gunzip", "tensorboard"}
"""Programs of others, whose words are not checked."""
ENDS = {"|", "&&", ";", ">", "<", "||"}
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
OURS = re.compile(r"(?:\S*/)?(?:python3?|mutualformer|make)(?:\s.*)?", flags=re.DOTALL)


def markdown_files() -> list[Path]:
    own = (
        p for p in ROOT.iterdir() if not p.name.startswith(".") and p.name not in ("data", "runs")
    )
    found = (path for p in own for path in (p.rglob("*.md") if p.is_dir() else [p]))
    return sorted(path for path in found if path.suffix == ".md" and ".venv" not in path.parts)


FILES = markdown_files()
names = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def openapi() -> dict[str, Any]:
    return create_app(Settings(metrics=True)).openapi()


def fences(text: str) -> list[tuple[str, str]]:
    return FENCE.findall(text)


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(path.read_text()), flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def broken_links(path: Path, text: str) -> Iterator[str]:
    without_code = re.sub(r"`[^`\n]*`", "`", prose(text))
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code):
        place, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (path.parent / place).resolve() if place else path
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: no such heading"


def commands(block: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, split into words, without redirections."""
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        target = False
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words += [] if target else [word]
                target = False
                continue
            target = word in ("<", ">")
            if not target and words:
                yield words
                words = []


def faults(words: list[str], *, whole: bool = True) -> Iterator[str]:
    """What is wrong with one command; a part of one need not have all that is required."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name = words[0].partition("=")[0]
        if name.startswith("MUTUALFORMER_") and name[13:].lower() not in Settings.model_fields:
            yield f"{name}: no such setting"
        words = words[1:]
    program, *rest = words
    if program.endswith(("python", "python3")):
        if rest[:1] == ["-m"] and rest[1:]:
            yield from _module_faults(rest[1], rest[2:], whole=whole)
        elif whole:
            yield f"{shlex.join(words)}: not a module"
    elif program == "mutualformer":
        if not (rest and rest[0].startswith("--") and len(rest) == 1):
            yield from _module_faults("app", rest, whole=whole)
    elif program == "make":
        for target in rest:
            known = re.search(
                rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE
            )
            if "=" not in target and not known:
                yield f"make has no target {target}"
    elif program == "curl":
        yield from _curl_faults(rest)
    elif program not in ELSEWHERE:
        yield f"{program}: no program that is known here"


def _module_faults(name: str, args: list[str], *, whole: bool) -> Iterator[str]:
    if name.split(".")[0] not in ("app", "training", "export", "benchmarks", "examples"):
        yield f"{name}: not a module of this project"
        return
    try:
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
    except ModuleNotFoundError as error:
        yield str(error)
        return
    cli = getattr(module, "cli", None) or getattr(module, "app", None)
    if not isinstance(cli, typer.Typer):  # a script without words
        if args:
            yield f"{name} takes no {args[0]}"
        return
    command: Any = typer.main.get_command(cli)
    told = name
    while hasattr(command, "commands"):
        if name == "export" and args and args[0] not in command.commands:
            args = ["checkpoint", *args]  # as it reads them itself
        if not args or args[0].startswith("-"):
            if whole:
                yield f"{told}: a subcommand is missing"
            return
        if args[0] not in command.commands:
            yield f"{told} has no {args[0]}"
            return
        told = f"{told} {args[0]}"
        command, args = command.commands[args[0]], args[1:]
    options = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
    unknown = [word for word in args if word.startswith("--") and word not in {*options, "--help"}]
    if unknown:
        yield f"{told} has no {unknown[0]}"
    elif whole:
        try:
            command.make_context(told, list(args))
        except Exception as error:  # noqa: BLE001 - whatever it says, the words are wrong
            yield f"{told}: {getattr(error, 'message', '') or error}"


def _curl_faults(words: list[str]) -> Iterator[str]:
    for word in words:
        if "=@" in word and not (ROOT / word.partition("=@")[2]).is_file():
            yield f"{word}: no such file"
        if ADDRESS in word:
            url = urlsplit(word)
            operation = openapi()["paths"].get(url.path, {}).get("post")
            if operation is None:
                yield f"{word}: no such path"
                continue
            schemas = {one["name"]: one["schema"] for one in operation["parameters"]}
            for key, (value, *_) in parse_qs(url.query).items():
                if key not in schemas or value not in schemas[key].get("enum", [value]):
                    yield f"{word}: no {key}={value}"


def snippet_faults(text: str) -> Iterator[str]:
    for language, block in fences(text):
        if language == "sh":
            for words in commands(block):
                yield from faults(words)
        elif language == "python":
            yield from _python_faults(block)
        elif language not in ("", "bibtex"):
            yield f"a block of {language}, which nothing checks"
    for span in re.findall(r"`([^`]+)`", prose(text)):
        if OURS.fullmatch(span) and "..." not in span:
            yield from faults(shlex.split(span), whole=False)


def _python_faults(block: str) -> Iterator[str]:
    try:
        tree = ast.parse(block)
    except SyntaxError as error:
        yield f"python: {error}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{node.module} has no {alias.name}"


@names
def test_every_link_leads_somewhere(path: Path) -> None:
    assert list(broken_links(path, path.read_text())) == []


@names
def test_every_snippet_names_what_exists(path: Path) -> None:
    assert list(snippet_faults(path.read_text())) == []


@pytest.mark.parametrize("path", sorted((ROOT / "training").glob("*/*.yaml")), ids=lambda p: p.name)
def test_every_command_in_the_head_of_a_recipe_exists(path: Path) -> None:
    head = "\n".join(re.findall(r"^# ?(.*)$", path.read_text(), flags=re.MULTILINE))
    joined = re.sub(r"\\\n\s*", "", head)
    lines = [line.strip() for line in joined.splitlines() if line.strip().startswith("python -m")]

    assert [fault for line in lines for fault in faults(shlex.split(line))] == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](nowhere.md)",
        "[a](docs/concepts.md#nowhere)",
        "[a](#nowhere)",
        "![a](docs/nowhere.png)",
    ],
)
def test_a_broken_link_is_found(text: str) -> None:
    assert len(list(broken_links(ROOT / "README.md", f"# A heading\n\n{text}\n"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "python -m training trian training/recipes/saliency-triples.yaml --out runs/a",
        "python -m training train training/recipes/nowhere.yaml --out runs/a",
        "python -m training train training/recipes/saliency-triples.yaml",  # --out is required
        "python -m training evaluate saliency a.safetensors --data a --out b --near dark",
        "python -m training evaluate --data a",
        "python -m export a.safetensors --out a --precision int8",
        "python -m export engines a",
        "python -m benchmarks.cda judge --device cpu",
        "python -m benchmarks.nowhere",
        "python -m json.tool a.json",
        "python setup.py",
        "mutualformer predict saliency a.jpg b.png --out c --output gif",
        "mutualformer serve --hots ::",
        "make tests",
        "MUTUALFORMER_PROT=8001 docker compose up",
        "curl -F rgb=@examples/nowhere.jpg http://127.0.0.1:8000/v1/saliency",
        "curl http://127.0.0.1:8000/v1/salience",
        '"curl" "http://127.0.0.1:8000/v1/saliency?output=gif"',
        "cat a | frobnicate",
        "docker compose build && make nothing",
    ],
)
def test_a_broken_command_is_found(line: str) -> None:
    assert list(snippet_faults(f"```sh\n{line}\n```\n"))


@pytest.mark.parametrize(
    "text",
    [
        "`python -m app sevre`",
        "`python -m training doctor saliency --quick`",
        "`make nothing`",
        "```python\nfrom mutualformer_client import Clinet\n```\n",
        "```python\nwith Client(\n```\n",
        "```toml\na = 1\n```\n",
    ],
)
def test_other_broken_snippets_are_found(text: str) -> None:
    assert list(snippet_faults(text))


def test_the_api_reference_is_fresh() -> None:
    written = (ROOT / "docs" / "api.md").read_text()

    assert written == reference.markdown(openapi()), "make docs"


def test_every_setting_and_its_default_is_listed() -> None:
    deploying = (ROOT / "docs" / "deploying.md").read_text()
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        cell = "" if default in (None, "") else f"`{shown}`"
        assert f"| `MUTUALFORMER_{name.upper()}` | {cell} |".replace("|  |", "| |") in deploying


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"]({path.name})" in index or path.name == "README.md"
