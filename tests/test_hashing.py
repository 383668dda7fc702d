"""Hashes: the same in every process, other after every change, of files, folders and data sets."""

import hashlib

from posttrain.hashing import digest, seed_for


def test_seed_and_digest_are_the_same_in_every_process(tmp_path):
    assert seed_for("order", 0, 1) == seed_for("order", 0, 1) != seed_for("order", 1, 0)
    assert 0 <= seed_for("x") < 2**63
    (tmp_path / "a").write_text("one")
    first = digest(tmp_path / "a")
    (tmp_path / "a").write_text("two")
    assert digest(tmp_path / "a") != first and digest("org/name") == "org/name"


MIB = 1 << 20


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


def test_of_a_large_file_the_beginning_of_every_mib_counts(tmp_path):
    """Above 64 MiB; up to there every byte does."""
    for size, is_large in ((64 * MIB, False), (64 * MIB + 1, True)):
        path = tmp_path / f"{size}.bin"
        with open(path, "wb") as file:
            file.truncate(size)
        before = digest(path)
        edge = 5 * MIB + MIB // 16
        places = {
            0: True,
            MIB // 2: not is_large,
            5 * MIB: True,
            edge - 1: True,
            edge: not is_large,
        }
        for place, is_seen in places.items():
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(b"x")
            assert (digest(path) != before) == is_seen
            before = digest(path)


def test_what_is_hashed(tmp_path):
    """Names, sizes and contents, in the order of the names: so two machines agree."""
    names = [*(f"f{n:02}" for n in range(20)), "folder/a"]
    (tmp_path / "folder").mkdir()
    for name in reversed(names):
        (tmp_path / name).write_text(f"it is {name}")
    text = "".join(f"{name}|{len(name) + 6}|it is {name}" for name in names)
    assert digest(tmp_path) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest(tmp_path / "f07") == hashlib.sha256(b"|9|it is f07").hexdigest()[:16]


def test_a_seed_stays_the_same_for_ever():
    """Else a run that was begun with an earlier version would go on with other draws."""
    first = hashlib.sha256(b'["order", 0, 1]').hexdigest()[:16]
    assert seed_for("order", 0, 1) == int(first, 16) // 2
