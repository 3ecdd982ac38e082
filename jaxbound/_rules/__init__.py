"""What each primitive does to an interval, where it is affine, and between which two affine functions it lies."""
