"""Hashes: the same in every process, other after every change, of files, folders and data sets."""

from posttrain.hashing import digest, seed_for


def test_seed_and_digest_are_the_same_in_every_process(tmp_path):
    assert seed_for("order", 0, 1) == seed_for("order", 0, 1) != seed_for("order", 1, 0)
    assert 0 <= seed_for("x") < 2**63
    (tmp_path / "a").write_text("one")
    first = digest(tmp_path / "a")
    (tmp_path / "a").write_text("two")
    assert digest(tmp_path / "a") != first and digest("org/name") == "org/name"


def test_a_change_in_the_middle_of_a_large_file_shows(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(70 << 20))
    before = digest(tmp_path)
    with open(tmp_path / "weights", "r+b") as file:
        file.seek(66 << 20)
        file.write(b"x" * 100)
    assert digest(tmp_path) != before


def test_a_local_data_set_is_hashed(tmp_path):
    """hf:folder and hf:folder:split by what is in the folder; a hub name stands for itself."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data").write_text("one")
    before = digest(f"hf:{tmp_path}/set"), digest(f"hf:{tmp_path}/set:train")
    (tmp_path / "set/data").write_text("two")
    assert before[0] == before[1] != digest(f"hf:{tmp_path}/set:train")
    assert digest("hf:somebody/chats") == "somebody/chats"
