"""The part of the encoders that needs torch, timm and onnx (``pip install 'beph-store[train]'``).

Reading checkpoints and exporting them to bundles; using a bundle needs none of this.
"""
