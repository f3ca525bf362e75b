"""What ``up`` puts into its directory: the user's own files as links, never written into."""

from shunter.stack.shell.up import place


def test_an_edit_of_the_users_file_is_seen_even_if_it_was_replaced(tmp_path):
    mine, ours = tmp_path / "mine.yaml", tmp_path / "picker.yaml"
    mine.write_text("a: 1")
    place(ours, b"a: 1", str(mine))
    fresh = tmp_path / "mine.yaml~"
    fresh.write_text("a: 2")
    fresh.replace(mine)  # as editors do
    assert ours.read_text() == "a: 2"


def test_a_run_without_a_file_of_the_users_does_not_write_into_the_one_of_the_run_before(tmp_path):
    mine, ours = tmp_path / "mine.yaml", tmp_path / "picker.yaml"
    mine.write_text("mine")
    place(ours, b"mine", str(mine))
    place(ours, b"default", None)
    assert (mine.read_text(), ours.read_text()) == ("mine", "default")
