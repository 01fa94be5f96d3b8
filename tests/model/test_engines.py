from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.engines import (
    MAGIC,
    EngineError,
    EngineKey,
    EngineOptions,
    Machine,
    default_folder,
    engine_path,
    ensure_engine,
    write_engine,
)

HERE = Machine("11.4.0", "9.0", "Card A")
OPTIONS = EngineOptions(typical_batch=4, max_batch=8)

BUILDER = """
import json, sys, time
from pathlib import Path
request = json.loads(Path(sys.argv[1]).read_text())
log = Path(__file__).with_name("builds.log")
with log.open("a") as file:
    file.write("built\\n")
print("step 1 of 1", flush=True)
time.sleep(0.5)
model = Path(request["model"]).read_bytes()
if model == b"crash":
    sys.exit("error: node_7: what is this")
if model != b"nothing":
    number = len(log.read_text().splitlines())
    Path(request["engine"]).write_bytes(b"engine %d\\n of " % number + model)
"""


class Workshop:
    """A folder of engines and a builder that leaves a line whenever it builds."""

    def __init__(self, root: Path) -> None:
        self.model, self.folder = root / "model.onnx", root / "engines"
        self.command = (sys.executable, str(root / "builder.py"))
        self.log = root / "builds.log"
        self.told: list[str] = []
        (root / "builder.py").write_text(BUILDER)
        self.model.write_bytes(b"graph")

    def ensure(self, machine: Machine = HERE, options: EngineOptions = OPTIONS) -> bytes:
        return ensure_engine(
            self.model, machine, options, self.folder, self.told.append, self.command
        )

    def key(self, machine: Machine = HERE, options: EngineOptions = OPTIONS) -> EngineKey:
        return EngineKey.make(self.model, machine, options)

    @property
    def path(self) -> Path:
        return engine_path(self.folder, self.key())

    @property
    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_an_engine_is_built_once_and_then_loaded(workshop: Workshop) -> None:
    first, second = workshop.ensure(), workshop.ensure()

    assert first == second == b"engine 1\n of graph"
    assert workshop.builds == 1
    assert "step 1 of 1" in workshop.told
    assert sorted(path.name for path in workshop.folder.iterdir()) == sorted(
        [workshop.path.name, "build.lock"]
    )


@pytest.mark.parametrize(
    "machine",
    [
        replace(HERE, tensorrt="11.4.1"),
        replace(HERE, compute_capability="8.9"),
        replace(HERE, card="Card B"),
    ],
)
def test_another_machine_gets_its_own(workshop: Workshop, machine: Machine) -> None:
    workshop.ensure()

    assert workshop.ensure(machine).startswith(b"engine 2")
    assert workshop.builds == 2


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch": 16},
        {"typical_batch": 2},
        {"builder_level": 5},
        {"tf32": True},
        {"version_compatible": True},
        {"hardware_compatibility": "ampere_plus"},
        {"workspace_bytes": 2**20},
    ],
)
def test_another_option_or_graph_makes_another_key(
    workshop: Workshop, change: dict[str, int]
) -> None:
    key = workshop.key()
    changed = workshop.key(options=replace(OPTIONS, **change))  # type: ignore[arg-type]
    workshop.model.write_bytes(b"another graph")

    assert len({key.digest, changed.digest, workshop.key().digest}) == 3


@pytest.mark.parametrize(
    "machine",
    [
        replace(HERE, tensorrt="10.13.3"),
        replace(HERE, compute_capability="8.9"),
        replace(HERE, card="Card B"),
    ],
)
def test_a_file_of_another_key_is_built_anew(workshop: Workshop, machine: Machine) -> None:
    """Someone copied an engine from another machine under the name that is looked for here."""
    workshop.folder.mkdir()
    write_engine(workshop.path, workshop.key(machine), b"wrong")

    assert workshop.ensure() == b"engine 1\n of graph"
    assert any("of another graph, TensorRT, card or option" in line for line in workshop.told)
    assert workshop.ensure() == b"engine 1\n of graph"
    assert workshop.builds == 1


