"""What is trained on and what is held out of a dataset."""

from difffit_core.data.dataset import Item, split, summarize
from difffit_core.spec.job import content_sha256


def items(label: str, count: int, part: str = "") -> list[Item]:
    return [Item(sha256=f"{label}-{part}-{i}", file=f"{label}/{part}{i}.png", label=label, split=part) for i in range(count)]


def test_a_share_of_each_class_is_held_out() -> None:
    train, held_out = split(items("a", 10) + items("b", 5) + items("c", 1), 0.2)
    assert [sum(item.label == label for item in held_out) for label in "abc"] == [2, 1, 0]
    assert len(train) == 13


def test_the_authors_test_images_are_held_out_whatever_the_fraction() -> None:
    official = (
        items("a", 6, "train") + items("a", 2, "validation") + items("a", 3, "test") + items("b", 4, "test") + items("b", 1)
    )
    for fraction in (0.0, 0.5):
        train, held_out = split(official, fraction)
        assert {item.split for item in train} == {"train", "validation", ""}
        assert {item.split for item in held_out} == {"test"}
        assert (len(train), len(held_out)) == (9, 7)
    again = split(official[::-1], 0.1)[1]
    assert held_out == again


def test_a_beginning_of_a_large_test_split_shows_every_class() -> None:
    official = items("a", 3, "train") + items("a", 500, "test") + items("b", 500, "test") + items("c", 2, "test")
    assert [item.label for item in split(official, 0.1)[1][:7]] == ["a", "b", "c", "a", "b", "c", "a"]


def test_of_a_test_split_alone_a_share_is_held_out() -> None:
    train, held_out = split(items("a", 10, "test"), 0.2)
    assert (len(train), len(held_out)) == (8, 2)


def test_a_split_changes_the_hash_and_nothing_else_does() -> None:
    plain = summarize(items("a", 2)).sha256
    assert plain == content_sha256([("a", "a--1", ""), ("a", "a--0", "")])
    assert plain != content_sha256([("a", "a--1", "test"), ("a", "a--0", "train")])
