"""Encoders: who turns a picture into an embedding. One contract, a module per family, found by `training.architecture`.

`small_cnn` and torchvision's classifiers go by their plain names; `timm:NAME`, `hf:ORG/NAME` and `open_clip:NAME/TAG`
are other people's models, each behind an extra of its own.
"""
