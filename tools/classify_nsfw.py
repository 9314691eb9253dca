#!/usr/bin/env python3
"""Score one picture, with the flags of the first port."""

from open_nsfw_tf.cli import classify_nsfw

if __name__ == "__main__":
    classify_nsfw()
