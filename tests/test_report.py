"""Reports: what they say, and that what models and pages say in them stays text."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from test_results import CELL, JUDGE, fill

from nanoscout.errors import UserError
from nanoscout.evaluation.results_folder import RESULTS, read_results
from nanoscout.files import write_json
from nanoscout.reporting import write_report

QUIET = Console(quiet=True)
HOSTILE = (
    '</pre></details><script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7*7 }} '
    "````\n# forged heading\n| a | b |\n[link](javascript:alert(3)) $\\frac{1}{0}$ \x1b[31m \u202e"
)


def results(folder: Path, text: str = "fine") -> Path:
    chat = [
        {"role": "user", "content": text},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": text, "arguments": "{}"}}],
        },
        {"role": 'tool" onclick="alert(4)', "content": [{"type": "text", "text": text}]},
    ]
    cell = CELL if text == "fine" else type(CELL)("a$b_{x<i>", "native", False, "abc")
    fill(folder, "1001", cell, grader=JUDGE, messages=chat)
    write_json(folder / RESULTS, {"evidence": text, "source": {"path": text}})
    return folder


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attributes}


def tags(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    return parser


def test_html_says_it_all_in_one_file_and_hostile_text_stays_text(tmp_path: Path) -> None:
    write_report([results(tmp_path / "plain")], tmp_path / "plain.html", 2, QUIET)
    write_report([results(tmp_path / "bad", HOSTILE)], tmp_path / "bad.html", 2, QUIET)
    plain, bad = (tmp_path / name for name in ("plain.html", "bad.html"))
    one, other = plain.read_text(), bad.read_text()
    assert tags(one).seen == tags(other).seen
    assert tags(one).attributes == tags(other).attributes
    assert "script" not in tags(other).seen
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in other
    assert "\x1b" not in other
    assert "{{ 7*7 }}" in other
    assert "default-src 'none'" in other
    assert "data:image/png;base64,iVBOR" in one
    assert "50.0% of 4" in one
    assert "15.0 to 85.0" in one
    assert "judge strict" in one or "The judge&#39;s grades" in one
    assert one.count("<details>") == 4  # two right, two wrong
    assert {path.name for path in tmp_path.glob("*.*")} == {"plain.html", "bad.html"}


def test_markdown_keeps_hostile_text_in_fences_and_cells(tmp_path: Path) -> None:
    write_report([results(tmp_path / "bad", HOSTILE)], tmp_path / "bad.md", 1, QUIET)
    text = (tmp_path / "bad.md").read_text()
    assert (tmp_path / "bad-1.png").read_bytes().startswith(b"\x89PNG")
    outside, inside, fence = [], [], ""
    for line in text.splitlines():
        if fence:
            if line == fence:
                fence = ""
            else:
                inside.append(line)
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            outside.append(line)
    assert not fence
    assert "# forged heading" in inside
    assert "# forged heading" not in outside
    assert not [line for line in outside if "<script" in line.replace("\\<", "")]
    tables = [line.replace("\\|", "") for line in outside if line.startswith("| ")]
    assert {line.count("|") for line in tables if "a\\$b" in line} <= {
        line.count("|") for line in tables if "thinking" in line
    }


def test_several_folders_make_one_report_and_examples_only_on_demand(tmp_path: Path) -> None:
    folders = [results(tmp_path / "one"), results(tmp_path / "two")]
    fill(folders[0], "1111", type(CELL)("model", "langgraph", True, "abc"), grader=JUDGE)
    write_report(folders, tmp_path / "both.md", 0, QUIET)
    text = (tmp_path / "both.md").read_text()
    assert text.count("\n## ") == 2
    assert "| model | langgraph | on | 100.0% of 4 |" in text
    assert "```" not in text
    assert len(read_results(folders[0])[1]) == 2


def test_what_is_no_result_or_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results here"):
        write_report([tmp_path], tmp_path / "a.md", 0, QUIET)
    with pytest.raises(UserError, match=r"ends in \.md or \.html"):
        write_report([results(tmp_path / "one")], tmp_path / "a.pdf", 0, QUIET)
    assert not list(tmp_path.glob("a.*"))
