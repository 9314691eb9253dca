"""Training on folders of pictures: the original, or a backbone of one's own.

The parts: `data` finds and checks the pictures, `augment` varies them, `pixels` keeps
them decoded, `inputs` makes batches of them, `features` are those of a frozen body.
"""
