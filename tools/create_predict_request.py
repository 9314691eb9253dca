#!/usr/bin/env python3
"""Write the body of a prediction request, with the flags of the first port."""

from open_nsfw_tf.cli import create_predict_request

if __name__ == "__main__":
    create_predict_request()
