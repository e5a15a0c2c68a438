import pytest

from serving.version_folder import MANIFEST_FILE, verify_manifest, write_manifest


@pytest.fixture
def model(tmp_path):
    """A folder with files, as a SavedModel has them, and its manifest."""
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "variables.index").write_bytes(b"")
    write_manifest(tmp_path)
    return tmp_path


def test_untouched_files_pass(model):
    assert verify_manifest(model) is True


def test_a_folder_without_a_manifest_is_not_checked(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    assert verify_manifest(tmp_path) is False


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "saved_model.pb").write_bytes(b"grapf"), r"saved_model\.pb changed"),
        (lambda p: (p / "saved_model.pb").write_bytes(b"grap"), r"saved_model\.pb changed"),
        (lambda p: (p / "variables" / "variables.index").unlink(), "variables.index missing"),
        (lambda p: (p / "variables" / "more").touch(), "variables/more not in its manifest"),
        (lambda p: (p / MANIFEST_FILE).write_text("{"), "cannot be read"),
        (lambda p: (p / MANIFEST_FILE).write_text("[]"), "cannot be read"),
        (lambda p: (p / MANIFEST_FILE).write_text('{"files": {"a": 1}}'), "cannot be read"),
        (lambda p: (p / MANIFEST_FILE).write_text('{"files": {}}'), "not in its manifest"),
        (
            lambda p: (p / MANIFEST_FILE).write_text('{"files": {"../x": {"size":0,"sha256":""}}}'),
            r"\.\./x missing",
        ),
    ],
)
def test_damage_is_named(model, damage, message):
    damage(model)
    with pytest.raises(ValueError, match=message):
        verify_manifest(model)
