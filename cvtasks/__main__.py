"""`python -m cvtasks` is `cvtasks`."""

import sys

from cvtasks.cli import main

if __name__ == "__main__":
    sys.exit(main())
