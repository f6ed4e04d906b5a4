"""``python -m leadline`` is ``leadline``."""

from __future__ import annotations

from leadline.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
