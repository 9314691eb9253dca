#!/usr/bin/env python3
"""Convert a caffemodel: see --help."""

from open_nsfw_tf.cli import convert_caffe

if __name__ == "__main__":
    convert_caffe()
