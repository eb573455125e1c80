"""The trust boundary, checked by reading the imports of every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "sltool"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def reaches(part: str) -> dict[str, str]:
    """Every sltool module that the modules of `part` import, directly or through others."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}

    def module_of(imported: str) -> str | None:
        while imported and imported not in names:
            imported = imported.rpartition(".")[0]
        return imported or None

    start = [name for name in names if name.startswith(f"sltool.{part}")]
    found = dict.fromkeys(start, "")
    while start:
        name = start.pop()
        for imported in imports(names[name]):
            module = module_of(imported)
            if module and module not in found:
                found[module] = name
                start.append(module)
    return found


@pytest.mark.parametrize(
    ("part", "forbidden"),
    [
        ("site", "sltool.server"),
        ("server", "sltool.site"),
        ("server", "sltool.datasets"),
        ("site", "sltool.experiments"),
        ("server", "sltool.experiments"),
        ("shard", "sltool.site"),
        ("shard", "sltool.server"),
        ("study", "sltool.site"),
        ("study", "sltool.server"),
    ],
)
def test_boundary(part: str, forbidden: str) -> None:
    crossing = {name: by for name, by in reaches(part).items() if name.startswith(forbidden)}
    assert not crossing, f"{part} reaches {crossing}"


# Each room may import from those before it, and from the modules beside the rooms but for `api`.
FLOORS = (
    {"study"},
    {"datasets", "models", "shard"},
    {"coordinator"},
    {"site", "server"},
    {"experiments"},
    {"api"},
    {"cli"},
)
SERVER_FLOORS = ({"intake"}, {"training"}, {"evaluation"}, {"export"})


def upward(package: Path, prefix: str, floors: tuple[set[str], ...]) -> list[str]:
    """Imports from a room into a room that is not below it."""
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0]
        for imported in imports(path):
            target = imported.removeprefix(f"{prefix}.").split(".")[0]
            if not imported.startswith(f"{prefix}.") or target == room:
                continue
            above = floor_of.get(target, -1) >= floor_of.get(room, len(floors))
            if room in floor_of and above:
                found.append(f"{path.relative_to(package)} imports {imported}")
    return found


def test_rooms_import_from_those_below() -> None:
    assert not upward(PACKAGE, "sltool", FLOORS)


def test_the_servers_rooms_import_from_those_below() -> None:
    assert not upward(PACKAGE / "server", "sltool.server", SERVER_FLOORS)


def test_an_upward_import_is_seen() -> None:
    reversed_floors = tuple(reversed(SERVER_FLOORS))
    assert upward(PACKAGE / "server", "sltool.server", reversed_floors)


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set().union(*FLOORS)


def test_the_check_sees_an_import() -> None:
    assert "sltool.shard.writer" in reaches("site")
    assert "sltool.server.store" in reaches("cli")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_cli_prints(path: Path) -> None:
    if "cli" in path.relative_to(PACKAGE).parts:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno} prints"


def test_only_shard_and_site_touch_h5py() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in MODULES
        if any(name.split(".")[0] == "h5py" for name in imports(path))
    }
    assert users == {"shard", "site"}


def test_the_design_names_every_module() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+/)*(\w+\.py)`", design))
    assert {path.name for path in MODULES} - {"__init__.py"} == named


# Modules that read or write files without `sltool.files`, and why they may.
OWN_WAY = {
    "files.py": "the module in question",
    "cli/command.py": "--json, on stdout",
    "datasets/covid_ct.py": "reads sources",
    "datasets/mura.py": "reads sources",
    "datasets/mura_synthetic.py": "writes synthetic data",
    "server/training/run_files.py": "the header of a safetensors file",
    "sftp.py": "writes on another machine",
    "shard/hdf5_file.py": "a file that `publish` made",
    "shard/untrusted_file.py": "reads files from other parties",
}
FORBIDDEN = {
    *("mkdir", "makedirs", "touch", "copyfile", "copy2", "copytree", "mkstemp", "mkdtemp"),
    *("DictReader", "DictWriter", "loads"),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_made_and_read_in_one_way(path: Path) -> None:
    """Only `sltool.files` creates and reads files, so all are private, whole and checked."""
    if path.relative_to(PACKAGE).as_posix() in OWN_WAY:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            where = f"{path}:{node.lineno} {node.func.attr}"
            assert node.func.attr not in FORBIDDEN, where
            # `publish` yields `part`, a private file that it renames when it is whole.
            written = node.func.attr in ("write_text", "write_bytes") or _opens_to_write(node)
            target = node.func.value
            assert not written or (isinstance(target, ast.Name) and target.id == "part"), where


def _opens_to_write(node: ast.Call) -> bool:
    modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr == "open"
        and any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)
    )
