"""What the commands of this package share."""

import argparse
import os
import sys

# Before anything imports TensorFlow: its warnings and errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on the standard error and exit code 2."""

    def error(self, message):
        """Exit with a message, a string or an exception."""
        print(f"{self.prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
        sys.exit(2)
