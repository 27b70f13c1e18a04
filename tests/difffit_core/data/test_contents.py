"""What an example holds decides its hash and what a dataset is for."""

from difffit_core.data.contents import example_sha256, fields_of_all
from difffit_core.spec.conversations import pair


def test_a_picture_alone_has_its_own_hash_and_everything_else_changes_it() -> None:
    assert example_sha256(file="abc") == "abc"
    hashes = [
        example_sha256(file="abc"),
        example_sha256(file="abc", caption="a"),
        example_sha256(file="abc", condition="a"),
        example_sha256(condition="a", caption="bc"),
        example_sha256(file="a", caption="bc"),
        example_sha256(messages=pair("ab", "c")),
        example_sha256(messages=pair("a", "bc")),
    ]
    assert len(set(hashes)) == len(hashes)


def test_a_dataset_holds_what_no_example_lacks() -> None:
    full = {"file": "a.png", "label": "cat", "caption": "a cat", "sha256": "abc"}
    assert fields_of_all([full]) == ["caption", "file", "label"]
    assert fields_of_all([full, {"file": "b.png", "caption": "", "label": "dog"}]) == ["file", "label"]
    assert fields_of_all([full, {"messages": [{"role": "user"}]}]) == []
    assert fields_of_all([]) == []
