"""The contributor pages name what there is: files, functions, tests, and a picture that the source makes."""

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "CONTRIBUTING.md",
    "SECURITY.md",
    "tests/README.md",
    "docs/README.md",
    "docs/architecture.md",
    "docs/glossary.md",
]
NAMED = re.compile(r"`([\w/]+\.(?:py|lua))(?::([\w.]+))?`")
MODULES = sorted(
    str(file.relative_to(ROOT / "service")) for file in (ROOT / "service").rglob("*.py") if file.name != "__init__.py"
)


def file_named(path: str) -> Path | None:
    """A file by its path from the root, or relative to a folder that the pages speak of."""
    folders = (ROOT, ROOT / "service", ROOT / "service/store", ROOT / "tests")
    return next((folder / path for folder in folders if (folder / path).is_file()), None)


def defined(file: Path) -> set[str]:
    """What a module defines: `name`, and `Class.name`."""
    names = set[str]()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.AsyncFunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for each in targets if isinstance(each, ast.Name)}
    return names


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_files_and_functions_that_exist(page: str) -> None:
    for path, name in NAMED.findall((ROOT / page).read_text("utf-8")):
        file = file_named(path)
        assert file is not None, f"{page} names {path}, which is no file"
        assert not name or name in defined(file), f"{page} names {path}:{name}, which {path} does not define"


@pytest.mark.parametrize("page", [*PAGES, "README.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))])
def test_a_page_links_to_files_and_headings_that_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target or path.startswith("/"):
            continue  # another host, or a path of a running gateway
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        assert not heading or heading in anchors(file), f"{page} links to {target}"


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_picture_is_what_the_source_makes() -> None:
    drawn = runpy.run_path(str(ROOT / "docs/architecture.py"))["svg"]()
    assert (ROOT / "docs/architecture.svg").read_text("utf-8") == drawn, "draw it again: python docs/architecture.py"


def test_the_index_lists_every_page_of_its_folder() -> None:
    listed = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(file.name for file in (ROOT / "docs").glob("*.md") if file.name != "README.md")


def test_the_table_of_tests_lists_exactly_the_modules_without_a_unit_test_of_their_name() -> None:
    table = (
        (ROOT / "tests/README.md")
        .read_text("utf-8")
        .partition("## Where a module's tests are\n")[2]
        .partition("\n## ")[0]
    )
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", table, re.MULTILINE)
    assert listed == [each for each in MODULES if not has_its_own(each)]


def has_its_own(module: str) -> bool:
    """Whether `tests/unit/` has a test file of the module's name at the module's place."""
    path = Path(module)
    return (ROOT / "tests/unit" / path.parent / f"test_{path.name}").is_file()
