#!/usr/bin/env python3
"""Compare two tables of scores, with the arguments of the first port."""

from open_nsfw_tf.cli import eval_scores

if __name__ == "__main__":
    eval_scores()
