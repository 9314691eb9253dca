#!/usr/bin/env python3
"""Score a folder of pictures, with the flags of the first port."""

from open_nsfw_tf.cli import batch_classify

if __name__ == "__main__":
    batch_classify()
