"""The documents name what exists, and the README stays one screen."""

import re
from pathlib import Path

import pytest
from helpers import source_tree as source

DOCUMENTS = sorted([*source.REPOSITORY.glob("*.md"), *(source.REPOSITORY / "docs").glob("*.md")])


def anchors(document: Path) -> set[str]:
    """The addresses of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {link}, which does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{document.name} links to {link}: no such heading"


def test_every_page_of_the_documentation_is_linked_from_the_readme():
    links = re.findall(r"\(docs/([\w.]+\.md)\)", (source.REPOSITORY / "README.md").read_text())
    assert set(links) == {path.name for path in DOCUMENTS if path.parent.name == "docs"}


def test_the_readme_is_one_screen():
    assert len((source.REPOSITORY / "README.md").read_text().splitlines()) <= 60


def test_one_batch_is_read_in_at_most_ten_files():
    text = (source.REPOSITORY / "CONTRIBUTING.md").read_text()
    listed = text.split("<!-- reading order -->")[1].split("\n\n")[0]
    files = re.findall(r"^\d+\. `([^`]+)`", listed, re.MULTILINE)
    assert 5 <= len(files) <= 10
    missing = [name for name in files if not (source.REPOSITORY / name).is_file()]
    assert not missing
