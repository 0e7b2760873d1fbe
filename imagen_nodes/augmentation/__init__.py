"""Expanding a labelled data set: generated pictures, and changed copies of the real ones.

settings.py     what there is to set, for the command line and the node
classes.py      the data's classes and the generator's
judging.py      which generated pictures are kept: score, copies, duplicates
drawing.py      generated pictures by their seeds
transforms.py   crop, flip, colour, cutout
manifest.py     what is told of each picture written
expand.py       the work
cli.py          the verb ``augment``
"""
