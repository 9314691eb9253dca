#!/usr/bin/env python3
"""Export the network, with the flags of the first port."""

from open_nsfw_tf.cli import export_graph

if __name__ == "__main__":
    export_graph()
