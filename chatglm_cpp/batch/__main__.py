import sys

from ..cli import main

sys.exit(main(["batch", *sys.argv[1:]]))
