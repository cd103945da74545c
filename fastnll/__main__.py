"""``python -m fastnll`` is the command ``fastnll``."""

import sys

from fastnll.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
