"""Folders of images that are gone through: links in them, and what is no file.

timm and torchvision follow every link. One that leads back makes them go round in circles, two of
them twice as often at every turn, and a pipe among the images is waited for without end. So a
folder is looked through before they see it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from ceag_cli.errors import ImageError, first
from ceag_cli.stores import outside_by_link


def check_folder(root: Path, kinds: Collection[str], *, allow_outside: bool = False) -> None:
    """Refuse links that leave a folder or lead back, and images that are no files.

    Args:
        root: The folder.
        kinds: Extensions of what is taken for an image.
        allow_outside: Links may leave the folder.

    Raises:
        ImageError: With the first of them.
    """
    problems = list(_Walk(root, kinds, allow_outside).problems())
    if problems:
        raise ImageError(first([f"{root}: {problem}" for problem in problems]))


class _Walk:
    def __init__(self, root: Path, kinds: Collection[str], allow_outside: bool) -> None:
        self.root, self.kinds, self.allow_outside = str(root), tuple(kinds), allow_outside
        self.real = os.path.realpath(root)
        self.seen = {self.real: "."}
        """Folders by their real path, and what they were called."""

    def problems(self) -> Iterator[str]:
        """All that is wrong."""
        folders = [self.root]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                yield f"'{self._name(folder)}' cannot be read: {error.strerror}"
                continue
            for entry in entries:
                problem = self._wrong(entry)
                if problem is not None:
                    yield problem
                elif entry.is_dir():
                    folders.append(entry.path)

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def _wrong(self, entry: os.DirEntry[str]) -> str | None:
        link = entry.is_symlink()
        if entry.is_dir():
            return self._wrong_folder(entry.path, link)
        if not entry.name.lower().endswith(self.kinds):
            return None
        if link and not self._may_be_taken(os.path.realpath(entry.path)):
            return outside_by_link(self._name(entry.path))
        try:
            is_file = stat.S_ISREG(entry.stat().st_mode)
        except OSError:  # a link to nothing
            is_file = False
        return None if is_file else f"'{self._name(entry.path)}' is no file"

    def _wrong_folder(self, path: str, link: bool) -> str | None:
        real = os.path.realpath(path)
        if link and not self._may_be_taken(real):
            return outside_by_link(self._name(path))
        before = self.seen.setdefault(real, self._name(path))
        if before != self._name(path):
            return f"'{self._name(path)}' is the same folder as '{before}', by a link"
        return None

    def _may_be_taken(self, real: str) -> bool:
        inside = real == self.real or real.startswith(os.path.join(self.real, ""))
        return self.allow_outside or inside
