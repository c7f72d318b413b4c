"""Arms of a sweep: an arm's name with the settings that differ between runs, `rlvr @ train.learning_rate=1e-05`."""

from collections.abc import Mapping

MARK = " @ "


def named(arm: str, settings: Mapping[str, str]) -> str:
    """The arm under these settings; without any it is the arm.

    >>> named("rlvr", {"train.steps": "50"})
    'rlvr @ train.steps=50'
    """
    return arm + (MARK + ", ".join(f"{key}={value}" for key, value in settings.items()) if settings else "")


def parsed(name: str) -> tuple[str, dict[str, str]]:
    """(arm, settings) of a name.

    >>> parsed("rlvr @ train.steps=50, model.width=(32, 64)")
    ('rlvr', {'train.steps': '50', 'model.width': '(32, 64)'})
    """
    arm, mark, text = name.partition(MARK)
    settings: dict[str, str] = {}
    for piece in text.split(", ") if mark else ():
        key, equals, value = piece.partition("=")
        if equals:
            settings[key] = value
        elif settings:  # a comma inside a value
            settings[list(settings)[-1]] += f", {piece}"
    return arm, settings
