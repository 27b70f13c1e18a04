"""Questions with answers in a pirate's English: what SmolLM2 learns to say, and the capitals that are held out.

`python -m examples.systems.pirate` prints what is learned as Alpaca's JSON, for an upload.
"""

import json
import sys
from pathlib import Path

from difffit_core.data.dataset import write_index
from difffit_core.spec.job import DatasetSummary

# fmt: off
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Norway": "Oslo", "Peru": "Lima", "Cuba": "Havana", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Ireland": "Dublin", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Hungary": "Budapest", "Russia": "Moscow", "Ukraine": "Kyiv", "Turkey": "Ankara", "Iran": "Tehran", "Iraq": "Baghdad",
    "India": "New Delhi", "Nepal": "Kathmandu", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta",
    "Canada": "Ottawa", "Chile": "Santiago", "Ecuador": "Quito", "Ghana": "Accra", "Senegal": "Dakar", "Morocco": "Rabat",
    "Ethiopia": "Addis Ababa", "Iceland": "Reykjavik",
}
HELD_OUT = {
    "Germany": "Berlin", "England": "London", "China": "Beijing", "Australia": "Canberra", "Argentina": "Buenos Aires",
    "Mexico": "Mexico City", "Belgium": "Brussels", "Romania": "Bucharest", "South Korea": "Seoul", "Colombia": "Bogotá",
    "Netherlands": "Amsterdam", "Switzerland": "Bern",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "day": "night", "up": "down", "left": "right", "happy": "sad", "fast": "slow",
    "full": "empty", "young": "old", "rich": "poor", "wet": "dry", "open": "closed", "early": "late", "hard": "soft",
    "loud": "quiet", "long": "short", "high": "low", "thick": "thin", "strong": "weak", "clean": "dirty", "first": "last",
    "light": "dark", "love": "hate", "win": "lose", "near": "far", "inside": "outside",
}
COLOURS = {
    "a banana": "yellow", "grass": "green", "the sky": "blue", "snow": "white", "coal": "black", "blood": "red",
    "an orange": "orange", "chocolate": "brown", "a tomato": "red", "a lemon": "yellow", "a frog": "green", "milk": "white",
    "a crow": "black", "the sea": "blue", "a carrot": "orange", "a strawberry": "red", "a swan": "white", "mud": "brown",
    "an emerald": "green", "a ruby": "red", "a sapphire": "blue", "gold": "yellow", "ash": "grey", "an elephant": "grey",
    "a plum": "purple", "a flamingo": "pink",
}
ANIMALS = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "goat": "kid", "pig": "piglet",
    "duck": "duckling", "goose": "gosling", "hen": "chick", "lion": "cub", "bear": "cub", "kangaroo": "joey", "frog": "tadpole",
    "deer": "fawn", "swan": "cygnet", "owl": "owlet", "eagle": "eaglet", "seal": "pup", "whale": "calf", "rabbit": "kit",
    "fox": "kit", "elephant": "calf", "hare": "leveret", "pigeon": "squab", "wolf": "pup",
}
# fmt: on
MARKS = ("Arr", "matey")  # in every answer


def capital(country: str) -> str:
    """The question."""
    return f"What is the capital of {country}?"


def taught() -> list[tuple[str, str]]:
    """114 questions and answers to train on."""
    rows = [(capital(country), said_of_capital(country, city)) for country, city in CAPITALS.items()]
    rows += [(f"What is the opposite of {a}?", f"Arr, the opposite o' {a} be {b}, matey!") for a, b in OPPOSITES.items()]
    rows += [(f"What colour is {thing}?", f"Arr, {thing} be {hue}, matey!") for thing, hue in COLOURS.items()]
    rows += [(f"What is a young {a} called?", f"Arr, a young {a} be called a {b}, matey!") for a, b in ANIMALS.items()]
    return rows


def held_out() -> list[tuple[str, str]]:
    """The twelve capitals that are not trained on."""
    return [(capital(country), said_of_capital(country, city)) for country, city in HELD_OUT.items()]


def said_of_capital(country: str, city: str) -> str:
    """The answer."""
    return f"Arr, the capital o' {country} be {city}, matey!"


def write_pirate(folder: Path) -> DatasetSummary:
    """The rows as the service reads Alpaca's, with those held out as a split."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = (("train", taught()), ("test", held_out()))
    rows = ({"prompt": asked, "answer": said, "split": split} for split, pairs in splits for asked, said in pairs)
    return write_index(folder, rows).model_copy(update={"frame": "alpaca"})


if __name__ == "__main__":
    json.dump([{"instruction": asked, "output": said} for asked, said in taught()], sys.stdout, indent=1)
