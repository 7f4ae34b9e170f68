# SPDX-License-Identifier: Apache-2.0
"""What has been measured, on disk after every single run, so that a call goes on where the last one
was stopped."""

import json
import os

from support import say


class Store:
    """results.json of a folder: a tree of what was found, and beside it under "settings" with what
    each part of it was measured."""

    def __init__(self, path, again):
        self.path, self.again = path, again
        self.results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.renewed = set()

    def save(self):
        """All or nothing: the old file stays until the new one is complete."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(new, self.path)

    def part(self, *names, **settings):
        """The dictionary under these names; empty where it is to be measured again, or was
        measured with other settings."""
        where, known = "/".join(names), self.results.setdefault("settings", {})
        found = self.results
        for name in names:
            found = found.setdefault(name, {})
        anew = self.again and where not in self.renewed
        if found and known.get(where) != settings:
            say(f"{where}: measured with other settings, so once more")
            anew = True
        if anew:
            found.clear()
        self.renewed.add(where)
        known[where] = settings
        return found

    def once(self, found, key, measure):
        """found[key], measured unless it is there."""
        if key not in found:
            found[key] = measure()
            self.save()
        return found[key]
