"""`python -m tests.transcripts [--rewrite] [NAME ...]`: check the transcripts, or write them anew."""

from __future__ import annotations

import sys

from .script import FOLDER, replay


def main() -> int:
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    stale = 0
    for path in sorted(FOLDER.glob("*.txt")):
        if names and path.stem not in names:
            continue
        text = path.read_text()
        now = replay(text)
        if now != text:
            stale += 1
            print(f"{path.name}: {'written anew' if '--rewrite' in sys.argv else 'differs'}")
            if "--rewrite" in sys.argv:
                path.write_text(now)
    return 0 if "--rewrite" in sys.argv else min(stale, 1)


if __name__ == "__main__":
    sys.exit(main())
