"""Train, judge and compare computer-vision systems from the command line, without a training script."""

__version__ = "0.1.0"
