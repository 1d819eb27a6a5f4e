import importlib
import sys

import pytest

from gpt2dist.registry import Registry
from tests.support.packages import installed


class Animal:
    def speak(self):
        """Say something."""


class Cat(Animal):
    pass


class Stone:
    pass


HERE = f"{__name__}:"


@pytest.fixture
def animals(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    return Registry("animal", "gpt2dist.tests_animals", {"cat": HERE + "Cat"}, Animal)


@pytest.fixture
def package(tmp_path):
    """An installed package that offers an animal."""
    (tmp_path / "zoo_of_tests.py").write_text("class Dog:\n    def speak(self):\n        return 'woof'\n")
    with installed(tmp_path, "zoo", "gpt2dist.tests_animals", dog="zoo_of_tests:Dog"):
        yield
    sys.modules.pop("zoo_of_tests", None)


def test_finds_ours_by_name_and_any_by_module_and_attribute(animals):
    assert animals.names() == ("cat",)
    assert animals.get("cat") is Cat is animals.get(HERE + "Cat")


def test_finds_those_that_packages_offer(animals, package):
    assert animals.names() == ("cat", "dog")
    assert animals.get("dog")().speak() == "woof"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cow", "unknown animal 'cow' (known: cat); write one of these, or package.module:attribute"),
        ("no_such_module:Cow", "no_such_module:Cow cannot be imported (ModuleNotFoundError: No module named"),
        (HERE + "Cow", "Cow cannot be imported (AttributeError"),
        (HERE + "Stone", f"the animal {HERE}Stone lacks speak (needed: speak)"),
    ],
)
def test_says_what_is_wrong_with_a_name(animals, name, message):
    with pytest.raises(ValueError) as error:
        animals.get(name)
    assert message in str(error.value)


def test_one_of_ours_whose_package_is_not_installed_names_the_extra(tmp_path, monkeypatch):
    registry = Registry("animal", "gpt2dist.tests_animals", {"yak": HERE + "Cat"}, Animal, ["yak"])
    (tmp_path / "yak").mkdir()  # such as the folder into which W&B writes: it has no modules
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    with pytest.raises(ValueError, match=r"^yak is not installed; pip install 'gpt2dist\[yak\]', or omit it$"):
        registry.get("yak")
    (tmp_path / "yak/__init__.py").write_text("raise RuntimeError('imported too early')")
    importlib.invalidate_caches()
    assert registry.get("yak") is Cat
