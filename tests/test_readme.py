"""The README's tables of results against the files that they are made from."""

import pytest

from training import readme


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


def test_a_readme_without_the_sections_stays_as_it_is(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        readme.main(["--readme", str(path)])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`readme` must have a section from <!-- " in line
    assert path.read_text(encoding="utf-8") == "# Title\n"
