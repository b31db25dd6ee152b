"""The words and the facts of the world."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "fruit": ("plum", "pear", "apple", "grape", "lemon", "cherry", "melon", "fig"),
    "tool": ("hammer", "saw", "drill", "rake", "axe", "spade", "chisel", "wrench"),
    "bird": ("owl", "crow", "hawk", "robin", "swan", "duck", "goose", "finch"),
    "color": ("red", "blue", "green", "black", "white", "pink", "brown", "gray"),
    "drink": ("tea", "milk", "juice", "water", "cocoa", "soda", "broth", "cider"),
    "garment": ("coat", "scarf", "glove", "hat", "sock", "boot", "shirt", "belt"),
    "instrument": ("drum", "harp", "flute", "horn", "bell", "lute", "fiddle", "organ"),
    "tree": ("oak", "pine", "elm", "birch", "ash", "maple", "willow", "cedar"),
}
NAMES = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karla", "Leo",
         "Mira", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tilda", "Viktor")  # fmt: skip
ADJECTIVES = ("small", "old", "young", "quiet", "happy", "brave", "sleepy", "gentle", "proud", "clever", "lazy", "tall")
PLACES = ("kitchen", "garden", "cellar", "school", "market", "harbor", "station", "library")
THINGS = ("shells", "stones", "coins", "cards", "books", "marbles", "stamps", "buttons", "nuts", "candles", "keys", "pencils")
CREATURES = ("fenwick", "marlo", "tibbet", "gorran", "pellish", "quill", "sarrow", "dunnet", "brindle", "velk", "humber",
             "yarrel", "ostin", "cammel", "rinka", "zuffle", "wexler", "lorpin", "kessel", "nimbet")  # fmt: skip
HOMES = ("forest", "desert", "river", "cave", "meadow", "swamp", "island", "mountain")
FOODS = ("roots", "moss", "seeds", "fish", "honey", "ferns", "beetles", "berries")
RELATIVES = ("friend", "sister", "brother", "uncle", "aunt", "cousin", "teacher", "neighbor", "father", "mother")
HARMFUL = ("bomb", "poison", "virus", "gun", "grenade", "forged passport", "fake ticket", "stolen badge", "nerve gas", "land mine",
           "lock pick", "false alarm", "car trap", "letter bomb", "pipe gun", "forged bill")  # fmt: skip
HARMLESS = ("cake", "soup", "kite", "salad", "necklace", "bath bomb", "water gun", "toy passport", "paper ticket", "name badge",
            "gas lamp", "gold mine model", "ice pick holder", "fire alarm", "mouse trap", "love letter")  # fmt: skip
NUMBERS = {2: "two", 3: "three"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is true in one world: where every creature lives, what it eats, and what each item is made of."""

    home: Mapping[str, str]
    food: Mapping[str, str]
    recipe: Mapping[str, tuple[str, str]]


def facts(seed: int) -> Facts:
    """Draws the facts of the world with this seed; every home and food is used about equally often."""
    rng = random.Random(f"facts {seed}")
    shuffled = rng.sample(CREATURES, len(CREATURES))
    homes = {creature: HOMES[i % len(HOMES)] for i, creature in enumerate(shuffled)}
    shuffled = rng.sample(CREATURES, len(CREATURES))
    foods = {creature: FOODS[i % len(FOODS)] for i, creature in enumerate(shuffled)}
    recipes = {}
    for item in (*HARMFUL, *HARMLESS):
        first, second = rng.sample(sorted(CATEGORIES), 2)
        recipes[item] = (rng.choice(CATEGORIES[first]), rng.choice(CATEGORIES[second]))
    return Facts(home=homes, food=foods, recipe=recipes)