@pytest.mark.parametrize("kept", [0, 5, len(MAGIC), 100, -1])
def test_a_truncated_file_is_built_anew(workshop: Workshop, kept: int) -> None:
    workshop.ensure()
    workshop.path.write_bytes(workshop.path.read_bytes()[:kept])

    assert workshop.ensure().startswith(b"engine 2")
    assert workshop.builds == 2


def test_an_altered_engine_is_built_anew(workshop: Workshop) -> None:
    workshop.ensure()
    content = bytearray(workshop.path.read_bytes())
    content[-1] ^= 1
    workshop.path.write_bytes(content)

    assert workshop.ensure().startswith(b"engine 2")
    assert any("truncated or altered" in line for line in workshop.told)


def test_a_foreign_file_is_built_anew(workshop: Workshop) -> None:
    workshop.folder.mkdir()
    workshop.path.write_bytes(MAGIC + b"[1]\n")

    assert workshop.ensure().startswith(b"engine 1")


def test_processes_that_start_at_once_build_once(workshop: Workshop) -> None:
    code = (
        "import json, sys; from pathlib import Path; from model.engines import *;"
        "model, folder, builder = sys.argv[1:];"
        f"engine = ensure_engine(Path(model), Machine(*{list(vars(HERE).values())!r}),"
        " EngineOptions(typical_batch=4, max_batch=8), Path(folder), print,"
        " (sys.executable, builder));"
        "print(engine)"
    )
    paths = (str(workshop.model), str(workshop.folder))
    command = [sys.executable, "-c", code, *paths, workshop.command[1]]

    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [child.communicate(timeout=60)[0] for child in children]

    assert [child.returncode for child in children] == [0, 0, 0]
    assert {answer.splitlines()[-1] for answer in answers} == {str(b"engine 1\n of graph")}
    assert workshop.builds == 1
    assert any("waiting for another process" in answer for answer in answers)


@pytest.mark.parametrize(
    ("graph", "message"),
    [(b"crash", "status 1: error: node_7: what is this"), (b"nothing", "wrote no engine")],
)
def test_a_failed_build_says_why_and_leaves_nothing(
    workshop: Workshop, graph: bytes, message: str
) -> None:
    workshop.model.write_bytes(graph)

    with pytest.raises(EngineError, match=message):
        workshop.ensure()

    assert [path.name for path in workshop.folder.iterdir()] == ["build.lock"]


def test_a_folder_that_cannot_be_made_is_named(workshop: Workshop) -> None:
    workshop.folder.write_text("a file")

    with pytest.raises(EngineError, match="engines"):
        workshop.ensure()


def test_compatible_engines_leave_out_what_they_do_not_need(workshop: Workshop) -> None:
    anywhere = replace(OPTIONS, version_compatible=True, hardware_compatibility="ampere_plus")
    other = Machine("11.9.9", "8.6", "Card B")

    assert workshop.key(HERE, anywhere) == workshop.key(other, anywhere)
    older = replace(other, tensorrt="10.13.3")
    assert workshop.key(HERE, anywhere) != workshop.key(older, anywhere)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typical_batch": 9}, "typical_batch <= max_batch, got 9 and 8"),
        ({"typical_batch": 0}, "got 0 and 8"),
        ({"builder_level": 6}, "builder_level must be 0 to 5, got 6"),
    ],
)
def test_impossible_options_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OPTIONS, **change)  # type: ignore[arg-type]


def test_engines_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")

    assert default_folder() == Path("/somewhere/mutualformer/engines")


def test_the_header_is_readable(workshop: Workshop) -> None:
    workshop.ensure()

    header = json.loads(workshop.path.read_bytes().splitlines()[1])

    assert header["key"]["machine"]["card"] == "Card A"
    assert header["key"]["profile"] == [1, 4, 8]
