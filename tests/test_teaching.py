"""What a teacher is told: timetables add up, questions have answers, solutions are right."""

import re
from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit, stdtrit

from alignment_tax import settings
from alignment_tax.notebooks import read_notebook, reading_minutes
from alignment_tax.pool import RECORD

ROOT = settings.repo_root()
PAGE = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
CHAPTERS = {path.stem[:2]: path for path in sorted(settings.notebooks_folder().glob("*.ipynb"))}


def section(title, text=PAGE, level="##"):
    """What stands below a heading, up to the next one of its level or above."""
    head, end = rf"^{level} {re.escape(title)}.*?\n", rf"(?=^#{{2,{len(level)}}} |\Z)"
    return re.search(rf"{head}(.*?){end}", text, re.M | re.S)[1]


def test_a_timetable_adds_up_and_leaves_time_to_read():
    for title, minutes in {"90 minutes": 90, "A day": 360, "Ten sessions": 10 * 90}.items():
        rows = re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|", section(title, level="###"), re.M)
        assert sum(int(planned) for planned, _ in rows) == minutes
        for planned, links in rows:
            chapters = re.findall(r"\[(\d\d)\]", links)
            needed = sum(reading_minutes(CHAPTERS[each]) for each in chapters)
            assert int(planned) >= needed, (planned, chapters)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_question_of_a_chapter_has_an_answer_and_every_chapter_its_mistakes(chapter):
    cells = read_notebook(CHAPTERS[chapter]).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert f"- **{chapter}**: " in section("What students get wrong")
    if chapter in ("13", "14"):
        return  # ask none of this kind
    asked = re.findall(r"^(\d)\. ", section("Questions", text), re.M)
    answered = section(chapter, section("The chapters' questions, answered"), "###")
    assert len(re.findall(r"^(\d)\. ", answered, re.M)) == len(asked) > 0


def test_the_solutions_of_the_exam_are_right():
    solutions = re.findall(r"<summary>Solution</summary>\n\n(.*?)\n</details>", PAGE, re.S)
    assert len(solutions) == 8
    pairs = [max(pair) for pair in combinations((1, 4, 2, 3), 2)]
    changes = np.array([-2.0, -4, -3, -3])
    half = stdtrit(3, 0.975) * changes.std(ddof=1) / 2
    start, end, middle = (np.log(1 + np.exp(gap)) for gap in (-2, 2, 0))
    lines = np.interp(3, (2, 4), (89, 80)), np.interp(3, (2, 4), (86, 80))
    right = [
        (f"{expit(1.5):.3f}", f"{expit(3):.3f}"),
        (f"{np.mean(pairs):.2f}", f"{np.mean(pairs) - 2.5:.2f}"),
        (f"−{(900 - 710) / 10}", f"−{(900 - 850) / 10}", f"−{(850 - 710) / 10}"),
        (f"−{3 + half:.2f} to −{3 - half:.2f}", f"{changes.std(ddof=1):.3f}"),
        (f"({2 + 0.25 * 2}, {-1 + 0.25 * 4:.0f})",),
        (f"{lines[0]} against {lines[1]:.0f}: by {lines[0] - lines[1]}",),
        (f"{start:.3f} and {end:.3f}", f"{middle:.3f}", f"{(start + end) / 2 - middle:.3f}"),
        ("control",),
    ]
    for words, solution in zip(right, solutions, strict=True):
        assert all(word in solution for word in words), (words, solution)


def test_every_chapter_leads_to_the_glossary_and_no_link_of_the_docs_is_dead():
    for path in CHAPTERS.values():
        assert "(../docs/glossary.md)" in read_notebook(path).cells[0].source, path.stem
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)
    words = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for word in "policy nat seed preset opposite forgetting gold α".split():
        assert f"**{word}**" in words
    assert all(f"**{name} interval**" in words for name in ("t", "Wilson"))
    # what a class hands in is what chapter 09 records
    code = "\n".join(cell.source for cell in read_notebook(CHAPTERS["09"]).cells)
    assert f'record("{RECORD}", pool.hand_in(' in code
