"""`vlad quantize`: a bundle in mixed precision, each group of layers as it was measured to bear."""
