"""The README's tables of results against the files that they are made from."""

import json
import shutil

import pytest

from training import readme

RESULTS = readme.RESULTS


@pytest.mark.parametrize("name", readme.SECTIONS)
def test_the_readme_has_what_the_result_file_says(name):
    text = readme.README.read_text(encoding="utf-8")
    assert f"<!-- {name} -->\n{readme.section(name).rstrip()}\n<!-- /{name} -->" in text


def test_sections_are_written_and_the_rest_stays(tmp_path, capsys):
    path = tmp_path / "README.md"
    old = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n\n" for name in readme.SECTIONS)
    path.write_text(f"# Title\n\n{old}End\n", encoding="utf-8")
    assert readme.main(["--readme", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n<!-- ")
    assert text.endswith("-->\n\nEnd\n")
    assert "\nold\n" not in text


def test_results_that_lack_something_leave_the_readme_as_it_is(tmp_path, monkeypatch, capsys):
    old = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n\n" for name in readme.SECTIONS)
    path = tmp_path / "README.md"
    path.write_text(old, encoding="utf-8")
    name = list(readme.SECTIONS)[-1]
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    for file, _ in readme.SECTIONS.values():
        shutil.copy(RESULTS / file, tmp_path / file)
    (tmp_path / readme.SECTIONS[name][0]).write_text("{}")
    with pytest.raises(SystemExit):
        readme.main(["--readme", str(path)])
    assert f"The section {name!r} needs the results of a whole run" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == old


def test_a_comparison_counts_from_either_side():
    results = json.loads((RESULTS / "kernel_sizes_short.json").read_text(encoding="utf-8"))
    expected = readme._kernel_sizes(results)
    results["comparisons"] = [readme._reversed(each) for each in results["comparisons"]]
    assert readme._kernel_sizes(results) == expected


def test_a_readme_without_the_sections_stays_as_it_is(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        readme.main(["--readme", str(path)])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`readme` must have a section from <!-- " in line
    assert path.read_text(encoding="utf-8") == "# Title\n"
