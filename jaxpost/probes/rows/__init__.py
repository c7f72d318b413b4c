"""What every probe's rows share: the inventory of matrices, pooling over them, estimates."""
