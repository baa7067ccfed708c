"""Who imports whom among the simulator's modules, compared with the list in its docstring."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import simulator

ROOT = Path(simulator.__file__).parent
ORDER = re.findall(r"^    (\w+)\.py", simulator.__doc__ or "", re.MULTILINE)


def imports(module: str) -> Iterator[str]:
    """Every import of a module, also inside functions and for type checkers alone."""
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text("utf-8"))):
        match node:
            case ast.Import(names):
                yield from (each.name for each in names)
            case ast.ImportFrom(name, names):
                yield from (f"{name}.{each.name}" for each in names)


def test_the_docstring_lists_every_module() -> None:
    assert sorted(ORDER) == sorted(file.stem for file in ROOT.glob("*.py") if file.name != "__init__.py")


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_modules_below_it(module: str) -> None:
    below = ORDER[ORDER.index(module) + 1 :]
    assert {name.split(".")[1] for name in imports(module) if name.startswith("simulator.")} <= set(below)


@pytest.mark.parametrize("module", ORDER)
def test_only_the_demo_imports_the_service(module: str) -> None:
    assert module == "demo" or not any(name.split(".")[0] in ("service", "tests") for name in imports(module))
